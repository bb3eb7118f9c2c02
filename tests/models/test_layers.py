"""The layers against nn.Conv, nn.max_pool and jax.lax's own."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from jax import lax

from advjax.models import layers

# Batch, height, width, channels in and out, kernel, strides, padding.
_CONVOLUTIONS = [
  (2, 6, 6, 1, 4, (3, 3), (1, 1), 'VALID'),
  (3, 7, 9, 3, 2, (3, 3), (1, 1), 'SAME'),
  (1, 8, 7, 2, 5, (3, 2), (2, 3), 'SAME'),
  (2, 9, 8, 4, 3, (5, 4), (2, 2), 'VALID'),
  (2, 5, 5, 3, 1, (1, 1), (2, 2), 'VALID'),
  (2, 6, 5, 2, 3, (3, 3), (1, 2), ((1, 1), (2, 0))),
  (1, 4, 4, 2, 2, (4, 4), (3, 3), ((3, 2), (0, 5))),
]
# Height, width, window, strides, padding.
_POOLS = [
  (6, 6, (2, 2), (2, 2), 'VALID'),
  (7, 5, (2, 2), (2, 2), 'VALID'),
  (7, 5, (2, 2), (2, 2), 'SAME'),
  (8, 7, (3, 3), (2, 2), 'SAME'),
  (6, 7, (3, 2), (1, 1), 'VALID'),
  (7, 7, (3, 3), (1, 2), ((1, 1), (0, 2))),
  (5, 6, (2, 3), (3, 2), 'SAME'),
]


def _rand(*shape, seed=0):
  return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def _ties(*shape):
  """Few values, so that most windows have several maxima."""
  return np.random.default_rng(1).integers(-1, 2, shape).astype(np.float32)


def _vjp(f, cotangent, *args):
  outputs, pull = jax.vjp(f, *args)
  return outputs, *pull(cotangent(outputs))


def _close(actual, expected, rtol=1e-5):
  for a, b in zip(
    jax.tree.leaves(actual), jax.tree.leaves(expected), strict=True
  ):
    a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
    scale = max(np.abs(b).max(), 1e-3)
    np.testing.assert_allclose(a, b, rtol=0, atol=rtol * scale)


@pytest.mark.parametrize('case', _CONVOLUTIONS)
def test_convolution_and_its_gradients_equal_flax(case):
  batch, height, width, channels, filters, kernel, strides, padding = case
  images = _rand(batch, height, width, channels)
  make = functools.partial(
    nn.Conv, filters, kernel, strides=strides, padding=padding
  )
  ours = make(conv_general_dilated=layers.conv_general_dilated)
  params = make().init(jax.random.key(0), images)
  assert jax.tree.map(jnp.shape, params) == jax.tree.map(
    jnp.shape, ours.init(jax.random.key(0), images)
  )

  def pull(module):
    return _vjp(
      module.apply, lambda y: jnp.asarray(_rand(*y.shape)), params, images
    )

  _close(jax.jit(lambda: pull(ours))(), jax.jit(lambda: pull(make()))())


@pytest.mark.parametrize('dtype', [jnp.bfloat16, jnp.float64])
def test_convolution_in_other_dtypes(dtype):
  with jax.enable_x64(dtype == jnp.float64):
    images = jnp.asarray(_rand(2, 7, 6, 3), dtype)
    kernel = jnp.asarray(_rand(3, 3, 3, 4), dtype)
    actual = layers.conv_general_dilated(images, kernel, (1, 1), 'SAME')
    expected = lax.conv_general_dilated(
      images,
      kernel,
      (1, 1),
      'SAME',
      dimension_numbers=('NHWC', 'HWIO', 'NHWC'),
    )
    assert actual.dtype == expected.dtype == dtype
    _close(actual, expected, rtol=1e-2 if dtype == jnp.bfloat16 else 1e-14)


@pytest.mark.parametrize(
  'options',
  [
    {'kernel_dilation': (2, 2)},
    {'input_dilation': (2, 1), 'padding': 1},
    {'kernel_size': (3,)},
  ],
)
def test_other_convolutions_are_those_of_jax(options):
  options = {'kernel_size': (3, 3), **options}
  shape = (2, 8, 4) if len(options['kernel_size']) == 1 else (2, 8, 8, 4)
  images = _rand(*shape)
  plain = nn.Conv(6, **options)
  ours = nn.Conv(6, conv_general_dilated=layers.conv_general_dilated, **options)
  params = plain.init(jax.random.key(0), images)
  _close(ours.apply(params, images), plain.apply(params, images))


@pytest.mark.parametrize(('groups', 'stride'), [(2, 1), (4, 2)])
def test_convolution_in_groups_and_its_gradients_equal_flax(groups, stride):
  images = _rand(2, 5, 6, 4)
  make = functools.partial(
    nn.Conv, 8, (3, 3), strides=stride, padding=1, feature_group_count=groups
  )
  ours = make(conv_general_dilated=layers.conv_general_dilated)
  params = make().init(jax.random.key(0), images)

  def pull(module):
    return _vjp(
      module.apply, lambda y: jnp.asarray(_rand(*y.shape)), params, images
    )

  _close(jax.jit(lambda: pull(ours))(), jax.jit(lambda: pull(make()))())


@pytest.mark.parametrize('make', [_rand, _ties])
@pytest.mark.parametrize('case', _POOLS)
def test_pool_and_its_gradient_equal_flax(case, make):
  height, width, window, strides, padding = case
  images = make(3, height, width, 2)

  def pull(pool):
    return _vjp(
      lambda images: pool(images, window, strides, padding),
      lambda y: jnp.asarray(_rand(*y.shape)),
      images,
    )

  actual = jax.jit(lambda: pull(layers.max_pool))()
  expected = jax.jit(lambda: pull(nn.max_pool))()
  np.testing.assert_array_equal(actual[0], expected[0])
  # Windows that overlap add up, in another order.
  np.testing.assert_allclose(actual[1], expected[1], rtol=1e-6, atol=1e-6)


def test_the_first_of_equal_maxima_gets_the_gradient():
  gradient = jax.grad(lambda x: layers.max_pool(x, (2, 2), (2, 2)).sum())(
    jnp.ones((1, 4, 4, 1))
  )
  expected = np.zeros((4, 4))
  expected[::2, ::2] = 1
  np.testing.assert_array_equal(gradient[0, :, :, 0], expected)


@pytest.mark.parametrize('strides', [(2, 2), (1, 1)])
@pytest.mark.parametrize('place', range(4))
def test_pool_keeps_nan(place, strides):
  block = jnp.zeros(4).at[place].set(jnp.nan).reshape(1, 2, 2, 1)
  images = jnp.tile(block, (8, 16, 16, 32))
  pooled = jax.jit(lambda x: layers.max_pool(x, (2, 2), strides))(images)
  assert jnp.isnan(pooled).all()


def test_training_steps_in_a_loop_share_the_clean_pass():
  """NSL's objective: a clean pass, its input gradient, another pass."""
  # As large as in use, since XLA folds small constants; nothing is run.
  kernels = _rand(3, 3, 1, 32), _rand(3, 3, 32, 64), _rand(3, 3, 64, 64)
  batches = _rand(3, 32, 28, 28, 1)

  def loss_fn(kernels, images):
    hidden = images
    for index, kernel in enumerate(kernels):
      if index:
        hidden = layers.max_pool(hidden, (2, 2), (2, 2))
      hidden = layers.conv_general_dilated(hidden, kernel, (1, 1), 'VALID')
      hidden = jax.nn.relu(hidden)
    return jnp.sum(hidden**2)

  def objective(kernels, images):
    direction = lax.stop_gradient(jax.grad(loss_fn, 1)(kernels, images))
    return loss_fn(kernels, images) + loss_fn(
      kernels, images + jnp.sign(direction)
    )

  def step(kernels, images):
    gradient = jax.grad(objective)(kernels, images)
    return jax.tree.map(lambda k, g: k - 1e-3 * g, kernels, gradient), None

  program = jax.jit(lambda *args: lax.scan(step, *args)[0])
  text = program.lower(kernels, batches).compile().as_text()
  # Two passes: 3 forward, 3 for the kernels, 2 back to the hidden images; the
  # clean one also to the images. What is not shared is computed again.
  assert text.count(' dot(') == 2 * 8 + 1


