"""Grids of images: adversarial examples, predictions, perturbations.

  nsl_grid(...)           the first 32 adversarial examples in order
  prediction_grid(...)    16 random images and the prediction for each
  perturbation_grid(...)  clean image, perturbation, adversarial example

Images are `[N, H, W, C]` or `[N, H, W]` with one or three channels, floats in
[0, 1] or uint8; values outside the range, which an attack without bounds
leaves, are clipped for the figure only. Predictions are green where they are
correct, red and bold where they are wrong.
"""

from collections.abc import Sequence
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from advjax.reporting.plots import MAX_WIDTH, PERTURBATION_COLORS, STYLE

CORRECT, WRONG = '#1a7f37', '#c9190b'
_STYLE = STYLE | {'axes.grid': False, 'axes.titlesize': 9}
_LETTERS = 13.0  # Letters of a title in an inch.
_MAX_NAME = 24


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
    The figure: four columns, each image under the title
    'true: %s, base: %s, adv: %s'.

  Raises:
    ValueError: If lengths differ, there is no image, or it has neither one nor
      three channels.
  """
  pixels = to_pixels(images)[:32]
  _check_lengths(
    images=images,
    labels=labels,
    predictions_base=predictions_base,
    predictions_adversarial=predictions_adversarial,
  )
  rows = -(-len(pixels) // 4)
  with matplotlib.rc_context(_STYLE):
    figure = Figure((MAX_WIDTH, 1.65 * rows), layout='constrained')
    axes = figure.subplots(rows, 4, squeeze=False).ravel()
    for ax in axes:
      ax.set_axis_off()
    for i, image in enumerate(pixels):
      show(axes[i], image)
      names = [
        class_name(int(classes[i]), class_names)
        for classes in (labels, predictions_base, predictions_adversarial)
      ]
      title = 'true: {}, base: {}, adv: {}'.format(*names)
      if len(title) > _LETTERS * MAX_WIDTH / 4:
        title = title.replace(', ', '\n')
      axes[i].set_title(title)
  return figure


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
    16 images (fewer if N is smaller), each under 'Prediction: c'.

  Raises:
    ValueError: If lengths differ, there is no image, or it has neither one nor
      three channels.
  """
  pixels = to_pixels(images)
  _check_lengths(images=images, predictions=predictions, labels=labels)
  with matplotlib.rc_context(_STYLE):
    figure = Figure((MAX_WIDTH / 2, 5.8), layout='constrained')
    axes = figure.subplots(4, 4).ravel()
    for ax in axes:
      ax.set_axis_off()
    for ax, i in zip(axes, random_indices(len(pixels), seed), strict=False):
      show(ax, pixels[i])
      name = class_name(int(predictions[i]), class_names)
      title = f'Prediction: {name}'
      if len(title) > _LETTERS * MAX_WIDTH / 8:
        title = f'Prediction:\n{name[: int(_LETTERS * MAX_WIDTH / 8)]}'
      ax.set_title(title, **verdict_style(predictions[i] == labels[i]))
  return figure


