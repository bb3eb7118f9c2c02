"""Plain sentences that say what the numbers of a report mean.

Every sentence is derived from numbers, and is left out when they do not ask for
it. A claim that one accuracy is above another is made only where their 95 %
intervals do not overlap.
"""

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

_COLLAPSE = 0.2  # A fall of robust accuracy that is more than noise.
_WIDE = 0.02  # Half an interval from which on the sentence about it is needed.
_BROKEN = 0.10  # Below this worst-case accuracy nobody would speak of robust.


class _Score(NamedTuple):
  """An accuracy, its interval, and where it was measured."""

  value: float
  low: float
  high: float
  epsilon: float
  attack: str


def explain(report: Report) -> list[str]:
  """Returns what the numbers of a report mean, in plain sentences.

  Args:
    report: the content of report.json.

  Returns:
    Sentences: the clean accuracies, transfer against white box, which member is
    more robust, then what to distrust: masked gradients, an attack that is too
    weak, accuracy that does not fall with epsilon, collapse in training, a
    small test set.
  """
  sentences = [*_clean(report), *_transfer(report), *_robustness(report)]
  for name in members_of(report):
    sentences += _masking(report, name)
    sentences += _black_box(report, name)
    sentences += _not_falling(report, name)
    sentences += _collapse(report, name)
  return sentences + list(_width(report))


def _clean(report: Report) -> Iterator[str]:
  scores = {}
  for name, member in members_of(report).items():
    score = _score(member, 'clean_accuracy')
    if score is not None:
      scores[name] = score
  if not scores:
    return
  listed = _join(f'{name} {percent(s.value)}' for name, s in scores.items())
  yield f'Right on clean test images: {listed}.' + _clean_cost(scores)


def _clean_cost(scores: Mapping[str, _Score]) -> str:
  if len(scores) != 2:
    return ''
  (_, first), (name, second) = scores.items()
  if _below(second, first):
    points = _points(first.value - second.value)
    return f' {name} pays with {points} of clean accuracy.'
  if _below(first, second):
    return f' {name} is better even there.'
  return ' The intervals overlap: no difference is shown.'


def _transfer(report: Report) -> Iterator[str]:
  """The tutorials' number, next to the one that it is taken for."""
  names = list(members_of(report))
  for attack, sample in attacks_of(report).items():
    source = names[0]
    entry = entry_of(report, source, attack) or {}
    parts = []
    for name in names[1:]:
      value, _ = transfer_of(entry, name)
      own = _score(entry_of(report, name, attack) or {}, 'white_box')
      if value is not None and own is not None:
        parts.append(
          f'{name} is right on {percent(value)} (transfer), and on '
          f'{percent(own.value)} when attacked with its own gradients '
          '(white box)'
        )
    if not parts:
      continue
    label = attack_label(attack, sample)
    yield (
      f'On images perturbed on {source} ({label}, epsilon '
      f'{_epsilon(sample)}) {_join(parts)}. Transfer is what the NSL tutorial '
      'reports (its 95 %); it says how a model stands images made for another '
      'one, not how robust it is.'
    )
    return


def _robustness(report: Report) -> Iterator[str]:
  """Compares the members under the strongest attack of each threat model."""
  for (norm, epsilon), worst in _worst_cases(report).items():
    where = f'At epsilon {short(epsilon)} ({norm})'
    listed = _join(
      f'{name} {percent(s.value)} ({s.attack})' for name, s in worst.items()
    )
    text = f'{where} the strongest attack leaves {listed}.'
    if len(worst) > 1:
      ranked = sorted(worst, key=lambda name: -worst[name].value)
      best, second = ranked[:2]
      if _below(worst[second], worst[best]):
        points = _points(worst[best].value - worst[second].value)
        ahead = second if len(worst) == 2 else f'the next, {second},'
        text += f' {best} is more robust than {ahead} by {points}.'
      else:
        text += (
          f' The intervals of {best} and {second} overlap: these images do not '
          'tell which is more robust.'
        )
    if all(score.value < _BROKEN for score in worst.values()):
      text += (
        ' It is not robust.' if len(worst) == 1 else ' None of them is robust.'
      )
    yield text


def _worst_cases(
  report: Report,
) -> dict[tuple[str, float], dict[str, _Score]]:
  """Returns (norm, epsilon) -> member -> its lowest white-box accuracy."""
  worst: dict[tuple[str, float], dict[str, _Score]] = {}
  for name in members_of(report):
    for attack in attacks_of(report):
      entry = entry_of(report, name, attack) or {}
      score = _score(entry, 'white_box', attack_label(attack, entry))
      if score is None or finite(entry.get('epsilon')) is None:
        continue
      norm = str(entry.get('norm', 'norm unknown'))
      cases = worst.setdefault((norm, score.epsilon), {})
      cases[name] = min(score, cases.get(name, score))
  return worst


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
    own = _score(entry_of(report, name, attack) or {}, 'white_box')
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
      weak = _score(one_step, 'white_box', attack_label(attack, one_step))
      strong = _score(many_steps, 'white_box', attack_label(other, many_steps))
      same = weak and strong and weak.epsilon == strong.epsilon
      if not same or one_step.get('norm') != many_steps.get('norm'):
        continue
      if weak and strong and _below(weak, strong):
        yield (
          f'{strong.attack} leaves {name} {percent(strong.value)}, more than '
          f'{weak.attack} ({percent(weak.value)}): its step size or number of '
          'steps does not suit.'
        )


