"""Operations and bytes of programs, against XLA's count and closed forms."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.benchmarks import roofline, runs
from tests.training import runs as tiny


def shape(*sizes, dtype=np.float32):
  return jax.ShapeDtypeStruct(sizes, dtype)


CONVOLUTIONS = {
  'same': {'padding': 'SAME'},
  'strided': {'padding': [(1, 1), (1, 1)], 'window_strides': (2, 2)},
  'dilated kernel': {'padding': [(2, 2), (0, 3)], 'rhs_dilation': (2, 1)},
  'dilated images': {'padding': [(2, 2), (1, 1)], 'lhs_dilation': (2, 2)},
  'groups': {'padding': 'VALID', 'feature_group_count': 4},
}


@pytest.mark.parametrize('name', CONVOLUTIONS)
def test_convolutions_and_their_gradients(name):
  options = {'window_strides': (1, 1), **CONVOLUTIONS[name]}
  channels = 8 // options.get('feature_group_count', 1)
  images, kernel = shape(2, 9, 7, 8), shape(3, 3, channels, 12)

  def convolve(images, kernel):
    return jax.lax.conv_general_dilated(
      images, kernel, dimension_numbers=('NHWC', 'HWIO', 'NHWC'), **options
    )

  def by_images(kernel, cotangent):
    transpose = jax.linear_transpose(lambda x: convolve(x, kernel), images)
    return transpose(cotangent)

  def by_kernel(images, cotangent):
    transpose = jax.linear_transpose(lambda x: convolve(images, x), kernel)
    return transpose(cotangent)

  out = jax.eval_shape(convolve, images, kernel)
  for function, first, second in (
    (convolve, images, kernel),
    (by_images, kernel, out),
    (by_kernel, images, out),
  ):
    # Counted before compiling, where a convolution still is one.
    counted = jax.jit(function).lower(first, second).cost_analysis()['flops']
    assert roofline.work_of(function, first, second).flops == counted > 0


def test_products_loops_and_branches():
  left, right = shape(3, 8, 16), shape(3, 16, 5)
  product = roofline.work_of(jnp.matmul, left, right)
  assert product == (2 * 3 * 8 * 16 * 5, 4 * 3 * (8 * 16 + 16 * 5 + 8 * 5))
  half = [shape(4, 4, dtype=jnp.bfloat16)] * 2
  assert roofline.work_of(jnp.matmul, *half) == (2 * 4**3, 2 * 3 * 16)

  def loop(x):
    step = jax.checkpoint(lambda x, _: (jnp.tanh(x @ x), None))
    return jax.lax.scan(step, x, None, length=5)[0]

  def branches(x):
    return jax.lax.platform_dependent(
      x, cpu=lambda x: x @ x @ x @ x, default=lambda x: x @ x
    )

  square = shape(4, 4)
  once = roofline.work_of(lambda x: x @ x, square)
  assert roofline.work_of(loop, square) == (5 * once.flops, 5 * once.bytes)
  assert roofline.work_of(branches, square) == once
  mapped = roofline.work_of(jax.pmap(lambda x: x @ x), shape(2, 4, 4))
  assert mapped == (2 * once.flops, 2 * once.bytes)


def test_a_training_step_is_the_closed_form():
  """The tutorial's: three convolutions, of which the pools read a part."""
  dataset = tiny.dataset(num_train=40, shape=(28, 28, 1))
  dataset = dataset._replace(num_classes=10)
  training = runs.tutorial('standard', 32, dataset, jax.devices()[:2])
  found = roofline.step_work(training)
  assert found.flops == roofline.least_work('standard', 32).flops
  # Beside the activations, params and Adam's moments: read and written.
  assert found.bytes > 2 * 6 * 4 * roofline.PARAMETERS
  assert roofline.PARAMETERS == 93322
