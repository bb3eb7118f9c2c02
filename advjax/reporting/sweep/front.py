"""The Pareto front of a sweep: settings that no other one beats in both."""

from collections.abc import Sequence

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from advjax.reporting.charts import COLORS, INK, STYLE, plain
from advjax.reporting.sweep.heatmaps import format_percent
from advjax.reporting.sweep.settings import Setting

_MAX_LABELS = 12
_MAX_CHARACTERS = 60
_NEAR = 0.03  # Of the axes' width and height: numbers would overlap.


def pareto_front(points: Sequence[tuple[float, float]]) -> list[int]:
  """Returns the points that no other dominates.

  A point dominates another one if it is at least as high in both coordinates
  and higher in one. Equal points do not dominate each other.

  Args:
    points: pairs of finite numbers, higher is better.

  Returns:
    Indices into `points`, ascending.

  Example:
    >>> pareto_front([(0.99, 0.1), (0.95, 0.4), (0.94, 0.4), (0.9, 0.5)])
    [0, 1, 3]
  """
  order = sorted(range(len(points)), key=lambda i: points[i], reverse=True)
  front: list[int] = []
  for i in order:
    # Sorted so, only a point before this one can dominate it, and the last
    # one of the front is the highest of those in the second coordinate.
    last = points[front[-1]] if front else None
    if last is None or points[i][1] > last[1] or points[i] == last:
      front.append(i)
  return sorted(front)


def split_front(
  settings: Sequence[Setting],
) -> tuple[list[Setting], list[Setting]]:
  """Splits settings into those on the front and the others.

  Args:
    settings: those without both accuracies are left out.

  Returns:
    The front from the lowest clean accuracy to the highest, and the rest.
  """
  scored = [(s, _point(s)) for s in settings if s.clean and s.robust]
  on = set(pareto_front([point for _, point in scored]))
  front = [scored[i] for i in on]
  front.sort(key=lambda pair: (pair[1][0], -pair[1][1]))
  rest = [s for i, (s, _) in enumerate(scored) if i not in on]
  return [s for s, _ in front], rest


def front_chart(settings: Sequence[Setting]) -> Figure:
  """Draws robust against clean accuracy, a point per setting, and the front.

  Args:
    settings: from `read_settings`.

  Returns:
    The figure; the points of the front are numbered, with a list beside it.

  Raises:
    ValueError: if no setting has both accuracies.
  """
  front, rest = split_front(settings)
  if not front:
    raise ValueError('no setting has a clean and a robust accuracy')
  with matplotlib.rc_context(STYLE):
    figure = Figure(figsize=(11, 5), layout='constrained')
    ax = figure.add_subplot()
    if rest:
      x, y = zip(*map(_point, rest), strict=True)
      ax.plot(
        x,
        y,
        'o',
        color=COLORS[4],
        markersize=6,
        alpha=0.8,
        mec='white',
        label='beaten by another setting',
      )
    points = [_point(s) for s in front]
    x, y = zip(*points, strict=True)
    ax.plot(x, y, color=COLORS[1], linewidth=1.4, drawstyle='steps-pre')
    ax.plot(
      x,
      y,
      'o',
      color=COLORS[1],
      markersize=9,
      mec='white',
      label='on the front',
    )
    ax.margins(0.08)
    ax.set_xlabel('clean accuracy')
    ax.set_ylabel('robust accuracy')
    for axis in (ax.xaxis, ax.yaxis):
      axis.set_major_formatter(format_percent)
    _number(ax, points)
    _list_front(figure, ax, front)
  return figure


def _number(ax: Axes, points: Sequence[tuple[float, float]]) -> None:
  """Numbers points; up and right of a point of the front there is nothing."""
  low_x, high_x = ax.get_xlim()
  low_y, high_y = ax.get_ylim()
  groups: list[list[int]] = []
  for i, (x, y) in enumerate(points):
    if groups:
      last_x, last_y = points[groups[-1][-1]]
      near_x = abs(x - last_x) < _NEAR * (high_x - low_x)
      near_y = abs(y - last_y) < _NEAR * (high_y - low_y)
      if near_x and near_y:
        groups[-1].append(i)
        continue
    groups.append([i])
  for group in groups:
    first, last = group[0] + 1, group[-1] + 1
    ax.annotate(
      str(first) if first == last else f'{first}-{last}',
      (points[group[-1]][0], points[group[0]][1]),
      xytext=(5, 4),
      textcoords='offset points',
      fontweight='bold',
      fontsize=11,
    )


def _list_front(figure: Figure, ax: Axes, front: Sequence[Setting]) -> None:
  handles, labels = ax.get_legend_handles_labels()
  for number, setting in enumerate(front[:_MAX_LABELS], 1):
    x, y = _point(setting)
    label = setting.label
    if len(label) > _MAX_CHARACTERS:
      label = f'{label[: _MAX_CHARACTERS - 3]}...'
    handles.append(ax.plot([], [], ' ')[0])
    labels.append(
      f'{number}: {plain(label)}\n    {100 * x:.1f} % clean, '
      f'{100 * y:.1f} % robust'
    )
  if len(front) > _MAX_LABELS:
    handles.append(ax.plot([], [], ' ')[0])
    labels.append(f'and {len(front) - _MAX_LABELS} more')
  figure.legend(
    handles,
    labels,
    loc='outside right upper',
    fontsize=9,
    handlelength=1,
    labelcolor=INK,
  )


def _point(setting: Setting) -> tuple[float, float]:
  assert setting.clean is not None and setting.robust is not None
  return setting.clean.mean, setting.robust.mean
