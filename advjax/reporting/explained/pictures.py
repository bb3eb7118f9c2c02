"""Pictures of explanations: red speaks for a class, blue against it."""

import textwrap
from collections.abc import Mapping, Sequence, Set
from typing import Any, NamedTuple

import matplotlib
import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from advjax.explain import METHODS
from advjax.reporting.charts import COLORS, STYLE, plain
from advjax.reporting.pictures import class_name

_RIGHT, _WRONG = '#1a7f37', '#c9190b'
# Of the pictures of maps: an image is one unit wide.
_INCHES = 1.2
_STEP, _LINE, _HEAD = 1.04, 1.16, 0.3
_FIRST_MAP = 2.34
_TITLES = {
  'saliency+': 'saliency,\npositive',
  'saliency-': 'saliency,\nnegative',
  'guided_backprop': 'guided\nbackprop',
  'integrated_gradients': 'integrated\ngradients',
  'smooth_grad': 'SmoothGrad',
  'grad_cam': 'Grad-CAM',
  'cam': 'CAM',
}
NAMES = {
  'saliency': 'saliency',
  'guided_backprop': 'guided backprop',
  'integrated_gradients': 'integrated gradients',
  'smooth_grad': 'SmoothGrad',
  'grad_cam': 'Grad-CAM',
  'cam': 'CAM',
}
GROUP_NAMES = {
  'noise': 'noise of the same size',
  'stood': 'attacked, still right',
  'fooled': 'attacked, fooled: true class',
  'fooled_predicted': 'attacked, fooled: class predicted',
  'other': 'another image',
}
_MARKERS = ('o', 's', '^', 'D', 'x')


class Row(NamedTuple):
  """One line of a picture: an image, and its maps for one class.

  Attributes:
    heading: What the image is, above it; '' leaves its place empty.
    image: `[H, W, C]` in [0, 1].
    perturbation: What the attack added, `[H, W, C]`, or None.
    label: What the maps are for.
    right: Whether that is the true class.
    maps: Method -> `[H, W, C]` or, of CAMs, `[H, W]`.
    note: A few words in the place of the perturbation, where there is none.
  """

  heading: str
  image: np.ndarray
  perturbation: np.ndarray | None
  label: str
  right: bool
  maps: Mapping[str, np.ndarray]
  note: str = ''


def maps_figure(rows: Sequence[Row]) -> Figure:
  """Draws images beside their maps, a line for each image and class.

  Every map has its own scale: its 99th percentile has the full colour.

  Args:
    rows: What to draw; where a row lacks a method, its place stays empty.

  Returns:
    The figure.

  Raises:
    ValueError: if there is no row.
  """
  if not rows:
    raise ValueError('rows is empty; allowed: one row or more')
  panels = _panels({method for row in rows for method in row.maps})
  width = _FIRST_MAP + len(panels) * _STEP
  height = _HEAD + len(rows) * _LINE
  with matplotlib.rc_context(STYLE | {'axes.grid': False}):
    figure = Figure(figsize=(_INCHES * width, _INCHES * height))
    # One pair of axes for all images, in units of their width: to make a pair
    # for each takes longer than all the rest.
    ax = figure.add_axes((0, 0, 1, 1))
    for i, row in enumerate(rows):
      top = _HEAD + i * _LINE
      if row.heading:
        _put(ax, 0.04, top, pixels(row.image), row.heading)
      if row.perturbation is not None:
        shown, factor = _amplified(row.perturbation)
        _put(ax, 0.04 + _STEP, top, shown, f'perturbation x {factor:.3g}')
      elif row.note:
        lines = textwrap.wrap(row.note.replace('_', ' '), 15)
        place = (0.54 + _STEP, top + 0.5)
        ax.text(*place, plain('\n'.join(lines)), ha='center', va='center')
      _write_label(ax, _FIRST_MAP - 0.1, top + 0.5, row)
      for j, panel in enumerate(panels):
        if panel.rstrip('+-') not in row.maps:
          continue
        title = '' if i else _TITLES[panel]
        _put(ax, _FIRST_MAP + j * _STEP, top, _map_colours(panel, row), title)
    ax.set(xlim=(0, width), ylim=(height, 0), aspect='equal')
    ax.set_axis_off()
  return figure


