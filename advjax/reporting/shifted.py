"""The shifts that there are, their families, and what training has seen."""

from collections.abc import Mapping, Sequence
from typing import Any

from advjax.config import choose
from advjax.evaluation.corruptions import KINDS
from advjax.reporting.values import Report, finite, members_of

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
# What noise an augmentation shows a network, in words.
_NOISES = {
  'gaussian_noise': 'Gaussian',
  'shot_noise': 'Poisson',
  'impulse_noise': 'salt-and-pepper',
}
# As Hendrycks and Dietterich 2019 (arXiv 1903.12261) sort them.
FAMILIES = {
  'noise': tuple(_NOISES),
  'blur': ('defocus_blur', 'glass_blur', 'motion_blur', 'zoom_blur'),
  'weather': ('snow', 'frost', 'fog', 'brightness'),
  'digital': (
    'contrast',
    'elastic_transform',
    'pixelate',
    'jpeg_compression',
  ),
}


def can_corrupt(image_shape: Sequence[int]) -> bool:
  """Returns whether images are such as `corrupt` takes, but for their range.

  Args:
    image_shape: `[H, W, C]`, or what else an image is.

  Example:
    >>> can_corrupt((32, 32, 3)), can_corrupt((4,))
    (True, False)
  """
  return (
    len(image_shape) == 3
    and min(image_shape[:2]) >= 8
    and image_shape[2] in (1, 3)
  )


def parse_shifts(
  texts: Sequence[str], image_shape: Sequence[int]
) -> tuple[str, ...]:
  """Reads `evaluation.shifts`, before anything is computed.

  Args:
    texts: Any of `SHIFTS`; several in one, between commas, are what a flag such
      as --config.evaluation.shifts=noise,corruptions gives.
    image_shape: `[H, W, C]`.

  Returns:
    The names.

  Raises:
    ValueError: for a name that is unknown or there twice, and where images
      cannot be corrupted.

  Example:
    >>> parse_shifts(['noise,corruptions'], (28, 28, 1))
    ('noise', 'corruptions')
  """
  names = tuple(part for text in texts for part in text.split(','))
  for name in names:
    choose('shift in evaluation.shifts', name, SHIFTS)
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
  """Returns the kinds of corruption that a training run has seen, weak or not.

  Args:
    config: Of the run; its `augmentation` is read.

  Returns:
    Kinds, in the order of `KINDS`; last 'pasted_objects', of CutMix.

  Example:
    >>> off = dict.fromkeys(_SEEN_BY, 0.0)
    >>> seen_corruptions({'augmentation': {**off, 'poisson': 0.1}})
    ['shot_noise']
  """
  augmentation = config['augmentation']
  seen = {kind for field, kind in _SEEN_BY.items() if augmentation[field]}
  return [kind for kind in (*KINDS, 'pasted_objects') if kind in seen]


def family_accuracy(
  corruptions: Mapping[str, Sequence[Any]], kinds: Sequence[str]
) -> float | None:
  """Returns the mean over kinds and severities, None where a kind is absent.

  Args:
    corruptions: Kind -> accuracy by severity.
    kinds: Those of the family.

  Example:
    >>> family_accuracy({'fog': [0.5, 0.25], 'snow': [1.0]}, ['fog'])
    0.375
  """
  numbers = [
    finite(value) for kind in kinds for value in corruptions.get(kind, [None])
  ]
  known = [number for number in numbers if number is not None]
  if not known or len(known) < len(numbers):
    return None
  return sum(known) / len(known)


def seen_of(report: Report) -> set[str]:
  """Returns the kinds of corruption that any member has seen in training.

  Example:
    >>> seen_of({'members': {'base': {'seen_corruptions': ['fog']}}})
    {'fog'}
  """
  return {
    kind
    for member in members_of(report).values()
    for kind in member.get('seen_corruptions', ())
    if kind in KINDS
  }


def noises_in_training(report: Report) -> dict[str, list[str]]:
  """Returns what noise training adds to the images of the members.

  Args:
    report: The content of report.json.

  Returns:
    Member -> kinds of noise in words; members without noise are left out.

  Example:
    >>> member = {'seen_corruptions': ['shot_noise', 'fog']}
    >>> noises_in_training({'members': {'base': {}, 'noisy': member}})
    {'noisy': ['Poisson']}
  """
  found = {}
  for name, member in members_of(report).items():
    seen = member.get('seen_corruptions', ())
    words = [word for kind, word in _NOISES.items() if kind in seen]
    if words:
      found[name] = words
  return found


def pasted_in_training(report: Report) -> list[str]:
  """Returns the members whose training pastes parts of other images.

  Example:
    >>> member = {'seen_corruptions': ['pasted_objects']}
    >>> pasted_in_training({'members': {'cutmix': member}})
    ['cutmix']
  """
  return [
    name
    for name, member in members_of(report).items()
    if 'pasted_objects' in member.get('seen_corruptions', ())
  ]
