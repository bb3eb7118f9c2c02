"""What a report says in words and in its main table, for terminal and page.

Every sentence follows from numbers. That one model is more robust than another
one is said only where their 95 % intervals do not overlap.
"""

import dataclasses
import itertools
from collections.abc import Iterator, Mapping, Sequence

from advjax.reporting.formatting import (
  Row,
  Table,
  attack_label,
  format_epsilon,
  format_estimate,
  join,
  percent,
  points,
)
from advjax.reporting.sanity import findings_of, flat_curves, with_interval
from advjax.results import (
  AttackResult,
  AutoAttackSummary,
  Estimate,
  ModelResult,
  Report,
)

_WIDE = 0.02  # Half an interval from which on a sentence mentions it.
_BROKEN = 0.1  # Robust accuracy below which no one speaks of robustness.
_COLLAPSE = 0.2  # Drop of robust accuracy in training that is more than noise.
_SECOND_TERMS = ('adversarial_loss', 'virtual_adversarial_loss')


def attacks_of(report: Report) -> dict[str, AttackResult]:
  """Returns each attack of any model, with one of its results."""
  attacks: dict[str, AttackResult] = {}
  for model in report.members.values():
    attacks = {**model.robust_accuracy, **attacks}
  return attacks


def autoattack_runs(
  report: Report,
) -> dict[tuple[str, float, str], dict[str, AutoAttackSummary]]:
  """Returns (version, epsilon, norm) -> model -> its run of AutoAttack."""
  runs: dict[tuple[str, float, str], dict[str, AutoAttackSummary]] = {}
  for name, model in report.members.items():
    for run in model.autoattack or ():
      key = run.version, run.epsilon, run.norm
      runs.setdefault(key, {})[name] = run
  return runs


def worst_cases(
  report: Report,
) -> dict[tuple[str, float], dict[str, tuple[Estimate, str]]]:
  """Returns the strongest attack on each model, white box.

  Args:
    report: The report.

  Returns:
    (norm, epsilon) -> model -> its lowest accuracy, and the attack's name. Of
    the curves nothing is read.
  """
  found: dict[tuple[str, float], dict[str, tuple[Estimate, str]]] = {}
  for name, model in report.members.items():
    attacked = [
      (
        each.norm,
        each.epsilon,
        each.white_box,
        attack_label(key, each.num_steps),
      )
      for key, each in model.robust_accuracy.items()
    ]
    attacked += [
      (run.norm, run.epsilon, run.accuracy, 'AutoAttack')
      for run in model.autoattack or ()
    ]
    for norm, epsilon, accuracy, label in attacked:
      case = with_interval(accuracy, report.dataset.num_test), label
      cases = found.setdefault((norm, epsilon), {})
      cases[name] = min(
        case, cases.get(name, case), key=lambda each: each[0].value
      )
  return found


def sentences(report: Report) -> list[str]:
  """Returns what the numbers of a report mean.

  Args:
    report: The report.

  Returns:
    Sentences on clean accuracy, on transfer against white box, on the strongest
    attacks, and on what limits them. What is suspicious is in `warnings`.
  """
  return [
    *_clean(report),
    *itertools.islice(_transfer(report), 1),  # Of the first attack.
    *_robustness(report),
    *(text for name in report.members if (text := flat_curves(report, name))),
    *_collapse(report),
    *_width(report),
  ]


def warnings(report: Report) -> list[str]:
  """Returns the warnings of training, and the suspicious findings."""
  return [
    *(
      f'{name}: {text}'
      for name, model in report.members.items()
      if model.training
      for text in model.training.warnings
    ),
    *(each.detail for each in findings_of(report) if each.passed is False),
  ]


def _clean(report: Report) -> Iterator[str]:
  scores = {
    name: with_interval(model.clean_accuracy, report.dataset.num_test)
    for name, model in report.members.items()
  }
  listed = (f'{name} {percent(each.value)}' for name, each in scores.items())
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
      f'Robust accuracy at epsilon {format_epsilon(epsilon)} ({norm}), '
      f'strongest attack: {join(listed)}.'
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


def _collapse(report: Report) -> Iterator[str]:
  """Adversarial training whose PGD accuracy drops on the way."""
  for name, model in report.members.items():
    best = 0.0
    for number, epoch in enumerate(epochs_of(model), 1):
      robust = epoch.get('monitor_robust_accuracy')
      if robust is None or epoch.get('adversarial_loss') is None:
        continue
      if robust < best / 2 and best - robust >= _COLLAPSE:
        yield (
          f'The monitored PGD accuracy of {name} fell from {percent(best)} to '
          f'{percent(robust)} by epoch {number}: catastrophic overfitting.'
        )
        break
      best = max(best, robust)