def _put(
  ax: Axes, left: float, top: float, picture: np.ndarray, title: str
) -> None:
  """Puts a picture `[H, W, 3]` in its place, one unit wide, under a title."""
  ax.imshow(
    picture,
    extent=(left, left + 1, top + 1, top),
    interpolation='nearest',
  )
  ax.text(
    left + 0.5,
    top - 0.03,
    plain(title),
    # At 9 points 19 characters are as wide as an image.
    fontsize=9 * min(1.0, 19 / max(map(len, [' ', *title.split('\n')]))),
    ha='center',
    va='bottom',
    linespacing=1.1,
  )


def _panels(maps: Set[str]) -> list[str]:
  """The columns of maps: saliency has two."""
  panels = []
  for method in METHODS:
    if method == 'saliency' and method in maps:
      panels += ['saliency+', 'saliency-']
    elif method in maps:
      panels.append(method)
  return panels


def _write_label(ax: Axes, x: float, y: float, row: Row) -> None:
  ax.text(
    x,
    y,
    f'for {plain(row.label)}',
    rotation=90,
    ha='center',
    va='center',
    # At 9 points 20 characters are as long as an image is high, 17 bold.
    fontsize=9 * min(1.0, (20 if row.right else 17) / (len(row.label) + 4)),
    color=_RIGHT if row.right else _WRONG,
    fontweight='normal' if row.right else 'bold',
  )


def pixels(image: np.ndarray) -> np.ndarray:
  """Returns an image as a colour picture.

  Args:
    image: `[H, W, 1]` or `[H, W, 3]` in [0, 1]; what is outside is clipped.

  Returns:
    `[H, W, 3]` in [0, 1].

  Example:
    >>> pixels(np.full((1, 1, 1), 2.0)).tolist()
    [[[1.0, 1.0, 1.0]]]
  """
  clipped = np.clip(np.nan_to_num(image), 0, 1)
  return np.broadcast_to(clipped, (*clipped.shape[:2], 3))


def _amplified(delta: np.ndarray) -> tuple[np.ndarray, float]:
  """Colour images: gray is nothing. Gray ones: red adds, blue takes away."""
  largest = float(np.abs(delta).max())
  factor = 1 / largest if largest > 0 else 1.0
  if delta.shape[-1] == 3:
    return 0.5 + delta * factor / 2, factor
  # 0.38, not 0.5, leaves out the almost black ends of the colour map.
  return colormaps['RdBu_r'](0.5 + 0.38 * factor * delta[..., 0])[
    ..., :3
  ], factor


def _map_colours(panel: str, row: Row) -> np.ndarray:
  if panel in ('grad_cam', 'cam'):
    return overlay(row.image, row.maps[panel])
  values = np.asarray(row.maps[panel.rstrip('+-')], np.float32)
  if panel == 'saliency+':
    shown = np.maximum(values, 0).max(-1)
    return colormaps['Reds'](shown / _scale(shown))[..., :3]
  if panel == 'saliency-':
    shown = np.maximum(-values, 0).max(-1)
    return colormaps['Blues'](shown / _scale(shown))[..., :3]
  shown = signed(panel, values)
  return colormaps['RdBu_r'](0.5 + 0.5 * shown / _scale(shown))[..., :3]


def signed(method: str, maps: np.ndarray) -> np.ndarray:
  """Makes one value per pixel of one per channel.

  Args:
    method: 'integrated_gradients' are summed, for their sums mean something; of
      all others the value of largest magnitude is taken.
    maps: `[..., C]`.

  Returns:
    `[...]`.

  Example:
    >>> signed('smooth_grad', np.array([1.0, -3.0]))
    array(-3.)
  """
  if method == 'integrated_gradients':
    return maps.sum(-1)
  index = np.abs(maps).argmax(-1)[..., None]
  return np.take_along_axis(maps, index, axis=-1)[..., 0]


def overlay(image: np.ndarray, values: np.ndarray) -> np.ndarray:
  """Lays a map over an image that has lost its colours.

  Args:
    image: `[H, W, C]` in [0, 1].
    values: `[H, W]`; positive ones become red, negative ones blue.

  Returns:
    float `[H, W, 3]` in [0, 1].

  Example:
    >>> overlay(np.zeros((1, 1, 3)), np.zeros((1, 1))).tolist()
    [[[0.25, 0.25, 0.25]]]
  """
  gray = 0.25 + 0.75 * np.clip(image, 0, 1).mean(-1, keepdims=True)
  strength = np.clip(values / _scale(values), -1, 1)
  colours = colormaps['RdBu_r'](0.5 + 0.42 * np.sign(strength))[..., :3]
  alpha = 0.75 * np.abs(strength)[..., None]
  return gray * (1 - alpha) + colours * alpha


