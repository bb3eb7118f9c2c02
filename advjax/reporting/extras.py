"""What an evaluation measures besides attacks, as parts of report.json."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from advjax.attacks.specs import Attack
from advjax.evaluation.logits import Devices, predict
from advjax.evaluation.members import Evaluation
from advjax.evaluation.rounding import round_to_8_bits
from advjax.evaluation.traces import TRACED, trace
from advjax.reporting import collected
from advjax.reporting.collected import Parts
from advjax.reporting.shifted import can_corrupt
from advjax.reporting.shifts import measure_shifts
from advjax.types import Array, LogitsFn

_UNIT = (0.0, 1.0)  # The pixel range of 8-bit images and of corruptions.


def measure_extras(
  members: Mapping[str, LogitsFn],
  evaluation: Evaluation,
  images: np.ndarray,
  labels: np.ndarray,
  *,
  num_classes: int,
  bounds: tuple[float, float] | None,
  key: Array,
  batch_size: int,
  devices: Devices,
  seen: Mapping[str, Sequence[str]],
  corruptions: bool = True,
) -> Parts:
  """Measures the parts of an evaluation's report.json for all members.

  Corruptions and rounding are those of 8-bit images, and left out where the
  pixel range is not [0, 1]; corruptions too where images are smaller than 8 x 8
  or have other than 1 or 3 channels.

  Args:
    members: Networks by name.
    evaluation: From `evaluate_members`, on these images.
    images: float32 `[N, ...]` in the pixel range.
    labels: int `[N]`.
    num_classes: The number of classes.
    bounds: The pixel range.
    key: Example i gets `fold_in(key, i)`.
    batch_size: Images per device and call.
    devices: The devices.
    seen: Member -> kinds of corruption that its training has seen.
    corruptions: Whether to measure corruptions and pasted objects at all.

  Returns:
    Member -> `per_class`, `noise`, `traces`, and where they apply `rounded`,
    what `measure_shifts` returns, `minimal` and `autoattack`.

  Raises:
    ValueError: as `attack_and_predict`.

  Example:
    >>> measure_extras  # doctest: +ELLIPSIS
    <function measure_extras at ...>
  """
  share: dict[str, Any] = {'batch_size': batch_size, 'devices': devices}
  parts = collected.measure_classes(evaluation, labels, num_classes)
  is_unit = bounds is not None and tuple(bounds) == _UNIT
  shifts = ['noise']
  if corruptions and is_unit and can_corrupt(images.shape[1:]):
    shifts.append('corruptions')
    if len(set(labels.tolist())) > 1:
      shifts.append('pasted_objects')
  found = [
    measure_shifts(
      shifts,
      {name: [fn] for name, fn in members.items()},
      evaluation,
      images,
      labels,
      bounds=bounds,
      seen=seen,
      key=key,
      **share,
    ),
    measure_traces(members, evaluation, images, labels, key=key, **share),
  ]
  if is_unit:
    found.append(measure_rounding(members, evaluation, labels, **share))
  found += [
    collected.measure_distances(evaluation, labels),
    collected.collect_autoattack(evaluation),
  ]
  for each in found:
    for name, part in each.items():
      parts[name] |= part
  return parts


def measure_traces(
  members: Mapping[str, LogitsFn],
  evaluation: Evaluation,
  images: np.ndarray,
  labels: np.ndarray,
  *,
  key: Array,
  batch_size: int,
  devices: Devices,
) -> Parts:
  """Records loss and accuracy step by step, and counts gradients of zero.

  Args:
    members: Networks by name.
    evaluation: From `evaluate_members`; its attacks that can be traced are, at
      the headline epsilon.
    images: float32 `[N, ...]` in the pixel range.
    labels: int `[N]`.
    key: Example i gets `fold_in(key, i)`.
    batch_size: Images per device and call.
    devices: The devices.

  Returns:
    Member -> `traces`: attack -> `loss`, `accuracy`, `zero_gradients`,
    `not_finite_gradients`.
  """
  parts: Parts = {name: {'traces': {}} for name in members}
  for name, logits_fn in members.items():
    for attack_name, attack in evaluation.attacks.items():
      if not isinstance(attack, Attack) or attack.name not in TRACED:
        continue
      found = trace(
        logits_fn,
        attack,
        images,
        labels,
        evaluation.epsilon,
        key=key,
        batch_size=batch_size,
        devices=devices,
      )
      parts[name]['traces'][attack_name] = {
        # A loss may be infinite; JSON has no word for it.
        'loss': [x if np.isfinite(x) else None for x in found.loss.tolist()],
        'accuracy': found.accuracy.tolist(),
        'zero_gradients': found.zero_gradients,
        'not_finite_gradients': found.not_finite_gradients,
      }
  return parts


def measure_rounding(
  members: Mapping[str, LogitsFn],
  evaluation: Evaluation,
  labels: np.ndarray,
  *,
  batch_size: int,
  devices: Devices,
) -> Parts:
  """Measures accuracy on a member's own adversarial images, in 8 bits.

  Args:
    members: Networks by name.
    evaluation: From `evaluate_members`, with the images perturbed at the
      headline epsilon, in [0, 1].
    labels: int `[N]`.
    batch_size: Images per device and call.
    devices: The devices.

  Returns:
    Member -> `rounded`: attack -> accuracy.
  """
  parts: Parts = {name: {'rounded': {}} for name in members}
  for name, logits_fn in members.items():
    for attack in evaluation.attacks:
      rounded = round_to_8_bits(evaluation.images[name, attack])
      predictions = predict(
        logits_fn,
        rounded,
        batch_size=batch_size,
        devices=devices,
        check=False,
      )
      parts[name]['rounded'][attack] = float((predictions == labels).mean())
  return parts
