"""Figures of a sweep: accuracy over the swept fields, the Pareto front."""

import itertools
import math
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from advjax.fractions import count_of
from advjax.reporting.figures import charts
from advjax.reporting.formatting import attack_label
from advjax.reporting.sweep import (
  Axis,
  Configuration,
  find_axes,
  format_values,
  pareto_front,
  rank,
)
from advjax.results import Estimate, SweepReport

_MAX_PANELS = 6
_MIN_FILLED = 0.4  # Of the cells of a grid.


def sweep_pictures(
  sweep: SweepReport, found: Sequence[Configuration]
) -> list[charts.Picture]:
  """Draws accuracy over the swept fields, the Pareto front, attack curves."""
  ranked, axes = rank(found), find_axes(found)
  if not ranked:
    return []
  cells = math.prod(len(axis.values) for axis in axes)
  is_grid = len(axes) >= 2 and len(found) >= _MIN_FILLED * cells
  draw = _heatmaps if is_grid else _slices
  pictures = list(draw(found, axes))
  if len(ranked) > 1:
    pictures.append(_front_picture(found))
  return [*pictures, *_attack_curves(sweep, ranked[: len(charts.PALETTE)])]


def _heatmaps(
  found: Sequence[Configuration], axes: Sequence[Axis]
) -> Iterator[charts.Picture]:
  """Two per combination of the fields beyond the first two."""
  x, y, *others = axes
  panels: dict[str, list[Configuration]] = {}
  for key in itertools.product(*(axis.values for axis in others)):
    fields = dict(zip((axis.field for axis in others), key, strict=True))
    texts = zip(others, format_values(key), strict=True)
    label = ', '.join(f'{axis.label}={text}' for axis, text in texts)
    inside = [c for c in found if fields.items() <= c.values.items()]
    if inside:
      panels[label] = inside
  left_out = len(panels) - _MAX_PANELS
  best = rank(found)[0]
  for number, (label, inside) in enumerate([*panels.items()][:_MAX_PANELS], 1):
    suffix = f'_{number}' if others else ''
    caption = (
      'Mean over the seeds ± standard deviation, in per cent. '
      if any(len(each.trials) > 1 for each in inside)
      else 'In per cent. '
    ) + 'A frame marks the highest robust accuracy of the sweep.'
    if number == 1 and left_out > 0:
      caption += f' {left_out} more combinations are in the table alone.'
    for metric in ('robust', 'clean'):
      every = np.array([getattr(each, metric).value for each in found])
      low, high = float(np.nanmin(every)), float(np.nanmax(every))
      pad = max(0.0, 0.05 - (high - low)) / 2
      matrix = _matrix(inside, x, y, metric, best)
      title = f'{metric.capitalize()} accuracy{f": {label}" if label else ""}'
      figure = charts.heatmap_figure([matrix], low=low - pad, high=high + pad)
      yield charts.encode(f'heatmap_{metric}{suffix}', title, caption, figure)


def _matrix(
  inside: Sequence[Configuration],
  x: Axis,
  y: Axis,
  metric: str,
  best: Configuration,
) -> charts.Matrix:
  """A cell per configuration, the second field upwards."""
  rows = y.values[::-1]
  values = np.full((len(rows), len(x.values)), np.nan)
  texts = [['-'] * len(x.values) for _ in rows]
  framed = []
  for each in inside:
    at = rows.index(each.values[y.field]), x.values.index(each.values[x.field])
    estimate = getattr(each, metric)
    text = 'diverged'
    if math.isfinite(estimate.value):
      values[at] = estimate.value
      text = f'{100 * estimate.value:.1f}'
      if estimate.std is not None:
        text += f' ± {100 * estimate.std:.1f}'
      if each.num_diverged:
        text += f' ({each.num_diverged} diverged)'
    texts[at[0]][at[1]] = text
    if each is best:
      framed.append(at)
  names = format_values(rows), format_values(x.values)
  return charts.Matrix('', *names, values, y.label, x.label, framed, texts)


