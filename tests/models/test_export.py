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

from advjax.models import create_model, from_linen
from advjax.models.logits import eval_logits_fn
from advjax.models.resnet import (
  Architecture,
  Bottleneck,
  PoolingBlock,
  PreActivationBlock,
  residual_network,
)
from tests.models.checks import draw

SHAPE = (12, 8, 2)


def residual(block, **options):
  shape = Architecture(block, (1, 1), (4, 8), (1, 2), stem_width=4, **options)
  return from_linen(residual_network(shape, 3, stem='strided'))


def named(name, **fields):
  return create_model({'name': name, **fields}, 3)


MODELS = {
  'cnn': named('cnn', conv_filters=(3, 4), num_fc_units=(5,), batch_norm=True),
  'matlab_cnn': named('matlab_cnn'),
  'mlp': named('mlp', hidden_units=(4,)),
  'logistic_regression': named('logistic_regression'),
  'small_resnet': named(
    'small_resnet', widths=(4, 8), stem='imagenet', normalization='group'
  ),
  'preact_resnet18': residual(PreActivationBlock, activate_stem=False),
  'resnext29': residual(
    functools.partial(Bottleneck, groups=2, group_width=32)
  ),
  'resnet9': residual(PoolingBlock),
}


@pytest.fixture(scope='module')
def networks():
  images = jnp.zeros((1, *SHAPE))
  return {
    name: eval_logits_fn(model, *draw(model, images))
    for name, model in MODELS.items()
  }


@pytest.fixture(scope='module')
def files(networks):
  """The bytes of every network, as the documented line writes them."""
  size = ', '.join(map(str, SHAPE))
  images = jax.ShapeDtypeStruct(export.symbolic_shape(f'b, {size}'), 'float32')
  platforms = ('cpu', 'cuda', 'tpu')
  return {
    name: export.export(jax.jit(network), platforms=platforms)(
      images
    ).serialize(vjp_order=1)
    for name, network in networks.items()
  }


# 128: from there on, the networks themselves take a batch in parts.
@pytest.mark.parametrize('batch', [3, 128])
def test_values_and_gradients_are_those_of_the_network(networks, files, batch):
  images = np.random.default_rng(0).uniform(size=(batch, *SHAPE))
  read = {name: export.deserialize(data) for name, data in files.items()}
  weights = np.arange(3, dtype=np.float32) - 1

  @jax.jit
  def all_of(images):
    cotangent = jnp.broadcast_to(weights, (batch, 3))
    found, expected = {}, {}
    for name, network in networks.items():
      logits, vjp = jax.vjp(network, images)
      expected[name] = logits, *vjp(cotangent)
      file = read[name]
      found[name] = file.call(images), *file.vjp().call(images, cotangent)
    return found, expected

  for found, expected in zip(
    *map(jax.tree.leaves, all_of(jnp.float32(images))), strict=True
  ):
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)


PROGRAM = """
import sys
for name in ('advjax', 'flax', 'optax', 'orbax', 'ml_collections'):
  sys.modules[name] = None  # An import fails.
import jax
import numpy as np
from jax import export

network = export.deserialize(open(sys.argv[1], 'rb').read())
images = np.load(sys.argv[2])
logits = network.call(images)
(gradient,) = network.vjp().call(images, np.ones_like(logits))
np.savez(sys.argv[3], logits=logits, gradient=gradient)
"""


def test_a_file_runs_without_advjax(networks, files, tmp_path):
  paths = [tmp_path / name for name in ('network', 'images.npy', 'found.npz')]
  images = np.random.default_rng(1).uniform(size=(5, *SHAPE)).astype('float32')
  paths[0].write_bytes(files['cnn'])
  np.save(paths[1], images)
  subprocess.run(
    [sys.executable, '-P', '-c', PROGRAM, *map(str, paths)],
    check=True,
    cwd=tmp_path,
    env={**os.environ, 'JAX_PLATFORMS': 'cpu'},
    timeout=120,
  )
  network = networks['cnn']
  with np.load(paths[2]) as found:
    np.testing.assert_allclose(found['logits'], network(images), atol=1e-5)
    expected = jax.grad(lambda images: network(images).sum())(images)
    np.testing.assert_allclose(found['gradient'], expected, atol=1e-5)
