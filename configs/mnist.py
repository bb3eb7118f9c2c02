"""One network on MNIST, under an objective of your choice.

60,000 grey images of 28 x 28 handwritten digits in 10 classes to train on, and
10,000 to test on (LeCun et al. 1998).

  ./launch.sh train --config=configs/mnist.py:pgd_at \\
    --workdir=runs/mnist --config.dataset.data_dir=DIR

DIR holds sets of TensorFlow Datasets; without the flag it is $TFDS_DATA_DIR, or
else ~/tensorflow_datasets. A set that is not there is downloaded, if it can be
(docs/datasets.md).

Variants: `standard`, `nsl`, `virtual`, `fgsm_at`, `pgd_at` (the default),
`trades`; each also as, say, `trades-smoke` (one epoch on 2,000 images); `smoke`
is `pgd_at-smoke`. All train the NSL network for 10 epochs of 860 steps of 64
images; 5,000 training images are held out to choose the best checkpoint by. A
training step of pgd_at and trades holds seven attack steps.
"""

from ml_collections import config_dict

from advjax.variants import train_on_set


def get_config(variant: str | None = None) -> config_dict.ConfigDict:
  """Returns the config of one training run."""
  return train_on_set(
    'mnist',
    variant,
    # What NSL's tutorial perturbs by; at Madry et al.'s 0.3 a network as small
    # as this may not begin to learn.
    epsilon=0.2,
    epsilons=(0.1, 0.2, 0.3),
    num_epochs=10,
    batch_size=64,
  )
