"""Weather: closed forms where there are, bounds where there is chance."""

import colorsys

import numpy as np
import pytest

from advjax.evaluation.corruptions import SEVERITIES, corrupt

RNG = np.random.default_rng(2)
IMAGES = RNG.random((3, 32, 32, 3)).astype(np.float32)
MORE = [0.05, 0.1, 0.15, 0.2, 0.3]


@pytest.mark.parametrize(('severity', 'more'), [*enumerate(MORE, 1)])
def test_brightness_adds_to_the_value(severity, more):
  found = corrupt(IMAGES, 'brightness', severity, seed=0)
  for y, x in [(0, 0), (3, 7), (31, 31), (9, 20)]:
    hue, saturation, value = colorsys.rgb_to_hsv(*map(float, IMAGES[1, y, x]))
    expected = colorsys.hsv_to_rgb(hue, saturation, min(value + more, 1))
    np.testing.assert_allclose(found[1, y, x], expected, atol=1e-6)
  grey = IMAGES[..., :1]
  np.testing.assert_allclose(
    corrupt(grey, 'brightness', severity, seed=0),
    np.minimum(grey + more, 1),
    atol=1e-6,
  )


@pytest.mark.parametrize(
  ('severity', 'amount'), [*enumerate([0.2, 0.5, 0.75, 1, 1.5], 1)]
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
  dim = 0.5 * IMAGES
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
    found = corrupt(0.3 * IMAGES, 'snow', severity, seed=0)
    assert (found >= 0.3 * IMAGES - 1e-6).all()
    white = corrupt(0 * IMAGES + 1, 'snow', severity, seed=0)
    np.testing.assert_array_equal(white, 1)
  # On black, all is flakes but for (1 - mix) / 2; a half turn keeps them.
  flakes = corrupt(0 * IMAGES, 'snow', 3, seed=0) - 0.05
  assert flakes.min() == pytest.approx(0, abs=1e-6)
  assert 0.01 < flakes.mean() < 0.3
  np.testing.assert_allclose(flakes, flakes[:, ::-1, ::-1], atol=1e-6)
  np.testing.assert_array_equal(flakes[..., 0], flakes[..., 2])


def test_snow_whitens_towards_the_luminance():
  """Where no flake falls: red, green and blue count as the eye counts them."""
  image = np.zeros((1, 32, 32, 3), np.float32)
  image[..., 1] = 0.4
  found = corrupt(image, 'snow', 1, seed=0)
  np.testing.assert_allclose(
    found.min((0, 1, 2)),
    [
      0.05 * (1.5 * 0.587 * 0.4 + 0.5),
      0.95 * 0.4 + 0.05 * (1.5 * 0.587 * 0.4 + 0.5),
      0.05 * (1.5 * 0.587 * 0.4 + 0.5),
    ],
    atol=1e-6,
  )
