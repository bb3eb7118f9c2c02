"""Common corruptions of images: 15 kinds at 5 severities, made on the fly.

Hendrycks and Dietterich 2019, arXiv 1903.12261.
"""

import io
from collections.abc import Callable, Sequence
from typing import Any

# scipy imports ndimage, which is slow, on its first use.
from advjax._extras import PIL, scipy  # noqa: F401  # isort: skip
import numpy as np
from PIL import Image

from advjax.config import check_range, choose
from advjax.evaluation.checks import check_pictures

SEVERITIES = (1, 2, 3, 4, 5)
# Rows are corrupted in chunks of so many values, about 32 MB in float64.
_CHUNK_VALUES = 2**22

Images = np.ndarray  # [n, H, W, C], float64 in [0, 1]
Random = Sequence[np.random.Generator]  # one per image
# Kind -> corruption(images, random, *strength) and the strength of each
# severity.
_CORRUPTIONS: dict[str, tuple[Callable[..., Images], tuple[Any, ...]]] = {}


def _strengths(*strengths: Any) -> Callable[..., Any]:
  """Adds a corruption with its strengths at the five severities."""

  def add(corruption: Callable[..., Images]) -> Callable[..., Images]:
    _CORRUPTIONS[corruption.__name__] = corruption, strengths
    return corruption

  return add


def enlargement(images: np.ndarray) -> float:
  """Factor of lengths in pixels, which are given for sides of 32; >= 1."""
  return max(1.0, min(images.shape[1:3]) / 32)


def linear_weights(positions: np.ndarray, count: int) -> np.ndarray:
  """Weights of linear interpolation between samples at 0, 1, ...: `[P, n]`."""
  distances = np.abs(positions[:, np.newaxis] - np.arange(count))
  return np.maximum(0, 1 - distances)


def zoom(images: np.ndarray, factor: float) -> np.ndarray:
  """Enlarges `[n, H, W, C]` about the centre, by a factor of at least 1."""

  def weights(size: int) -> np.ndarray:
    center = (size - 1) / 2
    return linear_weights(center + (np.arange(size) - center) / factor, size)

  rows, height, width, channels = images.shape
  flat = weights(height) @ images.reshape(rows, height, width * channels)
  return weights(width) @ flat.reshape(images.shape)


def streak(
  images: np.ndarray, length: float, sigma: float, angles: np.ndarray
) -> np.ndarray:
  """Smears `[n, H, W, C]` as ImageMagick's motion blur, one angle per image.

  `sum_t w_t x(p + round(t u))`, u in the direction of the angle (radians), t =
  0 to 2 ceil(length), w_t proportional to exp(-t^2 / (2 sigma^2)).
  """
  steps = np.arange(2 * int(np.ceil(length)) + 1)
  weights = np.exp(-(steps**2) / (2 * sigma**2))
  weights /= weights.sum()
  rows, height, width, _ = images.shape
  every = np.arange(rows)[:, np.newaxis, np.newaxis]
  result = np.zeros_like(images)
  for step, weight in zip(steps, weights, strict=True):
    # Halves are rounded down, as in ImageMagick.
    down = np.ceil(step * np.sin(angles) - 0.5).astype(int)[:, np.newaxis]
    right = np.ceil(step * np.cos(angles) - 0.5).astype(int)[:, np.newaxis]
    y = np.clip(np.arange(height) + down, 0, height - 1)
    x = np.clip(np.arange(width) + right, 0, width - 1)
    result += weight * images[every, y[:, :, np.newaxis], x[:, np.newaxis]]
  return result


def plasma(random: Random, height: int, width: int, decay: float) -> np.ndarray:
  """Random terrains from 0 to 1 by midpoint displacement: `[n, H, W]`.

  Fournier, Fussell and Carpenter 1982, on a torus whose side is a power of 2;
  from one level to the next the noise gets smaller by decay^2.
  """
  side = 1 << (max(height, width) - 1).bit_length()
  noise = np.stack([own.uniform(-1, 1, (side, side)) for own in random])
  terrain = np.zeros_like(noise)
  step, size = side, 1.0
  while step > 1:
    half = step // 2
    on, off = slice(None, None, step), slice(half, None, step)
    corners = terrain[:, on, on]
    below = np.roll(corners, -1, 1)
    squares = corners + below + np.roll(corners + below, -1, 2)
    terrain[:, off, off] = squares / 4 + size * noise[:, off, off]
    centers = terrain[:, off, off]
    edges = corners + np.roll(corners, -1, 2) + centers + np.roll(centers, 1, 1)
    terrain[:, on, off] = edges / 4 + size * noise[:, on, off]
    edges = corners + below + centers + np.roll(centers, 1, 2)
    terrain[:, off, on] = edges / 4 + size * noise[:, off, on]
    step, size = half, size / decay**2
  terrain -= terrain.min(axis=(1, 2), keepdims=True)
  terrain /= terrain.max(axis=(1, 2), keepdims=True)
  return terrain[:, :height, :width]


