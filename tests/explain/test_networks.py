"""The methods on a network of this project that shows its feature maps."""

import jax
import numpy as np
import pytest

from advjax import explain
from advjax.models import create_model


@pytest.mark.slow
def test_every_method_on_a_residual_network():
  model = create_model({'name': 'small_resnet'}, 10)
  images = np.random.default_rng(0).uniform(size=(2, 32, 32, 3))
  images, labels = images.astype(np.float32), np.array([3, 7])
  params, state = model.init(jax.random.key(0), images)
  network = explain.network_of(model, params, state, 'small_resnet')
  maps = explain.explain(network, images, labels, key=jax.random.key(1))
  assert tuple(maps) == explain.METHODS
  for method, values in maps.items():
    depth = 3 if 'cam' in method else 4
    assert values.shape == images.shape[:depth]
    assert np.isfinite(values).all() and np.abs(values).max() > 0
  small = explain.cam(
    network.features_fn, network.class_weights, images, labels, upsample=False
  )
  bias = params['head']['bias'][labels]
  logits = network.logits_fn(images)[np.arange(2), labels]
  np.testing.assert_allclose(
    small.mean((1, 2)) + bias, logits, rtol=1e-4, atol=1e-4
  )
  plain = explain.saliency(network.logits_fn, images, labels)
  assert np.abs(plain - maps['guided_backprop']).max() > 1e-3


def test_a_network_says_what_it_lacks():
  network = explain.Network('mine', lambda x: x.sum((1, 2)))
  images = np.ones((1, 2, 2, 3), np.float32)
  methods, missing = explain.find_methods(network, images)
  assert methods == ('saliency', 'integrated_gradients', 'smooth_grad')
  assert list(missing) == ['guided_backprop', 'grad_cam', 'cam']
  for method, reason in missing.items():
    with pytest.raises(ValueError, match=method) as error:
      explain.find_methods(network, images, [method])
    assert str(error.value) == reason and 'mine' in reason
