"""What a network needs for each method."""

import numpy as np
import pytest

from advjax import explain


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


@pytest.mark.parametrize('methods', [[], ['cam', 'cam'], ['saliences']])
def test_methods_that_there_are_not(methods):
  network = explain.Network('mine', lambda x: x.sum((1, 2)))
  with pytest.raises(ValueError, match=r"allowed: .*'saliency'"):
    explain.find_methods(network, np.ones((1, 2, 2, 3)), methods)