@_strengths(0.04, 0.06, 0.08, 0.09, 0.10)
def gaussian_noise(images: Images, random: Random, scale: float) -> Images:
  """`x + s n` with n from the normal distribution: little light."""
  draws = [own.standard_normal(images.shape[1:]) for own in random]
  return images + scale * np.stack(draws)


@_strengths(500, 250, 100, 75, 50)
def shot_noise(images: Images, random: Random, photons: int) -> Images:
  """`Poisson(c x) / c`: light comes in c photons."""
  counts = [
    own.poisson(photons * image)
    for own, image in zip(random, images, strict=True)
  ]
  return np.stack(counts) / photons


@_strengths(0.01, 0.02, 0.03, 0.05, 0.07)
def impulse_noise(images: Images, random: Random, share: float) -> Images:
  """Salt and pepper: a share of the values is 0 or 1, as often this as that."""
  draws = np.stack([own.random(images.shape[1:]) for own in random])
  salt_or_pepper = (draws < share / 2).astype(images.dtype)
  return np.where(draws < share, salt_or_pepper, images)


@_strengths((0.3, 0.4), (0.4, 0.5), (0.5, 0.6), (1, 0.2), (1.5, 0.1))
def defocus_blur(
  images: Images, _: Random, radius: float, softness: float
) -> Images:
  """Spreads every pixel over a disc with soft edges: out of focus."""
  kernel = _disc(radius, softness, enlargement(images))
  return scipy.ndimage.correlate(
    images, kernel[np.newaxis, :, :, np.newaxis], mode='mirror'
  )


def _disc(radius: float, softness: float, factor: float) -> np.ndarray:
  """A disc of whole pixels, blurred; enlarged by linear interpolation."""
  offsets = np.arange(-2, 3)
  squares = offsets**2 + offsets[:, np.newaxis] ** 2
  disc = (squares <= radius**2).astype(float)
  soft = np.exp(-np.array([1.0, 0.0, 1.0]) / (2 * softness**2))
  for axis in (0, 1):
    disc = scipy.ndimage.correlate1d(disc, soft, axis, mode='constant')
  reach = int(np.ceil(3 * factor)) - 1
  weights = linear_weights(np.arange(-reach, reach + 1) / factor + 2, 5)
  disc = weights @ disc @ weights.T
  return disc / disc.sum()


@_strengths((0.05, 1, 1), (0.25, 1, 1), (0.4, 1, 1), (0.25, 1, 2), (0.4, 1, 2))
def glass_blur(
  images: Images, random: Random, sigma: float, reach: int, rounds: int
) -> Images:
  """Blurs, copies near pixels over one another, and blurs: frosted glass.

  The paper describes a shuffle, but its code, which made CIFAR-10-C, copies; an
  exchange would be much stronger.
  """
  factor = enlargement(images)
  reach = round(reach * factor)
  sigmas = (0, sigma * factor, sigma * factor, 0)
  images = scipy.ndimage.gaussian_filter(images, sigmas, mode='nearest')
  rows, height, width, _ = images.shape
  places = [
    (y, x)
    for y in range(height - reach, reach, -1)
    for x in range(width - reach, reach, -1)
  ]
  size = (rounds * len(places), 2)
  moves = np.stack([own.integers(-reach, reach, size) for own in random])
  every = np.arange(rows)
  for (y, x), move in zip(rounds * places, moves.swapaxes(0, 1), strict=True):
    images[:, y, x] = images[every, y + move[:, 0], x + move[:, 1]]
  return scipy.ndimage.gaussian_filter(images, sigmas, mode='nearest')


@_strengths((6, 1), (6, 1.5), (6, 2), (8, 2), (9, 2.5))
def motion_blur(
  images: Images, random: Random, length: float, sigma: float
) -> Images:
  """Smears each image along a line of its own angle, -45 to 45 degrees."""
  factor = enlargement(images)
  angles = np.array([own.uniform(-np.pi / 4, np.pi / 4) for own in random])
  return streak(images, length * factor, sigma * factor, angles)


