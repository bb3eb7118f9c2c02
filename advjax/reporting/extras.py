"""What an evaluation measures besides attacks, as parts of report.json."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from advjax.evaluation.attack_specs import Attack
from advjax.evaluation.attacked import attack_and_predict
from advjax.evaluation.corruptions import KINDS, SEVERITIES, corrupt
from advjax.evaluation.logits import Devices, predict
from advjax.evaluation.members import Evaluation
from advjax.evaluation.noise import noises
from advjax.evaluation.rounding import round_to_8_bits
from advjax.evaluation.traces import TRACED, trace
from advjax.reporting import collected
from advjax.reporting.collected import Parts
from advjax.reporting.values import accuracy_interval
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
    corruptions: Whether to measure corruptions at all.

  Returns:
    Member -> `per_class`, `noise`, `traces`, and where they apply `rounded`,
    `corruptions` and `corruption_accuracy`, `minimal` and `autoattack`.

  Raises:
    ValueError: as `attack_and_predict`.

  Example:
    >>> measure_extras  # doctest: +ELLIPSIS
    <function measure_extras at ...>
  """
  share: dict[str, Any] = {'batch_size': batch_size, 'devices': devices}
  parts = collected.measure_classes(evaluation, labels, num_classes)
  found = [
    measure_noise(
      members, evaluation, images, labels, bounds=bounds, key=key, **share
    ),
    measure_traces(members, evaluation, images, labels, key=key, **share),
  ]
  if bounds is not None and tuple(bounds) == _UNIT:
    found.append(measure_rounding(members, evaluation, labels, **share))
    shape = images.shape
    if (
      corruptions
      and len(shape) == 4
      and min(shape[1:3]) >= 8
      and shape[3] in (1, 3)
    ):
      found.append(measure_corruptions(members, images, labels, **share))
  found += [
    collected.measure_distances(evaluation, labels),
    collected.collect_autoattack(evaluation),
  ]
  for each in found:
    for name, part in each.items():
      parts[name] |= part
  return parts


def measure_noise(
  members: Mapping[str, LogitsFn],
  evaluation: Evaluation,
  images: np.ndarray,
  labels: np.ndarray,
  *,
  bounds: tuple[float, float] | None,
  key: Array,
  batch_size: int,
  devices: Devices,
) -> Parts:
  """Measures accuracy under noise in the ball of the attacks.

  No noise depends on a network, so that all members see the same images.

  Args:
    members: Networks by name.
    evaluation: From `evaluate_members`; noise goes as far as its headline
      epsilon, in the norm of its first attack.
    images: float32 `[N, ...]` in the pixel range.
    labels: int `[N]`.
    bounds: The pixel range.
    key: Example i gets `fold_in(key, i)`.
    batch_size: Images per device and call.
    devices: The devices.

  Returns:
    Member -> `noise`: kind -> accuracy, its interval, epsilon and norm.
  """
  norm = next(iter(evaluation.attacks.values())).norm
  parts: Parts = {name: {'noise': {}} for name in members}
  for kind, noise in noises(norm, bounds).items():
    found = attack_and_predict(
      next(iter(members.values())),
      members,
      noise,
      images,
      labels,
      [evaluation.epsilon],
      key=key,
      norm=norm,
      batch_size=batch_size,
      devices=devices,
    )
    for name, predictions in found.predictions.items():
      accuracy = float((predictions[0] == labels).mean())
      parts[name]['noise'][kind] = {
        'accuracy': accuracy,
        'accuracy_ci': list(accuracy_interval(accuracy, len(labels))),
        'epsilon': evaluation.epsilon,
        'norm': norm,
      }
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


def measure_corruptions(
  members: Mapping[str, LogitsFn],
  images: np.ndarray,
  labels: np.ndarray,
  *,
  batch_size: int,
  devices: Devices,
) -> Parts:
  """Measures accuracy under all kinds of corruption at all severities.

  As with a published set, the draws are the same in every evaluation.

  Args:
    members: Networks by name.
    images: float32 `[N, H, W, C]` in [0, 1], as `corrupt` takes them.
    labels: int `[N]`.
    batch_size: Images per device and call.
    devices: The devices.

  Returns:
    Member -> `corruptions`: kind -> accuracy by severity; and
    `corruption_accuracy`, the mean over all.
  """
  found: dict[str, dict[str, list[float]]] = {name: {} for name in members}
  for kind in KINDS:
    for severity in SEVERITIES:
      corrupted = corrupt(images, kind, severity, seed=0)
      for name, logits_fn in members.items():
        predictions = predict(
          logits_fn,
          corrupted,
          batch_size=batch_size,
          devices=devices,
          check=False,
        )
        accuracy = float((predictions == labels).mean())
        found[name].setdefault(kind, []).append(accuracy)
  return {
    name: {
      'corruptions': kinds,
      'corruption_accuracy': float(np.mean(list(kinds.values()))),
    }
    for name, kinds in found.items()
  }
