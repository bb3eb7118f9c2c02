"""Accuracy under natural shifts: noise, corruptions, pasted objects.

All models, and those of all seeds, see the same images.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from advjax.config import choose
from advjax.devices import Batching
from advjax.evaluation.corruptions import KINDS, SEVERITIES, corrupt
from advjax.evaluation.logits import compute_logits, in_top_k
from advjax.evaluation.models import accuracy_of
from advjax.evaluation.noise import noises
from advjax.evaluation.pasted import AREAS, paste_objects
from advjax.evaluation.robustness import attack_and_predict
from advjax.results import Estimate, ShiftResult
from advjax.types import LogitsFn

SHIFTS = ('noise', 'corruptions', 'pasted_objects')
# What each augmentation shows a network, but for its strength.
_SEEN_BY = {
  'gaussian': 'gaussian_noise',
  'poisson': 'shot_noise',
  'salt_and_pepper': 'impulse_noise',
  'brightness': 'brightness',
  'contrast': 'contrast',
  'cutmix': 'pasted_objects',
}

# Model -> fields of its `ModelResult`.
Fields = dict[str, dict[str, Any]]
# Model -> its network of each seed.
Networks = Mapping[str, Sequence[LogitsFn]]


def can_corrupt(image_shape: Sequence[int]) -> bool:
  """Returns whether `corrupt` takes images of a shape."""
  return (
    len(image_shape) == 3
    and min(image_shape[:2]) >= 8
    and image_shape[2] in (1, 3)
  )


def parse_shifts(
  texts: Sequence[str], image_shape: Sequence[int]
) -> tuple[str, ...]:
  """Reads `evaluation.shifts`, several in a text between commas."""
  names = tuple(part for text in texts for part in text.split(','))
  for name in names:
    choose('evaluation.shifts', name, SHIFTS)
  if len(set(names)) < len(names):
    raise ValueError(f'evaluation.shifts = {names}; allowed: each once')
  if set(names) - {'noise'} and not can_corrupt(image_shape):
    raise ValueError(
      f'evaluation.shifts = {names} with images of shape {list(image_shape)}; '
      'allowed: noise alone, or images of 8 x 8 pixels or more with 1 or 3 '
      'channels'
    )
  return names


def seen_corruptions(config: Mapping[str, Any]) -> list[str]:
  """Returns the kinds of corruption that training has seen, weak or not."""
  augmentation = config['augmentation']
  seen = {kind for field, kind in _SEEN_BY.items() if augmentation[field]}
  return [kind for kind in (*KINDS, 'pasted_objects') if kind in seen]


def measure_shifts(
  names: Sequence[str],
  networks: Networks,
  images: np.ndarray,
  labels: np.ndarray,
  *,
  epsilon: float,
  norm: str,
  bounds: tuple[float, float] | None,
  seen: Mapping[str, Sequence[str]],
  batching: Batching,
  top_k: int = 1,
) -> Fields:
  """Returns model -> fields of `ModelResult`: accuracy under natural shifts.

  Corruptions and pasted objects are the same in every evaluation; the noise is
  drawn from the key. `seen` are the corruptions that the training of each model
  has seen.
  """
  found: Fields = {
    # Noise is a corruption too, and training may have shown it.
    name: {'seen_corruptions': list(seen.get(name, ()))} if names else {}
    for name in networks
  }

  def logits_on(images: np.ndarray) -> dict[str, list[np.ndarray]]:
    """Model -> logits of the network of each seed."""
    return {
      name: [compute_logits(fn, images, batching, check=False) for fn in each]
      for name, each in networks.items()
    }

  def add(field: str, key: str, images: np.ndarray, **options: Any) -> None:
    for name, logits in logits_on(images).items():
      found[name].setdefault(field, {})[key] = ShiftResult(
        accuracy=accuracy_of(logits, labels),
        top_k_accuracy=(
          accuracy_of(logits, labels, top_k) if top_k > 1 else None
        ),
        **options,
      )

  if 'noise' in names:
    any_network = next(iter(networks.values()))[0]
    for kind, noise in noises(norm, bounds).items():
      noisy = attack_and_predict(
        any_network, {}, noise, images, labels, [epsilon], batching, norm=norm
      ).images
      add('noise', kind, noisy, epsilon=epsilon, norm=norm)
  if 'corruptions' in names:
    ks = {'': 1} | ({'_top_k': top_k} if top_k > 1 else {})
    # Model -> accuracies [top 1 and k, kinds, seeds, severities].
    accuracies = {
      name: np.zeros((len(ks), len(KINDS), len(each), len(SEVERITIES)))
      for name, each in networks.items()
    }
    for i, kind in enumerate(KINDS):
      for j, severity in enumerate(SEVERITIES):
        corrupted = corrupt(images, kind, severity, seed=0)
        for name, logits in logits_on(corrupted).items():
          accuracies[name][:, i, :, j] = [
            [in_top_k(each, labels, k).mean() for each in logits]
            for k in ks.values()
          ]
    any_seen = {kind for kinds in seen.values() for kind in kinds}
    unseen = [kind not in any_seen for kind in KINDS]
    for name, values in accuracies.items():
      for ending, kinds in zip(ks, values, strict=True):
        found[name] |= {
          f'corruptions{ending}': dict(
            zip(KINDS, kinds.mean(1).tolist(), strict=True)
          ),
          f'corruption{ending}_accuracy': _mean(kinds),
          f'unseen_corruption{ending}_accuracy': _mean(kinds[unseen]),
        }
  if 'pasted_objects' in names:
    for severity in AREAS:
      pasted = paste_objects(images, labels, severity, seed=0)
      add('pasted_objects', str(severity), pasted)
  return found


def _mean(accuracy: np.ndarray) -> Estimate:
  """The mean of `[kinds, seeds, severities]`, and its deviation over seeds."""
  of_seeds = accuracy.mean((0, 2))
  std = float(of_seeds.std(ddof=1)) if len(of_seeds) > 1 else None
  return Estimate(float(of_seeds.mean()), std=std)