@_strengths(6, 11, 15, 20, 25)  # percent
def zoom_blur(images: Images, _: Random, largest: int) -> Images:
  """The mean of the image and of itself, ever larger: moving towards it."""
  zoomed = np.copy(images)
  for percent in range(largest + 1):
    zoomed += zoom(images, 1 + percent / 100)
  return zoomed / (largest + 2)


# The eye's shares of red, green and blue in grey (ITU-R BT.601).
_LUMINANCE = np.array([0.299, 0.587, 0.114])
_ICE = np.array([0.85, 0.95, 1.0])


@_strengths(
  (0.1, 0.2, 1, 0.6, 8, 3, 0.95),
  (0.1, 0.2, 1, 0.5, 10, 4, 0.9),
  (0.15, 0.3, 1.75, 0.55, 10, 4, 0.9),
  (0.25, 0.3, 2.25, 0.6, 12, 6, 0.85),
  (0.3, 0.3, 1.25, 0.65, 14, 12, 0.8),
)
def snow(images: Images, random: Random, *strength: float) -> Images:
  """`m x + (1 - m) max(x, 1.5 grey(x) + 0.5) + flakes + turned flakes`."""
  mean, scale, size, threshold, length, sigma, mix = strength
  factor = enlargement(images)
  shape = (*images.shape[1:3], 1)
  flakes = np.stack([own.normal(mean, scale, shape) for own in random])
  flakes = zoom(flakes, size * factor)
  flakes = np.where(flakes < threshold, 0, np.minimum(flakes, 1))
  angles = np.array([-own.uniform(np.pi / 4, 3 * np.pi / 4) for own in random])
  flakes = streak(flakes, length * factor, sigma * factor, angles)
  grey = images
  if images.shape[-1] == 3:
    grey = (images @ _LUMINANCE)[..., np.newaxis]
  whitened = mix * images + (1 - mix) * np.maximum(images, 1.5 * grey + 0.5)
  return whitened + flakes + flakes[:, ::-1, ::-1]


@_strengths((1, 0.2), (1, 0.3), (0.9, 0.4), (0.85, 0.4), (0.75, 0.45))
def frost(
  images: Images, random: Random, light: float, amount: float
) -> Images:
  """`a x + b ice`; ice has ridges where a terrain crosses its middle height."""
  height, width, channels = images.shape[1:]
  terrain = plasma(random, height, width, decay=1.5)
  ice = (1 - np.abs(2 * terrain - 1))[..., np.newaxis]
  return light * images + amount * ice * (_ICE if channels == 3 else 1)


@_strengths((0.2, 3), (0.5, 3), (0.75, 2.5), (1, 2), (1.5, 1.75))
def fog(images: Images, random: Random, amount: float, decay: float) -> Images:
  """`(x + a terrain) max(x) / (max(x) + a)`, a random terrain in [0, 1]."""
  height, width = images.shape[1:3]
  terrain = plasma(random, height, width, decay)[..., np.newaxis]
  largest = images.max(axis=(1, 2, 3), keepdims=True)
  return (images + amount * terrain) * largest / (largest + amount)


@_strengths(0.05, 0.1, 0.15, 0.2, 0.3)
def brightness(images: Images, _: Random, more: float) -> Images:
  """Adds to the value of hue, saturation and value: bright daylight."""
  if images.shape[-1] == 1:
    return images + more
  from matplotlib import colors  # Slow to import: not at the top.

  hsv = colors.rgb_to_hsv(images)
  hsv[..., 2] = np.minimum(hsv[..., 2] + more, 1)
  return colors.hsv_to_rgb(hsv)


@_strengths(0.75, 0.5, 0.4, 0.3, 0.15)
def contrast(images: Images, _: Random, factor: float) -> Images:
  """`m + c (x - m)`, with m the mean of each channel of each image."""
  means = images.mean(axis=(1, 2), keepdims=True)
  return means + factor * (images - means)


