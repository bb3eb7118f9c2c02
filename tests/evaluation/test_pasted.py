"""Pasted objects are where, of whom and as large as they should be."""

import fractions
import math

import hypothesis
import numpy as np
import pytest
from hypothesis import strategies as st

from advjax.evaluation.pasted import AREAS, paste_objects

RNG = np.random.default_rng(0)
LABELS = np.repeat([5, 2, 9], 40)[RNG.permutation(120)]
NOISE = RNG.random((120, 20, 16, 3), np.float32)


def box_of(severity, height, width):
  """The sides of the box, in pixels, by the docstring."""
  diameter = math.sqrt(4 * AREAS[severity] / math.pi)
  return round(diameter * height), round(diameter * width)


def white_rows(severity, height=20, width=16):
  """Half the images black, half white: what changed is the mask itself."""
  images = np.zeros((60, height, width, 1))
  images[::2] = 1
  pasted = paste_objects(images, np.arange(60) % 2, severity, seed=1)
  return np.abs(pasted - images)[..., 0].astype(np.float64)


# ---------------------------------------------------- against closed forms


def reference_object(image, height, width):
  """Means over the areas that the pixels cover, in exact fractions."""
  result = np.empty((height, width, image.shape[-1]))
  for y in range(height):
    for x in range(width):
      total = np.zeros(image.shape[-1])
      for row, row_share in overlaps(y, height, image.shape[0]):
        for column, column_share in overlaps(x, width, image.shape[1]):
          total += float(row_share * column_share) * image[row, column]
      result[y, x] = total
  return result


def overlaps(index, count, size):
  """Which pixels one of `count` parts covers, and what part of it each is."""
  low = fractions.Fraction(index * size, count)
  high = fractions.Fraction((index + 1) * size, count)
  for pixel in range(size):
    covered = min(high, pixel + 1) - max(low, pixel)
    if covered > 0:
      yield pixel, covered / (high - low)


def reference_mask(height, width):
  """1 within the ellipse and 0 outside, over an edge of one pixel."""
  mask = np.empty((height, width, 1))
  for y in range(height):
    for x in range(width):
      distance = math.hypot(
        (y + 0.5 - height / 2) / (height / 2),
        (x + 0.5 - width / 2) / (width / 2),
      )
      inside = (1 - distance) * min(height, width) / 2
      mask[y, x] = min(1.0, max(0.0, inside + 0.5))
  return mask


@pytest.mark.parametrize('severity', [1, 5])
def test_each_image_gets_one_small_copy_of_another_class(severity):
  """Each result is one of all those that a loop makes, place by place."""
  rows = np.arange(12)
  images, labels = NOISE[rows], LABELS[rows]
  pasted = paste_objects(images, labels, severity, seed=4)
  height, width = box_of(severity, 20, 16)
  mask = reference_mask(height, width)
  objects = [reference_object(image, height, width) for image in images]
  for row in rows:
    changed = np.argwhere((pasted[row] != images[row]).any(-1))
    matches = set()
    # The corners of the box are not changed: look a little around.
    low = np.maximum(changed.max(0) - (height - 1, width - 1), 0)
    high = np.minimum(changed.min(0), (20 - height, 16 - width))
    for top in range(low[0], high[0] + 1):
      for left in range(low[1], high[1] + 1):
        for source in rows:
          expected = images[row].astype(np.float64)
          place = expected[top : top + height, left : left + width]
          place[...] = (1 - mask) * place + mask * objects[source]
          if np.allclose(pasted[row], expected, rtol=0, atol=1e-6):
            matches.add((top, left, source))
    ((top, left, source),) = matches
    assert labels[source] != labels[row]
    assert top in (0, 20 - height) or left in (0, 16 - width)


# ---------------------------------------------------------------- the mask