@pytest.mark.parametrize('dtype', [jnp.bfloat16, jnp.float64])
def test_pool_keeps_the_dtype(dtype):
  with jax.enable_x64(dtype == jnp.float64):
    images = jnp.asarray(_rand(1, 5, 5, 2), dtype)
    actual = layers.max_pool(images, (3, 3), (2, 2), 'SAME')
    expected = nn.max_pool(images, (3, 3), (2, 2), 'SAME')
    assert actual.dtype == dtype
    np.testing.assert_array_equal(actual, expected)


@pytest.mark.parametrize('make', [_rand, _ties])
@pytest.mark.parametrize('case', _CONVOLUTIONS[:4] + _CONVOLUTIONS[5:6])
def test_convolution_then_pool_equals_one_after_the_other(case, make):
  batch, height, width, channels, filters, kernel, strides, padding = case
  images = make(batch, height, width, channels)
  options = {'strides': strides, 'padding': padding}
  fused = nn.Conv(
    filters,
    kernel,
    conv_general_dilated=layers.conv_then_max_pool((2, 2)),
    **options,
  )
  plain = nn.Conv(filters, kernel, **options)
  # Whole numbers, so that sums are exact and ties are ties in both.
  weights = make(*kernel, channels, filters)
  params = {'params': {'kernel': weights, 'bias': make(filters)}}

  def pull(f):
    return _vjp(f, lambda y: jnp.asarray(_rand(*y.shape)), params, images)

  actual = jax.jit(lambda: pull(lambda p, x: nn.relu(fused.apply(p, x))))()
  expected = jax.jit(
    lambda: pull(
      lambda p, x: nn.max_pool(nn.relu(plain.apply(p, x)), (2, 2), (2, 2))
    )
  )()
  _close(actual, expected)


