"""Flips and crops against NumPy, Pillow and torchvision's procedure."""

import functools

import jax
import numpy as np
import PIL.Image
import pytest

from advjax.augmentation import geometry

HEIGHT, WIDTH = 9, 12
IMAGE = (
  np.random.default_rng(0).uniform(size=(HEIGHT, WIDTH, 3)).astype('float32')
)
NUM_DRAWS = 1000


@functools.cache
def compiled(function, num_args):
  """One program for all strengths."""
  return jax.jit(jax.vmap(function, (0, *[None] * num_args)))


def draws(function, image, *strength):
  """Applies an augmentation with many keys."""
  keys = jax.random.split(jax.random.key(0), NUM_DRAWS)
  run = compiled(function, 1 + len(strength))
  return np.asarray(run(keys, image, *strength))


@pytest.mark.parametrize(
  ('flip', 'axis'),
  [
    (geometry.random_horizontal_flip, 1),
    (geometry.random_vertical_flip, 0),
  ],
)
def test_flips_come_with_their_probability(flip, axis):
  found = draws(flip, IMAGE, 0.3)
  is_flipped = (found == np.flip(IMAGE, axis)).all((1, 2, 3))
  assert (is_flipped | (found == IMAGE).all((1, 2, 3))).all()
  # Five standard deviations.
  assert abs(is_flipped.mean() - 0.3) < 5 * (0.3 * 0.7 / NUM_DRAWS) ** 0.5
  assert (draws(flip, IMAGE, 0.0) == IMAGE).all()


def test_a_crop_is_a_window_of_the_padded_image_and_all_are_as_likely():
  found = draws(functools.partial(geometry.random_crop, strength=1), IMAGE)
  padded = np.pad(IMAGE, ((1, 1), (1, 1), (0, 0)))
  counts = [
    (found == padded[top : top + HEIGHT, left : left + WIDTH])
    .all((1, 2, 3))
    .sum()
    for top in range(3)
    for left in range(3)
  ]
  assert sum(counts) == NUM_DRAWS
  expected = NUM_DRAWS / 9
  # The chi-squared of 8 degrees of freedom, at 1e-5.
  assert ((np.array(counts) - expected) ** 2 / expected).sum() < 37.3


BOXES = np.array(
  [
    (0, 0, HEIGHT, WIDTH),
    (0, 0, 4, 5),
    (5, 7, 4, 5),
    (3, 2, 1, 1),
    (2, 0, 1, WIDTH),
    (0, 3, HEIGHT, 2),
    (1, 1, 7, 10),
  ]
)


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
).astype(np.float32)


def torchvision_boxes(rng, scale, max_ratio, num_draws):
  """Tops, lefts, heights and widths as RandomResizedCrop draws them."""
  boxes = []
  while len(boxes) < num_draws:
    for _ in range(10):
      area = HEIGHT * WIDTH * rng.uniform(scale, 1)
      ratio = np.exp(rng.uniform(-np.log(max_ratio), np.log(max_ratio)))
      rows, columns = round((area / ratio) ** 0.5), round((area * ratio) ** 0.5)
      if rows <= HEIGHT and columns <= WIDTH:
        top = rng.integers(HEIGHT - rows + 1)
        boxes.append((top, rng.integers(WIDTH - columns + 1), rows, columns))
        break
  return np.array(boxes)


def test_crops_to_resize_are_drawn_as_torchvision_draws_them():
  found = draws(geometry.random_resized_crop, RAMPS, 0.2, 1.5)
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


def test_a_crop_that_never_fits_is_cut():
  """A square of the area of a wide image is higher than it."""
  found = draws(geometry.random_resized_crop, RAMPS, 1.0, 1.0)
  rows, columns = (found[:, -1, -1] - found[:, 0, 0] + 1).T
  np.testing.assert_allclose(rows, HEIGHT, atol=1e-4)
  np.testing.assert_allclose(columns, round((HEIGHT * WIDTH) ** 0.5), atol=1e-4)
