"""Accuracies of a report with their intervals, and when two of them differ."""

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from advjax.reporting.values import (
  Report,
  accuracy_interval,
  attack_label,
  finite,
  interval_of,
  members_of,
  percent,
  short,
)

# Attacks that ask for logits alone; all others follow gradients.
_BLACK_BOX = ('square',)


class Verdict(NamedTuple):
  """What a rule finds.

  Attributes:
    passed: None where it could not be decided.
    detail: One sentence or more, with the numbers.
  """

  passed: bool | None
  detail: str


class Score(NamedTuple):
  """An accuracy and its 95 % interval."""

  value: float
  low: float
  high: float


class Attacked(NamedTuple):
  """A member under one attack with its own gradients.

  Attributes:
    name: The attack's key in the report.
    label: Its name for people.
    kind: Its name without numbers: 'pgd' of 'pgd-50-10'.
    norm: The norm of its ball.
    epsilon: The headline epsilon.
    num_steps: Its steps.
    num_restarts: Its restarts.
    large: The radius from which on nothing may stand, if there is one.
    scores: Epsilon -> accuracy, headline and curve.
    counts: Epsilon -> number of images that the accuracy is over, None where
      the report does not say it: a curve may be over fewer than the headline.
  """

  name: str
  label: str
  kind: str
  norm: str
  epsilon: float
  num_steps: float
  num_restarts: float
  large: float | None
  scores: dict[float, Score]
  counts: dict[float, int | None]

  @property
  def one_step(self) -> bool:
    """Whether it is a gradient attack of one step."""
    return self.num_steps <= 1 and not self.black_box

  @property
  def is_autoattack(self) -> bool:
    """Whether it is a version of AutoAttack, which holds several attacks."""
    return self.name.startswith('autoattack')

  @property
  def black_box(self) -> bool:
    """Whether it uses no gradients."""
    return self.kind in _BLACK_BOX

  def is_large(self, epsilon: float) -> bool:
    """Whether a ball is so large that nothing may stand in it."""
    return self.large is not None and epsilon >= self.large * (1 - 1e-6)


class Run(NamedTuple):
  """A run of AutoAttack on a member.

  Attributes:
    entry: What the report says of it.
    norm: The norm of its ball.
    epsilon: The radius.
    score: What it leaves standing.
    num_images: The number of images it is over, None where not said.
  """

  entry: Mapping[str, Any]
  norm: str
  epsilon: float
  score: Score
  num_images: int | None


def score_of(
  report: Report, entry: Mapping[str, Any], name: str
) -> Score | None:
  """Returns the accuracy `entry[name]`, None if it is absent.

  Args:
    report: The content of report.json; its number of test images makes an
      interval where the entry has neither one nor `num_images` of its own.
    entry: What holds the accuracy, and the interval as `<name>_ci`.
    name: Its key.

  Example:
    >>> entry = {'white_box': 0.5, 'white_box_ci': [0.4, 0.6]}
    >>> score_of({}, entry, 'white_box')
    Score(value=0.5, low=0.4, high=0.6)
  """
  value = finite(entry.get(name))
  if value is None:
    return None
  ends = interval_of(entry, name)
  if ends is None:
    count = _count(entry.get('num_images')) or num_images(report)
    ends = accuracy_interval(value, count) if count else (value, value)
  return Score(value, *ends)


def num_images(report: Report) -> int | None:
  """Returns the number of test images, None if the report does not say it."""
  return _count(report.get('dataset', {}).get('num_test'))


def _count(value: object) -> int | None:
  number = finite(value)
  return int(number) if number else None


def attacks_on(report: Report, member: str) -> list[Attacked]:
  """Returns a member's attacks, those without an accuracy left out."""
  entries = members_of(report)[member].get('robust_accuracy', {})
  attacked = []
  for name, entry in entries.items():
    scores, counts = {}, {}
    on_curve = _count(entry.get('curve_num_images'))
    points = [(point, on_curve) for point in entry.get('curve', ())]
    for point, count in (*points, (entry, num_images(report))):
      epsilon = finite(point.get('epsilon'))
      score = score_of(report, point, 'white_box')
      if epsilon is not None and score is not None:
        scores[epsilon], counts[epsilon] = score, count
    headline = finite(entry.get('epsilon'))
    if headline not in scores or headline is None:
      continue
    steps = finite(entry.get('num_steps'))
    parts = [part for part in name.split('-') if not part.isdigit()]
    attacked.append(
      Attacked(
        name,
        attack_label(name, entry),
        '-'.join(parts),
        str(entry.get('norm', 'norm unknown')),
        headline,
        (1 if name.startswith('fgsm') else 2) if steps is None else steps,
        finite(entry.get('num_restarts')) or 1,
        large_epsilon(
          str(entry.get('norm')),
          entry.get('bounds', (0.0, 1.0)),
          report.get('dataset', {}).get('image_shape'),
        ),
        dict(sorted(scores.items())),
        counts,
      )
    )
  return attacked