def _scale(values: np.ndarray) -> float:
  """What has the full colour: a few outliers would leave all else white."""
  size = float(np.percentile(np.abs(values), 99)) or float(np.abs(values).max())
  return size if size > 0 and np.isfinite(size) else 1.0


def invented_figure(
  images: Mapping[str, np.ndarray],
  probabilities: Mapping[str, np.ndarray],
  classes: Sequence[int],
  class_names: Sequence[str],
) -> Figure:
  """Draws what networks invent: a line per network, a column per class.

  Args:
    images: Network -> `[K, H, W, C]` in [0, 1], one image per class.
    probabilities: Network -> that of the class on its image, `[K]`.
    classes: Labels, K of them.
    class_names: Names of all classes.

  Returns:
    The figure.
  """
  width = max(1.5 * len(classes) + 0.35, 4.0)
  height = 1.72 * len(images) + 0.1
  with matplotlib.rc_context(STYLE | {'axes.grid': False}):
    figure = Figure(figsize=(width, height))
    figure.subplots_adjust(
      0.35 / width, 0.02, 0.99, 1 - 0.25 / height, wspace=0.06, hspace=0.2
    )
    axes = figure.subplots(len(images), len(classes), squeeze=False)
    for line, name in zip(axes, images, strict=True):
      for ax, image, share, label in zip(
        line, images[name], probabilities[name], classes, strict=True
      ):
        ax.imshow(pixels(image), interpolation='nearest')
        ax.set_axis_off()
        title = f'{class_name(label, class_names)} {100 * share:.0f} %'
        ax.set_title(title, fontsize=9 * min(1.0, 21 / len(title)), pad=3)
      line[0].text(
        -0.1, 0.5, plain(name), rotation=90, ha='center', va='center',
        fontsize=9 * min(1.0, 22 / len(name)), transform=line[0].transAxes,
      )  # fmt: skip
  return figure


def similarity_figure(members: Mapping[str, Mapping[str, Any]]) -> Figure:
  """Draws how alike maps are, a panel per network, a line per method.

  Args:
    members: Network -> its entry in report.json, with `similarity`.

  Returns:
    The figure.
  """
  there = {m for member in members.values() for m in member['similarity']}
  methods = [method for method in METHODS if method in there]
  with matplotlib.rc_context(STYLE | {'axes.grid.axis': 'x'}):
    figure = Figure(
      figsize=(max(6.5, 1.4 + 4.2 * len(members)), 1.5 + 0.55 * len(methods)),
      layout='constrained',
    )
    axes = figure.subplots(1, len(members), sharey=True, squeeze=False)[0]
    for ax, (name, member) in zip(axes, members.items(), strict=True):
      for i, group in enumerate(GROUP_NAMES):
        _dots(ax, member['similarity'], methods, group, i)
      ax.axvline(0, color='#555555', linewidth=0.8)
      ax.set_xlim(right=1.03)
      ax.set_title(plain(name))
      ax.set_xlabel('cosine with the map of the clean image')
    axes[0].set_yticks(range(len(methods)), [NAMES[m] for m in methods])
    axes[0].set_ylim(len(methods) - 0.45, -0.55)
    handles, labels = axes[0].get_legend_handles_labels()
    figure.legend(
      handles, labels, loc='outside upper left', ncols=3, fontsize=9
    )
  return figure


def _dots(
  ax: Axes,
  similarity: Mapping[str, Any],
  methods: Sequence[str],
  group: str,
  index: int,
) -> None:
  """Dots with intervals, those of a group a little above the next group's."""
  for i, method in enumerate(methods):
    entry = similarity.get(method, {}).get(group, {})
    x = entry.get('cosine')
    x = np.nan if x is None else x  # Drawn too, for the legend.
    low, high = entry.get('cosine_ci') or (x, x)
    y, error = i + 0.14 * (index - 2), [[x - low], [high - x]]
    ax.errorbar(
      x, y, xerr=error, color=COLORS[index], marker=_MARKERS[index],
      markersize=5, linewidth=1.6, linestyle='none',
      label=None if i else GROUP_NAMES[group],
    )  # fmt: skip
