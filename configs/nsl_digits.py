"""NSL's adversarial-regularization tutorial on scikit-learn's digits.

Reproduces the tutorial's comparison (a base model against one trained with
adversarial regularization, multiplier 0.2, step size 0.2, norm infinity) on
1,797 embedded images instead of MNIST, without a download.

  ./launch.sh compare --config=configs/nsl_digits.py --workdir=runs/nsl_digits

Variants: `smoke` (one epoch).
"""

from ml_collections import config_dict

from advjax.config import choose, shrink_to_smoke
from advjax.tutorials import nsl_comparison


def get_config(variant: str | None = None) -> config_dict.ConfigDict:
  """Returns the config of a comparison of `base` and `adversarial`."""
  config = nsl_comparison()
  config.num_epochs = 20
  config.monitor.every_epochs = 10
  # An epoch takes less than a second.
  config.checkpoint_every_epochs = 5
  config.evaluation.epsilon = 0.1
  config.evaluation.epsilons = (0.05, 0.1, 0.2, 0.3)
  if variant is not None:
    choose('variant', variant, ('smoke',))
    shrink_to_smoke(config)
  return config
