"""MATLAB's FGSM-training example on scikit-learn's digits.

Reproduces its comparison (standard training against FGSM training with a random
start, step size 1.25 epsilon; white-box BIM with epsilon 0.1, step size 0.01,
20 steps) with its network and hyperparameters (SGD with momentum 0.9, learning
rate 0.01, batch size 100, 30 epochs) on 1,797 embedded images instead of its
10,000 synthetic ones.

  ./launch.sh compare --config=configs/matlab_digits.py \\
    --workdir=runs/matlab_digits

Variants: `parity` (no clipping to [0, 1], neither in training nor in the
attacks, as in MATLAB's code), `smoke` (one epoch).
"""

from ml_collections import config_dict

from advjax.config import choose, shrink_to_smoke
from advjax.tutorials import matlab_comparison


def get_config(variant: str | None = None) -> config_dict.ConfigDict:
  """Returns the config of a comparison of `plain` and `robust`."""
  if variant is not None:
    choose('variant', variant, ('parity', 'smoke'))
  config = matlab_comparison(parity=variant == 'parity')
  config.num_epochs = 30
  config.monitor.every_epochs = 10
  # An epoch takes less than a second.
  config.checkpoint_every_epochs = 5
  if variant == 'smoke':
    shrink_to_smoke(config)
  return config
