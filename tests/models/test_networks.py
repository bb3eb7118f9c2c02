"""The architectures, their initial values, BatchNorm and the errors."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from jax.sharding import AxisType, PartitionSpec

from advjax.models import create_model
from advjax.models.summary import summary


def _images(batch=4, size=28, seed=0):
  return jax.random.uniform(jax.random.key(seed), (batch, size, size, 1))


def _count(params):
  return sum(leaf.size for leaf in jax.tree.leaves(params))


def _dtypes(tree):
  return jax.tree.map(lambda leaf: leaf.dtype, tree)


class _PlainCNN(nn.Module):
  """NSL's network as one writes it with Flax's own layers."""

  batch_norm: bool = False

  @nn.compact
  def __call__(self, hidden, train=False):
    for index, filters in enumerate((4, 6, 6)):
      if index > 0:
        hidden = nn.max_pool(hidden, (2, 2), (2, 2))
      hidden = nn.Conv(filters, (3, 3), padding='VALID')(hidden)
      if self.batch_norm:
        hidden = nn.BatchNorm(use_running_average=not train)(hidden)
      hidden = nn.relu(hidden)
    hidden = hidden.reshape(hidden.shape[0], -1)
    hidden = nn.relu(nn.Dense(8)(hidden))
    return nn.Dense(10)(hidden)


@pytest.mark.parametrize(
  ('config', 'count'),
  [
    ({'name': 'cnn'}, 93_322),
    ({'name': 'matlab_cnn'}, 144_266),
    ({'name': 'mlp'}, 785 * 256 + 257 * 128 + 129 * 10),
    ({'name': 'mlp', 'hidden_units': (16,)}, 785 * 16 + 17 * 10),
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
  model = create_model({'name': 'cnn'}, 10)
  params, _ = jax.jit(model.init)(jax.random.key(0), _images(1))
  for layer in params.values():
    np.testing.assert_array_equal(layer['bias'], 0)
    kernel = np.asarray(layer['kernel'])
    # Glorot and Bengio (2010): uniform within sqrt(6 / (fan_in + fan_out)).
    receptive = np.prod(kernel.shape[:-2])
    limit = np.sqrt(6 / (receptive * sum(kernel.shape[-2:])))
    assert np.abs(kernel).max() <= limit
    assert np.abs(kernel).max() > 0.95 * limit
    assert kernel.std() == pytest.approx(limit / np.sqrt(3), rel=0.1)


@pytest.mark.parametrize(
  ('batch_norm', 'train'), [(False, False), (True, False), (True, True)]
)
def test_cnn_equals_plain_flax(batch_norm, train):
  config = {
    'name': 'cnn',
    'conv_filters': (4, 6, 6),
    'num_fc_units': (8,),
    'batch_norm': batch_norm,
  }
  model = create_model(config, 10)
  images = _images()
  params, state = jax.jit(model.init)(jax.random.key(0), images)
  plain = _PlainCNN(batch_norm)

  def ours(params, images):
    return jnp.sum(model.apply(params, state, images, train=train)[0] ** 2)

  def theirs(params, images):
    logits, _ = plain.apply(
      {'params': params, **state}, images, train=train, mutable=['batch_stats']
    )
    return jnp.sum(logits**2)

  actual, expected = (
    jax.jit(jax.value_and_grad(f, (0, 1)))(params, images)
    for f in (ours, theirs)
  )
  # A bias before BatchNorm has no gradient, but for rounding.
  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(
      a, b, rtol=1e-3, atol=1e-5 * float(abs(expected[0]))
    ),
    actual,
    expected,
  )


def test_batch_norm_state():
  model = create_model({'name': 'cnn', 'batch_norm': True}, 10)
  images = _images()
  params, state = jax.jit(model.init)(jax.random.key(0), images)
  _, same = model.apply(params, state, images, train=False)
  assert same is state
  _, updated = jax.jit(lambda: model.apply(params, state, images, train=True))()
  assert jax.tree.structure(updated) == jax.tree.structure(state)
  # Flax's momentum is 0.99; the first layer's mean is that of a convolution.
  kernel = params['Conv_0']['kernel']
  outputs = jax.lax.conv_general_dilated(
    images,
    kernel,
    (1, 1),
    'VALID',
    dimension_numbers=('NHWC', 'HWIO', 'NHWC'),
  )
  np.testing.assert_allclose(
    updated['batch_stats']['BatchNorm_0']['mean'],
    0.01 * outputs.mean((0, 1, 2)),
    rtol=1e-4,
    atol=1e-7,
  )


@pytest.mark.parametrize('mapped', ['pmap', 'vmap', 'shard_map'])
def test_batch_norm_averages_over_the_axis(mapped):
  config = {
    'name': 'cnn',
    'conv_filters': (4,),
    'num_fc_units': (),
    'batch_norm': True,
  }
  images = _images(8, 8)
  whole = create_model(config, 10)
  params, state = jax.jit(whole.init)(jax.random.key(0), images)
  logits, expected = whole.apply(params, state, images, train=True)
  model = create_model(config, 10, axis_name='data')
  halves = images.reshape(2, 4, 8, 8, 1)

  def apply(images):
    return model.apply(params, state, images, train=True)

  if mapped == 'shard_map':
    mesh = jax.make_mesh((2,), ('data',), (AxisType.Auto,))
    spec = PartitionSpec('data')
    actual, updated = jax.jit(
      jax.shard_map(
        apply,
        mesh=mesh,
        in_specs=spec,
        out_specs=(spec, PartitionSpec()),
        check_vma=False,
      )
    )(images)
  else:
    transform = {'pmap': jax.pmap, 'vmap': jax.vmap}[mapped]
    actual, updated = transform(apply, axis_name='data')(halves)
    updated = jax.tree.map(lambda leaf: leaf[0], updated)
  np.testing.assert_allclose(actual.reshape(8, 10), logits, atol=1e-5)
  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-7),
    updated,
    expected,
  )


def test_float64_images_keep_the_state_narrow():
  with jax.enable_x64(True):
    config = {'name': 'cnn', 'batch_norm': True, 'conv_filters': (2,)}
    model = create_model(config, 10)
    images = jax.random.uniform(jax.random.key(0), (2, 8, 8, 1), jnp.float64)
    params, state = jax.jit(model.init)(
      jax.random.key(0), images.astype(jnp.float32)
    )
    logits, updated = model.apply(params, state, images, train=True)
    assert logits.dtype == jnp.float64
    assert _dtypes(updated) == _dtypes(state)


@pytest.mark.parametrize(
  ('config', 'num_classes', 'message'),
  [
    ({'name': 'cmn'}, 10, "'cmn'.*'cnn'"),
    ({'name': 'cnn', 'conv_filter': (3,)}, 10, "'conv_filter'.*conv_filters"),
    ({'name': 'matlab_cnn', 'batch_norm': True}, 10, 'batch_norm'),
    ({'name': 'logistic_regression', 'hidden_units': ()}, 10, 'hidden_units'),
    ({'name': 'cnn', 'conv_filters': 32}, 10, 'conv_filters.*32.*tuple'),
    ({'name': 'cnn', 'conv_filters': (0,)}, 10, r'conv_filters\[0\]'),
    ({'name': 'cnn', 'kernel_size': (3,)}, 10, 'kernel_size.*two'),
    ({'name': 'mlp', 'hidden_units': 'abc'}, 10, 'hidden_units'),
    ({'name': 'mlp'}, 1, 'num_classes'),
  ],
)
def test_errors_name_the_value_and_what_is_allowed(
  config, num_classes, message
):
  with pytest.raises(ValueError, match=message):
    create_model(config, num_classes)


def test_a_logistic_regression_may_start_at_zero():
  model = create_model({'name': 'logistic_regression', 'zero_init': True}, 2)
  params, _ = jax.jit(model.init)(jax.random.key(0), _images(1))
  for leaf in jax.tree.leaves(params):
    np.testing.assert_array_equal(leaf, 0)
  at_random = create_model({'name': 'logistic_regression'}, 2)
  params, _ = jax.jit(at_random.init)(jax.random.key(0), _images(1))
  assert (params['Dense_0']['kernel'] != 0).all()


def test_summary_of_nsl_network():
  table = summary(create_model({'name': 'cnn'}, 10), _images(1))
  rows = [line.split() for line in table.splitlines()]
  counts = {row[0]: row[-1] for row in rows if len(row) > 2}
  assert counts['Conv_0'] == '320'
  assert counts['Conv_1'] == '18,496'
  assert counts['Conv_2'] == counts['Dense_0'] == '36,928'
  assert counts['Dense_1'] == '650'
  assert table.endswith('93,322 (364.54 KB)')
  assert '(1, 3, 3, 64)' in table


def test_summary_counts_no_state():
  model = create_model({'name': 'cnn', 'batch_norm': True}, 10)
  assert '93,642' in summary(model, _images(1))
