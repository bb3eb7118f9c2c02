"""The report of a sweep: conclusions, tables, files and page.

A configuration is what trials have in common that differ in their seed alone.
"""

import csv
import io
import json
import math
import pathlib
import statistics
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np

from advjax.files import replacing, write_json
from advjax.fractions import count_of
from advjax.reporting import sanity
from advjax.reporting.formatting import (
  Row,
  Table,
  at_epsilon,
  attack_label,
  format_checkpoint,
  format_epsilon,
  format_estimate,
  percent,
  points,
)
from advjax.reporting.html import dataset_facts, write_page
from advjax.results import Estimate, SweepReport, Trial

SEED = 'seed'
_MAX_NAMES = 3
# FGSM accuracy above which a fall under other attacks is gradient masking.
_MASKED = 0.5
_MAX_LINES = 20  # Of the terminal's table.


class Configuration(NamedTuple):
  """Trials that differ in their seed alone."""

  label: str  # Its values on the swept fields, 'epsilon=0.1, multiplier=0.2'.
  values: dict[str, Any]  # Field -> value, the seed left out.
  trials: list[Trial]
  clean: Estimate  # Mean over the trials that have an accuracy, else NaN.
  robust: Estimate

  @property
  def num_diverged(self) -> int:
    """Number of its trials that diverged."""
    return sum(trial.status == 'diverged' for trial in self.trials)


class Axis(NamedTuple):
  """A swept field with several values."""

  field: str
  label: str  # Its short name, and those of fields that change with it.
  values: list[Any]  # Numbers sorted, others in the order of the sweep.
  numeric: bool


class Cell(NamedTuple):
  """A cell of the table of trials: its text, and what it is sorted by."""

  text: str = ''
  key: Any = ''


def configurations(sweep: SweepReport) -> list[Configuration]:
  """Groups the trials of a sweep that differ in their seed alone."""
  fields = [field for field in sweep.fields if field != SEED]
  groups: dict[tuple[Any, ...], list[Trial]] = {}
  for trial in sweep.rows:
    key = tuple(trial.fields.get(field) for field in fields)
    groups.setdefault(key, []).append(trial)
  texts = [
    format_values([key[i] for key in groups]) for i in range(len(fields))
  ]
  names = short_names(fields)
  shown = [i for i, column in enumerate(texts) if len(set(column)) > 1]
  found = []
  for number, (key, trials) in enumerate(groups.items()):
    label = ', '.join(
      f'{names[fields[i]]}={texts[i][number]}'
      for i in shown or range(len(fields))
    )
    values = dict(zip(fields, key, strict=True))
    means = (
      _mean([each for t in trials if (each := getattr(t, f'{kind}_accuracy'))])
      for kind in ('clean', 'robust')
    )
    label = label or 'the only configuration'
    found.append(Configuration(label, values, trials, *means))
  return found


def _mean(estimates: Sequence[Estimate]) -> Estimate:
  """Mean over seeds; all are measured on the same images, so the CIs too."""
  if not estimates:
    return Estimate(math.nan)
  values = [each.value for each in estimates]
  low, high = np.mean([each.ci or (np.nan,) * 2 for each in estimates], axis=0)
  std = statistics.stdev(values) if len(values) > 1 else None
  return Estimate(statistics.fmean(values), (float(low), float(high)), std)


def short_names(fields: Sequence[str]) -> dict[str, str]:
  """Returns the last part of each field, all of it where that is ambiguous."""
  ends = [field.rpartition('.')[2] for field in fields]
  return {
    field: end if ends.count(end) == 1 and end != 'name' else field
    for field, end in zip(fields, ends, strict=True)
  }


def format_values(values: Sequence[Any]) -> list[str]:
  """Writes values with three digits or as k/255, with more where needed."""
  full = [str(each) for each in values]
  texts = [
    format_epsilon(each) if isinstance(each, float) else text
    for each, text in zip(values, full, strict=True)
  ]
  return full if len(set(texts)) < len(set(values)) else texts


