"""Grids of images: adversarial examples, predictions, perturbations.

Images are `[N, H, W, C]` or `[N, H, W]`, floats in [0, 1] or uint8; of two
channels the first is drawn, of more the first three. Values outside the range,
which an attack without bounds leaves, are clipped for the figure only.
Predictions are green where they are correct, red and bold where they are wrong.
"""

import textwrap
from collections.abc import Sequence
from typing import NamedTuple

import matplotlib
import numpy as np
from matplotlib.figure import Figure

from advjax.reporting.figures.charts import (
  MAX_WIDTH,
  PERTURBATION_COLORS,
  STYLE,
)

CORRECT, WRONG = '#1a7f37', '#c9190b'
_LETTERS = 13.5  # Bold letters of a title in an inch.
_LINE = 0.16  # Inches.
_SPACE = 0.08
_MAX_NAME = 24


class Cell(NamedTuple):
  """An image under a title."""

  pixels: np.ndarray  # `[H, W]` or `[H, W, 3]`, floats; clipped to [0, 1].
  title: str = ''  # May have several lines.
  correct: bool | None = None  # The prediction in the title; None is black.


def image_grid(rows: Sequence[Sequence[Cell | None]], inches: float) -> Figure:
  """Draws rows of images, `inches` wide, under titles; None leaves a gap."""
  placed, bottom = [], 0.0
  for row in rows:
    cells = [(i, cell) for i, cell in enumerate(row) if cell]
    titles = [_wrap(cell.title, inches) for _, cell in cells]
    top = bottom + _SPACE + _LINE * max(map(len, titles))
    for (i, cell), title in zip(cells, titles, strict=True):
      left = i * (inches + _SPACE)
      height = inches * cell.pixels.shape[0] / cell.pixels.shape[1]
      bottom = max(bottom, top + height)
      extent = (left, left + inches, top + height, top)
      placed.append((cell, '\n'.join(title), extent))
  width = max(map(len, rows)) * (inches + _SPACE) - _SPACE
  with matplotlib.rc_context(STYLE):
    figure = Figure((width, bottom))
    # One pair of axes, in inches: a pair for each image takes far longer.
    ax = figure.add_axes((0, 0, 1, 1))
    ax.set_axis_off()
    for cell, text, extent in placed:
      pixels = np.clip(cell.pixels, 0, 1)
      if pixels.ndim == 2:
        pixels = np.repeat(pixels[..., None], 3, -1)
      ax.imshow(pixels, extent=extent, interpolation='nearest')
      ax.text(
        extent[0] + inches / 2,
        extent[3] - 0.04,
        text,
        color={None: 'black', True: CORRECT, False: WRONG}[cell.correct],
        fontsize=9,
        fontweight='bold' if cell.correct is False else 'normal',
        ha='center',
        va='bottom',
        linespacing=1.1,
      )
    ax.set(xlim=(0, width), ylim=(bottom, 0))
  return figure


def _wrap(title: str, inches: float) -> list[str]:
  letters = int(_LETTERS * inches)
  title = title.replace(' %', '\N{NO-BREAK SPACE}%')
  lines = (textwrap.wrap(line, letters) for line in title.split('\n'))
  return [part for line in lines for part in line]


def class_name(index: int, class_names: Sequence[str]) -> str:
  """Returns the name of a class, shortened; its number if it has none."""
  if not 0 <= index < len(class_names):
    return str(index)
  name = str(class_names[index])
  return name if len(name) <= _MAX_NAME else f'{name[: _MAX_NAME - 1]}…'


def nsl_grid(
  images: np.ndarray,
  labels: np.ndarray,
  predictions_base: np.ndarray,
  predictions_adversarial: np.ndarray,
  class_names: Sequence[str] = (),
) -> Figure:
  """Draws the figure of the NSL tutorial: the first 32 images in order.

  Args:
    images: Adversarial examples, `[N, H, W, C]`.
    labels: int `[N]`.
    predictions_base: Of the base model, int `[N]`.
    predictions_adversarial: Of the adversarially trained one, int `[N]`.
    class_names: Names of the classes; their numbers by default.

  Returns:
    The figure: eight columns, each image under the title
    'true: %s, base: %s, adv: %s'.

  Raises:
    ValueError: If lengths differ, or there is no image.

  >>> images, labels = np.full((2, 8, 8, 1), 0.5), np.array([3, 7])
  >>> figure = nsl_grid(images, labels, labels, labels[::-1])
  >>> [title.get_text() for title in figure.axes[0].texts]
  ['true: 3\\nbase: 3\\nadv: 7', 'true: 7\\nbase: 7\\nadv: 3']
  """
  pixels = to_pixels(images)
  arrays = labels, predictions_base, predictions_adversarial
  _check_lengths(len(pixels), *arrays)
  cells = []
  for image, *classes in zip(pixels[:32], *arrays, strict=False):
    true, base, adv = (class_name(int(c), class_names) for c in classes)
    cells.append(Cell(image, f'true: {true}\nbase: {base}\nadv: {adv}'))
  return image_grid(_rows(cells, 8), MAX_WIDTH / 8 - _SPACE)


