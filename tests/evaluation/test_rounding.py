"""A picture of 8 bits may lose an attack; npz files do not."""

import io

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from advjax.evaluation.rounding import round_to_8_bits
from hypothesis import given, settings
from hypothesis.extra import numpy as numpy_strategies
from PIL import Image

from advjax.evaluation.logits import predict
from advjax.evaluation.models import (
  evaluate_members,
  parse_attacks,
  save_examples,
)


def as_png(images):
  """Saves `[N, H, W]` as PNG files, whose pixels are whole numbers; reads."""
  pictures = []
  for image in images:
    file = io.BytesIO()
    levels = np.rint(255 * np.clip(image.astype(np.float64), 0, 1))
    Image.fromarray(levels.astype(np.uint8)).save(file, 'PNG')
    pictures.append(np.asarray(Image.open(file)))
  return np.stack(pictures) / np.float32(255)


@settings(max_examples=30)
@given(
  numpy_strategies.arrays(
    np.float32,
    (2, 3, 4),
    elements={'min_value': -0.5, 'max_value': 1.5},
  )
)
def test_rounding_is_what_a_png_holds(images):
  found = round_to_8_bits(images)
  assert found.dtype == np.float32
  np.testing.assert_allclose(found, as_png(images), atol=1e-7)
  np.testing.assert_array_equal(round_to_8_bits(found), found)
  inside = np.clip(images, 0, 1)
  assert np.abs(found - inside).max() <= 0.5 / 255 + 1e-7


def test_all_levels_stay():
  levels = np.arange(256, dtype=np.float32).reshape(1, 256) / 255
  np.testing.assert_array_equal(round_to_8_bits(levels), levels)


def network(images):
  """The class changes 0.4 of a level of 255 off the clean images."""
  signal = 255 * images.mean((1, 2)) - 127.6
  return 10 * jnp.stack([-signal, signal], axis=-1)


def test_npz_keeps_the_attack_and_8_bits_may_lose_it(tmp_path):
  images = np.full((6, 2, 2, 1), 128, np.float32) / 255
  labels = np.ones(6, np.int32)
  found = evaluate_members(
    {'network': lambda x: network(x[..., 0])},
    parse_attacks(['fgsm']),
    images,
    labels,
    epsilon=0.45 / 255,
    epsilons=(0.45 / 255,),
    key=jax.random.key(0),
    batch_size=6,
    devices=jax.devices()[:1],
  )
  path = tmp_path / 'examples.npz'
  save_examples(path, found, images, labels)
  with np.load(path) as saved:
    assert saved['perturbed'].dtype == np.float32
    for pair, perturbed, predictions in zip(
      found.images, saved['perturbed'], saved['predictions'], strict=True
    ):
      np.testing.assert_array_equal(
        perturbed.view(np.int32), found.images[pair].view(np.int32)
      )
      again = predict(network, perturbed[..., 0])
      np.testing.assert_array_equal(again, predictions[0])
      assert (again != labels).all()
      # Back to the clean image, and the class with it.
      np.testing.assert_array_equal(round_to_8_bits(perturbed), images)
      np.testing.assert_array_equal(
        predict(network, as_png(perturbed[..., 0])), labels
      )


@pytest.mark.parametrize(
  ('images', 'message'),
  [
    (np.zeros((1, 2), np.uint8), 'dtype uint8; allowed: a floating type'),
    (np.array([[0.5, np.nan]]), 'not finite'),
    (np.array([[0.5, np.inf]]), 'not finite'),
  ],
)
def test_bad_input_is_named(images, message):
  with pytest.raises(ValueError, match=message):
    round_to_8_bits(images)
