"""One network on scikit-learn's digits, under an objective of your choice.

  ./launch.sh train --config=configs/digits.py:trades --workdir=runs/trades

Variants: `standard`, `nsl`, `fgsm_at`, `pgd_at` (the default), `trades`; each
also as, say, `trades-smoke` (one epoch); `smoke` is `pgd_at-smoke`. All train
the NSL network for 20 epochs, about half a minute on 2 CPU cores for pgd_at,
with 137 training images held out to choose the best checkpoint by.
"""

from ml_collections import config_dict

from advjax.config import choose, default_config, shrink_to_smoke

_OBJECTIVES = {
  'standard': ({'name': 'standard'}, {}),
  'nsl': (
    {'name': 'adversarial_regularization', 'norm': 'infinity'},
    {'multiplier': 0.2, 'step_size': 0.2},
  ),
  'fgsm_at': ({'name': 'fgsm_at', 'norm': 'linf'}, {'epsilon': 0.1}),
  'pgd_at': (
    {'name': 'pgd_at', 'norm': 'linf', 'num_steps': 7},
    {'epsilon': 0.1},
  ),
  'trades': (
    {'name': 'trades', 'norm': 'linf', 'num_steps': 7},
    {'epsilon': 0.1, 'beta': 6.0},
  ),
}
# Step sizes as shares of epsilon: Wong et al. 2020 for FGSM, 2.5 / steps
# (Madry et al. 2017) for seven steps.
_STEP_RATIOS = {'fgsm_at': 1.25, 'pgd_at': 2.5 / 7, 'trades': 2.5 / 7}


def get_config(variant: str | None = None) -> config_dict.ConfigDict:
  """Returns the config of one training run."""
  variant = {'smoke': 'pgd_at-smoke'}.get(variant or '', variant or 'pgd_at')
  name, _, smoke = variant.partition('-')
  choose('variant', name, _OBJECTIVES)
  if smoke:
    choose('variant', smoke, ('smoke',))
  objective, hparams = _OBJECTIVES[name]
  config = default_config()
  config.num_epochs = 20
  config.num_validation = 137
  config.report_checkpoint = 'best' if name != 'standard' else 'last'
  config.monitor.every_epochs = 2
  config.objective = objective
  config.hparams.update(hparams)
  if name in _STEP_RATIOS:
    epsilon = config.hparams.get_ref('epsilon')
    config.hparams.step_size = epsilon * _STEP_RATIOS[name]
  if smoke:
    shrink_to_smoke(config)
  return config
