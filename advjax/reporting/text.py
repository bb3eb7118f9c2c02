"""The sentences and the main table of a report, for terminal and page.

Every sentence follows from numbers. That one model is more robust than another
one is said only where their 95 % intervals do not overlap.
"""

import itertools
import statistics
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from advjax.reporting.formatting import (
  Row,
  Table,
  at_epsilon,
  attack_label,
  format_checkpoint,
  format_epsilon,
  format_estimate,
  join,
  of_checkpoint,
  percent,
  points,
)
from advjax.reporting.sanity import (
  findings_of,
  flat_curves,
  noise_name,
  read_model,
)
from advjax.results import (
  AttackResult,
  AutoAttackSummary,
  Estimate,
  MinimalDistance,
  ModelResult,
  Report,
)

_WIDE = 0.02  # Half an interval from which on a sentence mentions it.
_VERY_WIDE = 0.1  # And a warning: below some 90 test images.
_BROKEN = 0.1  # Robust accuracy below which a model is not robust.


def attacks_of(report: Report) -> list[tuple[str, str, AttackResult]]:
  """Returns each attack of any model, its label and one of its results."""
  attacks: dict[str, AttackResult] = {}
  for model in report.members.values():
    attacks = {**model.robust_accuracy, **attacks}
  return [
    (key, attack_label(key, each.num_steps), each)
    for key, each in attacks.items()
  ]


def autoattack_runs(report: Report) -> dict[str, dict[str, AutoAttackSummary]]:
  """Returns 'version, epsilon, norm' -> model -> its run of AutoAttack."""
  runs: dict[str, dict[str, AutoAttackSummary]] = {}
  for name, model in report.members.items():
    for run in model.autoattack or ():
      where = (
        f'{run.version}, epsilon {format_epsilon(run.epsilon)}, {run.norm}'
      )
      runs.setdefault(where, {})[name] = run
  return runs


def worst_cases(
  report: Report,
) -> dict[tuple[str, float], dict[str, tuple[Estimate, str]]]:
  """Returns the strongest attack on each model, white box."""
  found: dict[tuple[str, float], dict[str, tuple[Estimate, str]]] = {}
  for name, model in report.members.items():
    attacked: list[tuple[Any, Estimate, str]] = [
      (each, each.white_box, attack_label(key, each.num_steps))
      for key, each in model.robust_accuracy.items()
    ]
    for run in model.autoattack or ():
      attacked.append((run, run.accuracy, 'AutoAttack'))
    for each, accuracy, label in attacked:
      cases = found.setdefault((each.norm, each.epsilon), {})
      if name not in cases or accuracy.value <= cases[name][0].value:
        cases[name] = accuracy, label
  return found


def sentences(report: Report) -> list[str]:
  """Returns what the numbers of a report mean."""
  return [
    *_clean(report),
    *itertools.islice(_transfer(report), 1),  # Of the first attack.
    *_robustness(report),
    *_flat(report),
    *_width(report, _WIDE, _VERY_WIDE),
  ]


def _flat(report: Report) -> Iterator[str]:
  """Models whose accuracy no epsilon lowers."""
  for name in report.members:
    text = flat_curves(read_model(report, name))
    if text:
      yield f'{text[0].upper()}{text[1:]}.'


def warnings(report: Report) -> list[str]:
  """Returns those of the data, suspicious findings, and those of training."""
  return [
    *(report.dataset.warnings or ()),
    *(each.detail for each in findings_of(report) if each.passed is False),
    *_width(report, _VERY_WIDE, 1.0),
    *(
      f'{name}: {text}'
      for name, model in report.members.items()
      if model.training
      for text in model.training.warnings
    ),
  ]


