"""Accuracy under changes that nobody aims: noise, corruptions, pasted objects.

They say how a network stands what it was not trained on. All members, and the
networks of all seeds, see the same images.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from advjax.evaluation.attacked import attack_and_predict
from advjax.evaluation.corruptions import KINDS, SEVERITIES, corrupt
from advjax.evaluation.logits import Devices
from advjax.evaluation.members import Evaluation
from advjax.evaluation.noise import noises
from advjax.evaluation.pasted import AREAS, paste_objects
from advjax.evaluation.top_k import predict_in_top_k
from advjax.reporting.collected import Parts
from advjax.reporting.report import accuracy_entry
from advjax.types import Array, LogitsFn

# Member -> its network of each seed.
Networks = Mapping[str, Sequence[LogitsFn]]


def measure_shifts(
  names: Sequence[str],
  networks: Networks,
  evaluation: Evaluation,
  images: np.ndarray,
  labels: np.ndarray,
  *,
  bounds: tuple[float, float] | None,
  seen: Mapping[str, Sequence[str]],
  key: Array,
  batch_size: int,
  devices: Devices,
) -> Parts:
  """Measures the shifts that are named.

  Args:
    names: From `parse_shifts`.
    networks: Member -> its network of each seed.
    evaluation: From `evaluate_members`; it says what noise and which top k.
    images: float32 `[N, ...]` in the pixel range.
    labels: int `[N]`.
    bounds: The pixel range.
    seen: Member -> kinds of corruption that its training has seen.
    key: Of the noise; example i gets `fold_in(key, i)`.
    batch_size: Images per device and call.
    devices: The devices.

  Returns:
    Member -> `seen_corruptions`, and the parts of `measure_noise`,
    `measure_corruptions` and `measure_pasted_objects`.

  Example:
    >>> measure_shifts  # doctest: +ELLIPSIS
    <function measure_shifts at ...>
  """
  share: dict[str, Any] = {'batch_size': batch_size, 'devices': devices}
  k = _top_k(evaluation)
  parts: Parts = {name: {} for name in networks}
  for name in names:
    if name == 'noise':
      found = measure_noise(
        networks, evaluation, images, labels, bounds=bounds, key=key, **share
      )
    elif name == 'corruptions':
      found = measure_corruptions(
        networks, images, labels, seen=seen, top_k=k, **share
      )
    else:
      found = measure_pasted_objects(networks, images, labels, top_k=k, **share)
    for member, part in found.items():
      # Noise is a corruption too, and training may have shown it.
      parts[member] |= {
        **part,
        'seen_corruptions': list(seen.get(member, ())),
      }
  return parts


def measure_noise(
  networks: Networks,
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
    networks: Member -> its network of each seed.
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
  k = _top_k(evaluation)
  flat = {
    f'{name} {seed}': network
    for name, each in networks.items()
    for seed, network in enumerate(each)
  }
  parts: Parts = {name: {'noise': {}} for name in networks}
  for kind, noise in noises(norm, bounds).items():
    found = attack_and_predict(
      next(iter(flat.values())),
      flat,
      noise,
      images,
      labels,
      [evaluation.epsilon],
      key=key,
      norm=norm,
      batch_size=batch_size,
      devices=devices,
      top_k=k,
    )
    for name, each in networks.items():
      keys = [f'{name} {seed}' for seed in range(len(each))]
      parts[name]['noise'][kind] = {
        **_entry(
          [found.predictions[key][0] == labels for key in keys],
          [found.in_top_k[key][0] for key in keys] if k > 1 else [],
        ),
        'epsilon': evaluation.epsilon,
        'norm': norm,
      }
  return parts


def _top_k(evaluation: Evaluation) -> int:
  return evaluation.in_top_k.k if evaluation.in_top_k else 1


def _entry(
  correct: Sequence[np.ndarray], in_top_k: Sequence[np.ndarray]
) -> dict[str, Any]:
  """The accuracy of one member, and that of the top k where it was asked."""
  entry = accuracy_entry('accuracy', correct)
  return entry | (
    accuracy_entry('top_k_accuracy', in_top_k) if in_top_k else {}
  )


def measure_corruptions(
  networks: Networks,
  images: np.ndarray,
  labels: np.ndarray,
  *,
  seen: Mapping[str, Sequence[str]],
  top_k: int,
  batch_size: int,
  devices: Devices,
) -> Parts:
  """Measures accuracy under all kinds of corruption at all severities.

  As with a published set, the draws are the same in every evaluation.

  Args:
    networks: Member -> its network of each seed.
    images: float32 `[N, H, W, C]` in [0, 1], as `corrupt` takes them.
    labels: int `[N]`.
    seen: Member -> kinds that its training has seen.
    top_k: With k above 1 also for the label among the k likeliest classes.
    batch_size: Images per device and call.
    devices: The devices.

  Returns:
    Member -> `corruptions`: kind -> accuracy by severity, the mean over the
    seeds; `corruption_accuracy`, the mean over all; and
    `unseen_corruption_accuracy`, the mean over the kinds that none of the
    members has seen in training, so that the members compare. Means have the
    standard deviation over several seeds as `..._std`; those of the top k are
    `corruptions_top_k`, `corruption_top_k_accuracy` and so on.
  """
  # Member -> kind -> `[seeds, severities]`, of the top 1 and of the top k.
  top_1: dict[str, dict[str, np.ndarray]] = {name: {} for name in networks}
  others: dict[str, dict[str, np.ndarray]] = {name: {} for name in networks}
  for kind in KINDS:
    for name, each in networks.items():
      top_1[name][kind] = np.zeros((len(each), len(SEVERITIES)))
      others[name][kind] = np.zeros((len(each), len(SEVERITIES)))
    for place, severity in enumerate(SEVERITIES):
      corrupted = corrupt(images, kind, severity, seed=0)
      for name, each in networks.items():
        for seed, network in enumerate(each):
          predictions, in_top_k = predict_in_top_k(
            network, corrupted, labels, top_k,
            batch_size=batch_size, devices=devices, check=False,
          )  # fmt: skip
          top_1[name][kind][seed, place] = (predictions == labels).mean()
          others[name][kind][seed, place] = in_top_k.mean()
  any_seen = {kind for kinds in seen.values() for kind in kinds}
  return {
    name: {
      **_summed_up(top_1[name], any_seen, ''),
      **(_summed_up(others[name], any_seen, '_top_k') if top_k > 1 else {}),
    }
    for name in networks
  }


def measure_pasted_objects(
  networks: Networks,
  images: np.ndarray,
  labels: np.ndarray,
  *,
  top_k: int,
  batch_size: int,
  devices: Devices,
) -> Parts:
  """Measures accuracy with objects pasted over the background.

  The draws are the same in every evaluation of the same images.

  Args:
    networks: Member -> its network of each seed.
    images: float32 `[N, H, W, C]` in [0, 1], as `paste_objects` takes them.
    labels: int `[N]`, of two classes or more.
    top_k: With k above 1 also for the label among the k likeliest classes.
    batch_size: Images per device and call.
    devices: The devices.

  Returns:
    Member -> `pasted_objects`: severity -> accuracy and its interval.
  """
  parts: Parts = {name: {'pasted_objects': {}} for name in networks}
  for severity in AREAS:
    pasted = paste_objects(images, labels, severity, seed=0)
    for name, each in networks.items():
      found = [
        predict_in_top_k(
          network, pasted, labels, top_k,
          batch_size=batch_size, devices=devices, check=False,
        )
        for network in each
      ]  # fmt: skip
      parts[name]['pasted_objects'][str(severity)] = _entry(
        [predictions == labels for predictions, _ in found],
        [in_top_k for _, in_top_k in found] if top_k > 1 else [],
      )
  return parts


def _summed_up(
  kinds: Mapping[str, np.ndarray], seen: set[str], ending: str
) -> dict[str, Any]:
  """Means over seeds of all accuracies, and over the kinds of each seed's."""
  found: dict[str, Any] = {
    f'corruptions{ending}': {
      kind: values.mean(0).tolist() for kind, values in kinds.items()
    }
  }
  unseen = [values for kind, values in kinds.items() if kind not in seen]
  for name, part in (
    (f'corruption{ending}_accuracy', list(kinds.values())),
    (f'unseen_corruption{ending}_accuracy', unseen),
  ):
    of_seeds = np.mean(part, axis=(0, 2))
    found[name] = float(of_seeds.mean())
    if len(of_seeds) > 1:
      found[f'{name}_std'] = float(of_seeds.std(ddof=1))
  return found
