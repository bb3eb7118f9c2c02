"""Plain sentences that say what the numbers of a report mean.

Every sentence is derived from numbers, and is left out when they do not ask for
it. That one member is above another is said only where their 95 % intervals do
not overlap; what is suspicious, `sanity` decides.
"""

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from advjax.reporting.sanity.attacks import does_not_fall
from advjax.reporting.sanity.findings import findings_of, suspicions
from advjax.reporting.sanity.scores import score_of
from advjax.reporting.values import (
  Report,
  attack_label,
  attacks_of,
  autoattack_runs,
  entry_of,
  finite,
  interval_of,
  is_evaluated,
  members_of,
  percent,
  short,
  transfer_of,
)

_ONLY_VALUE = 0.02  # Half an interval where the report gives none.
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
    more robust, then what to distrust, by the rules of an evaluation (where
    it is one, a section of its own says it); collapse in training, a small test
    set.
  """
  sentences = [*_clean(report), *_transfer(report), *_robustness(report)]
  findings = [] if is_evaluated(report) else findings_of(report)
  for name in members_of(report):
    sentences += suspicions([f for f in findings if f['member'] == name])
    flat = None if is_evaluated(report) else does_not_fall(report, name)
    sentences += [flat] if flat else []
    sentences += _collapse(report, name)
  return sentences + list(_width(report))


def _clean(report: Report) -> Iterator[str]:
  scores = {}
  for name, member in members_of(report).items():
    score = _score_in(member, 'clean_accuracy')
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
  if _is_below(second, first):
    points = _points(first.value - second.value)
    return f' {name} pays with {points} of clean accuracy.'
  if _is_below(first, second):
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
      own = _score_in(entry_of(report, name, attack) or {}, 'white_box')
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
      if _is_below(worst[second], worst[best]):
        points = _points(worst[best].value - worst[second].value)
        ahead = second if len(worst) == 2 else f'the next, {second},'
        if _is_suspicious(report, best):
          text += (
            f' The numbers of {best} are suspicious (see {_where(report)}), so '
            f'its lead of {points} over {second} shows nothing.'
          )
        else:
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


def _where(report: Report) -> str:
  return 'the warnings' if is_evaluated(report) else 'below'


def _is_suspicious(report: Report, name: str) -> bool:
  """Whether the findings speak against a member's numbers."""
  return any(
    finding['member'] == name and finding['passed'] is False
    for finding in findings_of(report)
  )


def _worst_cases(
  report: Report,
) -> dict[tuple[str, float], dict[str, _Score]]:
  """Returns (norm, epsilon) -> member -> its lowest white-box accuracy."""
  worst: dict[tuple[str, float], dict[str, _Score]] = {}
  for name in members_of(report):
    for attack in attacks_of(report):
      entry = entry_of(report, name, attack) or {}
      score = _score_in(entry, 'white_box', attack_label(attack, entry))
      if score is None or finite(entry.get('epsilon')) is None:
        continue
      norm = str(entry.get('norm', 'norm unknown'))
      cases = worst.setdefault((norm, score.epsilon), {})
      cases[name] = min(score, cases.get(name, score))
  for runs in autoattack_runs(report).values():
    for name, entry in runs.items():
      left = score_of(report, entry, 'accuracy')
      epsilon = finite(entry.get('epsilon'))
      if left is not None and epsilon is not None:
        norm = str(entry.get('norm', 'norm unknown'))
        cases = worst.setdefault((norm, epsilon), {})
        score = _Score(*left, epsilon, 'AutoAttack')
        cases[name] = min(score, cases.get(name, score))
  return worst


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


def _score_in(
  entry: Mapping[str, Any], name: str, attack: str = ''
) -> _Score | None:
  """Returns the accuracy `entry[name]` with its interval, None if absent."""
  value = finite(entry.get(name))
  if value is None:
    return None
  ends = max(0.0, value - _ONLY_VALUE), min(1.0, value + _ONLY_VALUE)
  low, high = interval_of(entry, name) or ends
  return _Score(value, low, high, finite(entry.get('epsilon')) or 0.0, attack)


def _is_below(lower: _Score, upper: _Score) -> bool:
  """Returns whether the intervals of two accuracies do not overlap."""
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
