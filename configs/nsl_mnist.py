"""NSL's adversarial-regularization tutorial on MNIST, as in the tutorial.

All 60,000 training images, 1,875 steps per epoch with batch size 32, 5 epochs,
the last checkpoint; adversarial test images are clipped to [0, 1].

  ./launch.sh compare --config=configs/nsl_mnist.py --workdir=runs/nsl_mnist \\
    --config.seeds=0,1,2 --config.dataset.data_dir=DIR

DIR holds data sets of TensorFlow Datasets (docs/datasets.md). Results, compared
with those of the tutorials: docs/results.md.

Variants: `l2` and `l1` (NSL's other norms, in training and in the attacks,
whose epsilon is then the step size, as in the tutorial's code; the attacks of
`l1` perturb the top 5 % of the pixels, NSL's only one), `recap` (the tutorial's
last snippet: step size 0.05 and NSL's default norm, l2), `best` (the same
network and number of epochs, with PGD adversarial training for `adversarial`),
`smoke` (one epoch on 2,000 images).
"""

from ml_collections import config_dict

from advjax.config import choose, shrink_to_smoke
from advjax.tutorials import nsl_comparison

_NORMS = {'l2': 'l2', 'l1': 'l1', 'recap': 'l2'}


def get_config(variant: str | None = None) -> config_dict.ConfigDict:
  """Returns the config of a comparison of `base` and `adversarial`."""
  if variant is not None:
    choose('variant', variant, (*_NORMS, 'best', 'smoke'))
  config = nsl_comparison()
  config.dataset.name = 'tfds'
  config.dataset.builder = 'mnist'
  config.num_epochs = 5
  config.evaluation.epsilon = 0.2
  config.evaluation.epsilons = (0.05, 0.1, 0.2, 0.3)
  if variant in _NORMS:
    norm = _NORMS[variant]
    config.adversarial.objective.norm = norm
    if variant == 'recap':
      config.adversarial.hparams.step_size = 0.05
    config.evaluation.norm = norm
    step_size = config.adversarial.hparams.get_ref('step_size')
    config.evaluation.epsilon = step_size * 1.0
    config.evaluation.epsilons = {
      'l2': (0.05, 0.2, 0.5, 1.0, 2.0),
      'l1': (0.2, 1.0, 2.0, 5.0, 10.0),
    }[norm]
  if variant == 'best':
    # Images that are robust to PGD-40 are robust to BIM-20 too.
    config.evaluation.attacks = ('fgsm', 'pgd-40')
    config.evaluation.epsilons = (0.1, 0.2, 0.3)
    config.adversarial = {
      'seed': config.get_ref('seed') + 1,
      'batch_size': 64,
      'objective': {'name': 'pgd_at', 'norm': 'linf', 'num_steps': 3},
      'schedule': {'name': 'one_cycle', 'warmup': 0.2},
      'hparams': {'learning_rate': 5e-3, 'epsilon': 0.2, 'step_size': 0.15},
    }
  if variant == 'smoke':
    shrink_to_smoke(config)
    config.dataset.train_split = 'train[:2000]'
    config.dataset.test_split = 'test[:500]'
  return config
