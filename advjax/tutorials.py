"""The tutorials: which networks they compare, and on which data.

A config file names the data and what belongs to it (epochs, epsilons).
"""

from advjax._extras import ml_collections  # noqa: F401  # isort: skip
from ml_collections import config_dict

from advjax.config import default_config


def nsl_comparison() -> config_dict.ConfigDict:
  """Returns NSL's adversarial-regularization tutorial, without its data.

  A base network against one trained with adversarial regularization:
  multiplier 0.2, step size 0.2, norm infinity, batches of 32, Keras' Adam.
  """
  config = default_config()
  # Keras' Adam.
  config.optimizer.eps = 1e-7
  config.members = ('base', 'adversarial')
  config.base = {'objective': {'name': 'standard'}}
  config.adversarial = {
    # The tutorial builds two networks, each with initial weights of its own.
    'seed': config.get_ref('seed') + 1,
    'objective': {
      'name': 'adversarial_regularization',
      'norm': 'linf',
      'num_steps': 1,
      'random_start': False,
      'bounds': config_dict.placeholder(tuple),
    },
    'hparams': {
      'multiplier': 0.2,
      'step_size': 0.2,
      # NSL's pgd_epsilon: no projection.
      'epsilon': config_dict.placeholder(float),
    },
  }
  return config


def matlab_comparison(*, parity: bool = False) -> config_dict.ConfigDict:
  """Returns MATLAB's FGSM-training example, without its data.

  A plain network against one trained by FGSM (epsilon 0.1, a random start,
  step 1.25 epsilon), with SGD (momentum 0.9, learning rate 0.01) and batches
  of 100; both attacked by BIM: epsilon 0.1, step 0.01, 20 iterations. With
  parity, perturbed images may leave [0, 1], as in MATLAB's code.
  """
  config = default_config()
  config.model = {'name': 'matlab_cnn'}
  config.batch_size = 100
  config.optimizer.name = 'sgd'
  config.optimizer.momentum = 0.9
  config.hparams.learning_rate = 0.01
  config.evaluation.epsilon = 0.1
  # BIM first: the pictures show its images. Its step is epsilon / 10 = 0.01.
  config.evaluation.attacks = ('bim-20', 'fgsm', 'pgd-40')
  config.members = ('plain', 'robust')
  config.plain = {'objective': {'name': 'standard'}}
  hparams = config_dict.create(epsilon=0.1)
  hparams.step_size = 1.25 * hparams.get_ref('epsilon')
  bounds = None if parity else (0.0, 1.0)
  config.robust = {
    'objective': {'name': 'fgsm_at', 'bounds': bounds},
    'hparams': hparams,
  }
  config.evaluation.bounds = bounds
  return config
