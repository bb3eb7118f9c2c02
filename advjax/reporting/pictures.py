"""Pictures of images: the grids of the two tutorials, and triptychs.

Images are `[N, H, W, C]` or `[N, H, W]` with one or three channels, floats in
[0, 1] or uint8; values outside the range, which an attack without bounds
leaves, are clipped for the picture only.
"""

from collections.abc import Sequence

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.offsetbox import AnnotationBbox, HPacker, TextArea

from advjax.reporting.charts import STYLE, plain

_RIGHT, _WRONG = '#1a7f37', '#c9190b'
_NSL_IMAGES, _NSL_COLUMNS = 32, 4
_GRID = 4
_MAX_NAME = 24
_FULL = 1.3  # Leaves out the almost black ends of the colour map.


def nsl_grid(
  images: np.ndarray,
  labels: np.ndarray,
  predictions_base: np.ndarray,
  predictions_adversarial: np.ndarray,
  class_names: Sequence[str] = (),
) -> Figure:
  """Draws the picture of the NSL tutorial: the first 32 images in order.

  Args:
    images: the perturbed images, `[N, H, W, C]`.
    labels: int `[N]`.
    predictions_base: classes that the base model predicts, int `[N]`.
    predictions_adversarial: those of the adversarially trained one, int `[N]`.
    class_names: names of the classes; their numbers by default.

  Returns:
    15 x 15 in., four columns, no axes, each image under the title
    'true: %s, base: %s, adv: %s'.

  Raises:
    ValueError: if lengths differ, there is no image, or the channels are
      neither one nor three.
  """
  pixels = _pixels(images)
  _check_lengths(
    images=images,
    labels=labels,
    predictions_base=predictions_base,
    predictions_adversarial=predictions_adversarial,
  )
  with matplotlib.rc_context(STYLE):
    figure = Figure(figsize=(15, 15))
    figure.subplots_adjust(0.01, 0.01, 0.99, 0.97, wspace=0.02, hspace=0.18)
    count = min(len(pixels), _NSL_IMAGES)
    rows = _NSL_IMAGES // _NSL_COLUMNS
    for i in range(count):
      ax = figure.add_subplot(rows, _NSL_COLUMNS, i + 1)
      _show(ax, pixels[i])
      true, base, adv = (
        class_name(int(classes[i]), class_names)
        for classes in (labels, predictions_base, predictions_adversarial)
      )
      title = f'true: {true}, base: {base}, adv: {adv}'
      # At 12 points 38 characters are as wide as a column.
      size = 12 * min(1.0, 38 / len(title))
      ax.set_title(title, fontsize=size, pad=4)
  return figure


def random_indices(num_images: int, seed: int) -> np.ndarray:
  """Returns the (at most) 16 images that `prediction_grid` shows for a seed."""
  count = min(num_images, _GRID * _GRID)
  return np.random.default_rng(seed).choice(num_images, count, replace=False)


def prediction_grid(
  images: np.ndarray,
  predictions: np.ndarray,
  labels: np.ndarray,
  seed: int,
  class_names: Sequence[str] = (),
) -> Figure:
  """Draws MATLAB's picture: 4 x 4 random images with what the network says.

  Args:
    images: `[N, H, W, C]`.
    predictions: classes predicted, int `[N]`.
    labels: int `[N]`.
    seed: which images are drawn; the same seed draws the same for two networks.
    class_names: names of the classes; their numbers by default.

  Returns:
    16 images (fewer if N is smaller), each under 'Prediction: c', where c is
    green if it is right, and red and bold if it is wrong.

  Raises:
    ValueError: if lengths differ, there is no image, or the channels are
      neither one nor three.
  """
  pixels = _pixels(images)
  _check_lengths(images=images, predictions=predictions, labels=labels)
  with matplotlib.rc_context(STYLE):
    figure = Figure(figsize=(8, 8.6))
    figure.subplots_adjust(0.01, 0.01, 0.99, 0.96, wspace=0.05, hspace=0.16)
    for i, index in enumerate(random_indices(len(pixels), seed)):
      ax = figure.add_subplot(_GRID, _GRID, i + 1)
      _show(ax, pixels[index])
      right = int(predictions[index]) == int(labels[index])
      _two_colour_title(
        ax, class_name(int(predictions[index]), class_names), right
      )
  return figure


