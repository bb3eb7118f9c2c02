"""The variants of a config of one network: an objective each.

A config file sets what belongs to its data (epochs, epsilons, the data set),
and leaves the choice of the objective to `set_variant`.
"""

from advjax._extras import ml_collections  # noqa: F401  # isort: skip
from ml_collections import config_dict

from advjax.config import choose, default_config, shrink_to_smoke

_OBJECTIVES = {
  'standard': {'name': 'standard'},
  'nsl': {'name': 'adversarial_regularization', 'norm': 'linf'},
  'virtual': {
    'name': 'virtual_adversarial_regularization',
    'norm': 'l2',
    'distance': 'kl',
  },
  'fgsm_at': {'name': 'fgsm_at', 'norm': 'linf'},
  'pgd_at': {'name': 'pgd_at', 'norm': 'linf', 'num_steps': 7},
  'trades': {'name': 'trades', 'norm': 'linf', 'num_steps': 7},
}
# Miyato et al. 2017 on MNIST, in l2, with a finite difference as large as the
# step: NSL's is below the rounding of float32.
_VIRTUAL = {'multiplier': 1.0, 'step_size': 2.0, 'approx_difference': 2.0}
# Step sizes relative to epsilon: Wong et al. 2020 for FGSM, 2.5 / steps
# (Madry et al. 2017) for seven steps.
_STEP_RATIOS = {'fgsm_at': 1.25, 'pgd_at': 2.5 / 7, 'trades': 2.5 / 7}
_DEFAULT = 'pgd_at'


def set_variant(
  config: config_dict.ConfigDict,
  variant: str | None,
  *,
  epsilon: float,
  nsl_step_size: float,
) -> config_dict.ConfigDict:
  """Sets the objective that a variant names, after all other fields.

  Args:
    config: A config whose other fields are set; changed in place.
    variant: `standard`, `nsl`, `virtual`, `fgsm_at`, `pgd_at` (the default) or
      `trades`; followed by `-smoke`, a run of one epoch, of a TFDS set on
      2,000 images. `smoke` is `pgd_at-smoke`.
    epsilon: linf radius to train on. With fgsm_at, pgd_at and trades, an equal
      `evaluation.epsilon` follows the hparam.
    nsl_step_size: NSL's adv_step_size; it is not projected on any ball.

  Returns:
    The same config.

  Raises:
    ValueError: If there is no such variant.

  Example:
    >>> config = set_variant(
    ...   default_config(), 'trades', epsilon=0.1, nsl_step_size=0.2
    ... )
    >>> config.objective.name, config.hparams.beta
    ('trades', 6.0)
  """
  chosen = variant or _DEFAULT
  short = [f'{name}-smoke' for name in _OBJECTIVES]
  choose('variant', chosen, (*_OBJECTIVES, *short, 'smoke'))
  smoke = chosen.endswith('smoke')
  name = chosen.removesuffix('smoke').removesuffix('-') or _DEFAULT
  config.objective = _OBJECTIVES[name]
  config.report_checkpoint = 'last' if name == 'standard' else 'best'
  if name == 'nsl':
    config.hparams.update({'multiplier': 0.2, 'step_size': nsl_step_size})
    # NSL's pgd_epsilon: None projects on no ball.
    config.hparams.epsilon = config_dict.placeholder(float)
  if name == 'virtual':
    config.hparams.update(_VIRTUAL)
  if name == 'trades':
    config.hparams.beta = 6.0
  if name in _STEP_RATIOS:
    config.hparams.epsilon = epsilon
    radius = config.hparams.get_ref('epsilon')
    config.hparams.step_size = radius * _STEP_RATIOS[name]
    if config.evaluation.epsilon == epsilon:  # And the monitor, which follows.
      config.evaluation.epsilon = radius * 1.0
  if smoke:
    shrink_to_smoke(config)
    if config.dataset.name == 'tfds':
      config.dataset.train_split = 'train[:2000]'
      config.dataset.test_split = 'test[:500]'
      config.num_validation = 200
  return config


def train_on_set(
  builder: str,
  variant: str | None,
  *,
  epsilon: float,
  epsilons: tuple[float, ...],
  num_epochs: int,
  batch_size: int,
) -> config_dict.ConfigDict:
  """Returns the config of one network on a set of TensorFlow Datasets.

  `epsilon` is the linf radius of training, monitoring and evaluation, and NSL's
  adv_step_size.
  """
  config = default_config()
  config.dataset.name = 'tfds'
  config.dataset.builder = builder
  config.num_epochs = num_epochs
  config.batch_size = batch_size
  config.num_validation = 5000
  config.monitor.num_images = 500
  config.evaluation.epsilon = epsilon
  config.evaluation.epsilons = epsilons
  config.evaluation.batch_size = 256
  return set_variant(config, variant, epsilon=epsilon, nsl_step_size=epsilon)
