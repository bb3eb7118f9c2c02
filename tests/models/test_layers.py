"""The layers against nn.Conv, nn.max_pool and jax.lax's own."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from jax import lax

from advjax.models import layers

# Images [B, H, W, C], channels out, kernel, strides, padding, groups.
_CONVOLUTIONS = [
  ((3, 7, 9, 3), 2, (3, 3), (1, 1), 'SAME', 1),
  ((1, 8, 7, 2), 5, (3, 2), (2, 3), 'SAME', 1),
  ((2, 5, 5, 3), 4, (1, 1), (2, 2), 'VALID', 1),
  ((1, 4, 4, 2), 2, (4, 4), (3, 3), ((3, 2), (0, 5)), 1),
  ((2, 5, 6, 4), 8, (3, 3), (2, 2), ((1, 1), (1, 1)), 4),
]
# Height, width, window, strides, padding.
_POOLS = [
  (7, 5, (2, 2), (2, 2), 'VALID'),
  (7, 7, (3, 3), (1, 2), ((1, 1), (0, 2))),
  (5, 6, (2, 3), (3, 2), 'SAME'),
]
_NHWC = ('NHWC', 'HWIO', 'NHWC')


def _rand(*shape, seed=0):
  return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def _ties(*shape):
  """Few values, so that most windows have several maxima."""
  return np.random.default_rng(1).integers(-1, 2, shape).astype(np.float32)


def _weighted(function):
  """A sum of a function's outputs in which every one counts differently."""

  def total(*args):
    outputs = function(*args)
    weights = jnp.cos(jnp.arange(outputs.size, dtype=outputs.dtype))
    return jnp.sum(outputs * weights.reshape(outputs.shape)), outputs

  return total


def _with_gradients(functions, inputs):
  """Outputs and gradients of many functions, compiled as one program."""

  def run(inputs):
    return [
      jax.grad(_weighted(f), tuple(range(len(args))), has_aux=True)(*args)
      for f, args in zip(functions, inputs, strict=True)
    ]

  return jax.jit(run)(inputs)


def _close(actual, expected, rtol=1e-5, err_msg=''):
  for a, b in zip(
    jax.tree.leaves(actual), jax.tree.leaves(expected), strict=True
  ):
    a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
    atol = rtol * max(np.abs(b).max(), 1e-3)
    np.testing.assert_allclose(a, b, rtol=0, atol=atol, err_msg=err_msg)


def _each_close(cases, actual, expected):
  for case, a, b in zip(cases, actual, expected, strict=True):
    _close(a, b, err_msg=str(case))


def _convolution(case, convolve=None):
  _, filters, kernel, strides, padding, groups = case
  module = nn.Conv(
    filters,
    kernel,
    strides=strides,
    padding=padding,
    feature_group_count=groups,
    conv_general_dilated=convolve,
  )
  return lambda kernel, bias, images: module.apply(
    {'params': {'kernel': kernel, 'bias': bias}}, images
  )


