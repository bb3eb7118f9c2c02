"""One network on CIFAR-10, with a selectable training objective.

50,000 training and 10,000 test images, 32 x 32 pixels in colour, 10 classes
(Krizhevsky 2009).

  ./launch.sh train --config=configs/cifar10.py:pgd_at \\
    --workdir=runs/cifar10 --config.dataset.data_dir=DIR

DIR holds data sets of TensorFlow Datasets; default: $TFDS_DATA_DIR, or else
~/tensorflow_datasets. A missing data set is downloaded if possible
(docs/datasets.md).

Variants: `standard`, `nsl`, `virtual`, `fgsm_at`, `pgd_at` (the default),
`trades`; each also as, say, `trades-smoke` (one epoch on 2,000 images); `smoke`
is `pgd_at-smoke`. All train the NSL network, small for this task, for 30 epochs
of 352 steps with batch size 128; 5,000 held-out training images select the best
checkpoint. A training step of pgd_at and trades contains seven attack steps.
"""

from ml_collections import config_dict

from advjax.variants import train_on_set


def get_config(variant: str | None = None) -> config_dict.ConfigDict:
  """Returns the config of one training run."""
  return train_on_set(
    'cifar10',
    variant,
    # The standard radius for CIFAR (Madry et al. 2017).
    epsilon=8 / 255,
    epsilons=(2 / 255, 4 / 255, 8 / 255),
    num_epochs=30,
    batch_size=128,
  )
