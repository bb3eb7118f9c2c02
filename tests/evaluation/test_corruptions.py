"""Corruptions against closed forms, loops, SciPy and Pillow."""

import colorsys
import io

import numpy as np
import pytest
from PIL import Image
from scipy import ndimage

from advjax.data import digits, to_float
from advjax.evaluation import corruptions
from advjax.evaluation.corruptions import KINDS, SEVERITIES, corrupt

RNG = np.random.default_rng(2)
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


def test_the_fifteen_kinds_of_the_paper_in_its_order():
  """Of which the place of each seeds its draws."""
  assert (
    *('gaussian_noise', 'shot_noise', 'impulse_noise'),
    *('defocus_blur', 'glass_blur', 'motion_blur', 'zoom_blur'),
    *('snow', 'frost', 'fog', 'brightness'),
    *('contrast', 'elastic_transform', 'pixelate', 'jpeg_compression'),
  ) == KINDS


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
def test_a_row_depends_on_seed_and_place_alone(kind, monkeypatch):
  images = np.concatenate([COLOURED, COLOURED[:1]])
  whole = corrupt(images, kind, 4, seed=7)
  np.testing.assert_array_equal(corrupt(images[:1], kind, 4, seed=7), whole[:1])
  np.testing.assert_array_equal(corrupt(images[:3], kind, 4, seed=7), whole[:3])
  monkeypatch.setattr(corruptions, '_CHUNK_VALUES', 2 * images[0].size + 5)
  np.testing.assert_array_equal(corrupt(images, kind, 4, seed=7), whole)
  drawn = kind not in DETERMINISTIC
  assert (corrupt(images, kind, 4, seed=8) != whole).any() == drawn
  assert (whole[3] != whole[0]).any() == drawn


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
    ({'kind': 'rain'}, r"kind = 'rain'; allowed: 'brightness', .*jpeg"),
    ({'severity': 0}, r'severity = 0; allowed: an integer from 1 to 5'),
    ({'severity': 1.0}, r'severity = 1.0; allowed'),
    ({'seed': -1}, r'seed = -1; allowed: an integer >= 0'),
    ({'images': COLOURED[..., :2]}, r'shape = \(3, 32, 32, 2\).*C = 1 or 3'),
  ],
)
def test_bad_input_is_named(changes, message):
  arguments = {'images': COLOURED, 'kind': 'fog', 'severity': 1, 'seed': 0}
  with pytest.raises(ValueError, match=message):
    corrupt(**{**arguments, **changes})


# ------------------------------------------------------------------------ noise

GREY = np.full((20, 32, 32, 3), 0.5, np.float32)


@pytest.mark.parametrize(('severity', 'scale'), [(1, 0.04), (5, 0.10)])
def test_gaussian_noise_has_its_standard_deviation(severity, scale):
  noise = corrupt(GREY, 'gaussian_noise', severity, seed=0) - 0.5
  assert noise.std() == pytest.approx(scale, rel=0.02)
  assert abs(noise.mean()) < 0.002
  assert (np.abs(noise) < scale).mean() == pytest.approx(0.683, abs=0.01)


@pytest.mark.parametrize(('severity', 'photons'), [(1, 500), (5, 50)])
def test_shot_noise_counts_photons(severity, photons):
  noisy = corrupt(0.2 * GREY, 'shot_noise', severity, seed=0)
  counts = noisy * photons
  np.testing.assert_allclose(counts, counts.round(), atol=1e-4)
  assert noisy.mean() == pytest.approx(0.1, abs=0.002)
  assert noisy.var() == pytest.approx(0.1 / photons, rel=0.03)


@pytest.mark.parametrize(('severity', 'share'), [(1, 0.01), (5, 0.07)])
def test_impulse_noise_is_half_salt(severity, share):
  noisy = corrupt(GREY, 'impulse_noise', severity, seed=0)
  assert set(np.unique(noisy)) == {0, 0.5, 1}
  assert (noisy == 1).mean() == pytest.approx(share / 2, rel=0.15)
  assert (noisy == 0).mean() == pytest.approx(share / 2, rel=0.15)
  # Channel by channel, as in the published sets.
  hit = noisy != 0.5
  assert (hit.any(-1) & ~hit.all(-1)).any()


# ------------------------------------------------------------------------- blur


