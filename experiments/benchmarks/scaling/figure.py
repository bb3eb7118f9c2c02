"""The four charts of what things cost."""

from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from advjax.reporting.plots import model_colors

Rows = Sequence[Mapping[str, Any]]

# By axis: the title, the label of x.
PANELS = {
  'batch_size': ('training step', 'images in a batch'),
  'devices': ('training step of 128 images', 'devices'),
  'members': ('step of all members of a sweep', 'members'),
  'images': ('evaluation', 'test images'),
}


def draw(results: Mapping[str, Rows]) -> Figure:
  """Draws seconds against what was given, a panel for each.

  Args:
    results: Rows by name of PANELS.

  Returns:
    The figure; both axes of a panel are logarithmic, the band is from quartile
    to quartile, and a dotted line is the floor.

  Example:
    >>> rows = [
    ...   {'series': 'nsl', 'images': n, 'seconds': n, 'quartiles': [n, n]}
    ...   for n in (1, 2)
    ... ]
    >>> len(draw({'images': rows}).axes)
    1
  """
  figure = Figure(figsize=(3.4 * len(results), 3.2), layout='constrained')
  panels = figure.subplots(1, len(results), squeeze=False)[0]
  for ax, (given, rows) in zip(panels, results.items(), strict=True):
    _panel(ax, given, rows)
  return figure


def _panel(ax: Axes, given: str, rows: Rows) -> None:
  title, label = PANELS[given]
  ticks = sorted({row[given] for row in rows})
  for series, color in model_colors(
    dict.fromkeys(row['series'] for row in rows)
  ).items():
    own = [row for row in rows if row['series'] == series]
    x = [row[given] for row in own]
    ax.plot(
      x, [row['seconds'] for row in own], 'o-', ms=3, c=color, label=series
    )
    low, high = zip(*(row['quartiles'] for row in own), strict=True)
    ax.fill_between(x, low, high, color=color, alpha=0.2, lw=0)
    if 'floor_seconds' in own[0]:
      ax.plot(x, [row['floor_seconds'] for row in own], ':', c=color)
  ax.set(title=title, xlabel=label, xscale='log', yscale='log')
  ax.set_ylabel('seconds')
  ax.set_xticks(ticks, [str(tick) for tick in ticks])
  ax.minorticks_off()
  ax.grid(alpha=0.3)
  ax.legend(fontsize='small')
