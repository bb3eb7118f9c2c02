"""What to distrust in a comparison: masked gradients, attacks too weak."""

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from advjax.reporting.values import (
  Interval,
  Report,
  attack_label,
  attacks_of,
  entry_of,
  finite,
  interval_of,
  members_of,
  percent,
  short,
  transfer_of,
)

_WIDE = 0.02  # Half an interval where the report gives none.


class Score(NamedTuple):
  """An accuracy, its interval, and where it was measured."""

  value: float
  low: float
  high: float
  epsilon: float
  attack: str


def doubts(report: Report, name: str) -> Iterator[str]:
  """Yields what is suspicious about a member's numbers, in sentences."""
  yield from _masking(report, name)
  yield from _black_box(report, name)
  yield from _not_falling(report, name)


def _masking(report: Report, name: str) -> Iterator[str]:
  """One step leaves at least half right, many steps less than half of that."""
  found = []
  for attack, one_step in _entries(report, name, steps='one'):
    for stronger, many_steps in _entries(report, name, steps='many'):
      if one_step.get('norm') != many_steps.get('norm'):
        continue
      weak = _white_box(attack, one_step)
      strong = _white_box(stronger, many_steps)
      for epsilon in sorted(weak.keys() & strong.keys() - {0.0}):
        high, low = weak[epsilon], strong[epsilon]
        if high.value >= 0.5 and low.value < high.value / 2:
          ratio = low.value / high.value
          elsewhere = epsilon != finite(one_step.get('epsilon'))
          found.append((ratio >= 0.25, elsewhere, ratio, low, high))
  if found:
    mild, _, _, low, high = min(found)
    what = (
      f'One step overstates {name}, a mild form of gradient masking'
      if mild
      else f'{name} masks its gradients'
    )
    yield (
      f'{what}: at epsilon {short(high.epsilon)} one step ({high.attack}) '
      f'leaves {percent(high.value)}, many steps ({low.attack}) '
      f'{percent(low.value)}. The first number is a failure of the attack, not '
      'robustness.'
    )


def _black_box(report: Report, name: str) -> Iterator[str]:
  """Attacks that lose to weaker ones: other members' images, or one step."""
  for attack in attacks_of(report):
    own = score_in(entry_of(report, name, attack) or {}, 'white_box')
    for source in members_of(report):
      entry = entry_of(report, source, attack) or {}
      value, ends = transfer_of(entry, name)
      if own is None or value is None or ends is None or source == name:
        continue
      if ends[1] < own.low:
        label = attack_label(attack, entry)
        yield (
          f'Images perturbed on {source} fool {name} more often '
          f'({label}: {percent(value)} right) than those made with its own '
          f'gradients ({percent(own.value)}): its gradients mislead, so its '
          f'white-box {label} number is too high.'
        )
        break
  for attack, one_step in _entries(report, name, steps='one'):
    for other, many_steps in _entries(report, name, steps='many'):
      weak = score_in(one_step, 'white_box', attack_label(attack, one_step))
      strong = score_in(
        many_steps, 'white_box', attack_label(other, many_steps)
      )
      same = weak and strong and weak.epsilon == strong.epsilon
      if not same or one_step.get('norm') != many_steps.get('norm'):
        continue
      if weak and strong and is_below(weak, strong):
        yield (
          f'{strong.attack} leaves {name} {percent(strong.value)}, more than '
          f'{weak.attack} ({percent(weak.value)}): its step size or number of '
          'steps does not suit.'
        )


def _not_falling(report: Report, name: str) -> Iterator[str]:
  """A larger ball holds the smaller: accuracy may not rise with epsilon."""
  clean = score_in(members_of(report)[name], 'clean_accuracy')
  for attack in attacks_of(report):
    entry = entry_of(report, name, attack) or {}
    label = attack_label(attack, entry)
    curve = sorted(_white_box(attack, entry).values(), key=lambda s: s.epsilon)
    rises = [
      (low, high)
      for i, low in enumerate(curve)
      for high in curve[i + 1 :]
      if is_below(low, high)
    ]
    if rises:
      low, high = max(rises, key=lambda pair: pair[1].value - pair[0].value)
      yield (
        f'Under {label} the accuracy of {name} rises from '
        f'{percent(low.value)} at epsilon {short(low.epsilon)} to '
        f'{percent(high.value)} at {short(high.epsilon)}. A larger epsilon '
        'allows every smaller perturbation, so the attack misses what is there.'
      )
    elif clean and len(curve) > 1 and not is_below(curve[-1], clean):
      yield (
        f'Under {label} the accuracy of {name} does not fall by more than '
        f'chance up to epsilon {short(curve[-1].epsilon)} '
        f'({percent(clean.value)} to {percent(curve[-1].value)}): the epsilons '
        'are too small, the test images too few, or its gradients carry '
        'nothing.'
      )


def _entries(
  report: Report, name: str, steps: str
) -> list[tuple[str, Mapping[str, Any]]]:
  """Returns the member's attacks of one step, or those of many."""
  entries = []
  for attack in attacks_of(report):
    entry = entry_of(report, name, attack)
    if entry is not None:
      num_steps = finite(entry.get('num_steps'))
      if num_steps is None:
        num_steps = 1 if attack.startswith('fgsm') else 2
      if (num_steps <= 1) == (steps == 'one'):
        entries.append((attack, entry))
  return entries


def _white_box(attack: str, entry: Mapping[str, Any]) -> dict[float, Score]:
  """Returns epsilon -> white-box score, the headline and the curve."""
  label = attack_label(attack, entry)
  scores = {}
  for at in (*entry.get('curve', ()), entry):
    score = score_in(at, 'white_box', label)
    if score is not None and finite(at.get('epsilon')) is not None:
      scores[score.epsilon] = score
  return scores


def score_in(
  entry: Mapping[str, Any], name: str, attack: str = ''
) -> Score | None:
  """Returns the accuracy `entry[name]` with its interval, None if absent."""
  value = finite(entry.get(name))
  if value is None:
    return None
  low, high = interval_of(entry, name) or _no_interval(value)
  return Score(value, low, high, finite(entry.get('epsilon')) or 0.0, attack)


def _no_interval(value: float) -> Interval:
  """Stands in where the report gives none: two points, as of 2,400 images."""
  return max(0.0, value - _WIDE), min(1.0, value + _WIDE)


def is_below(lower: Score, upper: Score) -> bool:
  """Returns whether the intervals of two accuracies do not overlap."""
  return lower.high < upper.low
