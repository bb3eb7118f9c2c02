"""Augmentation of training images, on the device and inside the compiled loop.

Each augmentation is a pure function of a key and one image, float32 `[H, W, C]`
in [0, 1], whose result is in [0, 1] too. `create_augmentation` composes those
that `config.augmentation` switches on. All draws for an example come from the
example's own key, and so do not depend on the batch, padding or the devices.
"""

from advjax._extras import dm_pix, ml_collections  # noqa: F401
from advjax.augmentation.colour import (
  random_brightness,
  random_contrast,
  random_hue,
  random_saturation,
)
from advjax.augmentation.create import Augment, create_augmentation
from advjax.augmentation.geometry import (
  cutout,
  random_crop,
  random_horizontal_flip,
  random_resized_crop,
  random_vertical_flip,
)
from advjax.augmentation.mixing import cutmix, mixup
from advjax.augmentation.noise import (
  gaussian_noise,
  poisson_noise,
  salt_and_pepper_noise,
)

__all__ = [
  'Augment',
  'create_augmentation',
  'cutmix',
  'cutout',
  'gaussian_noise',
  'mixup',
  'poisson_noise',
  'random_brightness',
  'random_contrast',
  'random_crop',
  'random_horizontal_flip',
  'random_hue',
  'random_resized_crop',
  'random_saturation',
  'random_vertical_flip',
  'salt_and_pepper_noise',
]
