"""Tables with a row per member: at a glance, and what parameters buy."""

from collections.abc import Mapping
from typing import Any, NamedTuple

from advjax.reporting.shifted import seen_of
from advjax.reporting.tables import Row, accuracy_text, transfer_text
from advjax.reporting.values import (
  Report,
  attacks_of,
  entry_of,
  finite,
  members_of,
  percent,
  top_k_of,
)


class Gap(NamedTuple):
  """How far training accuracy is above that of images not trained on.

  Attributes:
    training: Accuracy on the training images in the last epoch.
    other: Accuracy on the other images.
    held_out: Whether these are images held out of the training split; else the
      test images.
  """

  training: float
  other: float
  held_out: bool

  @property
  def value(self) -> float:
    """The difference."""
    return self.training - self.other


def summary_rows(report: Report) -> list[Row]:
  """Returns clean, transfer and white box of each member, one below the other.

  Transfer and white box are of the first attack; transfer of the images made on
  the first member. Beside them stands what shifts leave, below them the same of
  the top k, where these were measured.

  Args:
    report: The content of report.json.

  Returns:
    Rows, the heads first; none for a member alone or without attacks.
  """
  members, attacks = members_of(report), attacks_of(report)
  if len(members) < 2 or not attacks:
    return []
  k = top_k_of(report)
  heads = {'clean': 'clean', 'transfer': 'transfer', 'white_box': 'white box'}
  heads['corruption'] = 'corruptions'
  if seen_of(report):
    heads['unseen_corruption'] = 'unseen corruptions'
  heads['pasted'] = 'pasted objects'
  top_1 = [_glance(report, name, '') for name in members]
  shown = {
    key: text for key, text in heads.items() if any(key in row for row in top_1)
  }
  rows = [Row('', tuple(shown.values()))]
  for name, cells in zip(members, top_1, strict=True):
    rows.append(Row(name, tuple(cells.get(key, '-') for key in shown)))
    if k:
      cells = _glance(report, name, '_top_k')
      found = tuple(cells.get(key, '-') for key in shown)
      rows.append(Row(f'  top-{k}', found))
  return rows


def _glance(report: Report, name: str, ending: str) -> dict[str, str]:
  """Writes a member's accuracies, those that there are, without intervals."""
  members, attack = members_of(report), next(iter(attacks_of(report)))
  source, member = next(iter(members)), members[name]
  made = entry_of(report, source, attack) or {}
  own = entry_of(report, name, attack) or {}
  cells = {
    'clean': accuracy_text(member, f'clean{ending}_accuracy'),
    'transfer': transfer_text(made, source, name, ending),
    'white_box': accuracy_text(own, f'white_box{ending}'),
    'pasted': accuracy_text(pasted_mean(member), f'mean{ending}_accuracy'),
  }
  for kind in ('corruption', 'unseen_corruption'):
    cells[kind] = accuracy_text(member, f'{kind}{ending}_accuracy')
  return {
    key: _without_interval(text)
    for key, text in cells.items()
    if text not in ('n/a', '-')
  }


def pasted_mean(member: Mapping[str, Any]) -> dict[str, float]:
  """Returns the means over the severities of pasted objects, if they are there.

  Args:
    member: Its part of report.json.

  Returns:
    `mean_accuracy`, and `mean_top_k_accuracy` where it was measured.
  """
  entries = list(member.get('pasted_objects', {}).values())
  means = {}
  for key in ('accuracy', 'top_k_accuracy'):
    values = [finite(entry.get(key)) for entry in entries]
    known = [value for value in values if value is not None]
    if known and len(known) == len(values):
      means[f'mean_{key}'] = sum(known) / len(known)
  return means


def robust_of(report: Report, member: str) -> tuple[float, str] | None:
  """Returns the lowest white-box accuracy at the headline epsilon, and whose.

  Args:
    report: The content of report.json.
    member: The member.

  Returns:
    The accuracy and the key of the attack; None if there was none.
  """
  found = [
    (value, attack)
    for attack in attacks_of(report)
    if (
      value := finite((entry_of(report, member, attack) or {}).get('white_box'))
    )
    is not None
  ]
  return min(found, default=None)


def gap_of(member: Mapping[str, Any]) -> Gap | None:
  """Returns how far a member's training accuracy is above that elsewhere.

  Args:
    member: Its part of report.json.

  Returns:
    The gap in the last epoch that has both; None if none has.
  """
  epochs = member.get('epochs', ())
  if finite(member.get('num_validation')):
    for epoch in reversed(epochs):
      training = training_accuracy(epoch)
      other = finite(epoch.get('monitor_clean_accuracy'))
      if training is not None and other is not None:
        return Gap(training, other, True)
  training = training_accuracy(epochs[-1]) if epochs else None
  test = finite(member.get('clean_accuracy'))
  if training is None or test is None:
    return None
  return Gap(training, test, False)


def training_accuracy(epoch: Mapping[str, Any]) -> float | None:
  """Returns the accuracy on the training images, whatever its name."""
  value = finite(epoch.get('clean_accuracy'))
  return finite(epoch.get('accuracy')) if value is None else value


def differ_in_size(report: Report) -> bool:
  """Returns whether members have different numbers of parameters."""
  counts = {finite(m.get('num_params')) for m in members_of(report).values()}
  return len(counts - {None, 0.0}) > 1


def efficiency_rows(report: Report) -> list[Row]:
  """Returns what each member costs and what it reaches.

  Args:
    report: The content of report.json.

  Returns:
    Rows, the heads first; none where all members are of one size.
  """
  if not differ_in_size(report):
    return []
  heads = (
    'parameters',
    'ms per step',
    'clean',
    'white box',
    'points per million',
    'training to other images',
  )
  rows = [Row('', heads)]
  for name, member in members_of(report).items():
    count, clean, step = (
      finite(member.get(key))
      for key in ('num_params', 'clean_accuracy', 'step_milliseconds')
    )
    per_million = 100e6 * clean / count if count and clean is not None else None
    robust, gap = robust_of(report, name), gap_of(member)
    entry = entry_of(report, name, robust[1]) if robust else None
    cells = (
      'n/a' if count is None else f'{count:,.0f}',
      'n/a' if step is None else f'{step:,.1f}',
      _without_interval(accuracy_text(member, 'clean_accuracy')),
      _without_interval(accuracy_text(entry or {}, 'white_box')),
      'n/a' if per_million is None else f'{per_million:,.1f}',
      'n/a' if gap is None else _gap_text(gap),
    )
    rows.append(Row(name, cells))
  return rows


def _without_interval(text: str) -> str:
  return text.partition(' [')[0]


def _gap_text(gap: Gap) -> str:
  where = 'held out' if gap.held_out else 'test'
  return f'{percent(gap.training)} to {percent(gap.other)} ({where})'
