"""The picture of a linear network: its weights, and what FGSM makes of them.

A network of two classes whose logits are linear is `f(x) = w . x + b`, the
first class's logit less the second's. FGSM adds `-epsilon * y * sign(w)`, y
being +1 for the first class and -1 for the second: the same picture for every
image, but for its sign (Goodfellow et al. 2014, arXiv 1412.6572, figure 2).
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import matplotlib
import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.colors import Colormap, ListedColormap
from matplotlib.figure import Figure, SubFigure

from advjax.reporting.charts import STYLE, plain
from advjax.reporting.pictures import class_name
from advjax.reporting.values import percent, short

_RIGHT, _WRONG = '#1a7f37', '#c9190b'
_COLUMNS, _ROWS = 5, 2  # Images of each class.
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
    >>> len(figure.subfigs)
    1
  """
  if not members:
    raise ValueError('members is empty; allowed: one network or more')
  for name, member in members.items():
    _check_shapes(name, member, images, labels)
  places = _places(labels)
  names = [class_name(index, class_names) for index in range(2)]
  with matplotlib.rc_context(STYLE | {'axes.grid': False}):
    figure = Figure(figsize=(10.0, 3.25 * len(members)), layout='constrained')
    parts = figure.subfigures(len(members), 1, squeeze=False).ravel()
    for part, (name, member) in zip(parts, members.items(), strict=True):
      shift = short(epsilon * float(np.abs(member.weights).sum()))
      part.suptitle(
        rf'{plain(name)}: $\epsilon\,|w|_1$ = {shift}',
        fontweight='bold',
        x=0.01,
        ha='left',
      )
      axes = part.subplots(1, 4)
      _draw_weights(part, axes[0], member.weights, names)
      _draw_signs(part, axes[1], member.weights, names)
      _draw_answers(axes[2], images, labels, member.predictions, places, names)
      axes[2].set_title(f'clean: {_wrong(member.predictions, labels)}')
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


def _wrong(predictions: np.ndarray, labels: np.ndarray) -> str:
  return f'{percent(np.mean(predictions != labels))} wrong'


def _draw_weights(
  part: SubFigure, ax: Axes, weights: np.ndarray, names: Sequence[str]
) -> None:
  # Not a single weight: a network that has not been trained.
  largest = float(np.abs(weights).max()) or 1.0
  _draw_signed(part, ax, weights, colormaps['RdBu_r'], largest, largest)
  _title(ax, f'weights: red for {names[0]}, blue for {names[1]}')


def _draw_signs(
  part: SubFigure, ax: Axes, weights: np.ndarray, names: Sequence[str]
) -> None:
  _draw_signed(part, ax, np.sign(weights), _SIGNS, 1.5, 1.0)
  _title(ax, f'sign: added to {names[1]}, taken from {names[0]}')


def _title(ax: Axes, text: str) -> None:
  # At 11 points 33 characters are as wide as the weights.
  ax.set_title(text, fontsize=11 * min(1.0, 33 / len(text)))


def _draw_signed(
  part: SubFigure,
  ax: Axes,
  values: np.ndarray,
  cmap: Colormap,
  largest: float,
  tick: float,
) -> None:
  image = ax.imshow(
    values, cmap=cmap, vmin=-largest, vmax=largest, interpolation='nearest'
  )
  ax.set(xticks=[], yticks=[])
  ax.spines[:].set(visible=True, color='#cccccc')
  bar = part.colorbar(image, ax=ax, location='bottom', shrink=0.7, aspect=25)
  ticks = (-tick, 0.0, tick)
  bar.set_ticks(
    ticks, labels=[f'{value:+.2g}' if value else '0' for value in ticks]
  )
  bar.ax.tick_params(labelsize=9, length=2)


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
    ax.text(
      left + width / 2,
      top + 1.02 * height,
      name,
      ha='center',
      va='top',
      # At 9 points 6 bold characters are as wide as an image.
      fontsize=9 * min(1.0, 6 / len(name)),
      color=_RIGHT if right else _WRONG,
      fontweight='normal' if right else 'bold',
    )
  ax.set_axis_off()
  ax.set_xlim(0, (_COLUMNS - 1) * step_x + width)
  ax.set_ylim(2 * _ROWS * step_y, 0)
