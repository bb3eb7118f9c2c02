"""From `config.augmentation` to one function of a batch."""

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from advjax.augmentation import colour, geometry, noise
from advjax.augmentation.mixing import (
  Example,
  cutmix,
  mixup,
  mixup_or_cutmix,
)
from advjax.augmentation.rectangles import cutout
from advjax.config import check_range, choose
from advjax.types import Array

# (images, labels, keys, draw) -> (images, labels); see `create_augmentation`.
Augment = Callable[..., tuple[Array, Array]]

# In the order in which they are applied; 0 is off.
_TRANSFORMS: dict[str, Callable[..., Array]] = {
  'crop_padding': geometry.random_crop,
  'resized_crop': geometry.random_resized_crop,
  'horizontal_flip': geometry.random_horizontal_flip,
  'vertical_flip': geometry.random_vertical_flip,
  'brightness': colour.random_brightness,
  'contrast': colour.random_contrast,
  'saturation': colour.random_saturation,
  'hue': colour.random_hue,
  'gaussian': noise.gaussian_noise,
  'poisson': noise.poisson_noise,
  'salt_and_pepper': noise.salt_and_pepper_noise,
  'cutout': cutout,
}
# The largest value of each field.
_LIMITS = {
  'crop_padding': float('inf'),
  'resized_crop': 1.0,
  'horizontal_flip': 1.0,
  'vertical_flip': 1.0,
  'brightness': 1.0,
  'contrast': 1.0,
  'saturation': 1.0,
  'hue': 0.5,
  'gaussian': 1.0,
  # Far more photons than float32 can tell apart.
  'poisson': 1e8,
  'salt_and_pepper': 1.0,
  'cutout': float('inf'),
  'mixup': float('inf'),
  'cutmix': float('inf'),
}
_PIXELS = ('crop_padding', 'cutout')
_CHANNELS = {'contrast': (1, 3), 'saturation': (3,), 'hue': (3,)}

# What is folded into the key of an example: far from the small numbers that
# attacks fold in, so that switching augmentation on leaves their draws alone.
_AUGMENTATION = 0x617567
# And then into that key, after the transforms, which fold in their place.
_PARTNER, _OF_PARTNER, _MIX = 100, 101, 102


def create_augmentation(
  config: Mapping[str, Any], image_shape: Sequence[int], num_classes: int
) -> Augment | None:
  """Builds the augmentation that a config describes.

  Every example is transformed by the draws of its own key. With mixup or
  CutMix it then gets a partner, drawn from all training examples and
  transformed by draws of its own, and labels become shares of the classes.

  Args:
    config: `config.augmentation`: the strength of each augmentation, 0 for
      none.
    image_shape: `(H, W, C)` of the images.
    num_classes: Classes.

  Returns:
    None where all are off, else
    `augment(images, labels, keys, draw) -> (images, labels)`, with images
    `[B, H, W, C]` float32 in [0, 1], labels int `[B]` and keys `[B]`, where
    `draw(keys)` returns images and labels of uniformly drawn training
    examples, one per key. Labels are float `[B, K]` after mixup or CutMix.

  Raises:
    ValueError: for a field that is unknown, out of range, or not for images
      of this shape.

  Example:
    >>> augment = create_augmentation({'horizontal_flip': 1.0}, (1, 2, 1), 10)
    >>> images, labels = jnp.array([[[[0.0], [1.0]]]]), jnp.array([3])
    >>> keys = jax.random.key(0)[None]
    >>> images, labels = augment(images, labels, keys, None)
    >>> images[0, ..., 0].tolist()
    [[1.0, 0.0]]
  """
  _check(config, tuple(image_shape))
  if not any(config.get(field) for field in _LIMITS):
    return None
  transform = jax.vmap(_create_transform(config))
  mix = _create_mix(config)

  def augment(
    images: Array,
    labels: Array,
    keys: Array,
    draw: Callable[[Array], tuple[Array, Array]],
  ) -> tuple[Array, Array]:
    keys = _fold(keys, _AUGMENTATION)
    if mix is None:
      return transform(keys, images), labels
    partners, partner_labels = draw(_fold(keys, _PARTNER))
    # Both at once: half the program to compile.
    both = transform(
      jnp.concatenate([keys, _fold(keys, _OF_PARTNER)]),
      jnp.concatenate([images, partners]),
    )
    images, partners = jnp.split(both, 2)
    examples = images, jax.nn.one_hot(labels, num_classes)
    others = partners, jax.nn.one_hot(partner_labels, num_classes)
    return jax.vmap(mix)(_fold(keys, _MIX), examples, others)

  return augment


def _fold(keys: Array, number: int) -> Array:
  return jax.vmap(jax.random.fold_in, (0, None))(keys, number)


def _create_transform(
  config: Mapping[str, Any],
) -> Callable[[Array, Array], Array]:
  """What happens to one image, given its key."""
  functions = dict(_TRANSFORMS)
  if 'resized_crop_ratio' in config:
    functions['resized_crop'] = functools.partial(
      geometry.random_resized_crop, max_ratio=config['resized_crop_ratio']
    )
  chain = {
    number: functools.partial(function, strength=_strength(config, field))
    for number, (field, function) in enumerate(functions.items())
    if config.get(field)
  }

  def transform(key: Array, image: Array) -> Array:
    # By the place among all: others, on or off, do not change the draws.
    numbers = jnp.array(list(chain), jnp.uint32)
    keys = jax.vmap(jax.random.fold_in, (None, 0))(key, numbers)
    for step_key, function in zip(keys, chain.values(), strict=True):
      image = function(step_key, image)
    return image

  return transform


def _strength(config: Mapping[str, Any], field: str) -> float:
  # jax.random takes no integer for a probability.
  return config[field] if field in _PIXELS else float(config[field])


def _create_mix(
  config: Mapping[str, Any],
) -> Callable[[Array, Example, Example], Example] | None:
  """How two examples become one, given a key; None for not at all."""
  averaged, pasted = config.get('mixup'), config.get('cutmix')
  if averaged and pasted:
    return functools.partial(
      mixup_or_cutmix, mixup_strength=averaged, cutmix_strength=pasted
    )
  if averaged:
    return functools.partial(mixup, strength=averaged)
  if pasted:
    return functools.partial(cutmix, strength=pasted)
  return None


def _check(config: Mapping[str, Any], shape: tuple[int, ...]) -> None:
  """Raises a ValueError for a field that is wrong."""
  for field, value in config.items():
    choose('field of augmentation', field, (*_LIMITS, 'resized_crop_ratio'))
    name = f'augmentation.{field}'
    if field == 'resized_crop_ratio':
      check_range(name, value, 1.0)
      continue
    check_range(name, value, 0, _LIMITS[field], integer=field in _PIXELS)
    if not value:
      continue
    if len(shape) != 3:
      raise ValueError(
        f'{name} = {value!r}; allowed: 0, for the images have shape {shape}, '
        'not (height, width, channels)'
      )
    if field in _PIXELS and value >= min(shape[:2]):
      raise ValueError(
        f'{name} = {value!r}; allowed: less than the smaller side of the '
        f'images, {min(shape[:2])}'
      )
    channels = _CHANNELS.get(field, shape[2:])
    if shape[2] not in channels:
      wanted = ' or '.join(str(number) for number in channels)
      raise ValueError(
        f'{name} = {value!r}; allowed: 0, for the images have {shape[2]} '
        f'channels, not {wanted}'
      )