def triptychs(
  clean: np.ndarray,
  adversarial: np.ndarray,
  labels: np.ndarray,
  predictions_clean: np.ndarray,
  predictions_adversarial: np.ndarray,
  num: int = 6,
  class_names: Sequence[str] = (),
) -> Figure:
  """Draws clean image, perturbation and adversarial image, one per column.

  The perturbation is signed: red adds to a pixel, blue takes from it, white
  leaves it. It is amplified by the factor in its title, the same for all
  columns, so that its largest value has a full colour. Of three channels the
  value of largest magnitude is shown.

  Args:
    clean: `[N, H, W, C]`; the first `num` are shown.
    adversarial: the same images after the attack, `[N, H, W, C]`.
    labels: int `[N]`.
    predictions_clean: classes predicted for `clean`, int `[N]`.
    predictions_adversarial: classes predicted for `adversarial`, int `[N]`.
    num: how many to show at most.
    class_names: names of the classes; their numbers by default.

  Returns:
    The figure.

  Raises:
    ValueError: if lengths or shapes differ, there is no image, or the channels
      are neither one nor three.
  """
  before, after = _pixels(clean)[:num], _pixels(adversarial)[:num]
  _check_lengths(
    clean=clean,
    adversarial=adversarial,
    labels=labels,
    predictions_clean=predictions_clean,
    predictions_adversarial=predictions_adversarial,
  )
  if before.shape != after.shape:
    raise ValueError(
      f'adversarial has shape {np.shape(adversarial)}, clean {np.shape(clean)}'
    )
  delta = _signed(after - before)
  largest = float(np.abs(delta).max())
  factor = 1 / largest if largest > 0 else 1.0
  with matplotlib.rc_context(STYLE):
    figure = Figure(figsize=(max(2.1 * len(before), 5), 7.2))
    figure.subplots_adjust(0.01, 0.01, 0.99, 0.93, wspace=0.08, hspace=0.28)
    for i in range(len(before)):
      top, middle, bottom = (
        figure.add_subplot(3, len(before), row * len(before) + i + 1)
        for row in range(3)
      )
      _show(top, before[i])
      _verdict(top, 'clean', labels[i], predictions_clean[i], class_names)
      middle.set_axis_off()
      middle.imshow(
        delta[i] * factor,
        cmap='RdBu_r',
        vmin=-_FULL,
        vmax=_FULL,
        interpolation='nearest',
      )
      middle.set_title(f'perturbation\nx {factor:.3g}', fontsize=10)
      _show(bottom, after[i])
      _verdict(
        bottom,
        'adversarial',
        labels[i],
        predictions_adversarial[i],
        class_names,
      )
  return figure


def class_name(index: int, class_names: Sequence[str]) -> str:
  """Returns the name of a class, shortened; its number if it has none."""
  if not 0 <= index < len(class_names):
    return str(index)
  name = str(class_names[index])
  if len(name) > _MAX_NAME:
    name = name[: _MAX_NAME - 1] + '…'
  return plain(name)


def _pixels(images: np.ndarray) -> np.ndarray:
  """Returns float images `[N, H, W]` (gray) or `[N, H, W, 3]` in [0, 1]."""
  array = np.asarray(images)
  if array.ndim == 4 and array.shape[-1] == 1:
    array = array[..., 0]
  if array.ndim != 3 and not (array.ndim == 4 and array.shape[-1] == 3):
    raise ValueError(
      'images must be [N, H, W] or [N, H, W, C] with one or three channels, '
      f'got shape {np.shape(images)}'
    )
  if not len(array):
    raise ValueError('images holds no image')
  scale = 255.0 if array.dtype == np.uint8 else 1.0
  floats = np.nan_to_num(np.asarray(array, np.float32) / scale)
  return np.asarray(floats, np.float32)


def _check_lengths(**arrays: np.ndarray) -> None:
  lengths = {name: len(array) for name, array in arrays.items()}
  if len(set(lengths.values())) > 1:
    raise ValueError(f'lengths differ: {lengths}')


def _signed(delta: np.ndarray) -> np.ndarray:
  """Returns `[N, H, W]`: of three channels the one of largest magnitude."""
  if delta.ndim == 3:
    return delta
  index = np.abs(delta).argmax(axis=-1)[..., None]
  return np.take_along_axis(delta, index, axis=-1)[..., 0]


def _show(ax: Axes, image: np.ndarray) -> None:
  ax.set_axis_off()
  ax.imshow(
    np.clip(image, 0, 1), cmap='gray', vmin=0, vmax=1, interpolation='nearest'
  )


def _two_colour_title(ax: Axes, name: str, right: bool) -> None:
  """Writes 'Prediction: name' above the axes with only the name coloured."""
  # At 14 points 17 characters are as wide as an image.
  size = 14 * min(1.0, 17 / len(f'Prediction: {name}'))
  color, weight = (_RIGHT, 'normal') if right else (_WRONG, 'bold')
  words = TextArea('Prediction: ', textprops={'size': size})
  value = TextArea(
    name, textprops={'size': size, 'color': color, 'weight': weight}
  )
  ax.add_artist(
    AnnotationBbox(
      HPacker(children=[words, value], align='baseline', pad=0, sep=0),
      (0.5, 1.0),
      xycoords='axes fraction',
      box_alignment=(0.5, -0.15),
      frameon=False,
      pad=0,
      annotation_clip=False,
    )
  )


def _verdict(
  ax: Axes,
  kind: str,
  label: int,
  prediction: int,
  class_names: Sequence[str],
) -> None:
  right = int(label) == int(prediction)
  lines = (
    f'{kind}, true: {class_name(int(label), class_names)}',
    f'predicted: {class_name(int(prediction), class_names)}',
  )
  ax.set_title(
    '\n'.join(lines),
    # At 10 points 20 bold characters are as wide as an image.
    fontsize=10 * min(1.0, 20 / max(len(line) for line in lines)),
    color=_RIGHT if right else _WRONG,
    fontweight='normal' if right else 'bold',
  )
