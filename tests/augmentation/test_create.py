"""What a config makes of a batch: the order, the range, the draws, errors."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from advjax.augmentation import create_augmentation
from advjax.config import default_config

SHAPE, NUM_CLASSES, BATCH = (8, 8, 3), 10, 8
# 1 is as good as 1.0.
ALL = {
  'crop_padding': 2,
  'resized_crop': 0.5,
  'resized_crop_ratio': 1.5,
  'horizontal_flip': 1,
  'vertical_flip': 0.5,
  'brightness': 0.4,
  'contrast': 0.4,
  'saturation': 0.4,
  'hue': 0.1,
  'gaussian': 0.1,
  'poisson': 100.0,
  'salt_and_pepper': 0.1,
  'cutout': 3,
  'mixup': 0.5,
  'cutmix': 1.0,
}
RNG = np.random.default_rng(0)
POOL = RNG.uniform(size=(5, *SHAPE)).astype(np.float32)
IMAGES = RNG.uniform(size=(BATCH, *SHAPE)).astype(np.float32)
LABELS = np.arange(BATCH) % NUM_CLASSES


def draw(keys):
  """Partners of the classes 0 to 4."""
  places = jax.random.key_data(keys)[:, 1] % 5
  return jnp.asarray(POOL)[places], places


def augment(**config):
  augment = create_augmentation(config, SHAPE, NUM_CLASSES)
  return functools.partial(augment, draw=draw)


def keys(order=slice(None)):
  data = np.random.default_rng(3).integers(2**32, size=(BATCH, 2))
  return jax.random.wrap_key_data(data.astype(np.uint32)[order])


def test_all_are_off_by_default_and_every_field_is_known():
  config = default_config().augmentation
  assert create_augmentation(config, SHAPE, NUM_CLASSES) is None
  assert set(config) == {*ALL, 'custom'}
  assert not any(
    value for name, value in config.items() if name != 'resized_crop_ratio'
  )
  # Images that nothing is done to may have any shape.
  assert create_augmentation(config, (4,), NUM_CLASSES) is None


def test_shapes_and_labels_of_all_together():
  found, labels = jax.eval_shape(augment(**ALL), IMAGES, LABELS, keys())
  assert (found.shape, found.dtype) == (IMAGES.shape, np.float32)
  assert (labels.shape, labels.dtype) == ((BATCH, NUM_CLASSES), np.float32)


def test_the_order_and_that_others_do_not_change_the_draws_of_one():
  some = {'crop_padding': 2, 'contrast': 1}
  white = np.ones((BATCH, *SHAPE), np.float32)
  programs = augment(**some), augment(**some, salt_and_pepper=0.5, cutout=3)

  @jax.jit
  def run(*args):
    return [program(*args) for program in programs]

  (moved, labels), (found, _) = jax.device_get(run(white, LABELS, keys()))
  np.testing.assert_array_equal(labels, LABELS)
  # The black border came before the contrast, which made it grey.
  assert ((moved > 0.05) & (moved < 0.95)).any()
  # Salt and pepper came before the square, in which there is none of it.
  grey = (found == 0.5).all(-1)
  assert ((grey.sum((1, 2)) == 9) | (grey.sum((1, 2)) <= 6)).all()
  assert (grey.sum((1, 2)) == 9).any()
  hit = grey | ((found == 0) | (found == 1)).all(-1)
  assert (hit.sum((1, 2)) < 64).any()
  np.testing.assert_array_equal(found[~hit], moved[~hit])
  # An example is the same wherever it is in the batch, and every key's is
  # another one.
  order = np.random.default_rng(2).permutation(BATCH)
  again, _ = run(white, LABELS[order], keys(order))[1]
  np.testing.assert_array_equal(again, found[order])
  assert len(np.unique(found, axis=0)) == BATCH


@pytest.mark.slow
def test_devices_and_batch_size_do_not_change_a_bit(request):
  """As compiled for users, with everything switched on."""
  jax.clear_caches()
  jax.config.update('jax_disable_most_optimizations', False)

  @request.addfinalizer
  def back():
    jax.config.update('jax_disable_most_optimizations', True)
    jax.clear_caches()

  program = augment(**ALL)
  expected = jax.jit(program)(IMAGES, LABELS, keys())
  assert expected[0].min() >= 0 and expected[0].max() <= 1
  for num_devices, rows in ((2, 4), (1, 3), (1, 1)):
    count = num_devices * rows
    batch = (
      leaf[:count].reshape(num_devices, rows, *leaf.shape[1:])
      for leaf in (IMAGES, LABELS, keys())
    )
    found = jax.pmap(program, devices=jax.devices()[:num_devices])(*batch)
    for one, other in zip(found, expected, strict=True):
      np.testing.assert_array_equal(
        np.asarray(one).reshape(count, *other.shape[1:]), other[:count]
      )


GREY = (8, 8, 1)


@pytest.mark.parametrize(
  ('config', 'shape', 'message'),
  [
    ({'horizontal_flip': 1.5}, SHAPE, r'horizontal_flip = 1.5; allowed'),
    ({'hue': 0.6}, SHAPE, r'augmentation.hue = 0.6; allowed: .* 0 to 0.5'),
    ({'mixup': -1.0}, SHAPE, r'augmentation.mixup = -1.0; allowed: .* >= 0'),
    ({'cutout': 2.5}, SHAPE, r'augmentation.cutout = 2.5; allowed: an integer'),
    ({'poisson': True}, SHAPE, r'augmentation.poisson = True; allowed'),
    ({'resized_crop_ratio': 0.5}, SHAPE, r'_ratio = 0.5; allowed: .* >= 1.0'),
    (
      {'cutmx': 1.0},
      SHAPE,
      r"field of augmentation = 'cutmx'.*did you mean 'cutmix'",
    ),
    ({'crop_padding': 8}, SHAPE, r'crop_padding = 8; allowed: less than .* 8'),
    ({'hue': 0.1}, GREY, r'hue = 0.1; allowed: 0, .* 1 channels, not 3'),
    ({'saturation': 0.1}, GREY, r'saturation = 0.1; .* 1 channels, not 3'),
    ({'contrast': 0.1}, (8, 8, 4), r'= 0.1; .* 4 channels, not 1 or 3'),
    ({'gaussian': 0.1}, (64,), r'gaussian = 0.1; allowed: 0, .* shape \(64,\)'),
  ],
)
def test_errors_name_field_value_and_what_is_allowed(config, shape, message):
  with pytest.raises(ValueError, match=message):
    create_augmentation(config, shape, NUM_CLASSES)
