"""The figures of a report of train, compare or evaluate, with their captions."""

import dataclasses
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from advjax.evaluation.corruptions import KINDS
from advjax.evaluation.members import Evaluation
from advjax.reporting import images
from advjax.reporting.formatting import attack_label, format_epsilon, percent
from advjax.reporting.plots import (
  DASHES,
  INK,
  MARKERS,
  Group,
  Line,
  Matrix,
  Panel,
  Picture,
  Point,
  bar_figure,
  encode,
  heatmap_figure,
  line_figure,
  model_colors,
  scatter_figure,
)
from advjax.reporting.sanity import large_epsilon
from advjax.reporting.text import (
  attacks_of,
  epochs_of,
  generalization_gap,
  training_accuracy,
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
_MAX_CLASSES = 20
_MAX_POINTS = 5000
_FAR_LOSSES = 30  # Ratio of losses from which on their axis is logarithmic.


def report_figures(
  report: Report, chance: float | None = None
) -> dict[str, list[Picture]]:
  """Draws what a report alone has.

  Args:
    report: The report.
    chance: Accuracy at chance level; None: not known.

  Returns:
    Section of the page -> its figures; sections without figures are absent.
  """
  colors = model_colors(report.members)
  drawn = {
    'results': [_accuracy(report, colors, chance)],
    'epsilon': _curves(report, colors, chance),
    'transfer': _transfer(report),
    'classes': _classes(report, colors),
    'traces': _traces(report, colors, chance),
    'corruptions': _corruptions(report, colors, chance),
    'efficiency': _efficiency(report, colors, chance),
    'training': _generalization(report, colors),
  }
  seeds = ' Means over the seeds.' if len(report.seeds) > 1 else ''
  return {
    section: [
      dataclasses.replace(each, caption=each.caption + seeds)
      for each in pictures
    ]
    for section, pictures in drawn.items()
    if pictures
  }


def _accuracy(
  report: Report, colors: Mapping[str, str], chance: float | None
) -> Picture:
  models = report.members
  k = top_k_of(report)
  groups = [_clean_group(report)]
  for attack, sample in attacks_of(report).items():
    label = attack_label(attack, sample.num_steps)
    own = {n: m.robust_accuracy.get(attack) for n, m in models.items()}
    groups.append(
      Group(
        f'{label}\nwhite box',
        {name: each.white_box for name, each in own.items() if each},
        {
          name: each.white_box_top_k
          for name, each in own.items()
          if each and each.white_box_top_k
        },
      )
    )
    lowest: dict[str, Estimate] = {}
    for each in own.values():
      for target, value in (each.transfer if each else {}).items():
        lowest[target] = min(
          value, lowest.get(target, value), key=lambda e: e.value
        )
    if lowest and report.sanity is None:
      groups.append(Group(f'{label}\ntransfer', lowest, transfer=True))
  epsilons = {
    f'{format_epsilon(each.epsilon)} ({each.norm})': None
    for each in attacks_of(report).values()
  }
  caption = 'Accuracy on the test images in per cent, with 95 % intervals.'
  if epsilons:
    caption += (
      f' Attacks at epsilon {", ".join(epsilons)}; white box: with the '
      "gradients of the model itself, an upper bound of the model's robustness."
    )
  if any(group.transfer for group in groups):
    caption += (
      ' Transfer (hatched): on adversarial examples from another model, the '
      'lowest of them; no measure of robustness.'
    )
  if k:
    caption += f' Pale: the label is among the {k} largest logits.'
  figure = bar_figure(groups, colors, chance=chance, k=k)
  return encode('accuracy', 'Accuracy, clean and under attack', caption, figure)


def top_k_of(report: Report) -> int | None:
  """Returns the k of all top-k accuracies of a report."""
  return next((m.top_k for m in report.members.values() if m.top_k), None)


def _clean_group(report: Report) -> Group:
  models = report.members.items()
  return Group(
    'clean',
    {name: model.clean_accuracy for name, model in models},
    {
      name: model.clean_top_k_accuracy
      for name, model in models
      if model.clean_top_k_accuracy
    },
  )


def _curves(
  report: Report, colors: Mapping[str, str], chance: float | None
) -> list[Picture]:
  """Accuracy over epsilon, white box and, in another figure, transfer."""
  names = list(report.members)
  white_box = [(name, name) for name in names]
  sources = names if len(names) <= 3 else names[:1]
  transfer = [(s, t) for s in sources for t in names if s != t]
  drawn = []
  for name, title, pairs in (
    ('robustness', 'Accuracy over epsilon, white box', white_box),
    ('transfer_curves', 'Accuracy over epsilon, transfer', transfer),
  ):
    panels = []
    for attack, sample in attacks_of(report).items():
      lines = [
        line
        for source, target in pairs
        if (line := _curve(report, attack, source, target, colors))
      ]
      if lines:
        panels.append(
          Panel(
            attack_label(attack, sample.num_steps),
            lines,
            f'epsilon ({sample.norm})',
            'accuracy',
            x_axis='epsilon',
            mark=sample.epsilon,
            chance=chance,
          )
        )
    if not panels:
      continue
    caption = (
      'Shades: 95 % intervals. Epsilon 0: clean accuracy. Dashed vertical line: '
      'evaluation epsilon. '
    )
    if name == 'robustness':
      caption += (
        'Each model is attacked with its own gradients; the lowest curve of a '
        'model is an upper bound of its robustness.'
      )
    else:
      caption += 'Each model on adversarial examples from another model.'
      if len(names) > 3:
        caption += f' Source: {names[0]}; all pairs are in the matrices below.'
    drawn.append(encode(name, title, caption, line_figure(panels)))
  return drawn


def _curve(
  report: Report,
  attack: str,
  source: str,
  target: str,
  colors: Mapping[str, str],
) -> Line | None:
  result = report.members[source].robust_accuracy.get(attack)
  if result is None:
    return None
  large = large_epsilon(result.norm, result.bounds, report.dataset.image_shape)
  points: dict[float, Estimate] = {0.0: report.members[target].clean_accuracy}
  at: AtEpsilon
  for at in result.curve or [result]:
    value = at.white_box if source == target else at.transfer.get(target)
    # The large epsilon of the sanity checks would take most of the width.
    far = large is not None and at.epsilon >= large * (1 - 1e-6)
    if value is not None and not (far and 2 * result.epsilon < at.epsilon):
      points[at.epsilon] = value
  if len(points) < 2:
    return None
  x, estimates = zip(*sorted(points.items()), strict=True)
  ends = [each.ci or (each.value, each.value) for each in estimates]
  place = list(colors).index(target)
  transfer = source != target
  return Line(
    x,
    [each.value for each in estimates],
    colors[target],
    f'{target}, examples from {source}' if transfer else target,
    low=[low for low, _ in ends],
    high=[high for _, high in ends],
    dash=DASHES[1 + list(colors).index(source) % 3] if transfer else '-',
    marker=MARKERS[place % len(MARKERS)],
    hollow=transfer,
  )


def _transfer(report: Report) -> list[Picture]:
  names = list(report.members)
  matrices = []
  for attack, sample in attacks_of(report).items():
    results = {
      name: model.robust_accuracy[attack]
      for name, model in report.members.items()
      if attack in model.robust_accuracy
    }
    if not any(result.transfer for result in results.values()):
      continue
    absent = Estimate(np.nan)
    values = [
      [
        (result.transfer | {source: result.white_box}).get(name, absent).value
        for name in names
      ]
      for source, result in results.items()
    ]
    matrices.append(
      Matrix(
        attack_label(attack, sample.num_steps),
        list(results),
        names,
        np.array(values),
        'source',
        'target',
        [(i, names.index(name)) for i, name in enumerate(results)],
      )
    )
  if not matrices:
    return []
  caption = (
    'Accuracy in per cent of the target model on adversarial examples from the '
    'source model. Framed: white box. All others: transfer, which is no measure '
    'of robustness.'
  )
  figure = heatmap_figure(matrices)
  return [encode('transfer', 'Transfer matrices', caption, figure)]


def class_names(report: Report) -> list[str]:
  """Returns the names of the classes, numbers where the report has none."""
  count = max(
    len(values)
    for model in report.members.values()
    for values in (model.per_class or {'': []}).values()
  )
  names = report.classes or []
  return [*names[:count], *(str(i) for i in range(len(names), count))]


def worst_attack(classes: Mapping[str, Sequence[float | None]]) -> str:
  """Returns the attack of the lowest mean over classes, 'clean' if none.

  Example:
    >>> worst_attack({'clean': [1.0], 'fgsm': [0.5], 'pgd': [0.2]})
    'pgd'
  """
  means = {
    attack: np.nanmean(np.array(values, np.float64))
    for attack, values in classes.items()
    if attack != 'clean' and any(value is not None for value in values)
  }
  return min(means, key=lambda attack: means[attack], default='clean')


def _classes(report: Report, colors: Mapping[str, str]) -> list[Picture]:
  """A heatmap: clean and under the strongest attack, side by side."""
  columns, values = [], []
  for name, model in report.members.items():
    classes = model.per_class or {}
    for attack in dict.fromkeys(('clean', worst_attack(classes))):
      if attack in classes:
        result = model.robust_accuracy.get(attack)
        label = attack_label(attack, result.num_steps) if result else attack
        columns.append(f'{name}, {label}')
        values.append(np.array(classes[attack], np.float64))
  if not columns:
    return []
  matrix, names = np.stack(values, 1), class_names(report)
  caption = (
    'Accuracy of each class in per cent, clean and under the attack that lowers '
    'the mean most.'
  )
  shown = np.arange(len(names))
  if len(names) > _MAX_CLASSES:
    lowest = np.where(np.isnan(matrix), np.inf, matrix).min(1)
    shown = np.argsort(lowest, kind='stable')[:_MAX_CLASSES]
    caption += f' The {_MAX_CLASSES} lowest of {len(names)} classes.'
  drawn = Matrix('', [names[i] for i in shown], columns, matrix[shown], 'class')
  figure = heatmap_figure([drawn])
  return [encode('class_accuracy', 'Accuracy by class', caption, figure)]


def _traces(
  report: Report, colors: Mapping[str, str], chance: float | None
) -> list[Picture]:
  attacks = {
    attack: sample
    for attack, sample in attacks_of(report).items()
    if any(attack in (m.traces or {}) for m in report.members.values())
  }
  losses, accuracies = [], []
  for attack, sample in attacks.items():
    traces = {
      name: model.traces[attack]
      for name, model in report.members.items()
      if model.traces and attack in model.traces
    }
    label = attack_label(attack, sample.num_steps)
    highest = [
      max((x for x in trace.loss if x), default=0.0)
      for trace in traces.values()
    ]
    far = 0 < _FAR_LOSSES * min(highest) < max(highest)
    for panels, what, scale in (
      (losses, 'loss', 'log' if far else 'number'),
      (accuracies, 'accuracy', 'accuracy'),
    ):
      lines = []
      for name, trace in traces.items():
        y = np.array(getattr(trace, what), np.float64)
        y = np.where(y > 0, y, np.nan) if scale == 'log' else y
        lines.append(_model_line(range(len(y)), y, name, colors))
      axes: Any = {'x_axis': 'integer', 'y_axis': scale}
      on = chance if what == 'accuracy' else None
      panels.append(Panel(label, lines, 'step', what, chance=on, **axes))
  if not losses:
    return []
  where = 'White box, at the evaluation epsilon; step 0 is the starting point.'
  return [
    encode(
      'loss_per_step',
      'Loss over the steps of the attacks',
      f'{where} Mean loss. If it still increases at the last step, use more '
      'steps; if it is flat from the start, gradients may be masked.',
      line_figure(losses),
    ),
    encode(
      'accuracy_per_step',
      'Accuracy over the steps of the attacks',
      where,
      line_figure(accuracies),
    ),
  ]


def _model_line(
  x: Iterable[float], y: Any, name: str, colors: Mapping[str, str]
) -> Line:
  dash = DASHES[list(colors).index(name) % len(DASHES)]
  return Line(list(x), y, colors[name], name, dash=dash)


def mean_accuracy(
  corruptions: Mapping[str, Sequence[float]] | None, kinds: Iterable[str]
) -> Estimate | None:
  """Returns the mean over kinds and severities, None where a kind is absent.

  Example:
    >>> mean_accuracy({'fog': [0.5, 0.25], 'snow': [1.0]}, ['fog']).value
    0.375
  """
  values = [(corruptions or {}).get(kind) for kind in kinds]
  if not values or not all(values):
    return None
  return Estimate(float(np.mean([v for each in values for v in each or ()])))


def seen_corruptions(report: Report) -> set[str]:
  """Returns the corruptions that training of any model has seen."""
  seen = {
    kind
    for model in report.members.values()
    for kind in model.seen_corruptions or ()
  }
  return seen & set(KINDS)


def _corruptions(
  report: Report, colors: Mapping[str, str], chance: float | None
) -> list[Picture]:
  models, seen = report.members, seen_corruptions(report)
  groups = [_clean_group(report)]
  for family, kinds in FAMILIES.items():
    partly = '\n(partly seen)' if seen & set(kinds) else ''
    groups.append(
      _group(
        f'{family}{partly}',
        {n: mean_accuracy(m.corruptions, kinds) for n, m in models.items()},
        {
          n: mean_accuracy(m.corruptions_top_k, kinds)
          for n, m in models.items()
        },
      )
    )
  if seen:
    groups.append(
      _group(
        'all unseen\ncorruptions',
        {n: m.unseen_corruption_accuracy for n, m in models.items()},
        {n: m.unseen_corruption_top_k_accuracy for n, m in models.items()},
      )
    )
  for severity in pasted_severities(report):
    at = {n: (m.pasted_objects or {}).get(severity) for n, m in models.items()}
    groups.append(
      _group(
        f'pasted objects,\nseverity {severity}',
        {n: each.accuracy if each else None for n, each in at.items()},
        {n: each.top_k_accuracy if each else None for n, each in at.items()},
      )
    )
  groups = [group for group in groups if group.bars]
  if len(groups) < 2:
    return []
  caption = (
    'Accuracy in per cent: means over the corruptions of each family and all '
    'severities, and with pasted objects.'
  )
  if seen:
    caption += (
      ' Partly seen: the training augmentation of a model has a corruption of '
      'the family.'
    )
  figure = bar_figure(groups, colors, chance=chance, k=top_k_of(report))
  drawn = [encode('shifts', 'Accuracy under shifts', caption, figure)]
  matrices = [_severities(name, model) for name, model in models.items()]
  if any(matrices):
    caption = 'Accuracy in per cent by severity, from 1 to 5.'
    if seen:
      caption += ' Framed: seen in the training of the model.'
    figure = heatmap_figure([matrix for matrix in matrices if matrix])
    title = 'Corruptions by severity'
    drawn.append(encode('corruptions', title, caption, figure))
  return drawn


def _group(
  label: str,
  bars: Mapping[str, Estimate | None],
  top_k: Mapping[str, Estimate | None],
) -> Group:
  return Group(
    label,
    {name: each for name, each in bars.items() if each},
    {name: each for name, each in top_k.items() if each},
  )


def pasted_severities(report: Report) -> list[str]:
  """Returns the severities of pasted objects that were measured."""
  return list(
    dict.fromkeys(
      severity
      for model in report.members.values()
      for severity in model.pasted_objects or ()
    )
  )


def _severities(name: str, model: ModelResult) -> Matrix | None:
  if not model.corruptions:
    return None
  kinds = list(model.corruptions)
  values = np.array(list(model.corruptions.values()), np.float64)
  values = np.concatenate([values, values.mean(0, keepdims=True)])
  values = np.concatenate([values, values.mean(1, keepdims=True)], 1)
  severities = [str(i) for i in range(1, values.shape[1])]
  seen = [i for i, k in enumerate(kinds) if k in (model.seen_corruptions or ())]
  return Matrix(
    name,
    [*(corruption_name(kind) for kind in kinds), 'mean'],
    [*severities, 'mean'],
    values,
    column_label='severity',
    framed=[(i, j) for i in seen for j in range(len(severities))],
  )


def corruption_name(kind: str) -> str:
  """Returns a kind of corruption in words: 'Gaussian noise'."""
  words = kind.replace('_', ' ').replace('gaussian', 'Gaussian')
  return words.replace('jpeg', 'JPEG')


def _efficiency(
  report: Report, colors: Mapping[str, str], chance: float | None
) -> list[Picture]:
  if not differ_in_size(report):
    return []
  worst = next(iter(worst_cases(report).values()), {})
  points = []
  for name, model in report.members.items():
    if not model.num_params:
      continue
    size, color = Estimate(model.num_params), colors[name]
    points.append(Point(size, model.clean_accuracy, color, hollow=True))
    if name in worst:
      points.append(Point(size, worst[name][0], color))
    points[-1] = dataclasses.replace(points[-1], label=name)
  caption = (
    'Hollow: clean accuracy. Filled: white box at the evaluation epsilon, '
    'strongest attack. With 95 % intervals.'
  )
  figure = scatter_figure(points, 'parameters', x_axis='log', chance=chance)
  return [encode('efficiency', 'Accuracy over size', caption, figure)]


def differ_in_size(report: Report) -> bool:
  """Returns whether models have different numbers of parameters."""
  sizes = {model.num_params for model in report.members.values()}
  return len(sizes - {None, 0}) > 1


def _generalization(report: Report, colors: Mapping[str, str]) -> list[Picture]:
  """Training against monitored accuracy, a panel per model."""
  panels, validation = [], True
  for name, model in report.members.items():
    epochs = epochs_of(model)
    monitored = _column(epochs, 'monitor_clean_accuracy')
    if not np.isfinite(monitored).any():
      continue
    held_out = bool(model.training and model.training.num_validation)
    validation &= held_out
    gap = generalization_gap(model)
    title = name
    if held_out and gap:
      title += f': gap {100 * (gap.training - gap.other):.1f} points'
    x, color = range(1, len(epochs) + 1), colors[name]
    training = np.array(
      [training_accuracy(epoch) for epoch in epochs], np.float64
    )
    known = np.isfinite(monitored)
    at = np.array(x)[known]
    robust = _column(epochs, 'monitor_robust_accuracy')[known]
    lines = [
      Line(x, training, color, marker='o'),
      Line(
        at,
        monitored[known],
        color,
        low=monitored[known],
        high=training[known],
        dash=DASHES[1],
        marker='o',
      ),
      Line(at, robust, color, dash=DASHES[2], marker='o'),
      *_legend_lines(
        ['training images', 'monitoring images', 'monitoring images, PGD']
      ),
    ]
    panels.append(Panel(title, lines, 'epoch', 'accuracy', x_axis='integer'))
  if not panels:
    return []
  caption = (
    'Accuracy of every epoch on the training images, as augmented, and on the '
    'monitoring images, clean and under PGD. Shaded: the gap.'
  )
  if not validation:
    caption += (
      ' Without validation images (num_validation = 0) the monitoring images '
      'are training images, and show no overfitting.'
    )
  title = 'Training against validation accuracy'
  figure = line_figure(panels, columns=3)
  return [encode('generalization', title, caption, figure)]


def _legend_lines(labels: Sequence[str]) -> Iterator[Line]:
  """Yields lines without points, for the legend alone."""
  for label, dash in zip(labels, DASHES, strict=False):
    yield Line([], [], INK, label, dash=dash)


def _column(epochs: Sequence[Mapping[str, Any]], key: str) -> np.ndarray:
  return np.array([epoch.get(key) for epoch in epochs], np.float64)


def training_figures(
  records: Mapping[str, Sequence[Mapping[str, Any]]],
  chance: float | None = None,
) -> list[Picture]:
  """Draws the loss of every iteration and the metrics of every epoch.

  Args:
    records: Model -> the records of its metrics.jsonl: those of kind 'steps'
      have `losses`, those of kind 'epoch' the metrics.
    chance: Accuracy at chance level; None: not known.

  Returns:
    The figures; none without records.
  """
  colors = model_colors(records)
  steps, losses, accuracies = [], [], []
  for name, color in colors.items():
    loss = np.array(
      [v for r in records[name] if r['kind'] == 'steps' for v in r['losses']],
      np.float64,
    )
    thin = slice(None, None, max(1, -(-len(loss) // _MAX_POINTS)))
    x = np.arange(1, len(loss) + 1)[thin]
    if len(loss):
      mean = running_mean(loss, max(1, len(loss) // 50))
      steps += [
        Line(x, loss[thin], color, width=0.7, opacity=0.3),
        Line(x, mean[thin], color, name),
      ]
    epochs = [r for r in records[name] if r['kind'] == 'epoch']
    x = np.arange(1, len(epochs) + 1)
    for lines, kinds in (
      (losses, ('clean_loss', 'adversarial_loss')),
      (
        accuracies,
        ('clean_accuracy', 'adversarial_accuracy', 'monitor_robust_accuracy'),
      ),
    ):
      for key, dash in zip(kinds, DASHES, strict=False):
        y = _column(epochs, key)
        if key.startswith('clean_') and not np.isfinite(y).any():
          y = _column(epochs, key.removeprefix('clean_'))
        known = np.isfinite(y)
        if known.any():
          line = Line(x[known], y[known], color, dash=dash, marker='o')
          lines.append(line)
  drawn = []
  if steps:
    positive = all(np.nanmin(line.y, initial=1.0) > 0 for line in steps)
    panel = Panel(
      '',
      steps,
      'iteration',
      'loss of the batch',
      y_axis='log' if positive else 'number',
    )
    caption = 'Thin: loss of every iteration; thick: running mean.'
    figure = line_figure([panel])
    drawn.append(encode('training_loss', 'Training loss', caption, figure))
  panels = []
  if losses:
    losses += _legend_lines(['clean', 'adversarial'])
    axes: Any = {'x_axis': 'integer', 'y_axis': 'number'}
    panels.append(Panel('', losses, 'epoch', 'loss', **axes))
  if accuracies:
    accuracies += _legend_lines(['clean', 'adversarial', 'monitored, PGD'])
    panels.append(
      Panel(
        '', accuracies, 'epoch', 'accuracy', x_axis='integer', chance=chance
      )
    )
  if panels:
    legend = [Line([], [], color, name) for name, color in colors.items()]
    panels[0] = dataclasses.replace(
      panels[0], lines=[*legend, *panels[0].lines]
    )
    caption = (
      'Means of every epoch on the training images. Adversarial: under the '
      'attack of the training objective, unscaled; says nothing about stronger '
      'attacks.'
    )
    title = 'Training, epoch by epoch'
    drawn.append(encode('training_curves', title, caption, line_figure(panels)))
  return drawn


def running_mean(values: np.ndarray, window: int) -> np.ndarray:
  """Returns the centred running mean, over fewer values at both ends.

  Args:
    values: `[N]`; values that are not finite are left out of the means.
    window: Number of values in a mean, made odd.

  Returns:
    `[N]` float64, NaN where a window has no finite value.

  Example:
    >>> running_mean(np.array([0.0, 3.0, 6.0, 0.0]), 3)
    array([1.5, 3. , 3. , 3. ])
  """
  finite = np.isfinite(values)
  half = window // 2
  sums = np.cumsum(np.r_[0.0, np.where(finite, values, 0.0)])
  counts = np.cumsum(np.r_[0.0, finite])
  index = np.arange(len(values))
  low, high = (
    np.maximum(index - half, 0),
    np.minimum(index + half + 1, len(index)),
  )
  count = counts[high] - counts[low]
  means = (sums[high] - sums[low]) / np.maximum(count, 1)
  return np.where(count > 0, means, np.nan)


def distance_figures(
  evaluation: Evaluation, labels: np.ndarray
) -> list[Picture]:
  """Draws how many images have no adversarial example within a distance.

  Args:
    evaluation: Its `distances` are those of minimum-norm attacks.
    labels: int `[N]`.

  Returns:
    The figure, a panel per attack; none without a minimum-norm attack.
  """
  colors = model_colors(evaluation.clean)
  panels: dict[str, list[Line]] = {}
  for (name, attack), distances in evaluation.distances.items():
    count = len(distances)
    wrong = evaluation.clean[name][:count] != labels[:count]
    found = np.sort(np.where(wrong, 0.0, distances))
    found = found[np.isfinite(found)]
    y = 1 - np.arange(len(found) + 1) / count
    line = Line(np.r_[0.0, found], y, colors[name], name, steps=True)
    panels.setdefault(attack, []).append(line)
  if not panels:
    return []
  figure = line_figure(
    [
      Panel(
        attack_label(attack),
        lines,
        f'distance ({evaluation.attacks[attack].norm})',
        'accuracy',
      )
      for attack, lines in panels.items()
    ]
  )
  caption = (
    'Share of the test images that are classified correctly and have no '
    'adversarial example found within the distance: an upper bound of robust '
    'accuracy over epsilon.'
  )
  title = 'Distances of minimum-norm attacks'
  return [encode('distances', title, caption, figure)]


def example_figures(
  evaluation: Evaluation,
  test_images: np.ndarray,
  labels: np.ndarray,
  names: Sequence[str],
  seed: int,
) -> list[Picture]:
  """Draws adversarial examples of the first attack, with predictions.

  Args:
    evaluation: Adversarial examples and predictions.
    test_images: Clean, `[N, H, W, C]`.
    labels: int `[N]`.
    names: Of the classes.
    seed: Which random images MATLAB's figure shows.

  Returns:
    The figures; none where images have other than one or three channels.
  """
  if test_images.ndim != 4 or test_images.shape[-1] not in (1, 3):
    return []
  models = list(evaluation.clean)
  attack, spec = next(iter(evaluation.attacks.items()))
  label = attack_label(attack, getattr(spec, 'num_steps', None))
  how = f'{label}, epsilon {format_epsilon(evaluation.epsilon)}'
  drawn = []
  if len(models) > 1:
    base, other = models[:2]
    predictions = evaluation.headline[base, attack]
    right = {
      name: np.sum(predictions[name][:32] == labels[:32]) for name in models
    }
    count = min(32, len(labels))
    figure = images.nsl_grid(
      evaluation.images[base, attack],
      labels,
      predictions[base],
      predictions[other],
      names,
    )
    caption = (
      f'Adversarial examples from {base} ({how}), in order. Correct: {base} '
      f'(base) {right[base]} of {count}, {other} (adv; transfer) {right[other]}.'
    )
    title = f'The first {count} test images'
    drawn.append(encode('nsl_batch', title, caption, figure))
  shown = images.random_indices(len(labels), seed)
  for name in models:
    predictions = evaluation.headline[name, attack][name]
    accuracy = float(np.mean(predictions[shown] == labels[shown]))
    figure = images.prediction_grid(
      evaluation.images[name, attack], predictions, labels, seed, names
    )
    caption = (
      f'{len(shown)} random adversarial examples ({how}, white box), accuracy '
      f'{percent(accuracy)}.'
    )
    title = f'Predictions of {name}'
    drawn.append(encode(f'predictions_{name}', title, caption, figure))
  for name in models:
    figure = images.perturbation_grid(
      test_images,
      evaluation.images[name, attack],
      labels,
      evaluation.clean[name],
      evaluation.headline[name, attack][name],
      class_names=names,
    )
    caption = (
      f'Clean image, perturbation ({how}, white box; red adds, blue subtracts, '
      'amplified as its title says) and adversarial example.'
    )
    title = f'Perturbations of {name}'
    drawn.append(encode(f'perturbations_{name}', title, caption, figure))
  return drawn
