"""From `config.augmentation` to one function of a batch."""

import functools
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from advjax.augmentation import colour, geometry, noise
from advjax.augmentation.mixing import mix
from advjax.callables import import_function
from advjax.config import check_range, choose
from advjax.types import Array

# See `create_augmentation`.
Augment = Callable[..., tuple[Array, Array]]

# In the order in which they are applied, each with its largest strength.
_TRANSFORMS: dict[str, tuple[Callable[..., Array], float]] = {
  'crop_padding': (geometry.random_crop, math.inf),
  'resized_crop': (geometry.random_resized_crop, 1),
  'horizontal_flip': (geometry.random_horizontal_flip, 1),
  'vertical_flip': (geometry.random_vertical_flip, 1),
  'brightness': (colour.random_brightness, 1),
  'contrast': (colour.random_contrast, 1),
  'saturation': (colour.random_saturation, 1),
  'hue': (colour.random_hue, 0.5),
  'gaussian': (noise.gaussian_noise, 1),
  # Far more photons than float32 can tell apart.
  'poisson': (noise.poisson_noise, 1e8),
  'salt_and_pepper': (noise.salt_and_pepper_noise, 1),
  'cutout': (geometry.cutout, math.inf),
}
_LIMITS = {field: limit for field, (_, limit) in _TRANSFORMS.items()}
_LIMITS |= {'mixup': math.inf, 'cutmix': math.inf}
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
      none, and `custom`, names 'module:function' of your own functions
      `(key, image) -> image` of one image, which follow them.
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
    >>> keys = jax.random.split(jax.random.key(0), 1)
    >>> images, labels = jax.jit(augment)(images, labels, keys, None)
    >>> images[0, ..., 0].tolist()
    [[1.0, 0.0]]
  """
  _check(config, tuple(image_shape))
  if not any(config.get(field) for field in (*_LIMITS, 'custom')):
    return None
  transform = jax.vmap(_create_transform(config, image_shape))
  averaged, pasted = config.get('mixup', 0), config.get('cutmix', 0)

  def augment(
    images: Array,
    labels: Array,
    keys: Array,
    draw: Callable[[Array], tuple[Array, Array]],
  ) -> tuple[Array, Array]:
    keys = _fold(keys, _AUGMENTATION)
    if not (averaged or pasted):
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
    mixed = functools.partial(
      mix, mixup_strength=averaged, cutmix_strength=pasted
    )
    return jax.vmap(mixed)(_fold(keys, _MIX), examples, others)

  return augment


def _fold(keys: Array, number: int) -> Array:
  return jax.vmap(jax.random.fold_in, (0, None))(keys, number)


def _create_transform(
  config: Mapping[str, Any], shape: Sequence[int]
) -> Callable[..., Array]:
  """Augments one image, given its key."""
  chain = {}
  # Keys by the place among all: others, on or off, do not change the draws.
  for number, (field, (function, _)) in enumerate(_TRANSFORMS.items()):
    if config.get(field):
      # jax.random takes no integer for a probability.
      kind = int if field in _PIXELS else float
      options = {'strength': kind(config[field])}
      if field == 'resized_crop' and 'resized_crop_ratio' in config:
        options['max_ratio'] = config['resized_crop_ratio']
      chain[number] = functools.partial(function, **options)
  for number, name in enumerate(config.get('custom', ()), len(_TRANSFORMS)):
    chain[number] = function = import_function('augmentation.custom', name)
    image = jax.ShapeDtypeStruct(shape, jnp.float32)
    key = jax.eval_shape(lambda: jax.random.key(0))
    found = jax.eval_shape(function, key, image)
    if (found.shape, found.dtype) != (image.shape, image.dtype):
      raise ValueError(
        f'augmentation.custom = {name!r} returns {found.dtype} {found.shape}; '
        f'allowed: {image.dtype} {image.shape}'
      )

  def transform(key: Array, image: Array) -> Array:
    numbers = jnp.array(list(chain), jnp.uint32)
    keys = jax.vmap(jax.random.fold_in, (None, 0))(key, numbers)
    for step_key, function in zip(keys, chain.values(), strict=True):
      image = function(step_key, image)
    return image

  return transform


def _check(config: Mapping[str, Any], shape: tuple[int, ...]) -> None:
  for field, value in config.items():
    others = ('resized_crop_ratio', 'custom')
    choose('field of augmentation', field, (*_LIMITS, *others))
    name = f'augmentation.{field}'
    if field == 'custom':
      if not all(isinstance(each, str) for each in value):
        raise ValueError(f'{name} = {value!r}; allowed: names module:function')
      continue
    if field == 'resized_crop_ratio':
      check_range(name, value, 1.0)
      continue
    check_range(name, value, 0, _LIMITS[field], integer=field in _PIXELS)
    allowed = ''
    if not value:
      continue
    if len(shape) != 3:
      allowed = f'0, for images of shape {shape}, not (height, width, channels)'
    elif field in _PIXELS and value >= min(shape[:2]):
      allowed = f'less than the smaller side of the images, {min(shape[:2])}'
    elif shape[2] not in (channels := _CHANNELS.get(field, shape[2:])):
      wanted = ' or '.join(str(number) for number in channels)
      allowed = f'0, for images of {shape[2]} channels, not {wanted}'
    if allowed:
      raise ValueError(f'{name} = {value!r}; allowed: {allowed}')
