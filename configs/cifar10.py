"""One network on CIFAR-10, under an objective of your choice.

50,000 colour images of 32 x 32 pixels in 10 classes to train on, and 10,000 to
test on (Krizhevsky 2009).

  ./launch.sh train --config=configs/cifar10.py:pgd_at \\
    --workdir=runs/cifar10 --config.dataset.data_dir=DIR

DIR holds sets of TensorFlow Datasets; without the flag it is $TFDS_DATA_DIR, or
else ~/tensorflow_datasets. A set that is not there is downloaded, if it can be
(docs/datasets.md).

Variants: `standard`, `nsl`, `virtual`, `fgsm_at`, `pgd_at` (the default),
`trades`; each also as, say, `trades-smoke` (one epoch on 2,000 images); `smoke`
is `pgd_at-smoke`. All train the NSL network, small for this, for 30 epochs of
352 steps of 128 images; 5,000 training images are held out to choose the best
checkpoint by. A training step of pgd_at and trades holds seven attack steps.
"""

from ml_collections import config_dict

from advjax.variants import train_on_set


def get_config(variant: str | None = None) -> config_dict.ConfigDict:
  """Returns the config of one training run."""
  return train_on_set(
    'cifar10',
    variant,
    # The field's usual radius for CIFAR (Madry et al. 2017).
    epsilon=8 / 255,
    epsilons=(2 / 255, 4 / 255, 8 / 255),
    num_epochs=30,
    batch_size=128,
  )