def random_indices(num_images: int, seed: int) -> np.ndarray:
  """Returns the (at most) 16 images that `prediction_grid` shows for a seed."""
  count = min(num_images, 16)
  return np.random.default_rng(seed).choice(num_images, count, replace=False)


def prediction_grid(
  images: np.ndarray,
  predictions: np.ndarray,
  labels: np.ndarray,
  seed: int,
  class_names: Sequence[str] = (),
) -> Figure:
  """Draws MATLAB's figure: 4 x 4 random images with their predictions.

  Args:
    images: `[N, H, W, C]`.
    predictions: int `[N]`.
    labels: int `[N]`.
    seed: Which images are drawn; the same for two models that are compared.
    class_names: Names of the classes; their numbers by default.

  Returns:
    The figure: 16 images (fewer if N is smaller), each under 'Prediction: c'.

  Raises:
    ValueError: If lengths differ, or there is no image.

  >>> images, labels = np.full((20, 8, 8, 1), 0.5), np.full(20, 7)
  >>> figure = prediction_grid(images, labels, labels, seed=0)
  >>> {title.get_text() for title in figure.axes[0].texts}
  {'Prediction: 7'}
  """
  pixels = to_pixels(images)
  _check_lengths(len(pixels), predictions, labels)
  cells = [
    Cell(
      pixels[i],
      f'Prediction: {class_name(int(predictions[i]), class_names)}',
      bool(predictions[i] == labels[i]),
    )
    for i in random_indices(len(pixels), seed)
  ]
  return image_grid(_rows(cells, 4), MAX_WIDTH / 8 - _SPACE)


def perturbation_grid(
  clean: np.ndarray,
  adversarial: np.ndarray,
  labels: np.ndarray,
  predictions_clean: np.ndarray,
  predictions_adversarial: np.ndarray,
  class_names: Sequence[str] = (),
) -> Figure:
  """Draws clean image, perturbation and adversarial example, one per column.

  The perturbation is amplified by the factor in its title, so that the largest
  value has the full colour; of three channels that of the largest magnitude.
  """
  before, after = to_pixels(clean), to_pixels(adversarial)
  delta = (after - before)[:6]
  if delta.ndim == 4:
    index = np.abs(delta).argmax(-1)[..., None]
    delta = np.take_along_axis(delta, index, -1)[..., 0]
  largest = float(np.abs(delta).max()) or 1.0
  title = f'perturbation x {1 / largest:.3g}'
  changes = [Cell(signed_colors(each, largest), title) for each in delta]
  rows = []
  for kind, pixels, predictions in (
    ('clean', before, predictions_clean),
    ('adversarial', after, predictions_adversarial),
  ):
    row = []
    for image, *classes in zip(pixels[:6], labels, predictions, strict=False):
      true, predicted = (class_name(int(c), class_names) for c in classes)
      title = f'{kind}\ntrue: {true}\npredicted: {predicted}'
      row.append(Cell(image, title, bool(classes[0] == classes[1])))
    rows.append(row)
  return image_grid([rows[0], changes, rows[1]], MAX_WIDTH / 6 - _SPACE)


def signed_colors(values: np.ndarray, largest: float) -> np.ndarray:
  """Returns signed values as colours: red above 0, blue below, white at 0."""
  # Leaves out the almost black ends of the colours.
  shares = 0.5 + 0.5 * np.clip(values / largest, -1, 1) / 1.3
  return PERTURBATION_COLORS(shares)[..., :3]


def to_pixels(images: np.ndarray) -> np.ndarray:
  """Returns float images `[N, H, W]` (gray) or `[N, H, W, 3]` in [0, 1]."""
  array = np.asarray(images)
  if array.ndim not in (3, 4) or 0 in array.shape:
    raise ValueError(
      f'shape of the images = {array.shape}; allowed: [N, H, W] or '
      '[N, H, W, C], not empty'
    )
  if array.ndim == 4:
    array = array[..., :3] if array.shape[-1] > 2 else array[..., 0]
  scale = 255.0 if array.dtype == np.uint8 else 1.0
  return np.nan_to_num(np.asarray(array, np.float32) / np.float32(scale))


def _rows(cells: Sequence[Cell], columns: int) -> list[Sequence[Cell]]:
  return [cells[i : i + columns] for i in range(0, len(cells), columns)]


def _check_lengths(num_images: int, *arrays: np.ndarray) -> None:
  lengths = [num_images, *map(len, arrays)]
  if len(set(lengths)) > 1:
    raise ValueError(f'lengths = {lengths}; allowed: all the same')