def _width(report: Report) -> Iterator[str]:
  """How far chance alone moves the numbers."""
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
  if widest > _WIDE:
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
  """Returns the main table, a column per model that is evaluated.

  Args:
    report: The report.

  Returns:
    Accuracies with intervals: clean, under every attack white box and, unless
    the report is of `evaluate`, by transfer; under shifts; losses and times.
  """
  members = report.members
  models = list(members.values())
  k = next((model.top_k for model in models if model.top_k), None)
  rows = [
    _numbers('parameters', [model.num_params for model in models], '{:,}'),
    _estimates('clean accuracy', [model.clean_accuracy for model in models]),
    _estimates(f'  top-{k}', [model.clean_top_k_accuracy for model in models]),
    *_losses(models),
  ]
  autoattacks = autoattack_runs(report)
  for attack, sample in attacks_of(report).items():
    if autoattacks and attack.startswith('autoattack') and report.sanity:
      continue  # It follows.
    results = {
      name: model.robust_accuracy.get(attack) for name, model in members.items()
    }
    rows += _attack_rows(report, attack, sample, results, k)
  for (version, epsilon, norm), runs in autoattacks.items():
    where = f'{version}, epsilon {format_epsilon(epsilon)}, {norm}'
    accuracies = [runs[n].accuracy if n in runs else None for n in members]
    rows.append(_estimates(f'AutoAttack, {where}', accuracies))
  shifted = [
    ('corruptions', [model.corruption_accuracy for model in models]),
    (f'  top-{k}', [model.corruption_top_k_accuracy for model in models]),
    ('pasted objects', [_pasted_mean(model) for model in models]),
  ]
  if any(model.seen_corruptions for model in models):
    shifted[2:2] = [
      ('unseen corruptions', [m.unseen_corruption_accuracy for m in models]),
      (f'  top-{k}', [m.unseen_corruption_top_k_accuracy for m in models]),
    ]
  rows += [_estimates(label, estimates) for label, estimates in shifted]
  runs = [model.training for model in models]
  seconds = [run.train_seconds if run else None for run in runs]
  steps = [run.step_milliseconds if run else None for run in runs]
  rows.append(_numbers('training time', seconds, '{:,.1f} s'))
  rows.append(_numbers('training step', steps, '{:,.2f} ms'))
  return Table('Results', list(members), [row for row in rows if row])


def _attack_rows(
  report: Report,
  attack: str,
  sample: AttackResult,
  results: Mapping[str, AttackResult | None],
  k: int | None,
) -> Iterator[Row | None]:
  parts = [
    attack_label(attack, sample.num_steps),
    f'epsilon {format_epsilon(sample.epsilon)}',
    sample.norm,
  ]
  if sample.step_size is not None and sample.step_size != sample.epsilon:
    parts.insert(2, f'step size {format_epsilon(sample.step_size)}')
  if sample.bounds is None:
    parts.append('not clipped to the pixel range')
  yield Row(', '.join(parts))
  own = [result.white_box if result else None for result in results.values()]
  yield _estimates('  white box', own)
  own = [each.white_box_top_k if each else None for each in results.values()]
  yield _estimates(f'  white box, top-{k}', own)
  for source, result in results.items() if report.sanity is None else ():
    for label, transfer in (
      ('', result and result.transfer),
      (f', top-{k}', result and result.transfer_top_k),
    ):
      yield _estimates(
        f'  transfer from {source}{label}',
        [(transfer or {}).get(target) for target in results],
      )


def _estimates(label: str, estimates: Sequence[Estimate | None]) -> Row | None:
  """A row, None where nothing was measured."""
  if all(each is None for each in estimates):
    return None
  return Row(label, [format_estimate(each) for each in estimates])


def _numbers(
  label: str, values: Sequence[float | None], form: str
) -> Row | None:
  if all(each is None for each in values):
    return None
  return Row(label, ['-' if v is None else form.format(v) for v in values])


def _pasted_mean(model: ModelResult) -> Estimate | None:
  values = [
    each.accuracy.value for each in (model.pasted_objects or {}).values()
  ]
  return Estimate(sum(values) / len(values)) if values else None


def _losses(models: Sequence[ModelResult]) -> Iterator[Row | None]:
  """The test loss, and its terms where an objective has two."""
  tests = [model.training.test if model.training else {} for model in models]

  def row(label: str, key: str) -> Row | None:
    if all(test.get(key) is None for test in tests):
      return None
    cells = []
    for test in tests:
      value, std = test.get(key), test.get(f'{key}_std')
      text = '-' if value is None else f'{value:.4f}'
      cells.append(text if std is None else f'{text} ± {std:.4f}')
    return Row(label, cells)

  yield row('test loss', 'loss')
  for term in _SECOND_TERMS:
    if any(test.get(f'scaled_{term}') is not None for test in tests):
      name = term.removesuffix('_loss').replace('_', ' ')
      yield row('  clean', 'clean_loss')
      yield row(f'  {name}', term)
      yield row(f'  {name} x multiplier', f'scaled_{term}')


@dataclasses.dataclass(frozen=True)
class Gap:
  """Training accuracy of the last epoch against that of other images.

  Attributes:
    training: Accuracy on the training images, as augmented.
    other: Accuracy on validation images, else on the test images.
    validation: Whether these are validation images.
  """

  training: float
  other: float
  validation: bool


def generalization_gap(model: ModelResult) -> Gap | None:
  """Returns the gap of the last epoch that has one, None without training."""
  if model.training and model.training.num_validation:
    for epoch in reversed(model.training.epochs):
      accuracy = training_accuracy(epoch)
      other = epoch.get('monitor_clean_accuracy')
      if accuracy is not None and other is not None:
        return Gap(accuracy, other, True)
  epochs = epochs_of(model)
  accuracy = training_accuracy(epochs[-1]) if epochs else None
  if accuracy is None:
    return None
  return Gap(accuracy, model.clean_accuracy.value, False)


def training_accuracy(epoch: Mapping[str, float | None]) -> float | None:
  """Returns the clean accuracy on training images, under either name."""
  return epoch.get('clean_accuracy', epoch.get('accuracy'))
