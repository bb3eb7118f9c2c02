"""Unknown objects in the background: a shift that no training here has seen."""

import math

import numpy as np

from advjax.config import check_range
from advjax.evaluation.checks import check_labels, check_pictures

# The share of an image that an object covers, by severity.
AREAS = {1: 0.02, 2: 0.04, 3: 0.06, 4: 0.08, 5: 0.1}


def paste_objects(
  images: np.ndarray, labels: np.ndarray, severity: int, *, seed: int
) -> np.ndarray:
  """Pastes into every image a small copy of another one, of another class.

  `x'_i = (1 - m_i) x_i + m_i s(x_j)`: the source j is drawn from all rows with
  another label; s scales it down to d H by d W pixels, each the mean of what it
  covers; m is an ellipse that fills this box, with an edge of one pixel, and 0
  outside of it. The box touches one side of the image, drawn like its place
  along that side. The ellipse covers the share `AREAS[severity] = pi d^2 / 4`,
  as nearly as whole pixels allow.

  So all pixels that are d or more away from every side (in shares of the side:
  0.16, 0.23, 0.28, 0.32 and 0.36 at severities 1 to 5) keep their bits. What is
  pasted may well be a better example of its class than what it covers: the
  right answer remains the label of the image around it.

  The draws depend on the seed and the row alone: a higher severity enlarges the
  same object at the same side. A row depends on the others too, which may be
  its source.

  Args:
    images: floating `[N, H, W, C]` in [0, 1], H and W of 8 or more.
    labels: integers `[N]`, of two classes or more.
    severity: 1 to 5.
    seed: Of all random draws; an integer >= 0.

  Returns:
    float32 `[N, H, W, C]` in [0, 1].

  Raises:
    ValueError: if an argument is not as described.

  Example:
    >>> images = np.stack([np.zeros((8, 8, 1)), np.ones((8, 8, 1))])
    >>> pasted = paste_objects(images, np.array([3, 7]), 5, seed=0)
    >>> pasted[0, ..., 0].max(), pasted[0, 3:5, 3:5, 0].max()
    (np.float32(1.0), np.float32(0.0))
  """
  check_range('severity', severity, 1, 5, integer=True)
  check_range('seed', seed, 0, integer=True)
  images = check_pictures(images)
  labels = check_labels(labels, images)
  if (labels == labels[0]).all():
    raise ValueError(
      f'labels are all {labels[0]}; allowed: two classes or more, since what '
      'is pasted is of another class'
    )
  height, width = images.shape[1:3]
  # The diameters of the ellipse, in shares of the sides.
  diameter = math.sqrt(4 * AREAS[severity] / math.pi)
  box = max(2, round(diameter * height)), max(2, round(diameter * width))
  mask = _ellipse(*box)[:, :, np.newaxis]
  draws = np.stack(
    [np.random.default_rng([seed, i]).random(3) for i in range(len(images))]
  )
  sources = _sources(labels, draws[:, 0])
  tops, lefts = _places(height - box[0], width - box[1], draws[:, 1:])
  shrink_rows, shrink_columns = map(_overlaps, images.shape[1:3], box)
  pasted = images.astype(np.float32)
  for row, (source, top, left) in enumerate(
    zip(sources, tops, lefts, strict=True)
  ):
    narrow = np.tensordot(shrink_rows, images[source].astype(np.float64), 1)
    place = pasted[row, top : top + box[0], left : left + box[1]]
    place[...] = (1 - mask) * place + mask * (shrink_columns @ narrow)
  return np.clip(pasted, 0, 1, out=pasted)


def _sources(labels: np.ndarray, draws: np.ndarray) -> np.ndarray:
  """Returns a row of another label for each row, uniformly: `[N]`."""
  order = np.argsort(labels, kind='stable')
  ordered = labels[order]
  first = np.searchsorted(ordered, labels, 'left')
  count = np.searchsorted(ordered, labels, 'right') - first
  place = (draws * (len(labels) - count)).astype(int)
  # Rows of one label are contiguous in this order, and are skipped.
  return order[np.where(place < first, place, place + count)]


def _places(
  lowest: int, rightmost: int, draws: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
  """Returns the top and the left of every box, at one side: `[N]` each."""
  side = (draws[:, 0] * 4).astype(int)
  down = (draws[:, 1] * (lowest + 1)).astype(int)
  right = (draws[:, 1] * (rightmost + 1)).astype(int)
  tops = np.select([side == 0, side == 1], [0, lowest], down)
  lefts = np.select([side == 2, side == 3], [0, rightmost], right)
  return tops, lefts


def _ellipse(height: int, width: int) -> np.ndarray:
  """Returns how much of each pixel an ellipse covers, about: `[H, W]`."""
  y = (2 * np.arange(height) + 1) / height - 1
  x = (2 * np.arange(width) + 1) / width - 1
  distance = np.hypot(y[:, np.newaxis], x[np.newaxis])
  return np.clip(0.5 + (1 - distance) * min(height, width) / 2, 0, 1)


def _overlaps(size: int, smaller: int) -> np.ndarray:
  """Returns the shares of `size` pixels in each of `smaller`: `[s, S]`."""
  edges = np.arange(smaller + 1)[:, np.newaxis] * (size / smaller)
  # How much of each pixel lies before each edge.
  before = np.clip(edges - np.arange(size), 0, 1)
  return np.diff(before, axis=0) * (smaller / size)
