"""Flips, crops and cutout against NumPy, Pillow and torchvision's procedure."""

import functools

import jax
import numpy as np
import PIL.Image
import pytest

from advjax.augmentation import geometry
from tests.augmentation.draws import NUM_DRAWS, many

HEIGHT, WIDTH = 9, 12
IMAGE = np.random.default_rng(0).uniform(size=(HEIGHT, WIDTH, 3))
IMAGE = IMAGE.astype(np.float32)


@pytest.mark.parametrize(
  ('flip', 'axis'),
  [
    (geometry.random_horizontal_flip, 1),
    (geometry.random_vertical_flip, 0),
  ],
)
def test_flips_come_with_their_probability(flip, axis):
  found = many(flip, IMAGE, 0.3)
  is_flipped = (found == np.flip(IMAGE, axis)).all((1, 2, 3))
  assert (is_flipped | (found == IMAGE).all((1, 2, 3))).all()
  # Five standard deviations.
  assert abs(is_flipped.mean() - 0.3) < 5 * (0.3 * 0.7 / NUM_DRAWS) ** 0.5
  assert (many(flip, IMAGE, 0.0) == IMAGE).all()


def test_a_crop_is_a_window_of_the_padded_image_and_all_are_as_likely():
  found = many(functools.partial(geometry.random_crop, strength=1), IMAGE)
  padded = np.pad(IMAGE, ((1, 1), (1, 1), (0, 0)))
  windows = [
    padded[top : top + HEIGHT, left : left + WIDTH]
    for top in range(3)
    for left in range(3)
  ]
  counts = np.array([(found == w).all((1, 2, 3)).sum() for w in windows])
  assert counts.sum() == NUM_DRAWS
  expected = NUM_DRAWS / 9
  # The chi-squared of 8 degrees of freedom, at 1e-5.
  assert ((counts - expected) ** 2 / expected).sum() < 37.3


# Top, left, rows and columns.
BOXES = [[0, 0, HEIGHT, WIDTH], [5, 7, 4, 5], [3, 2, 1, 1], [2, 0, 1, WIDTH]]
BOXES = np.array([*BOXES, [0, 3, HEIGHT, 2], [1, 1, 7, 10]])


def test_the_resized_crop_is_pillows():
  found = jax.jit(jax.vmap(geometry.resize_crop, (None, 0, 0, 0, 0)))(
    IMAGE, *BOXES.T
  )
  np.testing.assert_allclose(found[0], IMAGE, rtol=1e-6)
  for image, (top, left, rows, columns) in zip(found, BOXES, strict=True):
    crop = IMAGE[top : top + rows, left : left + columns]
    for channel in range(3):
      plane = PIL.Image.fromarray(crop[..., channel])
      expected = plane.resize((WIDTH, HEIGHT), PIL.Image.Resampling.BILINEAR)
      np.testing.assert_allclose(image[..., channel], expected, atol=1e-6)


# A ramp in each direction: the corners of a crop tell where it was.
RAMPS = np.stack(
  np.meshgrid(np.arange(HEIGHT), np.arange(WIDTH), indexing='ij'), -1
)


def torchvision_boxes(rng, scale, max_ratio, num_draws):
  """Tops, lefts, heights and widths as RandomResizedCrop draws them."""
  boxes = []
  while len(boxes) < num_draws:
    area = HEIGHT * WIDTH * rng.uniform(scale, 1)
    ratio = np.exp(rng.uniform(-np.log(max_ratio), np.log(max_ratio)))
    rows, columns = round((area / ratio) ** 0.5), round((area * ratio) ** 0.5)
    if rows <= HEIGHT and columns <= WIDTH:
      top, left = rng.integers([HEIGHT - rows + 1, WIDTH - columns + 1])
      boxes.append((top, left, rows, columns))
  return np.array(boxes)


def test_crops_to_resize_are_drawn_as_torchvision_draws_them():
  found = many(geometry.random_resized_crop, RAMPS, 0.2, 1.5)
  starts, ends = found[:, 0, 0], found[:, -1, -1]
  boxes = np.concatenate([starts, ends - starts + 1], 1)
  np.testing.assert_allclose(boxes, np.round(boxes), atol=1e-4)
  expected = torchvision_boxes(np.random.default_rng(1), 0.2, 1.5, 4000)
  difference = abs(boxes.mean(0) - expected.mean(0))
  assert (difference < 5 * expected.std(0) / NUM_DRAWS**0.5).all()
  np.testing.assert_allclose(boxes.std(0), expected.std(0), rtol=0.15)
  assert boxes[:, 2:].min() >= 3
  # Both ends are reached by some.
  assert (boxes[:, :2] + boxes[:, 2:]).max(0).tolist() == [HEIGHT, WIDTH]
  assert boxes[:, :2].min(0).tolist() == [0, 0]
  # A square of the area of a wide image is higher than it, and is cut.
  found = many(geometry.random_resized_crop, RAMPS, 1.0, 1.0)
  rows, columns = (found[:, -1, -1] - found[:, 0, 0] + 1).T
  np.testing.assert_allclose(rows, HEIGHT, atol=1e-4)
  np.testing.assert_allclose(columns, round((HEIGHT * WIDTH) ** 0.5), atol=1e-4)


def test_cutout_fills_a_square_around_any_pixel():
  image = np.random.default_rng(0).uniform(0.6, 0.9, (8, 8, 3))
  image = image.astype(np.float32)
  np.testing.assert_array_equal(many(geometry.cutout, image, 0)[0], image)
  for side in (3, 4):
    places = set()
    for cut in many(geometry.cutout, image, side):
      inside = (cut == 0.5).all(-1)
      assert (cut[~inside] == image[~inside]).all()
      rows = np.flatnonzero(inside.any(1))
      columns = np.flatnonzero(inside.any(0))
      assert inside.sum() == len(rows) * len(columns)
      places.add((rows[0], rows[-1], columns[0], columns[-1]))
    starts = range(-(side // 2), 8 - side // 2)
    ends = [(max(start, 0), min(start + side, 8) - 1) for start in starts]
    expected = {(*rows, *columns) for rows in ends for columns in ends}
    # All 64 of 500 draws, mostly.
    assert places <= expected
    assert len(places) > 0.9 * len(expected)