def one_bright_pixel(side=32):
  images = np.zeros((1, side, side, 1), np.float32)
  images[0, side // 2, side // 2] = 1
  return images


def response(kind, severity, side=32):
  return corrupt(one_bright_pixel(side), kind, severity, seed=0)[0, ..., 0]


@pytest.mark.parametrize(
  ('severity', 'soft'), [(1, 0.4), (2, 0.5), (3, 0.6), (4, 0.2), (5, 0.1)]
)
def test_defocus_is_a_disc_of_pixels_with_soft_edges(severity, soft):
  """A pixel, a plus of five, a square of nine; then a Gaussian of 3 x 3."""
  disc = np.zeros((5, 5))
  disc[2, 2] = 1
  if severity == 4:
    disc[1:4, 2] = disc[2, 1:4] = 1
  if severity == 5:
    disc[1:4, 1:4] = 1
  line = np.exp([-0.5 / soft**2, 0, -0.5 / soft**2])
  disc = ndimage.convolve(disc, np.outer(line, line), mode='constant')
  found = response('defocus_blur', severity)
  np.testing.assert_allclose(found[14:19, 14:19], disc / disc.sum(), atol=1e-6)
  assert found.sum() == pytest.approx(1, abs=1e-5)


def test_glass_copies_near_pixels():
  """Severity 1 hardly blurs: every pixel is one of itself and three others."""
  images = RNG.random((4, 12, 10, 3)).astype(np.float32)
  found = corrupt(images, 'glass_blur', 1, seed=0)
  shifts = [(0, 0), (0, 1), (1, 0), (1, 1)]
  same = np.stack(
    [
      np.isclose(found, np.roll(images, shift, (1, 2)), atol=1e-6).all(-1)
      for shift in shifts
    ]
  )
  inside = same[:, :, 2:, 2:]
  assert inside.any(0).all()
  # Each as often; the border that no move leads over stays.
  np.testing.assert_allclose(inside.mean((1, 2, 3)), 0.25, atol=0.08)
  assert same[0, :, :2].all()
  assert same[0, :, :, :2].all()


def test_motion_blur_goes_to_one_side_at_each_image_s_angle():
  images = np.repeat(one_bright_pixel(), 100, 0)
  found = corrupt(images, 'motion_blur', 5, seed=0)[..., 0]
  np.testing.assert_allclose(found.sum((1, 2)), 1, atol=1e-5)
  y, x = np.indices((32, 32)) - 16
  right, down = (found * x).sum((1, 2)), (found * y).sum((1, 2))
  assert (right < -0.5).all()  # Each pixel looks to its right.
  angles = np.degrees(np.arctan2(-down, -right))
  assert -46 < angles.min() < -30
  assert 30 < angles.max() < 46


def test_zoom_blur_is_a_mean_of_zooms():
  image = RNG.random((16, 16))
  centers = np.array([7.5, 7.5])
  zooms = [
    ndimage.affine_transform(
      image, np.eye(2) / factor, centers - centers / factor, order=1
    )
    for factor in 1 + np.arange(12) / 100
  ]
  expected = (image + sum(zooms)) / 13
  found = corrupt(image[np.newaxis, ..., np.newaxis], 'zoom_blur', 2, seed=0)
  np.testing.assert_allclose(found[0, ..., 0], expected, atol=1e-6)


# ---------------------------------------------------------------------- weather

WEATHERED = RNG.random((3, 32, 32, 3)).astype(np.float32)


@pytest.mark.parametrize(('severity', 'more'), [(1, 0.05), (3, 0.15), (5, 0.3)])
def test_brightness_adds_to_the_value(severity, more):
  found = corrupt(WEATHERED, 'brightness', severity, seed=0)
  for y, x in [(0, 0), (3, 7), (31, 31), (9, 20)]:
    hue, saturation, value = colorsys.rgb_to_hsv(
      *map(float, WEATHERED[1, y, x])
    )
    expected = colorsys.hsv_to_rgb(hue, saturation, min(value + more, 1))
    np.testing.assert_allclose(found[1, y, x], expected, atol=1e-6)
  grey = WEATHERED[..., :1]
  np.testing.assert_allclose(
    corrupt(grey, 'brightness', severity, seed=0),
    np.minimum(grey + more, 1),
    atol=1e-6,
  )


@pytest.mark.parametrize(
  ('severity', 'amount'), [(1, 0.2), (3, 0.75), (5, 1.5)]
)
def test_fog_covers_by_a_terrain_from_0_to_1(severity, amount):
  flat = np.full((4, 32, 32, 3), 0.6, np.float32)
  found = corrupt(flat, 'fog', severity, seed=0)
  share = 0.6 / (0.6 + amount)
  lowest, highest = found.min((1, 2, 3)), found.max((1, 2, 3))
  np.testing.assert_allclose(lowest, 0.6 * share, atol=1e-6)
  np.testing.assert_allclose(highest, (0.6 + amount) * share, atol=1e-6)
  # The same on all channels, and near neighbours are alike.
  assert np.ptp(found, axis=-1).max() < 1e-6
  assert np.abs(np.diff(found, axis=1)).mean() < np.ptp(found) / 4
  black = corrupt(0 * flat, 'fog', severity, seed=0)
  np.testing.assert_array_equal(black, 0)


@pytest.mark.parametrize(
  ('severity', 'light', 'amount'),
  [(1, 1, 0.2), (2, 1, 0.3), (3, 0.9, 0.4), (4, 0.85, 0.4), (5, 0.75, 0.45)],
)
def test_frost_lies_over_the_image(severity, light, amount):
  dim = 0.5 * WEATHERED
  ice = corrupt(dim, 'frost', severity, seed=0) - light * dim
  assert ice.min() > -1e-6
  assert amount / 2 < ice.max() < amount + 1e-6
  red, green, blue = np.moveaxis(ice, -1, 0)
  assert (red <= green + 1e-6).all()
  assert (green <= blue + 1e-6).all()
  grey = dim[..., :1]
  ice_on_grey = corrupt(grey, 'frost', severity, seed=0) - light * grey
  np.testing.assert_allclose(ice_on_grey[..., 0], blue, atol=1e-6)


def test_snow_falls_on_all_channels_and_only_brightens():
  for severity in SEVERITIES:
    found = corrupt(0.3 * WEATHERED, 'snow', severity, seed=0)
    assert (found >= 0.3 * WEATHERED - 1e-6).all()
    white = corrupt(0 * WEATHERED + 1, 'snow', severity, seed=0)
    np.testing.assert_array_equal(white, 1)
  # On black, all is flakes but for (1 - mix) / 2; a half turn keeps them.
  flakes = corrupt(0 * WEATHERED, 'snow', 3, seed=0) - 0.05
  assert flakes.min() == pytest.approx(0, abs=1e-6)
  assert 0.01 < flakes.mean() < 0.3
  np.testing.assert_allclose(flakes, flakes[:, ::-1, ::-1], atol=1e-6)
  np.testing.assert_array_equal(flakes[..., 0], flakes[..., 2])


# ---------------------------------------------------------------------- digital

PIXELS = RNG.integers(0, 256, (2, 20, 33, 3), np.uint8)
IMAGES = PIXELS / np.float32(255)


@pytest.mark.parametrize(
  ('severity', 'factor'), [*enumerate([0.75, 0.5, 0.4, 0.3, 0.15], 1)]
)
def test_contrast_shrinks_towards_each_channel_s_mean(severity, factor):
  found = corrupt(IMAGES, 'contrast', severity, seed=0)
  np.testing.assert_allclose(found.mean((1, 2)), IMAGES.mean((1, 2)), atol=1e-5)
  np.testing.assert_allclose(
    np.diff(found, axis=1), factor * np.diff(IMAGES, axis=1), atol=1e-6
  )


@pytest.mark.parametrize(
  ('severity', 'share'), [*enumerate([0.95, 0.9, 0.85, 0.75, 0.65], 1)]
)
def test_pixelate_is_pillow_s_box(severity, share):
  found = corrupt(IMAGES, 'pixelate', severity, seed=0)
  small = int(33 * share), int(20 * share)
  for pixels, image in zip(PIXELS, found, strict=True):
    expected = Image.fromarray(pixels).resize(small, Image.Resampling.BOX)
    expected = expected.resize((33, 20), Image.Resampling.BOX)
    # Pillow rounds twice to 8 bits.
    assert np.abs(255 * image - np.asarray(expected)).max() < 1.1
  grey = corrupt(IMAGES[..., 1:2], 'pixelate', severity, seed=0)
  np.testing.assert_array_equal(grey[..., 0], found[..., 1])


@pytest.mark.parametrize(
  ('severity', 'quality'), [*enumerate([80, 65, 58, 50, 40], 1)]
)
@pytest.mark.parametrize('channels', [1, 3])
def test_jpeg_is_pillow_s_at_its_quality(severity, quality, channels):
  found = corrupt(IMAGES[..., :channels], 'jpeg_compression', severity, seed=0)
  for pixels, image in zip(PIXELS, found, strict=True):
    file = io.BytesIO()
    picture = Image.fromarray(pixels if channels == 3 else pixels[..., 0])
    picture.save(file, 'JPEG', quality=quality)
    expected = np.asarray(Image.open(file)).reshape(image.shape)
    np.testing.assert_allclose(255 * image, expected, atol=1e-4)


def ramp(angle):
  """Height grows evenly in one direction: interpolation does not change it."""
  y, x = np.indices((32, 32)) / 64
  height = 0.5 + np.cos(angle) * (x - 0.25) + np.sin(angle) * (y - 0.25)
  return height[np.newaxis, ..., np.newaxis].astype(np.float32)


def bend(images):
  """The largest second difference away from the border."""
  inside = images[:, 8:-8, 8:-8].astype(float)
  return max(np.abs(np.diff(inside, 2, axis)).max() for axis in (1, 2))


def test_elastic_is_affine_at_first_and_bends_then():
  bends = []
  for severity in SEVERITIES:
    found = corrupt(ramp(0.3), 'elastic_transform', severity, seed=0)
    assert np.abs(found - ramp(0.3)).max() > 0.005
    bends.append(bend(found))
  assert bends[0] < 1e-6
  assert 1e-5 < bends[1] < bends[2] < bends[4]
