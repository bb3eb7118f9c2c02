"""Networks as files that jax alone runs, for any batch and platform."""

import functools
import os
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import export

from advjax.models import create_model, from_linen, resnet
from advjax.models.logits import eval_logits_fn
from tests.models.checks import draw

SHAPE = (12, 8, 2)


def residual(block, **options):
  shape = resnet.Architecture(block, (1, 1), (4, 8), (1, 2), 4, **options)
  return from_linen(resnet.residual_network(shape, 3, stem='strided'))


NETWORKS = {
  **{
    name: create_model({'name': name, **fields}, 3)
    for name, fields in {
      'cnn': {'conv_filters': (3, 4), 'num_fc_units': (), 'batch_norm': True},
      'matlab_cnn': {},
      'mlp': {'hidden_units': (4,)},
      'logistic_regression': {},
      'small_resnet': {'widths': (4, 8), 'normalization': 'group'},
    }.items()
  },
  # The others of `RESIDUAL_NETWORKS`, narrower.
  'preact_resnet': residual(resnet.PreActivationBlock, activate_stem=False),
  'resnet9': residual(resnet.PoolingBlock),
  'resnext': residual(
    functools.partial(resnet.Bottleneck, groups=2, group_width=32)
  ),
}

PROGRAM = """
import sys
for name in ('advjax', 'flax', 'optax', 'orbax', 'ml_collections'):
  sys.modules[name] = None  # An import fails.
import jax, numpy
images = numpy.load('images.npy')
network = jax.export.deserialize(open('network', 'rb').read())
logits = network.call(images)
(gradient,) = network.vjp().call(images, numpy.ones_like(logits))
numpy.savez('found.npz', logits=logits, gradient=gradient)
"""


@pytest.fixture(scope='module')
def saved():
  """Name -> the network, and its bytes by the documented line."""
  size = export.symbolic_shape(f'b, {", ".join(map(str, SHAPE))}')
  images, found = jax.ShapeDtypeStruct(size, 'float32'), {}
  for name, model in NETWORKS.items():
    network = eval_logits_fn(model, *draw(model, jnp.zeros((1, *SHAPE))))
    export_it = export.export(
      jax.jit(network), platforms=('cpu', 'cuda', 'tpu')
    )
    found[name] = network, export_it(images).serialize(vjp_order=1)
  return found


def draw_images(batch):
  return np.random.default_rng(0).uniform(size=(batch, *SHAPE)).astype('f')


# 128: from there on, convolutions take a batch in parts.
@pytest.mark.parametrize(
  ('batch', 'names'), [(3, tuple(NETWORKS)), (128, ('cnn',))]
)
def test_values_and_gradients_are_those_of_the_network(saved, batch, names):
  read = {name: export.deserialize(saved[name][1]) for name in names}

  @jax.jit
  def compute(images):
    pairs = []
    for name in names:
      network, _ = saved[name]
      logits, vjp = jax.vjp(network, images)
      cotangent = jnp.broadcast_to(jnp.arange(-1.0, 2.0), logits.shape)
      gradients = *vjp(cotangent), *read[name].vjp().call(images, cotangent)
      pairs += [(logits, read[name].call(images)), gradients]
    return pairs

  for expected, found in compute(draw_images(batch)):
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)


def test_a_file_runs_without_advjax(saved, tmp_path):
  network, data = saved['cnn']
  (tmp_path / 'network').write_bytes(data)
  np.save(tmp_path / 'images.npy', images := draw_images(5))
  environment = {**os.environ, 'JAX_PLATFORMS': 'cpu'}
  command = [sys.executable, '-P', '-c', PROGRAM]
  subprocess.run(command, check=True, cwd=tmp_path, env=environment, timeout=99)
  with np.load(tmp_path / 'found.npz') as found:
    np.testing.assert_allclose(found['logits'], network(images), atol=1e-5)
    expected = jax.grad(lambda images: network(images).sum())(images)
    np.testing.assert_allclose(found['gradient'], expected, atol=1e-5)
