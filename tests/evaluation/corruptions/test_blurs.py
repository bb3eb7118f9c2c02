"""Blurs: what one bright pixel becomes, and that no light is lost or made."""

import numpy as np
import pytest
from scipy import ndimage

from advjax.evaluation.corruptions import SEVERITIES, corrupt

RNG = np.random.default_rng(1)


def one_bright_pixel(side=32):
  images = np.zeros((1, side, side, 1), np.float32)
  images[0, side // 2, side // 2] = 1
  return images


def response(kind, severity, side=32):
  return corrupt(one_bright_pixel(side), kind, severity, seed=0)[0, ..., 0]


@pytest.mark.parametrize('kind', ['defocus_blur', 'motion_blur', 'zoom_blur'])
@pytest.mark.parametrize('channels', [1, 3])
def test_a_blur_keeps_flat_images(kind, channels):
  flat = np.broadcast_to(np.float32([0.3, 0.8, 0.1]), (1, 40, 33, 3))
  flat = flat[..., :channels]
  for severity in SEVERITIES:
    result = corrupt(flat, kind, severity, seed=0)
    np.testing.assert_allclose(result, flat, atol=1e-6)


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


@pytest.mark.parametrize('kind', ['defocus_blur', 'glass_blur', 'motion_blur'])
def test_larger_images_are_blurred_as_far(kind):
  """In shares of the side: four times the pixels have twice the spread."""

  def spread(side):
    images = np.repeat(one_bright_pixel(side), 20, 0)
    found = corrupt(images, kind, 5, seed=0)[..., 0].sum(0)
    y, x = np.indices(found.shape) - side // 2
    return np.sqrt((found * (x**2 + y**2)).sum() / found.sum()) / side

  # To one part in four: whole pixels are coarse.
  assert spread(64) == pytest.approx(spread(32), rel=0.25)
  assert spread(128) == pytest.approx(spread(32), rel=0.25)


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