@pytest.mark.parametrize('severity', AREAS)
@pytest.mark.parametrize('size', [(32, 32), (64, 48)])
def test_the_object_covers_its_share(severity, size):
  masks = white_rows(severity, *size)
  shares = masks.mean((1, 2))
  np.testing.assert_allclose(shares, AREAS[severity], rtol=0.15)
  # All masks are one, moved.
  np.testing.assert_allclose(shares, shares[0], rtol=1e-6)


@pytest.mark.parametrize('severity', AREAS)
def test_the_center_keeps_its_bits(severity):
  height, width = box_of(severity, 20, 16)
  pasted = paste_objects(NOISE, LABELS, severity, seed=2)
  assert pasted.dtype == np.float32
  center = np.s_[:, height : 20 - height, width : 16 - width]
  assert NOISE[center].size
  np.testing.assert_array_equal(pasted[center], NOISE[center])
  # And so do all but those in one box.
  for changed in (pasted != NOISE).any(-1):
    rows, columns = (np.flatnonzero(changed.any(axis)) for axis in (1, 0))
    assert 0 < np.ptp(rows) < height and 0 < np.ptp(columns) < width


# ------------------------------------------------------------- the sources


@hypothesis.given(
  labels=st.lists(st.integers(-2, 3), min_size=2, max_size=30).filter(
    lambda labels: len(set(labels)) > 1
  ),
  seed=st.integers(0, 2**40),
)
def test_a_source_is_never_of_the_same_class(labels, seed):
  # Every image is of one value, from which its source is known.
  values = (np.arange(len(labels)) + 1) / (len(labels) + 1)
  images = np.broadcast_to(values[:, None, None, None], (len(labels), 8, 8, 1))
  pasted = paste_objects(images, np.array(labels), 5, seed=seed)
  for row, image in enumerate(pasted[..., 0]):
    farthest = image.flat[np.argmax(np.abs(image - values[row]))]
    source = np.argmin(np.abs(values - farthest))
    assert abs(values[source] - farthest) < 1e-6
    assert labels[source] != labels[row]


# ------------------------------------------------------------------- seeds


def test_the_seed_and_the_rows_decide():
  first = paste_objects(NOISE, LABELS, 4, seed=3)
  np.testing.assert_array_equal(
    first, paste_objects(NOISE.astype(np.float64), LABELS, 4, seed=3)
  )
  other = paste_objects(NOISE, LABELS, 4, seed=4)
  assert (other != first).any((1, 2, 3)).mean() > 0.9
  # What is pasted does not depend on what it is pasted over.
  changed = NOISE.copy()
  changed[0] = 0.5
  again = paste_objects(changed, LABELS, 4, seed=3)
  assert (again == first).all((1, 2, 3)).sum() >= 110


@pytest.mark.parametrize(
  ('changes', 'message'),
  [
    ({'severity': 0}, 'severity = 0; allowed: an integer from 1 to 5'),
    ({'severity': 2.5}, r'severity = 2\.5'),
    ({'seed': -1}, 'seed = -1; allowed: an integer >= 0'),
    ({'images': NOISE[0]}, r'images.shape = \(20, 16, 3\)'),
    ({'images': NOISE[:, :7]}, 'H and W >= 8'),
    ({'images': (NOISE * 255).astype(np.uint8)}, 'images = uint8 .*divide'),
    ({'images': NOISE + 0.1}, 'images = .* allowed: .* 0 to 1'),
    ({'images': np.full_like(NOISE, np.nan)}, 'images = nan'),
    ({'labels': LABELS[:-1]}, r'labels = int64 \[119\]'),
    ({'labels': LABELS.astype(float)}, 'labels = float64 .*; allowed: int'),
    ({'labels': np.full_like(LABELS, 3)}, 'labels are all 3; allowed: two'),
  ],
)
def test_refuses(changes, message):
  arguments = {'images': NOISE, 'labels': LABELS, 'severity': 3, 'seed': 0}
  arguments |= changes
  with pytest.raises(ValueError, match=message):
    paste_objects(
      arguments['images'],
      arguments['labels'],
      arguments['severity'],
      seed=arguments['seed'],
    )
