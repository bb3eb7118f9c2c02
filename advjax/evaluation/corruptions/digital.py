"""Corruptions by what handles an image: contrast, lens, size, file format."""

import io

import numpy as np
import scipy  # Imports ndimage, which is slow, on its first use.
from PIL import Image

from advjax.evaluation.corruptions.noises import Generators


def contrast(
  images: np.ndarray, severity: int, random: Generators
) -> np.ndarray:
  """`m + c (x - m)`, with m the mean of each channel of each image."""
  del random
  factor = (0.75, 0.5, 0.4, 0.3, 0.15)[severity - 1]
  means = images.mean(axis=(1, 2), keepdims=True)
  return means + factor * (images - means)


def elastic_transform(
  images: np.ndarray, severity: int, random: Generators
) -> np.ndarray:
  """`x(A(p + d(p)))`: a random affine map A of randomly displaced pixels.

  A leads three drawn points, each within a square around a corner, to these
  corners; d is uniform noise, smoothed by a Gaussian. Severity 1 has A alone,
  and the higher ones less of it: they do not always change more of an image.
  """
  shares = (
    (0, 0, 0.08),
    (0.05, 0.2, 0.07),
    (0.08, 0.06, 0.06),
    (0.1, 0.04, 0.05),
    (0.1, 0.03, 0.03),
  )[severity - 1]
  side = min(images.shape[1:3])
  size, sigma, reach = (side * share for share in shares)
  return np.stack(
    [
      _warp(image, _places(own, image.shape[:2], size, sigma, reach))
      for own, image in zip(random, images, strict=True)
    ]
  )


def _places(
  own: np.random.Generator,
  shape: tuple[int, ...],
  size: float,
  sigma: float,
  reach: float,
) -> np.ndarray:
  """Where each pixel of the result is in the image: (y, x), `[2, H, W]`."""
  center, arm = np.array(shape) // 2, min(shape) // 3
  corners = center + arm * np.array([[1, 1], [-1, 1], [-1, -1]])
  moved = corners + own.uniform(-reach, reach, corners.shape)
  affine = np.linalg.solve(np.c_[moved, np.ones(3)], corners)  # [3, 2]
  displaced = np.indices(shape, float)
  for axis in (0, 1):
    noise = own.uniform(-1, 1, shape)
    displaced[axis] += size * scipy.ndimage.gaussian_filter(
      noise, sigma, mode='reflect', truncate=3
    )
  return (
    np.tensordot(affine[:2].T, displaced, 1)
    + affine[2][:, np.newaxis, np.newaxis]
  )


def _warp(image: np.ndarray, places: np.ndarray) -> np.ndarray:
  channels = [
    scipy.ndimage.map_coordinates(channel, places, order=1, mode='mirror')
    for channel in np.moveaxis(image, -1, 0)
  ]
  return np.stack(channels, axis=-1)


def pixelate(
  images: np.ndarray, severity: int, random: Generators
) -> np.ndarray:
  """Smaller and back, each pixel the mean of the box that it covers."""
  del random
  share = (0.95, 0.9, 0.85, 0.75, 0.65)[severity - 1]
  height, width = images.shape[1:3]
  small = int(share * width), int(share * height)

  def resize(channel: np.ndarray) -> np.ndarray:
    image = Image.fromarray(channel.astype(np.float32))
    image = image.resize(small, Image.Resampling.BOX)
    return np.asarray(image.resize((width, height), Image.Resampling.BOX))

  channels = [
    resize(each) for image in images for each in image.transpose(2, 0, 1)
  ]
  shape = (len(images), -1, height, width)
  return np.moveaxis(np.stack(channels).reshape(shape), 1, -1)


def jpeg_compression(
  images: np.ndarray, severity: int, random: Generators
) -> np.ndarray:
  """Saved as a JPEG file of low quality, and read."""
  del random
  quality = (80, 65, 58, 50, 40)[severity - 1]

  def compress(image: np.ndarray) -> np.ndarray:
    file = io.BytesIO()
    Image.fromarray(image).save(file, 'JPEG', quality=quality)
    return np.asarray(Image.open(file)).reshape((*image.shape[:2], -1))

  pixels = np.round(255 * images).astype(np.uint8)
  if images.shape[-1] == 1:
    pixels = pixels[..., 0]
  return np.stack([compress(image) for image in pixels]) / 255