def _network(convolve, pool):
  def f(kernel, images):
    hidden = jnp.tanh(convolve(images, kernel, (1, 1), 'SAME'))
    return jnp.sum(jnp.tanh(pool(hidden, (2, 2), (2, 2))) ** 2)

  return f


_OURS = _network(layers.conv_general_dilated, layers.max_pool)
_PLAIN = _network(
  functools.partial(
    lax.conv_general_dilated, dimension_numbers=('NHWC', 'HWIO', 'NHWC')
  ),
  nn.max_pool,
)


def test_gradients_of_gradients():
  kernel, images = _rand(3, 3, 1, 2), _rand(2, 5, 5, 1)

  def penalty(f):
    def norm(kernel, images):
      return jnp.sum(jax.grad(f, 1)(kernel, images) ** 2)

    return jax.jit(jax.grad(norm, (0, 1)))(kernel, images)

  # Independent of nn.max_pool, whose second derivatives JAX may lack: the
  # derivative of the gradient's norm by central differences in float64.
  with jax.enable_x64(True):
    actual = penalty(_OURS)
    step = 1e-5 * np.asarray(_rand(*images.shape, seed=3), np.float64)
    gradient = jax.jit(jax.grad(_OURS, 1))
    wide = np.asarray(images, np.float64)
    high, low = (
      jnp.sum(gradient(np.asarray(kernel, np.float64), wide + s) ** 2)
      for s in (step, -step)
    )
    expected = (high - low) / 2
    assert jnp.sum(actual[1] * step) == pytest.approx(float(expected), rel=1e-3)


def test_forward_mode_equals_flax():
  args = _rand(3, 3, 2, 3), _rand(2, 6, 6, 2)
  tangents = _rand(3, 3, 2, 3, seed=1), _rand(2, 6, 6, 2, seed=2)
  actual, expected = (
    jax.jit(lambda f=f: jax.jvp(f, args, tangents))() for f in (_OURS, _PLAIN)
  )
  _close(actual, expected)
  # Forward over reverse, as in Hessian-vector products.
  product = jax.jit(
    lambda: jax.jvp(jax.grad(_OURS, (0, 1)), args, tangents)[1]
  )()
  assert all(bool(jnp.isfinite(leaf).all()) for leaf in product)


