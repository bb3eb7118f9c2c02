"""Families of corruptions, and what training has seen of them."""

from collections.abc import Mapping, Sequence
from typing import Any

from advjax.evaluation.corruptions import KINDS
from advjax.reporting.values import Report, finite, members_of

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