def find_axes(found: Sequence[Configuration]) -> list[Axis]:
  """Returns the fields that span a sweep, numeric ones first."""
  fields = list(found[0].values) if found else []
  names = short_names(fields)
  columns = {field: [c.values[field] for c in found] for field in fields}
  followers: dict[str, list[str]] = {}
  for field, column in columns.items():
    leaders = (each for each in followers if _agree(columns[each], column))
    leader = next(leaders, None)
    if leader is not None:
      followers[leader].append(names[field])
    elif len(set(column)) > 1:
      followers[field] = []
  axes = []
  for field, others in followers.items():
    values = list(dict.fromkeys(columns[field]))
    numeric = _numeric(values)
    label = names[field] + (f' (with {", ".join(others)})' if others else '')
    values = sorted(values) if numeric else values
    axes.append(Axis(field, label, values, numeric))
  return sorted(axes, key=lambda axis: not axis.numeric)


def _numeric(values: Sequence[Any]) -> bool:
  return all(
    isinstance(each, int | float) and not isinstance(each, bool)
    for each in values
  )


def _agree(first: Sequence[Any], second: Sequence[Any]) -> bool:
  """Whether each value of one field comes with one value of the other."""
  pairs = set(zip(first, second, strict=True))
  if not len(pairs) == len(set(first)) == len(set(second)):
    return False
  if not (_numeric(first) and _numeric(second)):
    return True
  steps = np.diff([value for _, value in sorted(pairs)])
  return bool(np.all(steps > 0) or np.all(steps < 0))


def rank(found: Sequence[Configuration]) -> list[Configuration]:
  """Sorts by robust, then clean accuracy; without both they are left out."""
  scored = [
    each
    for each in found
    if math.isfinite(each.robust.value) and math.isfinite(each.clean.value)
  ]
  return sorted(scored, key=lambda c: (-c.robust.value, -c.clean.value))


def best_trial(found: Sequence[Configuration]) -> Trial | None:
  """Returns the first trial of the best configuration that did not diverge."""
  for best in rank(found):
    return next(trial for trial in best.trials if trial.robust_accuracy)
  return None


def is_above(first: Configuration, second: Configuration) -> bool:
  """Whether robust accuracy is higher by more than chance in images and seeds.

  Neither the 95 % intervals over the test images overlap, nor the ranges over
  the seeds.
  """
  one, two = (
    [t.robust_accuracy.value for t in each.trials if t.robust_accuracy]
    for each in (first, second)
  )
  assert first.robust.ci and second.robust.ci
  return first.robust.ci[0] > second.robust.ci[1] and min(one) > max(two)


def pareto_front(
  found: Sequence[Configuration],
) -> tuple[list[Configuration], list[Configuration]]:
  """Splits into the Pareto front, by clean accuracy, and the dominated ones.

  One dominates another if neither its clean nor its robust accuracy is lower
  and one of them is higher. Without both accuracies they are left out.
  """
  front: list[Configuration] = []
  rest: list[Configuration] = []
  for each in rank(found):  # On the front clean accuracy increases.
    point = each.clean.value, each.robust.value
    last = (front[-1].clean.value, front[-1].robust.value) if front else None
    dominated = last and point != last and point[0] <= last[0]
    (rest if dominated else front).append(each)
  return front, rest


def write_rows(workdir: pathlib.Path, sweep: SweepReport) -> None:
  """Writes results.csv and results.jsonl, with a line per trial.

  Both have the same columns: name, group, swept fields, status, accuracies with
  the ends of their 95 % intervals, each attack. Absent values are empty in the
  CSV file and null in the other.
  """
  rows = [_flat(trial) for trial in sweep.rows]
  columns = list(dict.fromkeys(name for row in rows for name in row))
  rows = [{name: row.get(name) for name in columns} for row in rows]
  table = io.StringIO()
  writer = csv.writer(table, lineterminator='\n')
  writer.writerow(columns)
  for row in rows:
    writer.writerow(
      json.dumps(value) if isinstance(value, bool | list | dict) else value
      for value in row.values()
    )
  with replacing(workdir / 'results.jsonl') as file:
    file.write(''.join(f'{json.dumps(row)}\n' for row in rows).encode())
  with replacing(workdir / 'results.csv') as file:
    file.write(table.getvalue().encode())


