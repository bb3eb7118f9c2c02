"""Figures of a report of train, compare or evaluate, with their captions."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from scipy import ndimage

from advjax.evaluation.corruptions import KINDS
from advjax.evaluation.diagnostics import large_epsilon
from advjax.evaluation.models import Evaluation
from advjax.reporting.figures import charts
from advjax.reporting.figures.images import (
  nsl_grid,
  perturbation_grid,
  prediction_grid,
  random_indices,
)
from advjax.reporting.formatting import attack_label, format_epsilon, percent
from advjax.reporting.text import (
  attacks_of,
  class_accuracies,
  epochs_of,
  generalization_gap,
  top_k_of,
  worst_cases,
)
from advjax.results import Estimate, ModelResult, Report

# The families of Hendrycks and Dietterich 2019 (arXiv 1903.12261).
FAMILIES = {
  'noise': KINDS[:3],
  'blur': KINDS[3:7],
  'weather': KINDS[7:11],
  'digital': KINDS[11:],
}
# Metrics of an epoch, and their names in the legend.
_ACCURACIES = {
  'clean_accuracy': 'training, clean',
  'adversarial_accuracy': 'training, adversarial',
  'monitor_clean_accuracy': 'monitoring, clean',
  'monitor_robust_accuracy': 'monitoring, PGD',
}
_LOSSES = {
  'clean_loss': 'clean',
  'adversarial_loss': 'adversarial, unscaled',
}
_STYLES = tuple(zip(charts.DASHES, charts.MARKERS, strict=False))
_MAX_CLASSES = 20
_MAX_POINTS = 5000
_FAR_LOSSES = 30  # Ratio of losses from which on their axis is logarithmic.


# Name, title, caption and figure.
_Drawn = Iterator[tuple[str, str, str, Figure]]


def run_figures(
  report: Report,
  evaluation: Evaluation,
  images: np.ndarray,
  labels: np.ndarray,
  records: Mapping[str, Sequence[Mapping[str, Any]]],
  class_names: Sequence[str],
) -> dict[str, list[charts.Picture]]:
  """Draws all figures of a run, by the section of the page."""
  chance = report.dataset.largest_class_share or 1 / len(class_names)
  means, alone = '', ''
  if len(report.seeds) > 1:
    means, alone = ' Means over the seeds.', f' Seed {report.seeds[0]}.'
  shown = report, evaluation, images, labels, class_names
  drawn: dict[str, list[charts.Picture]] = {}
  for section, note, figures in (
    ('results', means, _accuracy(report, chance)),
    ('epsilon', means, _curves(report, chance)),
    ('transfer', means, _transfer(report)),
    ('distances', alone, _distances(evaluation, labels)),
    ('steps', means, _traces(report)),
    ('classes', means, _classes(report)),
    ('shifts', means, _shifts(report, chance)),
    ('efficiency', means, _efficiency(report, chance)),
    ('training', alone, _losses(report, records)),
    ('training', means, _accuracies(report, chance)),
    ('examples', alone, _examples(*shown)),
  ):
    for name, title, caption, figure in figures:
      picture = charts.encode(name, title, caption + note, figure)
      drawn.setdefault(section, []).append(picture)
  return drawn


def _accuracy(report: Report, chance: float) -> _Drawn:
  k, attacks = top_k_of(report), attacks_of(report)
  groups = [_clean(report)]
  for attack, label, _ in attacks:
    own = {n: m.robust_accuracy.get(attack) for n, m in report.members.items()}
    groups.append(
      _group(f'{label}\nwhite box', own, 'white_box', 'white_box_top_k')
    )
    transfer = [
      (target, value, (result.transfer_top_k or {}).get(target))
      for result in own.values()
      if result
      for target, value in result.transfer.items()
    ]
    if transfer and report.sanity is None:
      transfer.sort(key=lambda each: -each[1].value)  # The lowest is kept.
      bars = {target: value for target, value, _ in transfer}
      pale = {target: top_k for target, _, top_k in transfer}
      groups.append(charts.Group(f'{label}\ntransfer', bars, pale, True))
  caption = 'Accuracy on the test images in per cent, with 95 % intervals.'
  if attacks:
    where = dict.fromkeys(
      f'{format_epsilon(a.epsilon)} ({a.norm})' for *_, a in attacks
    )
    caption += (
      f' Attacks at epsilon {", ".join(where)}. White box: with the gradients '
      'of the model itself, an upper bound of its robustness.'
    )
  if any(group.transfer for group in groups):
    caption += (
      ' Transfer (hatched): on adversarial examples from another model, the '
      'lowest of them; no measure of robustness.'
    )
  if k:
    caption += f' Pale: the label is among the {k} largest logits.'
  figure = charts.bar_figure(groups, _colors(report), chance=chance, k=k)
  yield 'accuracy', 'Accuracy, clean and under attack', caption, figure


def _colors(report: Report) -> dict[str, str]:
  return charts.model_colors(report.members)


def _group(
  label: str, parts: Mapping[str, Any], accuracy: str, top_k: str
) -> charts.Group:
  """Takes two fields out of what was measured of each model."""
  bars, pale = (
    {n: getattr(part, field) for n, part in parts.items() if part}
    for field in (accuracy, top_k)
  )
  return charts.Group(label, bars, pale)


def _clean(report: Report) -> charts.Group:
  return _group(
    'clean', report.members, 'clean_accuracy', 'clean_top_k_accuracy'
  )


def _curves(report: Report, chance: float) -> _Drawn:
  """Accuracy over epsilon, white box and, in another figure, transfer."""
  names = list(report.members)
  sources = names if len(names) <= 3 else names[:1]
  caption = (
    'Shades: 95 % intervals. Epsilon 0: clean accuracy. Vertical line: '
    'evaluation epsilon.'
  )
  for name, kind, pairs, note in (
    (
      'robustness',
      'white box',
      [(name, name) for name in names],
      'Each model is attacked with its own gradients; its lowest curve is an '
      'upper bound of its robustness.',
    ),
    (
      'transfer_curves',
      'transfer',
      [(s, t) for s in sources for t in names if s != t],
      'Each model on adversarial examples from another one'
      + (f', here {names[0]}.' if len(names) > 3 else '.'),
    ),
  ):
    panels = []
    for attack, label, sample in attacks_of(report):
      lines = [x for pair in pairs for x in _curve(report, attack, *pair)]
      if lines:
        x = f'epsilon ({sample.norm})'
        marks: Any = {'mark': sample.epsilon, 'chance': chance}
        panel = charts.Panel(label, lines, x, 'accuracy', 'epsilon', **marks)
        panels.append(panel)
    if panels:
      title = f'Accuracy over epsilon, {kind}'
      yield name, title, f'{caption} {note}', charts.line_figure(panels)


def _curve(
  report: Report, attack: str, source: str, target: str
) -> Iterator[charts.Line]:
  """One line, or none without at least one epsilon."""
  result = report.members[source].robust_accuracy.get(attack)
  if result is None:
    return
  large = large_epsilon(result.norm, result.bounds, report.dataset.image_shape)
  points = {0.0: report.members[target].clean_accuracy}
  for at in result.curve or [result]:
    value = at.white_box if source == target else at.transfer.get(target)
    # The large epsilon of the sanity checks would take most of the width.
    far = large is not None and at.epsilon >= large * (1 - 1e-6)
    if value and not (far and at.epsilon > 2 * result.epsilon):
      points[at.epsilon] = value
  if len(points) < 2:
    return
  x, estimates = zip(*sorted(points.items()), strict=True)
  y = np.array([(e.value, *(e.ci or (e.value, e.value))) for e in estimates]).T
  names = list(report.members)
  transfer = source != target
  yield charts.Line(
    x,
    y[0],
    _colors(report)[target],
    f'{target}, examples from {source}' if transfer else target,
    low=y[1],
    high=y[2],
    dash=charts.DASHES[1 + names.index(source) % 3] if transfer else '-',
    marker=charts.MARKERS[names.index(target) % len(charts.MARKERS)],
    hollow=transfer,
  )


def _transfer(report: Report) -> _Drawn:
  names = list(report.members)
  matrices = []
  for attack, label, _ in attacks_of(report):
    found = {
      name: model.robust_accuracy[attack]
      for name, model in report.members.items()
      if attack in model.robust_accuracy
    }
    if any(result.transfer for result in found.values()):
      values = np.full((len(found), len(names)), np.nan)
      for i, (source, result) in enumerate(found.items()):
        accuracies = result.transfer | {source: result.white_box}
        for target, accuracy in accuracies.items():
          values[i, names.index(target)] = accuracy.value
      framed = [(i, names.index(name)) for i, name in enumerate(found)]
      axes = list(found), names, values, 'source', 'target', framed
      matrices.append(charts.Matrix(label, *axes))
  if matrices:
    caption = (
      'Accuracy in per cent of the target on adversarial examples from the '
      'source. Framed: white box. All others: transfer, which is no measure of '
      'robustness.'
    )
    figure = charts.heatmap_figure(matrices)
    yield 'transfer', 'Transfer matrices', caption, figure


def _classes(report: Report) -> _Drawn:
  columns = class_accuracies(report)
  if not columns:
    return
  values = np.array(list(columns.values()), np.float64).T
  names = [*(report.classes or ()), *map(str, range(len(values)))]
  caption = (
    'Accuracy of each class in per cent, clean and under the attack that '
    'lowers the mean over the classes most.'
  )
  shown = np.arange(len(values))
  if len(values) > _MAX_CLASSES:
    lowest = np.where(np.isnan(values), np.inf, values).min(1)
    shown = np.argsort(lowest, kind='stable')[:_MAX_CLASSES]
    caption += f' The {_MAX_CLASSES} lowest of {len(values)} classes.'
  labels = [names[i] for i in shown]
  matrix = charts.Matrix('', labels, list(columns), values[shown])
  figure = charts.heatmap_figure([matrix])
  yield 'class_accuracy', 'Accuracy by class', caption, figure


def _traces(report: Report) -> _Drawn:
  where = 'White box, evaluation epsilon; step 0 is the starting point.'
  advice = (
    ' If the mean loss still increases at the last step, use more steps; if it '
    'is flat from the start, gradients may be masked.'
  )
  for what, note in (('loss', advice), ('accuracy', '')):
    panels = []
    for attack, label, _ in attacks_of(report):
      lines = []
      for number, (name, model) in enumerate(report.members.items()):
        trace = (model.traces or {}).get(attack)
        if trace:
          y = np.array(getattr(trace, what), np.float64)
          dash = charts.DASHES[number % len(charts.DASHES)]
          color = _colors(report)[name]
          lines.append(charts.Line(range(len(y)), y, color, name, dash=dash))
      if lines:
        scale: Any = 'accuracy'
        if what == 'loss':
          highest = [np.nanmax(line.y, initial=0.0) for line in lines]
          far = 0 < _FAR_LOSSES * min(highest) < max(highest)
          scale = 'log' if far else 'number'
        panel = charts.Panel(label, lines, 'step', what, 'integer', scale)
        panels.append(panel)
    if panels:
      title = f'{what.capitalize()} over the steps of the attacks'
      figure = charts.line_figure(panels)
      yield f'{what}_per_step', title, where + note, figure


def _shifts(report: Report, chance: float) -> _Drawn:
  models = report.members
  seen = {k for m in models.values() for k in m.seen_corruptions or ()}
  groups = [_clean(report)]
  for family, kinds in FAMILIES.items():
    partly = '\n(partly seen)' if seen & set(kinds) else ''
    bars, pale = (
      {n: _mean(getattr(m, field), kinds) for n, m in models.items()}
      for field in ('corruptions', 'corruptions_top_k')
    )
    groups.append(charts.Group(f'{family}{partly}', bars, pale))
  if seen & set(KINDS):
    fields = 'unseen_corruption_accuracy', 'unseen_corruption_top_k_accuracy'
    groups.append(_group('all unseen\ncorruptions', models, *fields))
  pasted = {name: m.pasted_objects or {} for name, m in models.items()}
  for severity in dict.fromkeys(
    key for each in pasted.values() for key in each
  ):
    parts = {name: each.get(severity) for name, each in pasted.items()}
    label = f'pasted\nseverity {severity}'
    groups.append(_group(label, parts, 'accuracy', 'top_k_accuracy'))
  groups = [group for group in groups if any(group.bars.values())]
  if len(groups) > 1:
    caption = (
      'Accuracy in per cent: clean, means over the corruptions of each family '
      'and all severities, and with pasted objects.'
    )
    if seen:
      caption += ' Partly seen: training of a model has seen one of them.'
    figure = charts.bar_figure(
      groups, _colors(report), chance=chance, k=top_k_of(report)
    )
    yield 'shifts', 'Accuracy under shifts', caption, figure
  matrices = [_severities(n, m) for n, m in models.items() if m.corruptions]
  if matrices:
    caption = 'Accuracy in per cent by severity.'
    if seen:
      caption += ' Framed: training of the model has seen the corruption.'
    figure = charts.heatmap_figure(matrices)
    yield 'corruptions', 'Corruptions by severity', caption, figure


def _mean(
  corruptions: Mapping[str, Sequence[float]] | None, kinds: Sequence[str]
) -> Estimate | None:
  """Over kinds and severities; None where a kind is absent."""
  if not corruptions or not set(kinds) <= set(corruptions):
    return None
  return Estimate(float(np.mean([corruptions[kind] for kind in kinds])))


def _severities(name: str, model: ModelResult) -> charts.Matrix:
  corruptions = model.corruptions or {}
  values = np.array(list(corruptions.values()), np.float64)
  values = np.concatenate([values, values.mean(0, keepdims=True)])
  values = np.concatenate([values, values.mean(1, keepdims=True)], 1)
  kinds = [kind.replace('_', ' ').capitalize() for kind in corruptions]
  rows = [*(kind.replace('Jpeg', 'JPEG') for kind in kinds), 'Mean']
  num_severities = values.shape[1] - 1
  framed = [
    (i, j)
    for i, kind in enumerate(corruptions)
    for j in range(num_severities)
    if kind in (model.seen_corruptions or ())
  ]
  columns = [*map(str, range(1, num_severities + 1)), 'mean']
  return charts.Matrix(name, rows, columns, values, '', 'severity', framed)


def _efficiency(report: Report, chance: float) -> _Drawn:
  worst = next(iter(worst_cases(report).values()), {})
  models = report.members
  for x, what, values in (
    ('parameters', 'size', {n: m.num_params for n, m in models.items()}),
    (
      'training time (s)',
      'training time',
      {n: m.training and m.training.train_seconds for n, m in models.items()},
    ),
  ):
    if len(set(values.values()) - {None, 0}) < 2:
      continue
    points = []
    for name, value in values.items():
      if value:
        at, color = Estimate(value), _colors(report)[name]
        clean = models[name].clean_accuracy
        points.append(charts.Point(at, clean, color, name, hollow=True))
        if name in worst:
          points.append(charts.Point(at, worst[name][0], color, name))
    caption = (
      'Hollow: clean accuracy. Filled: white box at the evaluation epsilon, '
      'strongest attack. With 95 % intervals.'
    )
    figure = charts.scatter_figure(points, x, x_axis='log', chance=chance)
    name = f'efficiency_{x.split()[0]}'
    yield name, f'Accuracy over {what}', caption, figure


def _losses(
  report: Report, records: Mapping[str, Sequence[Mapping[str, Any]]]
) -> _Drawn:
  """The loss of every iteration, and means of every epoch."""
  steps: list[charts.Line] = []
  for name, color in _colors(report).items():
    batches = [r['losses'] for r in records.get(name, ()) if 'losses' in r]
    loss = np.array([value for each in batches for value in each], np.float64)
    if len(loss):
      thin = slice(None, None, -(-len(loss) // _MAX_POINTS))
      window = len(loss) // 50
      mean = _running_mean(loss, window + 1 - window % 2)[thin]  # Odd.
      x = np.arange(1, len(loss) + 1)[thin]
      steps.append(charts.Line(x, loss[thin], color, width=0.7, opacity=0.3))
      steps.append(charts.Line(x, mean, color, name))
  if steps:
    smallest = min(np.nanmin(line.y, initial=np.inf) for line in steps)
    scale: Any = 'log' if smallest > 0 else 'number'
    panel = charts.Panel('', steps, 'iteration', 'batch loss', 'integer', scale)
    caption = 'Thin: loss of every iteration. Thick: running mean.'
    yield 'training_loss', 'Training loss', caption, charts.line_figure([panel])
  names = [
    charts.Line([], [], color, name) for name, color in _colors(report).items()
  ]
  lines = [
    line
    for key in names
    for line in _epoch_lines(report.members[key.label], key.color, _LOSSES)
  ]
  if lines:
    lines = [*names, *lines, *_key(_LOSSES)]
    panel = charts.Panel('', lines, 'epoch', 'loss', 'integer', 'number')
    caption = 'Means over the training images.'
    title = 'Training loss, epoch by epoch'
    yield 'epoch_loss', title, caption, charts.line_figure([panel])


def _accuracies(report: Report, chance: float) -> _Drawn:
  """Training accuracies against those of the monitoring images."""
  panels, held_out = [], True
  for name, model in report.members.items():
    lines = list(_epoch_lines(model, _colors(report)[name], _ACCURACIES))
    if not lines:
      continue
    title, gap = name, generalization_gap(model)
    if gap and model.training and model.training.num_validation:
      title += f': gap {100 * (gap[0] - gap[1]):.1f} points'
    else:
      held_out = False
    lines += _key(_ACCURACIES)
    panels.append(
      charts.Panel(title, lines, 'epoch', 'accuracy', 'integer', chance=chance)
    )
  if panels:
    caption = (
      'Accuracy of every epoch on the training images, as augmented, clean and '
      'under the attack of the training objective (which says nothing about '
      'stronger attacks), and on the monitoring images. Gap: between clean '
      'accuracies.'
    )
    if not held_out:
      caption += (
        ' Without validation images (num_validation = 0) the monitoring images '
        'are training images, and show no overfitting.'
      )
    title = 'Training and validation accuracy'
    yield 'training_curves', title, caption, charts.line_figure(panels)


def _epoch_lines(
  model: ModelResult, color: str, keys: Iterable[str]
) -> Iterator[charts.Line]:
  """A line for each metric that was measured, each with its dash and marker."""
  epochs = epochs_of(model)
  for key, (dash, marker) in zip(keys, _STYLES, strict=False):
    y = np.array([epoch.get(key) for epoch in epochs], np.float64)
    if key.startswith('clean_') and not np.isfinite(y).any():
      key = key.removeprefix('clean_')  # Where there is nothing else.
      y = np.array([epoch.get(key) for epoch in epochs], np.float64)
    known = np.isfinite(y)
    if known.any():
      x = np.arange(1, len(epochs) + 1)[known]
      yield charts.Line(x, y[known], color, dash=dash, marker=marker)


def _key(metrics: Mapping[str, str]) -> Iterator[charts.Line]:
  """Yields lines without points, for the legend alone."""
  for label, (dash, marker) in zip(metrics.values(), _STYLES, strict=False):
    yield charts.Line([], [], charts.INK, label, dash=dash, marker=marker)


def _running_mean(values: np.ndarray, window: int) -> np.ndarray:
  """Centred, over what is finite; NaN where nothing is."""
  finite = np.isfinite(values)
  means, shares = (
    ndimage.uniform_filter1d(each, window, mode='constant')
    for each in (np.where(finite, values, 0.0), finite.astype(np.float64))
  )
  some = shares > 0.5 / window
  return np.where(some, means / np.where(some, shares, 1.0), np.nan)


def _distances(evaluation: Evaluation, labels: np.ndarray) -> _Drawn:
  """Images without an adversarial example within a distance."""
  colors = charts.model_colors(evaluation.clean)
  attacks: dict[str, list[charts.Line]] = {}
  for (name, attack), distances in evaluation.distances.items():
    count = len(distances)
    wrong = evaluation.clean[name][:count] != labels[:count]
    found = np.sort(np.where(wrong, 0.0, distances))
    found = np.r_[0.0, found[np.isfinite(found)]]
    y = 1 - np.arange(len(found)) / count
    line = charts.Line(found, y, colors[name], name, steps=True)
    attacks.setdefault(attack, []).append(line)
  panels = []
  for attack, lines in attacks.items():
    x = f'distance ({evaluation.attacks[attack].norm})'
    panels.append(charts.Panel(attack_label(attack), lines, x, 'accuracy'))
  if panels:
    caption = (
      'Share of the test images that are classified correctly and have no '
      'adversarial example found within the distance: an upper bound of robust '
      'accuracy over epsilon.'
    )
    title = 'Distances of minimum-norm attacks'
    yield 'distances', title, caption, charts.line_figure(panels)


def _examples(
  report: Report,
  evaluation: Evaluation,
  images: np.ndarray,
  labels: np.ndarray,
  names: Sequence[str],
) -> _Drawn:
  """Adversarial examples of the first attack, with predictions."""
  if images.ndim != 4:
    return
  models, seed = list(evaluation.clean), report.seeds[0]
  attack, spec = next(iter(evaluation.attacks.items()))
  how = (
    f'{attack_label(attack, getattr(spec, "num_steps", None))}, epsilon '
    f'{format_epsilon(evaluation.epsilon)}'
  )
  if images.shape[-1] not in (1, 3):
    how += f', the first of {images.shape[-1]} channels'
  if len(models) > 1:
    base, other = models[:2]
    count, adversarial = min(32, len(labels)), evaluation.images[base, attack]
    found = evaluation.predictions[base, attack]
    correct = [int(np.sum(found[m][:32] == labels[:32])) for m in models[:2]]
    figure = nsl_grid(adversarial, labels, found[base], found[other], names)
    caption = (
      f'Adversarial examples from {base} ({how}), in order. Correct: base '
      f'({base}) {correct[0]} of {count}, adv ({other}; transfer) {correct[1]}.'
    )
    title = f'The first {count} test images'
    yield 'nsl_batch', title, caption, figure
  shown = random_indices(len(labels), seed)
  for name in models:
    predicted = evaluation.predictions[name, attack][name]
    accuracy = float(np.mean(predicted[shown] == labels[shown]))
    adversarial = evaluation.images[name, attack]
    figure = prediction_grid(adversarial, predicted, labels, seed, names)
    caption = (
      f'{len(shown)} random adversarial examples ({how}, white box), accuracy '
      f'{percent(accuracy)}.'
    )
    yield f'predictions_{name}', f'Predictions of {name}', caption, figure
  for name in models:
    both = evaluation.clean[name], evaluation.predictions[name, attack][name]
    adversarial = evaluation.images[name, attack]
    figure = perturbation_grid(images, adversarial, labels, *both, names)
    caption = (
      f'Clean image, perturbation ({how}, white box; red adds, blue subtracts, '
      'amplified as its title says) and adversarial example.'
    )
    yield f'perturbations_{name}', f'Perturbations of {name}', caption, figure
