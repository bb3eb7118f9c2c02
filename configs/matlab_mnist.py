"""MATLAB's FGSM-training example on MNIST.

Reproduces its comparison (standard training against FGSM training with a random
start, step size 1.25 epsilon; white-box BIM with epsilon 0.1, step size 0.01,
20 steps) with its network, hyperparameters and numbers of images: 30 epochs on
5,000 training images, 5,000 test images, the first ones of MNIST instead of
MATLAB's synthetic digits.

  ./launch.sh compare --config=configs/matlab_mnist.py \\
    --workdir=runs/matlab_mnist --config.dataset.data_dir=DIR

DIR holds data sets of TensorFlow Datasets (docs/datasets.md). Results, compared
with MATLAB's: docs/results.md.

Variants: `all` (60,000 training images, 5 epochs, 10,000 test images), `parity`
(no clipping to [0, 1], neither in training nor in the attacks, as in MATLAB's
code), `smoke` (one epoch on 1,000 images).
"""

from ml_collections import config_dict

from advjax.config import choose, shrink_to_smoke
from advjax.tutorials import matlab_comparison


def get_config(variant: str | None = None) -> config_dict.ConfigDict:
  """Returns the config of a comparison of `plain` and `robust`."""
  if variant is not None:
    choose('variant', variant, ('all', 'parity', 'smoke'))
  config = matlab_comparison(parity=variant == 'parity')
  config.dataset.name = 'tfds'
  config.dataset.builder = 'mnist'
  config.dataset.train_split = 'train[:5000]'
  config.dataset.test_split = 'test[:5000]'
  # An image costs this network five times what it costs NSL's: no PGD here.
  config.evaluation.attacks = ('bim-20', 'fgsm')
  config.evaluation.epsilons = (0.05, 0.1, 0.2, 0.3)
  config.num_epochs = 30
  config.monitor.every_epochs = 10
  config.checkpoint_every_epochs = 5
  if variant == 'all':
    config.dataset.train_split = 'train'
    config.dataset.test_split = 'test'
    config.num_epochs = 5
    config.monitor.every_epochs = 1
    config.checkpoint_every_epochs = 1
  if variant == 'smoke':
    shrink_to_smoke(config)
    config.dataset.train_split = 'train[:1000]'
    config.dataset.test_split = 'test[:500]'
  return config