def _flat(trial: Trial) -> dict[str, Any]:
  """A trial with its fields, attacks and ends of intervals as columns."""
  row = trial.to_json()
  flat = {name: row.pop(name) for name in ('member', 'group')}
  flat |= row.pop('fields') | {'status': row.pop('status')}
  for name in ('clean_accuracy', 'robust_accuracy'):
    flat[name], ends = row.pop(name, None), row.pop(f'{name}_ci', (None, None))
    flat[f'{name}_low'], flat[f'{name}_high'] = ends
  if trial.checkpoint:
    row |= {'checkpoint': format_checkpoint(trial.checkpoint)}
  return flat | row.pop('attacks', {}) | row


def explain_sweep(
  sweep: SweepReport, found: Sequence[Configuration]
) -> list[str]:
  """Returns the conclusions of a sweep, and their uncertainty, as sentences."""
  ranked = rank(found)
  if not ranked:
    return ['No trial has a robust accuracy yet.']
  return [*_conclusions(ranked), *_caveats(sweep, found, ranked)]


def _conclusions(ranked: Sequence[Configuration]) -> Iterator[str]:
  """The best, whether it is so by more than chance, and the Pareto front."""
  best, *others = ranked
  scored = len(best.trials) - best.num_diverged
  seeds = f' (mean ± std over {scored} seeds)' if scored > 1 else ''
  yield (
    f'Highest robust accuracy: {best.label}{seeds}, robust accuracy '
    f'{format_estimate(best.robust)}, clean accuracy '
    f'{format_estimate(best.clean)}.'
  )
  if best.num_diverged:
    yield (
      f'{best.num_diverged} of its {len(best.trials)} seeds diverged; these '
      'numbers leave them out.'
    )
  if not others:
    return
  close = [each.label for each in others if not is_above(best, each)]
  if close:
    yield (
      f'It is not distinguishable from {len(close)} of '
      f'{count_of(len(others), "other configuration")} ({_names(close)}): 95 % '
      'intervals over the test images or ranges over seeds overlap.'
    )
  else:
    difference = points(best.robust.value - others[0].robust.value)
    yield (
      f'It is {difference} above the second, {others[0].label} '
      f'({percent(others[0].robust.value)}), more than chance in the test '
      'images or in the seeds explains.'
    )
  front, _ = pareto_front(ranked)
  top = front[-1]
  if top.clean.value == best.clean.value:
    yield 'It has the highest clean accuracy too.'
  else:
    yield (
      f'{len(front)} of {len(ranked)} configurations are Pareto optimal. '
      f'Highest clean accuracy: {top.label} with {percent(top.clean.value)} '
      f'and a robust accuracy of {percent(top.robust.value)}.'
    )


def _caveats(
  sweep: SweepReport,
  found: Sequence[Configuration],
  ranked: Sequence[Configuration],
) -> Iterator[str]:
  if len(ranked) > 1:
    yield (
      f'The best of {len(ranked)} configurations was selected on the test '
      'images, so its accuracy is biased upwards: evaluate it on other images '
      'before quoting it.'
    )
  attacks = ', '.join(map(attack_label, sweep.attacks))
  yield (
    f'Robust accuracy is the worst case per image over {attacks} at '
    f'{at_epsilon(sweep.epsilon, sweep.norm)}, white box: an upper bound, '
    'which a stronger attack may lower.'
  )
  masked = [
    (trial.robust_accuracy.value, trial.attacks['fgsm'], trial.member)
    for trial in sweep.rows
    if trial.robust_accuracy
    and trial.attacks
    and trial.attacks.get('fgsm', 0.0) >= _MASKED
    and trial.robust_accuracy.value < trial.attacks['fgsm'] / 2
  ]
  if masked:
    robust, fgsm, name = min(masked, key=lambda each: each[0] / each[1])
    yield (
      f'Gradient masking in {count_of(len(masked), "trial")}: {name} has '
      f'{percent(fgsm)} accuracy under FGSM and {percent(robust)} in the worst '
      'case. It appears robust to FGSM alone.'
    )
  seeds = {len(each.trials) for each in ranked}
  if len(ranked) > 1 and max(seeds) == 1:
    yield (
      'Every configuration has one seed, so the variation over seeds is not '
      f'known. Sweep `{SEED}` too.'
    )
  elif len(seeds) > 1:
    yield (
      f'Configurations have {min(seeds)} to {max(seeds)} seeds, so their means '
      'are not equally certain.'
    )
  for axis in find_axes(found):
    if '(' in axis.label:
      yield f'Fields that change together share an axis: {axis.label}.'


