"""Goodfellow's demonstration: logistic regression on the digits 3 and 7.

Reproduces figure 2 of Goodfellow et al. 2014 (arXiv 1412.6572), where FGSM is
exact: the model is linear, so the worst-case perturbation within epsilon = 0.25
is epsilon times the sign of the weights. It is compared with the adversarially
trained model of the paper's section 5.

  ./launch.sh goodfellow --config=configs/goodfellow.py:digits \\
    --workdir=runs/goodfellow_digits

The default data are MNIST's threes and sevens (12,396 training images, 2,038
test images), from TensorFlow Datasets: less than a minute on 2 CPU cores. The
paper has a test error of 1.6 % clean and 99 % under FGSM; here they are 1.5 %
and 100 %, and 7.3 % and 17.4 % after adversarial training. Variants: `digits`
(scikit-learn's, embedded: 289 training images, 73 test images), `smoke`
(digits, one epoch).
"""

from ml_collections import config_dict

from advjax.config import choose, default_config, shrink_to_smoke


def get_config(variant: str | None = None) -> config_dict.ConfigDict:
  """Returns the config of a comparison of `plain` and `adversarial`."""
  if variant is not None:
    choose('variant', variant, ('digits', 'smoke'))
  config = default_config()
  if variant is None:
    config.dataset.name = 'tfds'
    config.dataset.builder = 'mnist'
  config.dataset.classes = (3, 7)
  # A convex problem needs no random start; from zero, the weights of pixels
  # that are black in all training images stay at zero.
  config.model = {'name': 'logistic_regression', 'zero_init': True}
  config.batch_size = 100
  config.num_epochs = 30
  config.schedule.name = 'cosine'
  config.checkpoint_every_epochs = 10
  config.evaluation.epsilon = 0.25
  config.evaluation.epsilons = (0.05, 0.1, 0.15, 0.2, 0.25)
  epsilon = config.evaluation.get_ref('epsilon')
  config.monitor.every_epochs = 10
  config.members = ('plain', 'adversarial')
  config.plain = {'objective': {'name': 'standard'}}
  config.adversarial = {
    # One step from the clean image, without clipping: the closed form.
    'objective': {
      'name': 'fgsm_at',
      'random_start': False,
      'bounds': config_dict.placeholder(tuple),
    },
    # Its loss has a kink where a weight changes sign, and is far from 0.
    'hparams': {
      'learning_rate': 0.01,
      'epsilon': epsilon * 1.0,
      'step_size': epsilon * 1.0,
    },
  }
  if variant == 'digits':
    # An epoch of so few images is 15 steps.
    config.batch_size = 20
    config.num_epochs = 60
  if variant == 'smoke':
    shrink_to_smoke(config)
  return config