def _slices(
  found: Sequence[Configuration], axes: Sequence[Axis]
) -> Iterator[charts.Picture]:
  """Accuracy over each field by itself, where no two fields form a grid."""
  colors = {'clean': charts.PALETTE[0], 'robust': charts.PALETTE[1]}
  ranked = rank(found)
  for number, axis in enumerate(axes[:_MAX_PANELS], 1):
    if axis.numeric:
      wide = axis.values[0] > 0 and axis.values[-1] >= 20 * axis.values[0]
      dots = []
      for each, (metric, color) in itertools.product(ranked, colors.items()):
        x = Estimate(float(each.values[axis.field]))
        dots.append(charts.Point(x, getattr(each, metric), color, metric))
      scale: Any = 'log' if wide else 'number'
      figure = charts.scatter_figure(dots, axis.label, x_axis=scale)
      which = 'A point per configuration'
    else:
      groups = []
      for value, text in zip(
        axis.values, format_values(axis.values), strict=True
      ):
        best = [each for each in ranked if each.values[axis.field] == value][:1]
        bars = {m: getattr(each, m) for each in best for m in colors}
        groups.append(charts.Group(text, bars))
      figure = charts.bar_figure(groups, colors)
      which = 'The configuration of the highest robust accuracy at each value'
    yield charts.encode(
      f'accuracy_over_{number}',
      f'Accuracy over {axis.label}',
      f'{which}, mean over its seeds, 95 % intervals over the test images.',
      figure,
    )


def _front_picture(found: Sequence[Configuration]) -> charts.Picture:
  front, rest = pareto_front(found)
  # Intervals of the front alone: those of all points hide it.
  dots = [
    charts.Point(
      Estimate(each.clean.value),
      Estimate(each.robust.value),
      charts.INK,
      'dominated',
    )
    for each in rest
  ]
  path: list[tuple[float, float]] = []
  for number, each in enumerate(front, 1):
    text = str(number)
    dots.append(
      charts.Point(
        each.clean, each.robust, charts.PALETTE[1], 'Pareto front', text=text
      )
    )
    if path:  # The front falls before the next point.
      path.append((path[-1][0], each.robust.value))
    path.append((each.clean.value, each.robust.value))
  return charts.encode(
    'pareto_front',
    'Robust against clean accuracy',
    'A point per configuration, mean over its seeds; on the front with 95 % '
    'intervals over the test images and the numbers of the table below.',
    charts.scatter_figure(
      dots, 'clean accuracy', 'robust accuracy', x_axis='accuracy', path=path
    ),
  )


def _attack_curves(
  sweep: SweepReport, best: Sequence[Configuration]
) -> Iterator[charts.Picture]:
  """White-box accuracy over epsilon, a panel per attack."""
  colors = charts.model_colors(each.label for each in best)
  panels = []
  for attack in sweep.attacks:
    lines = []
    for each in best:
      curves = [sweep.curves.get(trial.member, {}) for trial in each.trials]
      curves = [curve for curve in curves if attack in curve]
      if curves:
        y = np.array([curve[attack] for curve in curves])
        ends = {'low': y.min(0), 'high': y.max(0)}
        x, color = curves[0]['epsilons'], colors[each.label]
        lines.append(charts.Line(x, y.mean(0), color, each.label, **ends))
    if lines:
      name, x_label = attack_label(attack), f'epsilon ({sweep.norm})'
      panel = charts.Panel(
        name, lines, x_label, x_axis='epsilon', mark=sweep.epsilon
      )
      panels.append(panel)
  if panels:
    yield charts.encode(
      'attack_curves',
      'Accuracy over the epsilon of the attack',
      f'White-box accuracy of the {count_of(len(best), "configuration")} of '
      'the highest robust accuracy. Shades reach from the lowest seed to the '
      'highest; dashed: the evaluation epsilon.',
      charts.line_figure(panels),
    )