def autoattacks_on(report: Report, member: str) -> Iterator[Run]:
  """Yields the runs of AutoAttack, those without an accuracy left out."""
  for entry in members_of(report)[member].get('autoattack', ()):
    epsilon = finite(entry.get('epsilon'))
    score = score_of(report, entry, 'accuracy')
    if epsilon is not None and score is not None:
      norm = str(entry.get('norm', 'norm unknown'))
      count = _count(entry.get('num_images'))
      yield Run(entry, norm, epsilon, score, count)


def is_above(upper: Score, lower: Score) -> bool:
  """Returns whether an accuracy is above another one by more than chance.

  upper - lower > sqrt((upper - upper.low)^2 + (lower.high - lower)^2)

  Then the 95 % interval of the difference does not hold 0 (Robert G. Newcombe,
  1998, Statistics in Medicine 17, method 10). It takes the two for measured on
  different images; on the same ones it alarms even less often.

  Args:
    upper: The accuracy asked about.
    lower: The other one.

  Example:
    >>> is_above(Score(0.5, 0.45, 0.55), Score(0.4, 0.35, 0.45))
    True
    >>> is_above(Score(0.45, 0.4, 0.5), Score(0.4, 0.35, 0.45))
    False
  """
  chance = math.hypot(upper.value - upper.low, lower.high - lower.value)
  return upper.value - lower.value > chance


def few(count: int) -> float:
  """Returns how many images one attack may find beyond others.

  0.2 %, as in AutoAttack's own check of Square, and 2 images at least: which
  images fall at the very border depends on random draws.

  Example:
    >>> [few(count) for count in (100, 10_000)]
    [2.0, 20.0]
  """
  return max(2.0, 0.002 * count)


def is_more_than_few(gap: float, count: int | None) -> bool:
  """Returns whether an accuracy is lower by more than a `few` images.

  Args:
    gap: The difference of two accuracies over the same images.
    count: The number of images; where it is not known, 0.2 % are few.

  Example:
    >>> is_more_than_few(0.02, 100), is_more_than_few(0.03, 100)
    (False, True)
  """
  if count is None:
    return gap > 0.002
  return round(gap * count) > few(count)  # Accuracies may be rounded.


def large_epsilon(
  norm: str,
  bounds: Sequence[float | None] | None,
  image_shape: Sequence[int] | None = None,
) -> float | None:
  """Returns the radius from which on a ball holds a gray image around any.

  (upper - lower) / 2 times 1 (linf), sqrt(D) (l2) or D (l1), D = H W C

  All images can be made alike within it, so that no network can tell them
  apart: an attack that leaves more than chance there does not work.

  Args:
    norm: 'linf', 'l2' or 'l1'.
    bounds: The pixel range.
    image_shape: Height, width and channels; linf does not ask for it.

  Returns:
    The radius, None where there is no such one or it is not known.

  Example:
    >>> large_epsilon('linf', (0.0, 1.0))
    0.5
    >>> large_epsilon('l2', (0.0, 1.0), (32, 32, 4))
    32.0
  """
  lower, upper = (finite(end) for end in bounds or (None, None))
  if lower is None or upper is None:
    return None
  half = (upper - lower) / 2
  if norm == 'linf':
    return half
  if image_shape is None or norm not in ('l2', 'l1'):
    return None
  size = math.prod(image_shape)
  return half * (math.sqrt(size) if norm == 'l2' else size)


def shared(
  one: Attacked, other: Attacked
) -> Iterator[tuple[float, Score, Score]]:
  """Yields epsilon and both accuracies wherever two attacks can be compared.

  They can where ball and images are the same.
  """
  if one.norm == other.norm:
    for epsilon, score in one.scores.items():
      if (
        epsilon > 0
        and epsilon in other.scores
        and one.counts[epsilon] == other.counts[epsilon]
      ):
        yield epsilon, score, other.scores[epsilon]


def at(epsilon: float, norm: str = '') -> str:
  """Writes 'epsilon 0.0314 (linf)'."""
  return f'epsilon {short(epsilon)}' + (f' ({norm})' if norm else '')


def said(score: Score) -> str:
  """Writes an accuracy for a sentence."""
  return percent(score.value)
