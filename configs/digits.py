"""One network on scikit-learn's digits, with a selectable training objective.

  ./launch.sh train --config=configs/digits.py:trades --workdir=runs/trades

Variants: `standard`, `nsl`, `virtual`, `fgsm_at`, `pgd_at` (the default),
`trades`; each also as, say, `trades-smoke` (one epoch); `smoke` is
`pgd_at-smoke`. All train the NSL network for 20 epochs, about half a minute on
2 CPU cores for pgd_at; 137 held-out training images select the best checkpoint.
"""

from ml_collections import config_dict

from advjax.config import default_config
from advjax.variants import set_variant


def get_config(variant: str | None = None) -> config_dict.ConfigDict:
  """Returns the config of one training run."""
  config = default_config()
  config.num_epochs = 20
  config.num_validation = 137
  config.monitor.every_epochs = 2
  return set_variant(config, variant, epsilon=0.1, nsl_step_size=0.2)