def _arguments(case, make=_rand):
  shape, filters, kernel, _, _, groups = case
  weights = make(*kernel, shape[-1] // groups, filters)
  return weights, make(filters), make(*shape)


def test_convolutions_and_their_gradients_equal_flax():
  inputs = [_arguments(case) for case in _CONVOLUTIONS]
  ours, plain = (
    _with_gradients([_convolution(c, f) for c in _CONVOLUTIONS], inputs)
    for f in (layers.conv_general_dilated, None)
  )
  _each_close(_CONVOLUTIONS, ours, plain)


def test_other_convolutions_are_those_of_jax():
  for shape, options in (
    ((2, 8, 8, 4), {'kernel_size': (3, 3), 'kernel_dilation': (2, 2)}),
    (
      (2, 8, 8, 4),
      {'kernel_size': (3, 3), 'input_dilation': (2, 1), 'padding': 1},
    ),
    ((2, 8, 4), {'kernel_size': (3,)}),
  ):
    texts = []
    for convolve in (layers.conv_general_dilated, None):
      module = nn.Conv(6, **options, conv_general_dilated=convolve)
      params = jax.eval_shape(module.init, jax.random.key(0), np.ones(shape))
      texts.append(
        jax.jit(module.apply).lower(params, np.ones(shape)).as_text()
      )
    assert texts[0] == texts[1]


def test_pools_and_their_gradients_equal_flax():
  """The gradient goes to the first of equal maxima."""
  inputs = [(_ties(3, *pool[:2], 2),) for pool in _POOLS]

  def pools(pool):
    return [lambda x, rest=rest: pool(x, *rest) for _, _, *rest in _POOLS]

  actual = _with_gradients(pools(layers.max_pool), inputs)
  expected = _with_gradients(pools(nn.max_pool), inputs)
  _each_close(_POOLS, actual, expected)
  for (_, ours), (_, plain) in zip(actual, expected, strict=True):
    np.testing.assert_array_equal(ours, plain)


def test_pool_keeps_nan():
  # Of each four images, NaN is at another place of the windows.
  blocks = np.where(np.eye(4), np.nan, 0).reshape(4, 2, 2, 1)
  images = np.tile(blocks, (2, 8, 8, 32)).astype(np.float32)
  for pooled in jax.jit(
    lambda x: [
      layers.max_pool(x, (2, 2), strides) for strides in ((2, 2), (1, 1))
    ]
  )(images):
    assert jnp.isnan(pooled).all()


def test_other_dtypes():
  @jax.jit
  def run(images, kernel):
    return (
      layers.conv_general_dilated(images, kernel, (1, 1), 'SAME'),
      lax.conv_general_dilated(
        images, kernel, (1, 1), 'SAME', dimension_numbers=_NHWC
      ),
      layers.max_pool(images, (3, 3), (2, 2), 'SAME'),
      nn.max_pool(images, (3, 3), (2, 2), 'SAME'),
    )

  with jax.enable_x64(True):
    for dtype, rtol in ((jnp.bfloat16, 1e-2), (jnp.float64, 1e-14)):
      args = _rand(2, 7, 6, 3), _rand(3, 3, 3, 4)
      convolved, expected, pooled, maxima = run(
        *(jnp.asarray(x, dtype) for x in args)
      )
      assert convolved.dtype == pooled.dtype == dtype
      _close(convolved, expected, rtol=rtol)
      np.testing.assert_array_equal(pooled, maxima)


def test_convolution_then_pool_equals_one_after_the_other(monkeypatch):
  # Whole numbers, so that sums are exact and ties are ties in both.
  cases = _CONVOLUTIONS[:2]
  inputs = [_arguments(case, _ties) for case in cases]
  fused = layers.conv_then_max_pool((2, 2))

  def ours(case):
    return lambda *args: nn.relu(_convolution(case, fused)(*args))

  def plain(case):
    return lambda *args: nn.max_pool(
      nn.relu(_convolution(case)(*args)), (2, 2), (2, 2)
    )

  actual, expected = (
    _with_gradients([f(case) for case in cases], inputs) for f in (ours, plain)
  )
  _each_close(cases, actual, expected)
  # And what runs on accelerators.
  monkeypatch.setattr(
    lax, 'platform_dependent', lambda *args, cpu, default: default(*args)
  )
  (found,) = _with_gradients([ours(cases[0])], inputs[:1])
  _close(found, expected[0])


def test_large_batches_go_through_in_parts():
  fused = layers.conv_then_max_pool((2, 2))

  def ours(images, kernel):
    return fused(images, kernel, (1, 1), 'VALID')

  for batch in (128, 131, 130):  # Parts of 16, whole, parts of 13.
    args = _rand(batch, 6, 6, 2), _rand(3, 3, 2, 3)
    text = jax.jit(ours).lower(*args).as_text()
    assert ('stablehlo.while' in text) == (batch != 131)

  def plain(images, kernel):
    outputs = lax.conv_general_dilated(
      images, kernel, (1, 1), 'VALID', dimension_numbers=_NHWC
    )
    return nn.max_pool(outputs, (2, 2), (2, 2))

  _close(*(_with_gradients([f], [args]) for f in (ours, plain)))


def test_training_steps_in_a_loop_share_the_clean_pass():
  """NSL's objective: a clean pass, its input gradient, another pass."""
  # As large as in use, since XLA folds small constants; nothing is run.
  kernels = _rand(3, 3, 1, 32), _rand(3, 3, 32, 64)
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
  # Two passes: 2 forward, 2 for the kernels, 1 back to the hidden images; the
  # clean one also to the images. What is not shared is computed again.
  assert text.count(' dot(') == 2 * 5 + 1


def _network(convolve, pool):
  def f(kernel, images):
    hidden = jnp.tanh(convolve(images, kernel, (1, 1), 'SAME'))
    return jnp.sum(jnp.tanh(pool(hidden, (2, 2), (2, 2))) ** 2)

  return f


_OURS = _network(layers.conv_general_dilated, layers.max_pool)
_PLAIN = _network(
  functools.partial(lax.conv_general_dilated, dimension_numbers=_NHWC),
  nn.max_pool,
)


def test_gradients_of_gradients():
  """Against central differences in float64, for nn.max_pool may lack them."""

  @jax.jit
  def slopes(kernel, images, step):
    def norm(images):
      return jnp.sum(jax.grad(_OURS, 1)(kernel, images) ** 2)

    high, low = lax.map(norm, jnp.stack([images + step, images - step]))
    forward = jax.jvp(norm, (images,), (step,))[1]
    return forward, jnp.sum(jax.grad(norm)(images) * step), (high - low) / 2

  with jax.enable_x64(True):
    kernel, images, step = (
      np.asarray(x, np.float64)
      for x in (_rand(3, 3, 1, 2), _rand(2, 5, 5, 1), _rand(2, 5, 5, 1, seed=3))
    )
    step *= 1e-5
    forward, reverse, expected = slopes(kernel, images, step)
  assert float(forward) == pytest.approx(float(expected), rel=1e-3)
  assert float(reverse) == pytest.approx(float(expected), rel=1e-3)


def test_forward_mode_and_loops_over_kernels():
  kernels, images = _rand(2, 3, 3, 2, 3), _rand(2, 6, 5, 2)
  tangents = _rand(3, 3, 2, 3, seed=1), _rand(2, 6, 5, 2, seed=2)

  def one(f, kernel):
    return jax.grad(f)(kernel, images)

  @jax.jit
  def run(kernels):
    return [
      (
        jax.jvp(f, (kernels[0], images), tangents),
        jax.vmap(functools.partial(one, f))(kernels),
      )
      for f in (_OURS, _PLAIN)
    ], lax.map(functools.partial(one, _OURS), kernels)

  (found, expected), looped = run(kernels)
  _close(found, expected)
  _close(looped, expected[1])


def test_the_platform_picks_the_form_at_lowering():
  args = _rand(3, 3, 1, 2), _rand(2, 6, 6, 1)
  traced = jax.jit(jax.grad(_OURS, (0, 1))).trace(*args)
  for platform in ('cuda', 'tpu', 'cpu'):
    text = traced.lower(lowering_platforms=(platform,)).as_text()
    assert ('stablehlo.convolution' in text) == (platform != 'cpu')
    assert ('select_and_scatter' in text) == (platform != 'cpu')
    assert ('stablehlo.dot_general' in text) == (platform == 'cpu')


def test_an_input_gradient_does_not_compute_that_of_the_kernel():
  kernel, images = _rand(3, 3, 2, 3), _rand(2, 6, 6, 2)
  text = jax.jit(jax.grad(_OURS, 1)).lower(kernel, images).compile().as_text()
  assert text.count(' dot(') == 2
