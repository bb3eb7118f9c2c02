"""Picture and table of a linear network: weights, and what FGSM makes of them.

A network of two classes whose logits are linear is `f(x) = w . x + b`, the
first class's logit less the second's. FGSM adds `-epsilon * y * sign(w)`, y
being +1 for the first class and -1 for the second: the same picture for every
image, but for its sign (Goodfellow et al. 2014, arXiv 1412.6572, figure 2).
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import matplotlib
import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.colors import Colormap, ListedColormap
from matplotlib.figure import Figure

from advjax.reporting.charts import STYLE, plain
from advjax.reporting.pictures import class_name
from advjax.reporting.report import mean_and_std
from advjax.reporting.values import accuracy_interval, percent, short

_RIGHT, _WRONG = '#1a7f37', '#c9190b'
_COLUMNS, _ROWS = 5, 2  # Images of each class.
_MAX_NAME = 8  # Characters below an image.
# Inches: a panel, what is around it, and four of them in a row.
_PANEL, _GAP, _LEFT, _TOP, _BOTTOM = 2.1, 0.12, 0.35, 0.3, 0.4
_WIDTH, _ROW = _LEFT + 4 * (_PANEL + _GAP), _TOP + _PANEL + _BOTTOM
_STYLE = {'axes.grid': False, 'axes.titlesize': 10, 'axes.labelsize': 10}
# Minus, nothing, plus: of the colour map of the weights, but the same for all.
_SIGNS = ListedColormap(colormaps['RdBu_r']([0.1, 0.5, 0.9]))


class LinearMember(NamedTuple):
  """A linear network, and its answers on N test images.

  Attributes:
    weights: `[H, W]`, of the first class's logit less the second's.
    perturbed: the perturbed images, `[N, H, W]`.
    predictions: classes predicted for the clean images, int `[N]`.
    perturbed_predictions: those for the perturbed ones, int `[N]`.
  """

  weights: np.ndarray
  perturbed: np.ndarray
  predictions: np.ndarray
  perturbed_predictions: np.ndarray


def linear_figure(
  members: Mapping[str, LinearMember],
  images: np.ndarray,
  labels: np.ndarray,
  epsilon: float,
  class_names: Sequence[str] = (),
) -> Figure:
  """Draws weights, their sign, and clean and perturbed images, a row a member.

  Args:
    members: the networks by name.
    images: the clean test images, `[N, H, W]` in [0, 1].
    labels: int `[N]`, 0 or 1.
    epsilon: size of the perturbation.
    class_names: names of the two classes; their numbers by default.

  Returns:
    The figure. The first ten images of each class are shown, with what the
    network predicts below each; the error rates are those of all N. A
    perturbed image that leaves [0, 1] is shown with a wider range of grey.

  Raises:
    ValueError: if there is no member or a class without images, or if shapes
      differ.

  Example:
    >>> images, labels = np.zeros((2, 4, 4)), np.array([0, 1])
    >>> member = LinearMember(np.eye(4), images, labels, labels)
    >>> figure = linear_figure({'plain': member}, images, labels, 0.25)
    >>> len(figure.axes)
    4
  """
  if not members:
    raise ValueError('members is empty; allowed: one network or more')
  for name, member in members.items():
    _check_shapes(name, member, images, labels)
  places = _places(labels)
  names = [class_name(index, class_names) for index in range(2)]
  with matplotlib.rc_context(STYLE | _STYLE):
    figure = Figure(figsize=(_WIDTH, _ROW * len(members)))
    for row, (name, member) in enumerate(members.items()):
      axes = [_add_panel(figure, row, column) for column in range(4)]
      _draw_weights(axes[0], member.weights, names)
      shift = short(epsilon * float(np.abs(member.weights).sum()))
      axes[0].set_ylabel(
        rf'{plain(name)}: $\epsilon\,|w|_1$ = {shift}', fontweight='bold'
      )
      _draw_signs(axes[1], member.weights, names)
      says = member.predictions
      _draw_answers(axes[2], images, labels, says, places, names)
      axes[2].set_title(f'clean: {_wrong(says, labels)}')
      says = member.perturbed_predictions
      _draw_answers(axes[3], member.perturbed, labels, says, places, names)
      axes[3].set_title(f'FGSM {short(epsilon)}: {_wrong(says, labels)}')
  return figure


def _check_shapes(
  name: str, member: LinearMember, images: np.ndarray, labels: np.ndarray
) -> None:
  count, size = np.shape(labels), np.shape(images)[1:]
  wanted = {
    'weights': size,
    'perturbed': count + size,
    'predictions': count,
    'perturbed_predictions': count,
  }
  have = {field: np.shape(getattr(member, field)) for field in wanted}
  if len(size) != 2 or np.shape(images) != count + size or have != wanted:
    raise ValueError(
      f'{name}: {have}, images {np.shape(images)} and labels {count}; allowed: '
      'weights [H, W], images and perturbed [N, H, W], the others [N]'
    )


def _places(labels: np.ndarray) -> dict[tuple[int, int], int]:
  """Returns (row, column) -> image, the first class above the second."""
  places = {}
  for label in range(2):
    indices = np.flatnonzero(labels == label)[: _ROWS * _COLUMNS]
    if not indices.size:
      raise ValueError('labels: allowed are 0 and 1, with an image of each')
    for i, index in enumerate(indices):
      places[label * _ROWS + i // _COLUMNS, i % _COLUMNS] = int(index)
  return places


def _add_panel(figure: Figure, row: int, column: int) -> Axes:
  """Adds a square; laid out by hand, since all are to be of one size."""
  height = figure.get_figheight()
  left = _LEFT + column * (_PANEL + _GAP)
  bottom = height - row * _ROW - _TOP - _PANEL
  return figure.add_axes(
    (left / _WIDTH, bottom / height, _PANEL / _WIDTH, _PANEL / height)
  )


def _wrong(predictions: np.ndarray, labels: np.ndarray) -> str:
  return f'{percent(np.mean(predictions != labels))} wrong'


def _draw_weights(ax: Axes, weights: np.ndarray, names: Sequence[str]) -> None:
  # Not a single weight: a network that has not been trained.
  largest = float(np.abs(weights).max()) or 1.0
  _draw_signed(ax, weights, colormaps['RdBu_r'], largest, largest)
  _title(ax, f'weights: red for {names[0]}, blue for {names[1]}')


def _draw_signs(ax: Axes, weights: np.ndarray, names: Sequence[str]) -> None:
  _draw_signed(ax, np.sign(weights), _SIGNS, 1.5, 1.0)
  _title(ax, f'sign: added to {names[1]}, taken from {names[0]}')


def _title(ax: Axes, text: str) -> None:
  # At 10 points 30 characters are as wide as the weights.
  if len(text) > 30:
    text = text.replace(', ', ',\n')
  longest = max(map(len, text.splitlines()))
  ax.set_title(text, fontsize=min(10.0 - 2 * ('\n' in text), 280 / longest))


def _draw_signed(
  ax: Axes, values: np.ndarray, cmap: Colormap, largest: float, tick: float
) -> None:
  """Draws values around 0, with a colour bar below."""
  image = ax.imshow(
    values, cmap=cmap, vmin=-largest, vmax=largest, interpolation='nearest'
  )
  ax.set(xticks=[], yticks=[])
  ax.spines[:].set(visible=True, color='#cccccc')
  bar = ax.inset_axes((0.15, -0.07, 0.7, 0.035))
  ticks = (-tick, 0.0, tick)
  labels = [f'{value:+.2g}' if value else '0' for value in ticks]
  ax.figure.colorbar(image, cax=bar, orientation='horizontal')
  bar.set_xticks(ticks, labels)
  bar.tick_params(labelsize=8, length=2)


def _draw_answers(
  ax: Axes,
  images: np.ndarray,
  labels: np.ndarray,
  predictions: np.ndarray,
  places: Mapping[tuple[int, int], int],
  names: Sequence[str],
) -> None:
  """Draws images with what the network says below each: red is wrong."""
  height, width = images.shape[1:]
  step_y, step_x = 1.32 * height, 1.1 * width  # Room for a line of text.
  shown = images[list(places.values())]
  low, high = min(0.0, float(shown.min())), max(1.0, float(shown.max()))
  for (row, column), index in places.items():
    left, top = column * step_x, row * step_y
    ax.imshow(
      images[index],
      cmap='gray',
      vmin=low,
      vmax=high,
      interpolation='nearest',
      extent=(left, left + width, top + height, top),
    )
    right = predictions[index] == labels[index]
    name = names[int(predictions[index])]
    if len(name) > _MAX_NAME:
      name = name[: _MAX_NAME - 1] + '…'
    ax.text(
      left + width / 2,
      top + 1.02 * height,
      name,
      ha='center',
      va='top',
      # At 8 points 6 bold characters are as wide as an image.
      fontsize=8 * min(1.0, 6 / len(name)),
      color=_RIGHT if right else _WRONG,
      fontweight='normal' if right else 'bold',
    )
  ax.set_axis_off()
  ax.set_anchor('N')  # Titles stand in a line.
  ax.set_xlim(0, (_COLUMNS - 1) * step_x + width)
  ax.set_ylim(2 * _ROWS * step_y, 0)


def merge_seeds(
  entries: Sequence[Mapping[str, Any]], num_images: int
) -> dict[str, Any]:
  """Puts the numbers of a member's seeds together.

  Args:
    entries: `Measured.entry` of each seed.
    num_images: The number of test images.

  Returns:
    Means, beside them sample standard deviations as `..._std` where there are
    several seeds, and 95 % intervals over the images as `..._ci`; counts of
    images are sums, and the largest difference is that of all seeds.
  """
  merged = mean_and_std(entries)
  for name in [name for name in merged if name.endswith('_error')]:
    merged[f'{name}_ci'] = list(accuracy_interval(merged[name], num_images))
  for name in ('num_compared', 'num_vanished'):
    merged[name] = sum(entry[name] for entry in entries)
  merged['largest_difference'] = max(e['largest_difference'] for e in entries)
  merged.pop('largest_difference_std', None)
  return merged


def format_table(entries: Mapping[str, Mapping[str, Any]]) -> str:
  """Writes the numbers of all members for the terminal.

  Args:
    entries: Member -> its numbers, from `merge_seeds`.

  Returns:
    A table and, below it, how far FGSM is from the closed form.
  """
  rows: list[tuple[str, ...]] = [
    ('', 'clean', 'FGSM', 'in [0, 1]', '|w|_1', 'epsilon |w|_1')
  ]
  lines = []
  for name, entry in entries.items():
    rows.append(
      (
        name,
        *(_error(entry, name) for name in ('clean', 'fgsm', 'fgsm_in_box')),
        f'{entry["weights_l1"]:.1f}',
        f'{entry["shift"]:.1f}',
      )
    )
    lines.append(
      f'{name}: largest difference between fgsm and the closed form: '
      f'{entry["largest_difference"]:.2g} ({entry["num_compared"]:,} images; '
      f'the gradient vanishes on {entry["num_vanished"]:,} others)'
    )
  widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
  table = [
    '  '.join(
      [row[0].ljust(widths[0])]
      + [
        cell.rjust(width)
        for cell, width in zip(row[1:], widths[1:], strict=True)
      ]
    )
    for row in rows
  ]
  return '\n'.join([*table, *lines])


def _error(entry: Mapping[str, Any], name: str) -> str:
  std = entry.get(f'{name}_error_std')
  value = entry[f'{name}_error']
  if std is None:
    return percent(value, 2)
  return f'{100 * value:.2f} ± {100 * std:.2f} %'
