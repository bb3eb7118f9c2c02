"""What of an evaluation the charts of every report can show readably."""

from collections.abc import Callable, Mapping
from typing import Any

from advjax.reporting.sanity.scores import large_epsilon
from advjax.reporting.values import (
  Report,
  finite,
  is_evaluated,
  members_of,
)

_FAR = 2  # Times the headline epsilon from which on a large one is far away.

_Entry = Mapping[str, Any]


def without_transfer(report: Report) -> Report:
  """Returns an evaluation without transfer, which has a section of its own."""
  return _changed(report, lambda entry: {**entry, 'transfer': {}})


def without_large(report: Report) -> Report:
  """Returns an evaluation whose curves end where they matter.

  The large epsilon of the sanity section, at which nothing stands, would take
  most of the width.
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

  return _changed(report, cut)


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
