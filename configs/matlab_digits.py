"""MATLAB's FGSM-training example on scikit-learn's digits.

Reproduces its comparison (a plain network against one trained by FGSM with
a random start, step 1.25 epsilon, both attacked by white-box BIM: epsilon
0.1, step 0.01, 20 iterations) with its network and its settings (SGD with
momentum 0.9, learning rate 0.01, batch 100, 30 epochs) on 1,797 embedded
images instead of its 10,000 synthetic ones.

  ./launch.sh compare --config=configs/matlab_digits.py \\
    --workdir=runs/matlab_digits

Variants: `parity` (no clip to [0, 1] in training, as MATLAB's code), `smoke`
(one epoch).
"""

from ml_collections import config_dict

from advjax.config import choose, default_config, shrink_to_smoke


def get_config(variant: str | None = None) -> config_dict.ConfigDict:
  """Returns the config of a comparison of `plain` and `robust`."""
  if variant is not None:
    choose('variant', variant, ('parity', 'smoke'))
  config = default_config()
  config.model = {'name': 'matlab_cnn'}
  config.num_epochs = 30
  config.batch_size = 100
  config.optimizer.name = 'sgd'
  config.optimizer.momentum = 0.9
  config.hparams.learning_rate = 0.01
  config.monitor.every_epochs = 10
  # An epoch takes less than a second.
  config.checkpoint_every_epochs = 5
  config.evaluation.epsilon = 0.1
  # BIM first: the pictures show its images. Its step is epsilon / 10 = 0.01.
  config.evaluation.attacks = ('bim-20', 'fgsm', 'pgd-40')
  config.members = ('plain', 'robust')
  config.plain = {'objective': {'name': 'standard'}}
  hparams = config_dict.create(epsilon=0.1)
  hparams.step_size = 1.25 * hparams.get_ref('epsilon')
  bounds = None if variant == 'parity' else (0.0, 1.0)
  config.robust = {
    'objective': {'name': 'fgsm_at', 'bounds': bounds},
    'hparams': hparams,
  }
  if variant == 'smoke':
    shrink_to_smoke(config)
  return config