@_strengths(
  (0, 0, 0.08),
  (0.05, 0.2, 0.07),
  (0.08, 0.06, 0.06),
  (0.1, 0.04, 0.05),
  (0.1, 0.03, 0.03),
)
def elastic_transform(images: Images, random: Random, *shares: float) -> Images:
  """`x(A(p + d(p)))`: a random affine map A of randomly displaced pixels.

  Severity 1 has A alone, and the higher ones less of it: they do not always
  change more of an image.
  """
  height, width = images.shape[1:3]
  side = min(height, width)
  size, sigma, reach = (side * share for share in shares)
  warped = np.empty_like(images)
  for own, image, result in zip(random, images, warped, strict=True):
    places = _places(own, (height, width), size, sigma, reach)
    for channel in range(images.shape[-1]):
      result[..., channel] = scipy.ndimage.map_coordinates(
        image[..., channel], places, order=1, mode='mirror'
      )
  return warped


def _places(
  own: np.random.Generator,
  shape: tuple[int, int],
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


@_strengths(0.95, 0.9, 0.85, 0.75, 0.65)
def pixelate(images: Images, _: Random, share: float) -> Images:
  """Smaller and back, each pixel the mean of the box that it covers."""
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


@_strengths(80, 65, 58, 50, 40)
def jpeg_compression(images: Images, _: Random, quality: int) -> Images:
  """Saved as a JPEG file of low quality, and read."""

  def compress(image: np.ndarray) -> np.ndarray:
    file = io.BytesIO()
    Image.fromarray(image).save(file, 'JPEG', quality=quality)
    return np.asarray(Image.open(file)).reshape((*image.shape[:2], -1))

  pixels = np.round(255 * images).astype(np.uint8)
  if images.shape[-1] == 1:
    pixels = pixels[..., 0]
  return np.stack([compress(image) for image in pixels]) / 255


# In the order of the paper. Draws depend on the place of a kind in this list:
# new ones go to its end.
KINDS: tuple[str, ...] = tuple(_CORRUPTIONS)


def corrupt(
  images: np.ndarray, kind: str, severity: int, *, seed: int
) -> np.ndarray:
  """Corrupts images as CIFAR-10-C does, whatever their size.

  `x'_i = clip(corruption(x_i; severity, r_i), 0, 1)`, where the generator r_i
  is seeded by (seed, kind, severity, i). So row i is the same in every batch
  that has it in place i, and equal images in two rows are corrupted apart.

  The kinds are `KINDS`, their strengths those of CIFAR-10-C, for 32 x 32
  pixels. Lengths in pixels grow with the shorter side of larger images; smaller
  images keep those of 32 pixels, for the mild blurs are below a pixel already.
  What is a share of the side there (pixelate, elastic transform) is one here.
  The random draws are not those of the published sets. Nor are these details:

  - nothing is rounded to 8 bits on the way, but by JPEG;
  - frost is not a photograph: its ice is a texture made of random ridges;
  - zoom blur and snow enlarge about the centre by fractions of a pixel, not by
    crops of whole ones; elastic transform interpolates once, not twice;
  - grey images are their own luminance in snow and their own value in
    brightness; their frost has no tint of blue.

  Hendrycks and Dietterich 2019, arXiv 1903.12261.

  Args:
    images: floating `[N, H, W, C]` in [0, 1], with C of 1 or 3 and H and W of 8
      or more.
    kind: One of `KINDS`.
    severity: 1 to 5.
    seed: Of all random draws; an integer >= 0.

  Returns:
    float32 `[N, H, W, C]` in [0, 1].

  Raises:
    ValueError: if an argument is not as described.

  Example:
    >>> images = np.full((1, 8, 8, 1), 0.5, np.float32)
    >>> corrupt(images, 'brightness', 3, seed=0)[0, 0, 0]
    array([0.65], dtype=float32)
  """
  images = check_pictures(images, channels=(1, 3))
  choose('kind', kind, KINDS)
  check_range('severity', severity, 1, 5, integer=True)
  check_range('seed', seed, 0, integer=True)
  corruption, strengths = _CORRUPTIONS[kind]
  strength = strengths[severity - 1]
  if not isinstance(strength, tuple):
    strength = (strength,)
  place = KINDS.index(kind)
  rows = max(1, _CHUNK_VALUES // images[0].size)
  result = np.empty(images.shape, np.float32)
  for start in range(0, len(images), rows):
    chunk = images[start : start + rows].astype(np.float64)
    random = [
      np.random.default_rng([seed, place, severity, row])
      for row in range(start, start + len(chunk))
    ]
    corrupted = corruption(chunk, random, *strength)
    result[start : start + rows] = np.clip(corrupted, 0, 1)
  return result