def _clean(report: Report) -> Iterator[str]:
  scores = {name: m.clean_accuracy for name, m in report.members.items()}
  listed = (
    f'{name}{of_checkpoint(report.members[name].checkpoint)} '
    f'{percent(each.value)}'
    for name, each in scores.items()
  )
  text = f'Clean accuracy: {join(listed)}.'
  if len(scores) == 2:
    (_, first), (name, second) = scores.items()
    difference = points(abs(first.value - second.value))
    if _is_below(second, first):
      text += f' {name} loses {difference}.'
    elif _is_below(first, second):
      text += f' {name} gains {difference}.'
    else:
      text += ' The intervals overlap.'
  yield text


def _transfer(report: Report) -> Iterator[str]:
  """The tutorial's number beside the one that it is mistaken for."""
  source, *others = report.members
  for attack, result in report.members[source].robust_accuracy.items():
    parts = []
    for name in others:
      own = report.members[name].robust_accuracy.get(attack)
      if name in result.transfer and own:
        parts.append(
          f'{name} has accuracy {percent(result.transfer[name].value)} '
          f'(transfer), but {percent(own.white_box.value)} white box'
        )
    if parts:
      yield (
        f'On adversarial examples from {source} '
        f'({attack_label(attack, result.num_steps)}, epsilon '
        f'{format_epsilon(result.epsilon)}) {join(parts)}. Transfer accuracy, '
        'which the NSL tutorial reports, is no measure of robustness.'
      )


def _robustness(report: Report) -> Iterator[str]:
  """Compares models under the strongest attack of each threat model."""
  suspicious = {e.member for e in findings_of(report) if e.passed is False}
  for (norm, epsilon), cases in worst_cases(report).items():
    listed = (
      f'{name} {percent(value.value)} ({attack})'
      for name, (value, attack) in cases.items()
    )
    text = (
      f'Robust accuracy at {at_epsilon(epsilon, norm)}, strongest '
      f'attack: {join(listed)}.'
    )
    if len(cases) > 1:
      best, second = sorted(cases, key=lambda name: -cases[name][0].value)[:2]
      if not _is_below(cases[second][0], cases[best][0]):
        text += f' The intervals of {best} and {second} overlap.'
      elif best in suspicious:
        text += f' The numbers of {best} are suspicious (see the warnings).'
      else:
        ahead = points(cases[best][0].value - cases[second][0].value)
        text += f' {best} is more robust than {second} by {ahead}.'
    if all(value.value < _BROKEN for value, _ in cases.values()):
      alone = len(cases) == 1
      text += ' It is not robust.' if alone else ' None of them is robust.'
    yield text


def _width(report: Report, low: float, high: float) -> Iterator[str]:
  """The sampling error over the test images, where it is within a range."""
  ends = [
    estimate.ci
    for model in report.members.values()
    for estimate in (
      model.clean_accuracy,
      *(each.white_box for each in model.robust_accuracy.values()),
    )
    if estimate.ci
  ]
  widest = max(((high - low) / 2 for low, high in ends), default=0.0)
  if low < widest <= high:
    yield (
      f'With {report.dataset.num_test:,} test images the 95 % intervals reach '
      f'± {points(widest)}; smaller differences mean little.'
    )


def _is_below(lower: Estimate, upper: Estimate) -> bool:
  """Whether the intervals do not overlap."""
  return bool(lower.ci and upper.ci and lower.ci[1] < upper.ci[0])


def epochs_of(model: ModelResult) -> Sequence[Mapping[str, float | None]]:
  """Returns the metrics of each epoch of training."""
  return model.training.epochs if model.training else ()


