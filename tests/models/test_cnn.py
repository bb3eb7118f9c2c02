"""The tutorials' networks: sizes, initial values, BatchNorm, errors."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from advjax.models import create_model, summary
from tests.models.checks import draw


def _images(batch=4, size=28):
  random = np.random.default_rng(0)
  return random.uniform(size=(batch, size, size, 1)).astype(np.float32)


def _count(params):
  return sum(leaf.size for leaf in jax.tree.leaves(params))


@pytest.mark.parametrize(
  ('config', 'count'),
  [
    ({'name': 'cnn'}, 93_322),
    ({'name': 'matlab_cnn'}, 144_266),
    ({'name': 'mlp'}, 785 * 256 + 257 * 128 + 129 * 10),
    ({'name': 'logistic_regression'}, 785 * 10),
    ({'name': 'cnn', 'batch_norm': True}, 93_322 + 2 * (32 + 64 + 64)),
  ],
)
def test_parameter_counts_and_logits(config, count):
  model = create_model(config, 10)
  params, state = jax.eval_shape(model.init, jax.random.key(0), _images())
  assert _count(params) == count
  for dtype in (jnp.float32, jnp.bfloat16):
    logits, _ = jax.eval_shape(
      lambda p, s, x: model.apply(p, s, x, train=False),
      params,
      state,
      _images().astype(dtype),
    )
    assert logits.shape == (4, 10)
    assert logits.dtype == jnp.float32


def test_initial_values_are_those_of_keras():
  model = create_model({'name': 'cnn', 'conv_filters': (32, 64)}, 10)
  params, _ = jax.jit(model.init)(jax.random.key(0), _images(1))
  for layer in params.values():
    np.testing.assert_array_equal(layer['bias'], 0)
    kernel = np.asarray(layer['kernel'])
    # Glorot and Bengio (2010): uniform within sqrt(6 / (fan_in + fan_out)).
    receptive = np.prod(kernel.shape[:-2])
    limit = np.sqrt(6 / (receptive * sum(kernel.shape[-2:])))
    assert 0.95 * limit < np.abs(kernel).max() <= limit
    assert kernel.std() == pytest.approx(limit / np.sqrt(3), rel=0.1)


class _PlainCNN(nn.Module):
  """NSL's network as one writes it with Flax's own layers."""

  @nn.compact
  def __call__(self, hidden, train=False):
    for index, filters in enumerate((3, 4)):
      if index > 0:
        hidden = nn.max_pool(hidden, (2, 2), (2, 2))
      hidden = nn.Conv(filters, (3, 3), padding='VALID')(hidden)
      hidden = nn.BatchNorm(use_running_average=not train)(hidden)
      hidden = nn.relu(hidden)
    hidden = nn.relu(nn.Dense(8)(hidden.reshape(hidden.shape[0], -1)))
    return nn.Dense(10)(hidden)


def _narrow():
  fields = {'conv_filters': (3, 4), 'num_fc_units': (8,)}
  return create_model({'name': 'cnn', 'batch_norm': True, **fields}, 10)


def test_cnn_equals_plain_flax():
  """Logits and BatchNorm's statistics."""
  model, plain = _narrow(), _PlainCNN()
  images = _images(size=11)
  params, state = draw(model, images)

  @jax.jit
  def run(params, images):
    variables = {'params': params, **state}
    logits, new = plain.apply(
      variables, images, train=True, mutable=['batch_stats']
    )
    actual = model.apply(params, state, images, train=True)
    return actual, (logits, dict(new))

  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5),
    *run(params, images),
  )


def test_float64_images_keep_the_state_narrow():
  with jax.enable_x64(True):
    images = jnp.zeros((2, 11, 11, 1), jnp.float64)
    model = _narrow()
    params, state = jax.eval_shape(
      model.init, jax.random.key(0), images.astype(jnp.float32)
    )
    logits, updated = jax.eval_shape(
      lambda *args: model.apply(*args, train=True), params, state, images
    )
  assert logits.dtype == jnp.float64
  assert jax.tree.map(str, updated) == jax.tree.map(str, state)


@pytest.mark.parametrize(
  ('config', 'message'),
  [
    ({'name': 'cmn'}, "'cmn'.*'cnn'"),
    ({'name': 'cnn', 'conv_filter': (3,)}, "'conv_filter'.*conv_filters"),
    ({'name': 'logistic_regression', 'hidden_units': ()}, 'hidden_units'),
    ({'name': 'cnn', 'axis_name': 'data'}, "'axis_name'"),
    ({'name': 'cnn', 'conv_filters': 32}, 'conv_filters = 32; .*tuple'),
    ({'name': 'cnn', 'conv_filters': (0,)}, r'conv_filters\[0\]'),
    ({'name': 'cnn', 'kernel_size': (3,)}, 'kernel_size.*two'),
    ({'name': 'cnn', 'batch_norm': 1}, 'batch_norm = 1.*True or False'),
    ({'name': 'resnet18', 'stem': 'image'}, "model.stem = 'image'.*'imagenet'"),
    ({'name': 'resnet50', 'normalization': 'layer'}, "normalization = 'layer'"),
    ({'name': 'resnext29', 'dtype': 'float16'}, "dtype = 'float16'.*bfloat16"),
    ({'name': 'small_resnet', 'widths': ()}, r'model.widths = \(\)'),
  ],
)
def test_errors_name_the_value_and_what_is_allowed(config, message):
  with pytest.raises(ValueError, match=message):
    create_model(config, 10)
  with pytest.raises(ValueError, match='num_classes = 1; allowed'):
    create_model({'name': 'mlp'}, 1)


def test_a_logistic_regression_may_start_at_zero():
  config = {'name': 'logistic_regression', 'zero_init': True}
  init = jax.jit(create_model(config, 2).init)
  params, _ = init(jax.random.key(0), np.zeros((1, 3, 3, 1)))
  assert not any(leaf.any() for leaf in jax.tree.leaves(params))


def test_summary():
  table = summary(create_model({'name': 'cnn'}, 10), _images(1))
  rows = [line.split() for line in table.splitlines()]
  counts = {row[0]: row[-1] for row in rows if len(row) > 2}
  assert (counts['Conv_0'], counts['Dense_1']) == ('320', '650')
  assert counts['Conv_2'] == counts['Dense_0'] == '36,928'
  assert table.endswith('93,322 (364.54 KB)')
  assert '(1, 3, 3, 64)' in table
  # BatchNorm's statistics are no parameters.
  model = create_model({'name': 'cnn', 'batch_norm': True}, 10)
  assert '93,642' in summary(model, _images(1))