@pytest.mark.parametrize('loop', ['vmap', 'map', 'scan', 'pmap'])
def test_loops_over_kernels(loop):
  kernels, images = _rand(2, 3, 3, 2, 3), _rand(2, 6, 5, 2)
  gradient = jax.grad(_OURS)
  expected = jnp.stack([jax.grad(_PLAIN)(k, images) for k in kernels])
  actual = {
    'vmap': lambda: jax.vmap(gradient, (0, None))(kernels, images),
    'map': lambda: lax.map(lambda k: gradient(k, images), kernels),
    'scan': lambda: lax.scan(lambda c, k: (c, gradient(k, images)), 0, kernels)[
      1
    ],
    'pmap': lambda: jax.pmap(gradient, in_axes=(0, None))(kernels, images),
  }[loop]()
  _close(actual, expected)


@pytest.mark.parametrize('platform', ['cuda', 'tpu', 'cpu'])
def test_the_platform_picks_the_form_at_lowering(platform):
  f = jax.jit(jax.grad(_OURS, (0, 1)))
  args = _rand(3, 3, 1, 2), _rand(2, 6, 6, 1)
  text = f.trace(*args).lower(lowering_platforms=(platform,)).as_text()
  assert ('stablehlo.convolution' in text) == (platform != 'cpu')
  assert ('select_and_scatter' in text) == (platform != 'cpu')
  assert ('stablehlo.dot_general' in text) == (platform == 'cpu')


def test_an_input_gradient_does_not_compute_that_of_the_kernel():
  kernel, images = _rand(3, 3, 2, 3), _rand(2, 6, 6, 2)
  text = jax.jit(jax.grad(_OURS, 1)).lower(kernel, images).compile().as_text()
  assert text.count(' dot(') == 2


@pytest.mark.parametrize('case', _CONVOLUTIONS[:6])
def test_the_default_form_equals_that_of_the_cpu(case, monkeypatch):
  batch, height, width, channels, filters, kernel, strides, padding = case
  args = (
    _rand(batch, height, width, channels),
    _rand(*kernel, channels, filters),
  )

  def pooled(images, kernel):
    fused = layers.conv_then_max_pool((2, 2))
    return fused(images, kernel, strides, padding)

  expected = jax.jit(pooled)(*args)
  monkeypatch.setattr(
    lax, 'platform_dependent', lambda *args, cpu, default: default(*args)
  )
  _close(jax.jit(lambda *args: pooled(*args))(*args), expected)


@pytest.mark.parametrize('batch', [128, 130, 131])  # Parts of 16, 13; whole.
def test_large_batches_go_through_in_parts(batch):
  args = _rand(batch, 6, 6, 2), _rand(3, 3, 2, 3)
  fused = layers.conv_then_max_pool((2, 2))

  def ours(images, kernel):
    return fused(images, kernel, (1, 1), 'VALID')

  def plain(images, kernel):
    outputs = lax.conv_general_dilated(
      images,
      kernel,
      (1, 1),
      'VALID',
      dimension_numbers=('NHWC', 'HWIO', 'NHWC'),
    )
    return nn.max_pool(outputs, (2, 2), (2, 2))

  text = jax.jit(ours).lower(*args).as_text()
  assert ('stablehlo.while' in text) == (batch != 131)
  for function in (lambda f: f, lambda f: jax.grad(_weighted(f), (0, 1))):
    found, expected = (jax.jit(function(f))(*args) for f in (ours, plain))
    jax.tree.map(_close, found, expected)


def _weighted(function):
  def total(*args):
    outputs = function(*args)
    return jnp.sum(
      outputs * jnp.cos(jnp.arange(outputs.size)).reshape(outputs.shape)
    )

  return total