def results_table(report: Report) -> Table:
  """Returns what was measured of each model, a column per model."""
  names, models = list(report.members), list(report.members.values())
  top_k, fine = f'  top-{top_k_of(report)}', lambda x: percent(x, 2)
  rows: list[Row] = []

  def add(
    label: str, values: Sequence[Any], write: Any = format_estimate
  ) -> None:
    if any(value is not None for value in values):
      cells = ['-' if value is None else write(value) for value in values]
      rows.append(Row(label, cells))

  add('checkpoint', [m.checkpoint for m in models], format_checkpoint)
  add('parameters', [m.num_params for m in models], '{:,}'.format)
  add('clean accuracy', [m.clean_accuracy for m in models])
  add(top_k, [m.clean_top_k_accuracy for m in models])
  training = [m.training for m in models]
  gaps = [generalization_gap(m) for m in models]
  add('training accuracy, last epoch', [g and g[0] for g in gaps], percent)
  held_out = [
    g and g[1] if t and t.num_validation else None
    for t, g in zip(training, gaps, strict=True)
  ]
  add('validation accuracy', held_out, percent)
  tests = [t.test if t else {} for t in training]
  losses = [('test loss', 'loss')]
  for term in ('adversarial', 'virtual_adversarial'):
    if any(f'scaled_{term}_loss' in test for test in tests):
      label = f'  {term.replace("_", " ")}'
      losses += [('  clean', 'clean_loss'), (label, f'{term}_loss')]
      losses.append((f'{label} x multiplier', f'scaled_{term}_loss'))
  for label, key in losses:
    values = [(test.get(key), test.get(f'{key}_std')) for test in tests]
    add(label, [v if v[0] is not None else None for v in values], _loss)
  runs = autoattack_runs(report)
  for attack, label, sample in attacks_of(report):
    if runs and label.startswith('AutoAttack') and report.sanity is not None:
      continue  # It follows.
    rows.append(Row(_attack_heading(label, sample)))
    results = [m.robust_accuracy.get(attack) for m in models]
    add('  white box', [r and r.white_box for r in results])
    add(f'{top_k}, white box', [r and r.white_box_top_k for r in results])
    rounded = [(m.rounded or {}).get(attack) for m in models]
    add('  white box, rounded to 8 bits', rounded, percent)
    traces = [(m.traces or {}).get(attack) for m in models]
    for what in ('zero', 'not_finite'):
      shares = [t and getattr(t, f'{what}_gradients') for t in traces]
      if any(shares):
        add(f'  gradients {what.replace("_", " ")}', shares, fine)
    for source, r in zip(names, results, strict=True):
      if r and r.transfer and report.sanity is None:
        add(f'  transfer from {source}', [r.transfer.get(t) for t in names])
        transfer = r.transfer_top_k or {}
        add(f'{top_k}, transfer', [transfer.get(target) for target in names])
  for where, found in runs.items():
    summaries = [found.get(name) for name in names]
    add(f'AutoAttack, {where}', [s and s.accuracy for s in summaries])
  for attack in _keys(m.minimal for m in models):
    minimal = [(m.minimal or {}).get(attack) for m in models]
    norm = next(each.norm for each in minimal if each)
    add(f'median distance, {attack_label(attack)}, {norm}', minimal, _median)
  for part in ('noise', 'pasted_objects'):
    shifts = [getattr(m, part) or {} for m in models]
    for number, key in enumerate(_keys(shifts)):
      at = [each.get(key) for each in shifts]
      heading, label = 'pasted objects', f'severity {key}'
      if part == 'noise':
        sample, label = next(each for each in at if each), noise_name(key)
        heading = f'random noise, epsilon {format_epsilon(sample.epsilon)}'
        heading += f', {sample.norm}'
      if not number:
        rows.append(Row(heading))
      add(f'  {label}', [each and each.accuracy for each in at])
      add(f'  {top_k}', [each and each.top_k_accuracy for each in at])
  for which in ('', 'unseen_'):
    if which and not any(m.seen_corruptions for m in models):
      continue
    label = f'{which.replace("_", " ")}corruptions, mean'
    for ending, head in (('', label), ('top_k_', top_k)):
      key = f'{which}corruption_{ending}accuracy'
      add(head, [getattr(m, key) for m in models])
  seconds = [t and t.train_seconds for t in training]
  steps = [t and t.step_milliseconds for t in training]
  add('training time', seconds, '{:,.1f} s'.format)
  add('training step', steps, '{:,.2f} ms'.format)
  if len({m.num_params for m in models}) > 1:
    shares = [
      m.num_params and 1e8 * m.clean_accuracy.value / m.num_params
      for m in models
    ]
    add('clean points per million parameters', shares, '{:,.1f}'.format)
  return Table('Results', names, rows)


