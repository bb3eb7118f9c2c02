"""What of an evaluation the charts of every report can show readably."""

from collections.abc import Callable, Mapping
from typing import Any

from advjax.reporting.sanity.scores import large_epsilon, score_of
from advjax.reporting.values import (
  Report,
  autoattack_runs,
  finite,
  is_evaluated,
  members_of,
)

_FAR = 2  # Times the headline epsilon from which on a large one is far away.

_Entry = Mapping[str, Any]


def without_transfer(report: Report) -> Report:
  """Returns an evaluation without transfer, with AutoAttack as an attack.

  Transfer has a section of its own.
  """
  changed = _changed(report, lambda entry: {**entry, 'transfer': {}})
  return _with_autoattack(changed)


def without_large(report: Report) -> Report:
  """Returns an evaluation whose curves end where they matter.

  The large epsilon of the sanity section, at which nothing stands, would take
  most of the width. AutoAttack is one of the attacks.
  """

  def cut(entry: _Entry) -> _Entry:
    large = large_epsilon(
      str(entry.get('norm')),
      entry.get('bounds', (0.0, 1.0)),
      report.get('dataset', {}).get('image_shape'),
    )
    headline = finite(entry.get('epsilon'))
    if large is None or headline is None or _FAR * headline >= large:
      return entry
    curve = [
      point
      for point in entry.get('curve', ())
      if (finite(point.get('epsilon')) or 0.0) < large * (1 - 1e-6)
    ]
    return {**entry, 'curve': curve}

  return _with_autoattack(_changed(report, cut))


def _with_autoattack(report: Report) -> Report:
  """Returns an evaluation with the first version of AutoAttack as an attack."""
  runs = [
    run for each in autoattack_runs(report).values() for run in each.items()
  ]
  if not is_evaluated(report) or not runs:
    return report
  kind = _kind(runs[0][1])
  members = members_of(report)
  for name, member in members.items():
    points = []
    for owner, entry in runs:
      score = score_of(report, entry, 'accuracy')
      epsilon = finite(entry.get('epsilon'))
      if owner != name or _kind(entry) != kind or not score or epsilon is None:
        continue
      points.append(
        {
          'epsilon': epsilon,
          'norm': entry.get('norm'),
          'white_box': score.value,
          'white_box_ci': score[1:],
        }
      )
    if points:
      entry = {**max(points, key=lambda at: at['epsilon']), 'curve': points}
      attacks = {**member.get('robust_accuracy', {}), 'autoattack': entry}
      members[name] = {**member, 'robust_accuracy': attacks}
  return {**report, 'members': members}


def _kind(entry: _Entry) -> tuple[Any, Any]:
  return entry.get('version'), entry.get('norm')


def _changed(report: Report, change: Callable[[_Entry], _Entry]) -> Report:
  """Returns an evaluation with every attack's entry changed."""
  if not is_evaluated(report):
    return report
  members = {
    name: {
      **member,
      'robust_accuracy': {
        attack: change(entry)
        for attack, entry in member.get('robust_accuracy', {}).items()
      },
    }
    for name, member in members_of(report).items()
  }
  return {**report, 'members': members}