def sweep_warnings(sweep: SweepReport) -> list[str]:
  """Returns pending and diverged trials, and the warnings of all trials."""
  warnings = []
  if sweep.pending:
    warnings.append(
      f'{len(sweep.pending)} of {count_of(sweep.num_members, "trial")} are '
      f'pending ({_names(sweep.pending)}): the same command runs them.'
    )
  by_text: dict[str, list[str]] = {}
  for trial in sweep.rows:
    texts, share = list(trial.warnings), sweep.dataset.largest_class_share
    clean = trial.clean_accuracy
    if (
      clean
      and share is not None
      and not sanity.is_above(clean, Estimate(share))
    ):
      texts.insert(0, f'clean accuracy not above chance, {percent(share)}')
    if trial.status == 'diverged':
      texts.insert(0, f'diverged: {trial.reason}')
    for text in dict.fromkeys(texts):
      by_text.setdefault(text, []).append(trial.member)
  return warnings + [
    f'{names[0]}: {text}'
    if len(names) == 1
    else f'{len(names)} trials ({_names(names)}): {text}'
    for text, names in by_text.items()
  ]


def _names(names: Sequence[str]) -> str:
  text = '; '.join(names[:_MAX_NAMES])
  more = len(names) - _MAX_NAMES
  return f'{text}; and {more} more' if more > 0 else text


def trial_table(sweep: SweepReport) -> list[list[Cell]]:
  """Returns the table of trials, its heads first, without empty columns."""
  rows, names = sweep.rows, short_names(sweep.fields)
  columns: dict[str, list[Cell]] = {}

  def add(head: str, values: Iterable[Any], write: Any = str) -> None:
    columns[head] = [Cell() if v is None else Cell(write(v), v) for v in values]

  add('#', range(1, len(rows) + 1))
  for field in sweep.fields:
    values = [trial.fields.get(field) for trial in rows]
    columns[names[field]] = list(map(Cell, format_values(values), values))
  for head in ('clean', 'robust'):
    estimates = [getattr(trial, f'{head}_accuracy') for trial in rows]
    columns[head] = [
      Cell(format_estimate(e), e.value) if e else Cell() for e in estimates
    ]
  for attack in sweep.attacks:
    accuracies = [(trial.attacks or {}).get(attack) for trial in rows]
    add(attack_label(attack), accuracies, percent)
  add('loss', [t.loss for t in rows], '{:.4f}'.format)
  add('training s', [t.train_seconds for t in rows], '{:,.1f}'.format)
  add('step ms', [t.step_milliseconds for t in rows], '{:,.2f}'.format)
  kept = [t.checkpoint and format_checkpoint(t.checkpoint) for t in rows]
  add('checkpoint', kept)
  add('group', [t.group for t in rows])
  statuses = [': '.join(filter(None, (t.status, t.reason))) for t in rows]
  add('status', statuses)
  add('warnings', ['; '.join(trial.warnings) for trial in rows])
  add('trial', [trial.member for trial in rows])
  add('folder', [trial.folder for trial in rows])
  filled = {h: c for h, c in columns.items() if any(cell.text for cell in c)}
  return [
    [Cell(head) for head in filled],
    *map(list, zip(*filled.values(), strict=True)),
  ]