def _not_falling(report: Report, name: str) -> Iterator[str]:
  """A larger ball holds the smaller: accuracy may not rise with epsilon."""
  clean = _score(members_of(report)[name], 'clean_accuracy')
  for attack in attacks_of(report):
    entry = entry_of(report, name, attack) or {}
    label = attack_label(attack, entry)
    curve = sorted(_white_box(attack, entry).values(), key=lambda s: s.epsilon)
    rises = [
      (low, high)
      for i, low in enumerate(curve)
      for high in curve[i + 1 :]
      if _below(low, high)
    ]
    if rises:
      low, high = max(rises, key=lambda pair: pair[1].value - pair[0].value)
      yield (
        f'Under {label} the accuracy of {name} rises from '
        f'{percent(low.value)} at epsilon {short(low.epsilon)} to '
        f'{percent(high.value)} at {short(high.epsilon)}. A larger epsilon '
        'allows every smaller perturbation, so the attack misses what is there.'
      )
    elif clean and len(curve) > 1 and not _below(curve[-1], clean):
      yield (
        f'Under {label} the accuracy of {name} does not fall by more than '
        f'chance up to epsilon {short(curve[-1].epsilon)} '
        f'({percent(clean.value)} to {percent(curve[-1].value)}): the epsilons '
        'are too small, the test images too few, or its gradients carry '
        'nothing.'
      )


def _collapse(report: Report, name: str) -> Iterator[str]:
  """Training on adversarial images whose PGD accuracy falls on the way."""
  best = 0.0
  for number, epoch in enumerate(members_of(report)[name].get('epochs', ()), 1):
    robust = finite(epoch.get('monitor_robust_accuracy'))
    if robust is None or finite(epoch.get('adversarial_loss')) is None:
      continue
    if robust < best / 2 and best - robust >= _COLLAPSE:
      yield (
        f'In training the PGD accuracy of {name} fell from {percent(best)} to '
        f'{percent(robust)} by epoch {number}: catastrophic overfitting, '
        'robust against the attack it trains on and no other.'
      )
      return
    best = max(best, robust)


def _width(report: Report) -> Iterator[str]:
  """How far chance alone moves the numbers."""
  intervals = []
  for name, member in members_of(report).items():
    intervals.append(interval_of(member, 'clean_accuracy'))
    for attack in attacks_of(report):
      entry = entry_of(report, name, attack) or {}
      intervals.append(interval_of(entry, 'white_box'))
  halves = [(ends[1] - ends[0]) / 2 for ends in intervals if ends is not None]
  if not halves or max(halves) <= _WIDE:
    return
  num_test = finite(report.get('dataset', {}).get('num_test'))
  images = (
    'The test set' if num_test is None else f'{num_test:,.0f} test images'
  )
  verb = 'is' if num_test is None else 'are'
  yield (
    f'{images} {verb} few: the 95 % intervals reach ± {_points(max(halves))}, '
    'and smaller differences mean little.'
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


def _white_box(attack: str, entry: Mapping[str, Any]) -> dict[float, _Score]:
  """Returns epsilon -> white-box score, the headline and the curve."""
  label = attack_label(attack, entry)
  scores = {}
  for at in (*entry.get('curve', ()), entry):
    score = _score(at, 'white_box', label)
    if score is not None and finite(at.get('epsilon')) is not None:
      scores[score.epsilon] = score
  return scores


def _score(
  entry: Mapping[str, Any], name: str, attack: str = ''
) -> _Score | None:
  value = finite(entry.get(name))
  if value is None:
    return None
  low, high = interval_of(entry, name) or _no_interval(value)
  return _Score(value, low, high, finite(entry.get('epsilon')) or 0.0, attack)


def _no_interval(value: float) -> Interval:
  """Stands in where the report gives none: two points, as of 2,400 images."""
  return max(0.0, value - _WIDE), min(1.0, value + _WIDE)


def _below(lower: _Score, upper: _Score) -> bool:
  return lower.high < upper.low


def _points(difference: float) -> str:
  return f'{100 * difference:.1f} points'


def _epsilon(entry: Mapping[str, Any]) -> str:
  epsilon = finite(entry.get('epsilon'))
  return 'unknown' if epsilon is None else short(epsilon)


def _join(parts: Iterator[str] | list[str]) -> str:
  listed = list(parts)
  if len(listed) < 2:
    return ''.join(listed)
  return f'{", ".join(listed[:-1])} and {listed[-1]}'
