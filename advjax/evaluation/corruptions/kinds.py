"""One call for all common corruptions; every row has its own random draws."""

from collections.abc import Callable, Mapping
from types import MappingProxyType

import numpy as np

from advjax.config import check_range
from advjax.evaluation.batches import check_pictures
from advjax.evaluation.corruptions import blurs, digital, noises, weather

# corruption(images [n, H, W, C] float64, severity, one generator per row)
Corruption = Callable[[np.ndarray, int, list[np.random.Generator]], np.ndarray]

_CORRUPTIONS: Mapping[str, Corruption] = MappingProxyType(
  {
    'gaussian_noise': noises.gaussian_noise,
    'shot_noise': noises.shot_noise,
    'impulse_noise': noises.impulse_noise,
    'defocus_blur': blurs.defocus_blur,
    'glass_blur': blurs.glass_blur,
    'motion_blur': blurs.motion_blur,
    'zoom_blur': blurs.zoom_blur,
    'snow': weather.snow,
    'frost': weather.frost,
    'fog': weather.fog,
    'brightness': weather.brightness,
    'contrast': digital.contrast,
    'elastic_transform': digital.elastic_transform,
    'pixelate': digital.pixelate,
    'jpeg_compression': digital.jpeg_compression,
  }
)
# In the order of the paper. Draws depend on the place of a kind in this list:
# new ones go to its end.
KINDS: tuple[str, ...] = tuple(_CORRUPTIONS)
SEVERITIES: tuple[int, ...] = (1, 2, 3, 4, 5)
# Rows are corrupted in chunks of so many values, about 32 MB in float64.
_CHUNK_VALUES = 2**22


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
    seed: Of all random draws; a whole number >= 0.

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
  if kind not in _CORRUPTIONS:
    raise ValueError(f'kind = {kind!r}; allowed: {", ".join(KINDS)}')
  check_range('severity', severity, 1, 5, integer=True)
  check_range('seed', seed, 0, integer=True)
  corruption, place = _CORRUPTIONS[kind], KINDS.index(kind)
  rows = max(1, _CHUNK_VALUES // images[0].size)
  result = np.empty(images.shape, np.float32)
  for start in range(0, len(images), rows):
    chunk = images[start : start + rows].astype(np.float64)
    random = [
      np.random.default_rng([seed, place, severity, row])
      for row in range(start, start + len(chunk))
    ]
    corrupted = corruption(chunk, severity, random)
    result[start : start + rows] = np.clip(corrupted, 0, 1)
  return result