def perturbation_grid(
  clean: np.ndarray,
  adversarial: np.ndarray,
  labels: np.ndarray,
  predictions_clean: np.ndarray,
  predictions_adversarial: np.ndarray,
  num: int = 6,
  class_names: Sequence[str] = (),
) -> Figure:
  """Draws clean image, perturbation and adversarial example, one per column.

  The perturbation is signed: red adds to a pixel, blue takes from it. It is
  amplified by the factor in its title, the same for all columns, so that the
  largest value has the full colour. Of three channels the one of the largest
  magnitude is shown.

  Args:
    clean: Clean images, `[N, H, W, C]`.
    adversarial: Adversarial examples, as `clean`.
    labels: int `[N]`.
    predictions_clean: For `clean`, int `[N]`.
    predictions_adversarial: For `adversarial`, int `[N]`.
    num: How many to show at most.
    class_names: Names of the classes; their numbers by default.

  Returns:
    The figure.

  Raises:
    ValueError: If lengths or shapes differ, there is no image, or it has
      neither one nor three channels.
  """
  before, after = to_pixels(clean)[:num], to_pixels(adversarial)[:num]
  _check_lengths(
    clean=clean,
    adversarial=adversarial,
    labels=labels,
    predictions_clean=predictions_clean,
    predictions_adversarial=predictions_adversarial,
  )
  if before.shape != after.shape:
    raise ValueError(
      f'adversarial of shape {np.shape(adversarial)}; allowed: that of clean, '
      f'{np.shape(clean)}'
    )
  delta = after - before
  if delta.ndim == 4:
    index = np.abs(delta).argmax(-1)[..., None]
    delta = np.take_along_axis(delta, index, -1)[..., 0]
  largest = float(np.abs(delta).max()) or 1.0
  count = len(before)
  with matplotlib.rc_context(_STYLE):
    figure = Figure((MAX_WIDTH * max(count, 3) / 6, 6.2), layout='constrained')
    axes = figure.subplots(3, count, squeeze=False)
    for i in range(count):
      for ax, kind, image, predictions in (
        (axes[0, i], 'clean', before[i], predictions_clean),
        (axes[2, i], 'adversarial', after[i], predictions_adversarial),
      ):
        show(ax, image)
        true, predicted = (
          class_name(int(classes[i]), class_names)[:21]
          for classes in (labels, predictions)
        )
        ax.set_title(
          f'{kind}\ntrue: {true}\npredicted: {predicted}',
          **verdict_style(labels[i] == predictions[i]),
        )
      show_signed(axes[1, i], delta[i], largest)
      axes[1, i].set_title(f'perturbation x {1 / largest:.3g}')
  return figure


def verdict_style(correct: bool) -> dict[str, Any]:
  """Returns how to write a prediction: green, or red and bold."""
  if correct:
    return {'color': CORRECT}
  return {'color': WRONG, 'fontweight': 'bold'}


def show(ax: Axes, image: np.ndarray, **place: Any) -> None:
  """Shows an image `[H, W]` or `[H, W, 3]` in [0, 1] without axes."""
  ax.set_axis_off()
  shown = np.clip(image, 0, 1)
  ax.imshow(
    shown, cmap='gray', vmin=0, vmax=1, interpolation='nearest', **place
  )


def show_signed(ax: Axes, values: np.ndarray, largest: float) -> Any:
  """Shows signed values `[H, W]`: red above 0, blue below, white at 0."""
  ax.set_axis_off()
  return ax.imshow(
    values,
    cmap=PERTURBATION_COLORS,
    # Leaves out the almost black ends of the colours.
    vmin=-1.3 * largest,
    vmax=1.3 * largest,
    interpolation='nearest',
  )


def to_pixels(images: np.ndarray) -> np.ndarray:
  """Returns float images `[N, H, W]` (gray) or `[N, H, W, 3]` in [0, 1].

  Args:
    images: `[N, H, W]` or `[N, H, W, C]`, floats in [0, 1] or uint8.

  Raises:
    ValueError: If there is no image, or it has neither one nor three channels.
  """
  array = np.asarray(images)
  if array.ndim == 4 and array.shape[-1] == 1:
    array = array[..., 0]
  color = array.ndim == 4 and array.shape[-1] == 3
  if not len(array) or not (array.ndim == 3 or color):
    raise ValueError(
      f'images of shape {np.shape(images)}; allowed: [N, H, W] or '
      '[N, H, W, C] with 1 or 3 channels, N >= 1'
    )
  scale = 255.0 if array.dtype == np.uint8 else 1.0
  return np.nan_to_num(np.asarray(array, np.float32) / np.float32(scale))


def _check_lengths(**arrays: np.ndarray) -> None:
  lengths = {name: len(array) for name, array in arrays.items()}
  if len(set(lengths.values())) > 1:
    raise ValueError(f'lengths {lengths}; allowed: all the same')
