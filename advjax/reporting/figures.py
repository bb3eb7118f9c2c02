"""Figures of a report of train, compare or evaluate, with their captions."""

import dataclasses
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from advjax.evaluation.corruptions import KINDS
from advjax.evaluation.models import Evaluation
from advjax.reporting import plots
from advjax.reporting.formatting import attack_label, format_epsilon, percent
from advjax.reporting.images import (
  nsl_grid,
  perturbation_grid,
  prediction_grid,
  random_indices,
)
from advjax.reporting.sanity import large_epsilon
from advjax.reporting.text import (
  attacks_of,
  class_accuracies,
  epochs_of,
  generalization_gap,
  top_k_of,
  worst_cases,
)
from advjax.results import AtEpsilon, Estimate, ModelResult, Report

# As Hendrycks and Dietterich 2019 (arXiv 1903.12261) sort them.
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
) -> dict[str, list[plots.Picture]]:
  """Draws all figures of a run."""
  chance = report.dataset.largest_class_share or 1 / len(class_names)
  seed = report.seeds[0]
  means, alone = '', ''
  if len(report.seeds) > 1:
    means, alone = ' Means over the seeds.', f' Seed {seed}.'
  drawn: dict[str, list[plots.Picture]] = {}
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
    (
      'examples',
      alone,
      _examples(evaluation, images, labels, class_names, seed),
    ),
  ):
    for name, title, caption, figure in figures:
      picture = plots.encode(name, title, caption + note, figure)
      drawn.setdefault(section, []).append(picture)
  return drawn


