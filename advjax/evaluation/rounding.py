"""What is left of an attack once its images are saved as pictures."""

import numpy as np


def round_to_8_bits(images: np.ndarray) -> np.ndarray:
  """Rounds images as an 8-bit file (a PNG) would hold them.

  `round(255 clip(x, 0, 1)) / 255`, halves to the even number. A perturbation of
  less than 1 / 510 is lost to images that were multiples of 1 / 255; others may
  grow by as much, beyond the ball of the attack.

  Args:
    images: floating `[N, ...]`; pixels go from 0 to 1.

  Returns:
    float32 `[N, ...]`, multiples of 1 / 255.

  Raises:
    ValueError: if images are not floating, or not finite.

  Example:
    >>> (255 * round_to_8_bits(np.array([[0.5, 0.501, 1.2]]))).tolist()
    [[128.0, 128.0, 255.0]]
  """
  images = np.asarray(images)
  if images.dtype.kind in 'biuc':
    raise ValueError(
      f'images have dtype {images.dtype}; allowed: a floating type'
    )
  if not np.isfinite(images).all():
    raise ValueError('images hold values that are not finite')
  # In float64: a product that float32 rounds up to a half goes the wrong way.
  levels = np.round(255 * np.clip(images.astype(np.float64), 0, 1))
  return (levels / 255).astype(np.float32)
