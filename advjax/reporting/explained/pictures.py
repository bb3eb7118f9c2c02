"""Pictures of explanations: red speaks for a class, blue against it."""

from collections.abc import Mapping, Sequence
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
_CELL = 1.2  # Inches.
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
  """

  heading: str
  image: np.ndarray
  perturbation: np.ndarray | None
  label: str
  right: bool
  maps: Mapping[str, np.ndarray]


def maps_figure(rows: Sequence[Row]) -> Figure:
  """Draws images beside their maps, a line for each image and class.

  Every map has its own scale: its 99th percentile has the full colour.

  Args:
    rows: What to draw; all have the same methods.

  Returns:
    The figure.

  Raises:
    ValueError: if there is no row.
  """
  if not rows:
    raise ValueError('rows is empty; allowed: one row or more')
  panels = _panels(rows[0].maps)
  num_columns = 2 + len(panels)
  width, height = _CELL * num_columns + 0.45, _CELL * len(rows) * 1.14 + 0.5
  with matplotlib.rc_context(STYLE | {'axes.grid': False}):
    figure = Figure(figsize=(width, height))
    figure.subplots_adjust(
      0.005, 0.01, 0.997, 1 - 0.5 / height, wspace=0.04, hspace=0.14
    )
    # The third column is narrow: it says what the maps are for.
    grid = figure.add_gridspec(
      len(rows), num_columns + 1, width_ratios=[1, 1, 0.3, *[1] * len(panels)]
    )
    for i, row in enumerate(rows):
      axes = [figure.add_subplot(grid[i, j]) for j in range(num_columns + 1)]
      for ax in axes:
        ax.set_axis_off()
      if row.heading:
        _show(axes[0], row.image)
        axes[0].set_title(plain(row.heading), fontsize=9, pad=3)
      if row.perturbation is not None:
        _show_perturbation(axes[1], row.perturbation)
      _write_label(axes[2], row)
      for ax, panel in zip(axes[3:], panels, strict=True):
        _show_map(ax, panel, row)
        if i == 0:
          ax.set_title(_TITLES[panel], fontsize=9, pad=3)
  return figure


def _panels(maps: Mapping[str, np.ndarray]) -> list[str]:
  """The columns of maps: saliency has two."""
  panels = []
  for method in METHODS:
    if method == 'saliency' and method in maps:
      panels += ['saliency+', 'saliency-']
    elif method in maps:
      panels.append(method)
  return panels


def _write_label(ax: Axes, row: Row) -> None:
  ax.text(
    0.55,
    0.5,
    f'for {plain(row.label)}',
    rotation=90,
    ha='center',
    va='center',
    # At 9 points 20 characters are as long as an image is high.
    fontsize=9 * min(1.0, 20 / (len(row.label) + 4)),
    color=_RIGHT if row.right else _WRONG,
    fontweight='normal' if row.right else 'bold',
    transform=ax.transAxes,
  )


def _show(ax: Axes, image: np.ndarray) -> None:
  picture = np.clip(np.nan_to_num(image), 0, 1)
  if picture.shape[-1] == 1:
    picture = picture[..., 0]
  ax.imshow(picture, cmap='gray', vmin=0, vmax=1, interpolation='nearest')


def _show_perturbation(ax: Axes, delta: np.ndarray) -> None:
  """Colour images: gray is nothing. Gray ones: red adds, blue takes away."""
  largest = float(np.abs(delta).max())
  factor = 1 / largest if largest > 0 else 1.0
  scaled = delta * factor
  if delta.shape[-1] == 3:
    ax.imshow(0.5 + scaled / 2, interpolation='nearest')
  else:
    # 1.3 leaves out the almost black ends of the colour map.
    ax.imshow(
      scaled.mean(-1), cmap='RdBu_r', vmin=-1.3, vmax=1.3,
      interpolation='nearest',
    )  # fmt: skip
  ax.set_title(f'perturbation x {factor:.3g}', fontsize=9, pad=3)


def _show_map(ax: Axes, panel: str, row: Row) -> None:
  if panel in ('grad_cam', 'cam'):
    ax.imshow(overlay(row.image, row.maps[panel]), interpolation='nearest')
    return
  values = np.asarray(row.maps[panel.rstrip('+-')], np.float32)
  if panel == 'saliency+':
    shown, colours, low = np.maximum(values, 0).max(-1), 'Reds', 0.0
  elif panel == 'saliency-':
    shown, colours, low = np.maximum(-values, 0).max(-1), 'Blues', 0.0
  else:
    shown, colours, low = signed(panel, values), 'RdBu_r', -1.0
  ax.imshow(
    shown / _scale(shown), cmap=colours, vmin=low, vmax=1,
    interpolation='nearest',
  )  # fmt: skip


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
        _show(ax, image)
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
  methods = list(next(iter(members.values()))['similarity'])
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
    if entry.get('cosine') is None:
      x, error, y = np.nan, None, np.nan
    else:
      x, y = entry['cosine'], i + 0.14 * (index - 2)
      low, high = entry['cosine_ci'] or (x, x)
      error = [[x - low], [high - x]]
    ax.errorbar(
      x, y, xerr=error, color=COLORS[index], marker=_MARKERS[index],
      markersize=5, linewidth=1.6, linestyle='none',
      label=None if i else GROUP_NAMES[group],
    )  # fmt: skip