def _accuracy(report: Report, chance: float) -> _Drawn:
  k, attacks = top_k_of(report), attacks_of(report)
  groups = [_clean(report)]
  for attack, sample in attacks.items():
    label = attack_label(attack, sample.num_steps)
    own = {n: m.robust_accuracy.get(attack) for n, m in report.members.items()}
    groups.append(
      _group(f'{label}\nwhite box', own, 'white_box', 'white_box_top_k')
    )
    lowest: dict[str, Estimate] = {}
    pale = {}
    for result in own.values():
      for target, value in (result.transfer if result else {}).items():
        if value.value <= lowest.get(target, value).value:
          lowest[target] = value
          pale[target] = ((result and result.transfer_top_k) or {}).get(target)
    if lowest and report.sanity is None:
      groups.append(plots.Group(f'{label}\ntransfer', lowest, pale, True))
  caption = 'Accuracy on the test images in per cent, with 95 % intervals.'
  if attacks:
    where = dict.fromkeys(
      f'{format_epsilon(a.epsilon)} ({a.norm})' for a in attacks.values()
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
  figure = plots.bar_figure(groups, _colors(report), chance=chance, k=k)
  yield 'accuracy', 'Accuracy, clean and under attack', caption, figure


def _colors(report: Report) -> dict[str, str]:
  return plots.model_colors(report.members)


def _group(
  label: str, parts: Mapping[str, Any], accuracy: str, top_k: str
) -> plots.Group:
  """Takes two fields out of what was measured of each model."""
  bars, pale = (
    {n: getattr(part, field) for n, part in parts.items() if part}
    for field in (accuracy, top_k)
  )
  return plots.Group(label, bars, pale)


def _clean(report: Report) -> plots.Group:
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
    for attack, sample in attacks_of(report).items():
      lines = [_curve(report, attack, *pair) for pair in pairs]
      if any(lines):
        label = attack_label(attack, sample.num_steps)
        known, x = [line for line in lines if line], f'epsilon ({sample.norm})'
        panel = plots.Panel(label, known, x, 'accuracy', 'epsilon')
        panels.append(
          dataclasses.replace(panel, mark=sample.epsilon, chance=chance)
        )
    if panels:
      title = f'Accuracy over epsilon, {kind}'
      yield name, title, f'{caption} {note}', plots.line_figure(panels)


def _curve(
  report: Report, attack: str, source: str, target: str
) -> plots.Line | None:
  result = report.members[source].robust_accuracy.get(attack)
  if result is None:
    return None
  large = large_epsilon(result.norm, result.bounds, report.dataset.image_shape)
  points = {0.0: report.members[target].clean_accuracy}
  at: AtEpsilon
  for at in result.curve or [result]:
    value = at.white_box if source == target else at.transfer.get(target)
    # The large epsilon of the sanity checks would take most of the width.
    far = large is not None and at.epsilon >= large * (1 - 1e-6)
    if value and not (far and at.epsilon > 2 * result.epsilon):
      points[at.epsilon] = value
  if len(points) < 2:
    return None
  x, estimates = zip(*sorted(points.items()), strict=True)
  y = np.array([(e.value, *(e.ci or (e.value, e.value))) for e in estimates]).T
  names = list(report.members)
  transfer = source != target
  return plots.Line(
    x,
    y[0],
    _colors(report)[target],
    f'{target}, examples from {source}' if transfer else target,
    low=y[1],
    high=y[2],
    dash=plots.DASHES[1 + names.index(source) % 3] if transfer else '-',
    marker=plots.MARKERS[names.index(target) % len(plots.MARKERS)],
    hollow=transfer,
  )


def _transfer(report: Report) -> _Drawn:
  names = list(report.members)
  matrices = []
  for attack, sample in attacks_of(report).items():
    found = {
      name: model.robust_accuracy[attack]
      for name, model in report.members.items()
      if attack in model.robust_accuracy
    }
    if any(result.transfer for result in found.values()):
      values = np.full((len(found), len(names)), np.nan)
      for i, (source, result) in enumerate(found.items()):
        for target, value in (
          result.transfer | {source: result.white_box}
        ).items():
          values[i, names.index(target)] = value.value
      title = attack_label(attack, sample.num_steps)
      framed = [(i, names.index(name)) for i, name in enumerate(found)]
      matrix = plots.Matrix(
        title, list(found), names, values, 'source', 'target', framed
      )
      matrices.append(matrix)
  if matrices:
    caption = (
      'Accuracy in per cent of the target on adversarial examples from the '
      'source. Framed: white box. All others: transfer, which is no measure of '
      'robustness.'
    )
    figure = plots.heatmap_figure(matrices)
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
  matrix = plots.Matrix('', labels, list(columns), values[shown])
  figure = plots.heatmap_figure([matrix])
  yield 'class_accuracy', 'Accuracy by class', caption, figure


def _traces(report: Report) -> _Drawn:
  losses: list[plots.Panel] = []
  accuracies: list[plots.Panel] = []
  for attack, sample in attacks_of(report).items():
    traces = {
      name: model.traces[attack]
      for name, model in report.members.items()
      if model.traces and attack in model.traces
    }
    if not traces:
      continue
    label = attack_label(attack, sample.num_steps)
    highest = [max(filter(None, t.loss), default=0.0) for t in traces.values()]
    far = 0 < _FAR_LOSSES * min(highest) < max(highest)
    y_axis: Any
    for panels, what, y_axis in (
      (losses, 'loss', 'log' if far else 'number'),
      (accuracies, 'accuracy', 'accuracy'),
    ):
      lines = []
      for name, trace in traces.items():
        y = np.array(getattr(trace, what), np.float64)
        y = np.where(y > 0, y, np.nan) if y_axis == 'log' else y
        number = list(report.members).index(name) % len(plots.DASHES)
        dash = plots.DASHES[number]
        color = _colors(report)[name]
        lines.append(plots.Line(range(len(y)), y, color, name, dash=dash))
      panel = plots.Panel(label, lines, 'step', what, 'integer', y_axis)
      panels.append(panel)
  if losses:
    where = 'White box, evaluation epsilon; step 0 is the starting point.'
    yield (
      'loss_per_step',
      'Loss over the steps of the attacks',
      f'{where} If the mean loss still increases at the last step, use more '
      'steps; if it is flat from the start, gradients may be masked.',
      plots.line_figure(losses),
    )
    title = 'Accuracy over the steps of the attacks'
    yield 'accuracy_per_step', title, where, plots.line_figure(accuracies)


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
    groups.append(plots.Group(f'{family}{partly}', bars, pale))
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
    figure = plots.bar_figure(
      groups, _colors(report), chance=chance, k=top_k_of(report)
    )
    yield 'shifts', 'Accuracy under shifts', caption, figure
  matrices = [_severities(n, m) for n, m in models.items() if m.corruptions]
  if matrices:
    caption = 'Accuracy in per cent by severity.'
    if seen:
      caption += ' Framed: training of the model has seen the corruption.'
    figure = plots.heatmap_figure(matrices)
    yield 'corruptions', 'Corruptions by severity', caption, figure


def _mean(
  corruptions: Mapping[str, Sequence[float]] | None, kinds: Sequence[str]
) -> Estimate | None:
  """Over kinds and severities; None where a kind is absent."""
  if not corruptions or not set(kinds) <= set(corruptions):
    return None
  values = [value for kind in kinds for value in corruptions[kind]]
  return Estimate(float(np.mean(values)))


def _severities(name: str, model: ModelResult) -> plots.Matrix:
  corruptions = model.corruptions or {}
  values = np.array(list(corruptions.values()), np.float64)
  values = np.concatenate([values, values.mean(0, keepdims=True)])
  values = np.concatenate([values, values.mean(1, keepdims=True)], 1)
  kinds = [kind.replace('_', ' ').capitalize() for kind in corruptions]
  kinds = [kind.replace('Jpeg', 'JPEG') for kind in kinds]
  columns = [str(i) for i in range(1, values.shape[1])]
  framed = [
    (i, j)
    for i, kind in enumerate(corruptions)
    for j in range(len(columns))
    if kind in (model.seen_corruptions or ())
  ]
  rows, columns = [*kinds, 'Mean'], [*columns, 'mean']
  return plots.Matrix(name, rows, columns, values, '', 'severity', framed)


def _efficiency(report: Report, chance: float) -> _Drawn:
  worst = next(iter(worst_cases(report).values()), {})
  for x, title, take in (
    ('parameters', 'Accuracy over size', lambda m: m.num_params),
    (
      'training time (s)',
      'Accuracy over training time',
      lambda m: m.training and m.training.train_seconds,
    ),
  ):
    values = {name: take(model) for name, model in report.members.items()}
    if len(set(values.values()) - {None, 0}) < 2:
      continue
    points = []
    for name, value in values.items():
      if value:
        at, color = Estimate(value), _colors(report)[name]
        clean = report.members[name].clean_accuracy
        points.append(plots.Point(at, clean, color, hollow=True))
        if name in worst:
          points.append(plots.Point(at, worst[name][0], color))
        points[-1] = dataclasses.replace(points[-1], label=name)
    caption = (
      'Hollow: clean accuracy. Filled: white box at the evaluation epsilon, '
      'strongest attack. With 95 % intervals.'
    )
    figure = plots.scatter_figure(points, x, x_axis='log', chance=chance)
    yield f'efficiency_{x.split()[0]}', title, caption, figure


def _losses(
  report: Report, records: Mapping[str, Sequence[Mapping[str, Any]]]
) -> _Drawn:
  """The loss of every iteration, and means of every epoch."""
  steps: list[plots.Line] = []
  for name, color in _colors(report).items():
    batches = [r['losses'] for r in records.get(name, ()) if 'losses' in r]
    loss = np.array([value for each in batches for value in each], np.float64)
    if len(loss):
      thin = slice(None, None, -(-len(loss) // _MAX_POINTS))
      mean = _running_mean(loss, max(1, len(loss) // 50))[thin]
      x = np.arange(1, len(loss) + 1)[thin]
      steps.append(plots.Line(x, loss[thin], color, width=0.7, opacity=0.3))
      steps.append(plots.Line(x, mean, color, name))
  if steps:
    smallest = min(np.nanmin(line.y, initial=np.inf) for line in steps)
    scale: Any = 'log' if smallest > 0 else 'number'
    panel = plots.Panel('', steps, 'iteration', 'batch loss', 'number', scale)
    caption = 'Thin: loss of every iteration. Thick: running mean.'
    yield 'training_loss', 'Training loss', caption, plots.line_figure([panel])
  epochs = [
    line
    for name, color in _colors(report).items()
    for line in _epoch_lines(report.members[name], color, _LOSSES)
  ]
  if epochs:
    legend = [
      plots.Line([], [], c, name) for name, c in _colors(report).items()
    ]
    lines = [*legend, *epochs, *_key(*_LOSSES.values())]
    panel = plots.Panel('', lines, 'epoch', 'loss', 'integer', 'number')
    caption = 'Means over the training images.'
    title = 'Training loss, epoch by epoch'
    yield 'epoch_loss', title, caption, plots.line_figure([panel])


def _accuracies(report: Report, chance: float) -> _Drawn:
  """Training accuracies against those of the monitoring images."""
  panels, held_out = [], True
  for name, model in report.members.items():
    color = _colors(report)[name]
    lines = list(_epoch_lines(model, color, _ACCURACIES))
    if not lines:
      continue
    title, gap = name, generalization_gap(model)
    if gap and model.training and model.training.num_validation:
      title += f': gap {100 * (gap[0] - gap[1]):.1f} points'
    else:
      held_out = False
    lines += _key(*_ACCURACIES.values())
    panel = plots.Panel(title, lines, 'epoch', 'accuracy', 'integer')
    panels.append(dataclasses.replace(panel, chance=chance))
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
    yield 'training_curves', title, caption, plots.line_figure(panels)


def _epoch_lines(
  model: ModelResult, color: str, keys: Iterable[str]
) -> Iterator[plots.Line]:
  """A line for each metric that was measured, with a dash for each."""
  epochs = epochs_of(model)
  for key, dash in zip(keys, plots.DASHES, strict=False):
    y = np.array([epoch.get(key) for epoch in epochs], np.float64)
    if key.startswith('clean_') and not np.isfinite(y).any():
      key = key.removeprefix('clean_')  # Where there is nothing else.
      y = np.array([epoch.get(key) for epoch in epochs], np.float64)
    known = np.isfinite(y)
    if known.any():
      x = np.arange(1, len(epochs) + 1)[known]
      yield plots.Line(x, y[known], color, dash=dash, marker='o')


def _key(*labels: str) -> Iterator[plots.Line]:
  """Yields lines without points, for the legend alone."""
  for label, dash in zip(labels, plots.DASHES, strict=False):
    yield plots.Line([], [], plots.INK, label, dash=dash)


def _running_mean(values: np.ndarray, window: int) -> np.ndarray:
  """Centred, over what is finite; NaN where nothing is."""
  finite, half = np.isfinite(values), window // 2
  sums = np.cumsum(np.r_[0.0, np.where(finite, values, 0.0)])
  counts = np.cumsum(np.r_[0.0, finite])
  index = np.arange(len(values))
  low = np.maximum(index - half, 0)
  high = np.minimum(index + half + 1, len(values))
  count = counts[high] - counts[low]
  means = (sums[high] - sums[low]) / np.maximum(count, 1)
  return np.where(count > 0, means, np.nan)


def _distances(evaluation: Evaluation, labels: np.ndarray) -> _Drawn:
  """Images without an adversarial example within a distance."""
  colors = plots.model_colors(evaluation.clean)
  attacks: dict[str, list[plots.Line]] = {}
  for (name, attack), distances in evaluation.distances.items():
    count = len(distances)
    wrong = evaluation.clean[name][:count] != labels[:count]
    found = np.sort(np.where(wrong, 0.0, distances))
    found = np.r_[0.0, found[np.isfinite(found)]]
    y = 1 - np.arange(len(found)) / count
    line = plots.Line(found, y, colors[name], name, steps=True)
    attacks.setdefault(attack, []).append(line)
  panels = []
  for attack, lines in attacks.items():
    x = f'distance ({evaluation.attacks[attack].norm})'
    panels.append(plots.Panel(attack_label(attack), lines, x, 'accuracy'))
  if not panels:
    return
  caption = (
    'Share of the test images that are classified correctly and have no '
    'adversarial example found within the distance: an upper bound of robust '
    'accuracy over epsilon.'
  )
  title = 'Distances of minimum-norm attacks'
  yield 'distances', title, caption, plots.line_figure(panels)


def _examples(
  evaluation: Evaluation,
  images: np.ndarray,
  labels: np.ndarray,
  names: Sequence[str],
  seed: int,
) -> _Drawn:
  """Adversarial examples of the first attack, with predictions."""
  if images.ndim != 4 or images.shape[-1] not in (1, 3):
    return
  models = list(evaluation.clean)
  attack, spec = next(iter(evaluation.attacks.items()))
  how = (
    f'{attack_label(attack, getattr(spec, "num_steps", None))}, epsilon '
    f'{format_epsilon(evaluation.epsilon)}'
  )
  if len(models) > 1:
    base, other = models[:2]
    found = evaluation.predictions[base, attack]
    count = min(32, len(labels))
    correct = [int(np.sum(found[m][:32] == labels[:32])) for m in models[:2]]
    figure = nsl_grid(
      evaluation.images[base, attack], labels, found[base], found[other], names
    )
    caption = (
      f'Adversarial examples from {base} ({how}), in order. Correct: base '
      f'({base}) {correct[0]} of {count}, adv ({other}; transfer) {correct[1]}.'
    )
    title = f'The first {count} test images'
    yield 'nsl_batch', title, caption, figure
  shown = random_indices(len(labels), seed)
  for name in models:
    says = evaluation.predictions[name, attack][name]
    accuracy = float(np.mean(says[shown] == labels[shown]))
    adversarial = evaluation.images[name, attack]
    figure = prediction_grid(adversarial, says, labels, seed, names)
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