def _terminal(sweep: SweepReport, found: Sequence[Configuration]) -> str:
  """The trials by robust accuracy, the best one, and the conclusions."""
  heads, *rows = ([cell.text for cell in r] for r in trial_table(sweep))
  shown = {'clean', 'robust', 'training s', 'checkpoint'}
  shown |= {*map(attack_label, sweep.attacks)}
  columns = [i for i, head in enumerate(heads) if head in shown]
  accuracies = [trial.robust_accuracy for trial in sweep.rows]
  order = sorted(
    range(len(rows)), key=lambda i: -(e.value if (e := accuracies[i]) else -1)
  )
  table = []
  for texts in [rows[i] for i in order[:_MAX_LINES]]:
    fields = range(1, 1 + len(sweep.fields))
    label = ', '.join(f'{heads[i]}={texts[i]}' for i in fields)
    table.append(Row(label, [texts[i].partition(' [')[0] for i in columns]))
  lines = []
  if rows:
    lines.append(Table('Trials', [heads[i] for i in columns], table).text())
  if len(rows) > _MAX_LINES:
    more = count_of(len(rows) - _MAX_LINES, 'more trial')
    lines.append(f'and {more} in results.csv')
  best = best_trial(found)
  if best is not None:
    lines += ['', f'best trial: {best.member}']
    if best.command:
      lines.append(f'to train it alone: {best.command}')
  lines += ['', *explain_sweep(sweep, found)]
  return '\n'.join([*lines, *(f'warning: {w}' for w in sweep_warnings(sweep))])


def _facts(sweep: SweepReport) -> list[str]:
  diverged = sum(trial.status == 'diverged' for trial in sweep.rows)
  done = f'{len(sweep.rows)} of {count_of(sweep.num_members, "trial")} done'
  attacks = ', '.join(map(attack_label, sweep.attacks))
  return [
    *dataset_facts(sweep.dataset),
    done + (f', {diverged} diverged' if diverged else ''),
    *(
      f'{name} {getattr(sweep, name)}'
      for name in ('objective', 'model')
      if f'{name}.name' not in sweep.fields
    ),
    f'swept: {", ".join(short_names(sweep.fields).values())}',
    f'{attacks} at {at_epsilon(sweep.epsilon, sweep.norm)}',
    str(sweep.environment.get('date', '')),
  ]


def write_sweep(workdir: pathlib.Path, sweep: SweepReport) -> str:
  """Writes sweep.json, results.csv, results.jsonl, figures and report.html.

  Returns the text for the terminal. Of an unfinished sweep the page says which
  trials are pending.
  """
  # Slow to import, and not needed before training ends.
  from advjax.reporting.figures.charts import save_pictures
  from advjax.reporting.figures.sweep import sweep_pictures

  write_json(workdir / 'sweep.json', sweep.to_json())
  write_rows(workdir, sweep)
  found = configurations(sweep)
  pictures = sweep_pictures(sweep, found)
  save_pictures(pictures, workdir / 'figures')
  front = pareto_front(found)[0] if len(found) > 1 else []
  front_rows = []
  for number, each in enumerate(front, 1):
    cells = [format_estimate(each.clean), format_estimate(each.robust)]
    front_rows.append(Row(f'{number}: {each.label}', cells))
  groups = []
  for number, group in enumerate(sweep.groups):
    chunks, seconds = ', '.join(map(str, group.chunks)), f'{group.seconds:,.1f}'
    texts = number, group.members, group.how, chunks, seconds, group.compiles
    groups.append(texts)
  heads, *rows = trial_table(sweep)
  write_page(
    workdir / 'report.html',
    'sweep.html.j2',
    title=sweep.title,
    facts=_facts(sweep),
    sweep=sweep,
    warnings=sweep_warnings(sweep),
    sentences=explain_sweep(sweep, found),
    best=best_trial(found),
    pictures=pictures,
    front=Table('Pareto front', ['clean', 'robust'], front_rows),
    heads=heads,
    rows=list(zip(sweep.rows, rows, strict=True)),
    groups=groups,
  )
  return _terminal(sweep, found)
