"""What all corruptions promise: range, dtype, seeds, rows, severities."""

import numpy as np
import pytest

from advjax.data import digits, to_float
from advjax.evaluation.corruptions import KINDS, SEVERITIES, corrupt, kinds

DETERMINISTIC = (
  'defocus_blur',
  'zoom_blur',
  'brightness',
  'contrast',
  'pixelate',
  'jpeg_compression',
)
each_kind = pytest.mark.parametrize('kind', KINDS)


def waves(rows, height, width, channels):
  """Coloured waves and dots, as smooth and as sharp as photographs are."""
  rng = np.random.default_rng(3)
  y, x = np.indices((height, width))[..., np.newaxis] / height
  phase = rng.uniform(0, 6, (rows, 1, 1, channels))
  smooth = 0.5 + 0.4 * np.sin(9 * x + phase) * np.cos(7 * y - phase)
  dots = rng.random((rows, height, width, 1)) < 0.1
  return np.where(dots, 1 - smooth, smooth).astype(np.float32)


COLOURED = waves(3, 32, 32, 3)
DIGITS = to_float(digits.load().test.images[:40])


def test_the_fifteen_kinds_of_the_paper():
  assert SEVERITIES == (1, 2, 3, 4, 5)
  expected = (
    *('gaussian_noise', 'shot_noise', 'impulse_noise'),
    *('defocus_blur', 'glass_blur', 'motion_blur', 'zoom_blur'),
    *('snow', 'frost', 'fog', 'brightness'),
    *('contrast', 'elastic_transform', 'pixelate', 'jpeg_compression'),
  )
  assert expected == KINDS


@each_kind
@pytest.mark.parametrize(
  'shape', [(8, 8, 3), (9, 41, 1), (40, 37, 3), (28, 28, 1)]
)
def test_images_of_all_sizes_stay_images(kind, shape):
  images = waves(2, *shape)
  before = images.copy()
  for severity in (1, 5):
    result = corrupt(images, kind, severity, seed=0)
    assert result.dtype == np.float32
    assert result.shape == images.shape
    assert result.min() >= 0
    assert result.max() <= 1
    assert np.abs(result - images).max() > 0.002
  np.testing.assert_array_equal(images, before)


@each_kind
@pytest.mark.parametrize('value', [0, 1])
def test_black_and_white_images_stay_images(kind, value):
  images = np.full((1, 28, 28, 1), value, np.float16)
  for severity in SEVERITIES:
    result = corrupt(images, kind, severity, seed=0)
    assert np.isfinite(result).all()
    assert result.min() >= 0
    assert result.max() <= 1


@each_kind
def test_a_row_depends_on_seed_and_place_alone(kind, monkeypatch):
  images = np.concatenate([COLOURED, COLOURED[:1]])
  whole = corrupt(images, kind, 4, seed=7)
  np.testing.assert_array_equal(corrupt(images[:1], kind, 4, seed=7), whole[:1])
  np.testing.assert_array_equal(corrupt(images[:3], kind, 4, seed=7), whole[:3])
  monkeypatch.setattr(kinds, '_CHUNK_VALUES', 2 * images[0].size + 5)
  np.testing.assert_array_equal(corrupt(images, kind, 4, seed=7), whole)
  drawn = kind not in DETERMINISTIC
  assert (corrupt(images, kind, 4, seed=8) != whole).any() == drawn
  assert (whole[3] != whole[0]).any() == drawn


def test_severities_and_kinds_draw_apart():
  """What was drawn is where the noise is."""
  images = np.full((1, 32, 32, 1), 0.5, np.float32)
  first, second = (
    corrupt(images, 'gaussian_noise', severity, seed=0) - 0.5
    for severity in (1, 2)
  )
  assert abs(np.corrcoef(first.ravel(), second.ravel())[0, 1]) < 0.1
  hit = [
    corrupt(images, 'impulse_noise', severity, seed=0) != 0.5
    for severity in (4, 5)
  ]
  assert (hit[0] & ~hit[1]).any()


# Pairs of severities, counted from 0, of kinds that grow in more than one
# parameter, or in too few pixels, for every severity to beat the one before.
GROWING = {
  'glass_blur': [(0, 3), (1, 3), (2, 3), (0, 4), (1, 4), (2, 4)],
  'motion_blur': [(0, 1), (1, 2), (1, 3), (2, 4), (3, 4)],
  'frost': [(0, 1), (0, 2), (0, 3), (0, 4)],
  'pixelate': [(0, 2), (1, 2), (2, 3), (3, 4)],
  # Less and less of the affine map.
  'elastic_transform': [(4, 3), (3, 2), (2, 1), (1, 0)],
}


@each_kind
@pytest.mark.parametrize('images', [DIGITS, waves(12, 32, 32, 3)])
def test_damage_grows_with_severity(kind, images):
  damage = [
    np.abs(corrupt(images, kind, severity, seed=0) - images).mean()
    for severity in SEVERITIES
  ]
  for lower, higher in GROWING.get(kind, [(0, 1), (1, 2), (2, 3), (3, 4)]):
    assert damage[lower] < damage[higher]
  assert 0.001 < min(damage) < max(damage) < 0.35


@pytest.mark.parametrize(
  ('changes', 'message'),
  [
    ({'kind': 'rain'}, r"kind = 'rain'; allowed: gaussian_noise, .*jpeg"),
    ({'severity': 0}, r'severity = 0; allowed: an integer from 1 to 5'),
    ({'severity': 6}, r'severity = 6; allowed: an integer from 1 to 5'),
    ({'severity': 1.0}, r'severity = 1.0; allowed'),
    ({'seed': -1}, r'seed = -1; allowed: an integer >= 0'),
    ({'seed': None}, r'seed = None; allowed'),
    ({'images': COLOURED[0]}, r'shape \(32, 32, 3\); allowed: \[N, H, W, C\]'),
    ({'images': COLOURED[:0]}, r'shape \(0, 32, 32, 3\); allowed'),
    ({'images': COLOURED[..., :2]}, r'shape \(3, 32, 32, 2\).*C = 1 or 3'),
    ({'images': COLOURED[:, :7]}, r'shape \(3, 7, 32, 3\).*>= 8'),
    ({'images': np.zeros((1, 8, 8, 1), np.uint8)}, r'dtype uint8; allowed'),
    (
      {'images': COLOURED * 255},
      r'values from .* to 2\d\d.*; allowed: .* 0 to 1',
    ),
    ({'images': COLOURED - 0.5}, r'values from -0\.\d*'),
    ({'images': COLOURED * np.nan}, r'values from nan'),
  ],
)
def test_bad_input_is_named(changes, message):
  arguments = {'images': COLOURED, 'kind': 'fog', 'severity': 1, 'seed': 0}
  with pytest.raises(ValueError, match=message):
    corrupt(**{**arguments, **changes})