def top_k_of(report: Report) -> int | None:
  """Returns the k of all top-k accuracies of a report."""
  return next((m.top_k for m in report.members.values() if m.top_k), None)


def _attack_heading(label: str, sample: AttackResult) -> str:
  epsilon, step_size = sample.epsilon, sample.step_size
  parts = [label, f'epsilon {format_epsilon(epsilon)}']
  if step_size is not None and step_size != epsilon:
    parts.append(f'step size {format_epsilon(step_size)}')
  parts.append(sample.norm)
  if sample.bounds is None:
    parts.append('not clipped to the pixel range')
  return ', '.join(parts)


def _loss(value_and_std: tuple[float, float | None]) -> str:
  value, std = value_and_std
  return f'{value:.4f}' if std is None else f'{value:.4f} ± {std:.4f}'


def _median(minimal: MinimalDistance) -> str:
  median = minimal.median_epsilon
  text = 'inf' if median is None else format_epsilon(median)
  found = minimal.found
  return text if found is None else f'{text} (success {percent(found)})'


def _keys(parts: Iterable[Mapping[str, Any] | None]) -> list[str]:
  return list(dict.fromkeys(key for part in parts for key in part or ()))


def generalization_gap(model: ModelResult) -> tuple[float, float] | None:
  """Returns the accuracy on training images, and on others after training."""
  epochs = epochs_of(model)
  if model.training and model.training.num_validation:
    for epoch in reversed(epochs):
      accuracy = epoch.get('clean_accuracy')
      other = epoch.get('monitor_clean_accuracy')
      if accuracy is not None and other is not None:
        return accuracy, other
  accuracy = epochs[-1].get('clean_accuracy') if epochs else None
  return None if accuracy is None else (accuracy, model.clean_accuracy.value)


def autoattack_table(report: Report) -> Table | None:
  """Returns what each attack of AutoAttack did, run by run; None if not run."""
  rows = []
  for where, runs in autoattack_runs(report).items():
    for name, run in runs.items():
      rows.append(Row(f'{name}: {where}'))
      rows.append(Row('  clean', [percent(run.clean_accuracy), *[''] * 4]))
      for stage in run.attacks:
        cells = [percent(stage.accuracy), f'{stage.fooled:,}']
        cells += [f'{stage.seconds:,.1f}', f'{stage.forward:,}']
        cells.append(f'{stage.backward:,}')
        rows.append(Row(f'  {attack_label(stage.name)}', cells))
  heads = ('accuracy after', 'fooled', 'seconds', 'forward', 'backward')
  return Table('Attacks of AutoAttack', heads, rows) if rows else None


def class_accuracies(report: Report) -> dict[str, Sequence[float | None]]:
  """Returns accuracies by class, clean and under the strongest attack."""
  columns: dict[str, Sequence[float | None]] = {}
  for name, model in report.members.items():
    classes = model.per_class or {}
    means = {
      attack: statistics.fmean(known)
      for attack, values in classes.items()
      if attack != 'clean' and (known := [v for v in values if v is not None])
    }
    for attack in ('clean', *sorted(means, key=lambda key: means[key])[:1]):
      if attack in classes:
        result = model.robust_accuracy.get(attack)
        label = attack_label(attack, result.num_steps) if result else attack
        columns[f'{name}, {label}'] = classes[attack]
  return columns


def class_table(report: Report) -> Table | None:
  """Returns the accuracies by class as a table, None if not measured."""
  columns, names = class_accuracies(report), report.classes or ()
  rows = [
    Row(names[i] if i < len(names) else str(i), [percent(v) for v in values])
    for i, values in enumerate(zip(*columns.values(), strict=True))
  ]
  return Table('Classes', list(columns), rows) if rows else None
