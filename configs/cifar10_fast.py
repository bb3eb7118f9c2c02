"""Fast training to 45 % robust accuracy, PGD-50-10 at 8/255, on CIFAR-10.

  ./launch.sh train --config=configs/cifar10_fast.py \\
    --workdir=runs/cifar10_fast --config.dataset.data_dir=DIR

trains once and reports; `experiments/benchmarks/time_to_robust.py` measures the
seconds over seeds. Not measured on a GPU yet: docs/cifar10_fast.md.

The recipe is that of Wong et al. 2020 (arXiv 2001.03994: PreAct ResNet-18, 15
epochs in mixed precision, 46 % in 6 minutes) with later improvements. The
attack is one step of 8/255 from noise of 16/255, without projection (N-FGSM, de
Jorge et al. 2022, arXiv 2202.01181): it costs as much as FGSM with a random
start and prevents catastrophic overfitting, which monitoring PGD accuracy on
500 training images every five epochs would detect. Both passes use batch
statistics in BatchNorm, as in the code of both papers. Clean accuracy is not
measured in training: that would add a forward pass to the five passes of the
attack (two) and the update (three).

Networks: a forward pass of PreAct ResNet-18 takes 0.56 billion multiplications
per image, and training with this attack five times as many. 15 epochs are
3.6e15 floating-point operations, without products with padding, or 60 s at
60 TFLOP/s. `resnet9` takes 0.38 billion, in eight convolutions instead of
twenty: 2.5e15. It is not the default: whether it reaches 45 % in 15 epochs is
open.

The batch size is 256 instead of 128 in the papers, for better utilisation of a
GPU; the peak learning rate, 0.2 in the papers, is increased by a factor between
sqrt(2) and 2. Parameters, statistics and logits are float32, everything else
bfloat16. All 50,000 images are used for training, and the last checkpoint is
evaluated: there is no model selection.

Variants: `resnet9`; `fgsm_at` (the attack of Wong et al.: a step of 10/255 from
a random start, projected); `smoke` (2,000 images, a tiny network).
"""

from ml_collections import config_dict

from advjax.config import choose, default_config, shrink_to_smoke

_EPSILON = 8 / 255


def get_config(variant: str | None = None) -> config_dict.ConfigDict:
  """Returns the config of one training run."""
  if variant is not None:
    choose('variant', variant, ('resnet9', 'fgsm_at', 'smoke'))
  config = default_config()
  config.dataset.name = 'tfds'
  config.dataset.builder = 'cifar10'
  config.model = {
    'name': 'resnet9' if variant == 'resnet9' else 'preact_resnet18',
    'dtype': 'bfloat16',
  }
  config.objective = {
    'name': 'noisy_fgsm_at',
    'norm': 'linf',
    'attack_batch_norm': 'train',
    'clean_metrics': False,
  }
  config.hparams.learning_rate = 0.3
  config.hparams.step_size = _EPSILON
  if variant == 'fgsm_at':
    config.objective.name = 'fgsm_at'
    config.hparams.epsilon = _EPSILON
    config.hparams.step_size = 1.25 * _EPSILON
  else:
    config.hparams.noise_size = 2 * _EPSILON
  config.augmentation.update(horizontal_flip=0.5, crop_padding=4)
  config.optimizer.update(name='sgd', nesterov=True, weight_decay=5e-4)
  config.schedule.update(name='one_cycle', warmup=0.5)
  config.batch_size = 256
  config.num_epochs = 15
  config.monitor.update(every_epochs=5, num_images=500)
  config.evaluation.update(
    epsilon=_EPSILON,
    epsilons=(2 / 255, 4 / 255, 8 / 255),
    attacks=('fgsm', 'pgd-50-10', 'autoattack'),
    batch_size=256,
  )
  if variant == 'smoke':
    shrink_to_smoke(config)
    config.dataset.train_split = 'train[:2000]'
    config.dataset.test_split = 'test[:500]'
    config.model = {
      'name': 'small_resnet',
      'widths': (16, 32),
      'dtype': 'bfloat16',
    }
  return config
