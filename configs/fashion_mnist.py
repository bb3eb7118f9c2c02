"""One network on Fashion-MNIST, with a selectable training objective.

60,000 training and 10,000 test images of clothing, 28 x 28 pixels in grey, 10
classes (Xiao et al. 2017, arXiv 1708.07747).

  ./launch.sh train --config=configs/fashion_mnist.py:trades \\
    --workdir=runs/fashion_mnist --config.dataset.data_dir=DIR

DIR holds data sets of TensorFlow Datasets; default: $TFDS_DATA_DIR, or else
~/tensorflow_datasets. A missing data set is downloaded if possible
(docs/datasets.md).

Variants: `standard`, `nsl`, `virtual`, `fgsm_at`, `pgd_at` (the default),
`trades`; each also as, say, `trades-smoke` (one epoch on 2,000 images); `smoke`
is `pgd_at-smoke`. All train the NSL network for 10 epochs of 860 steps with
batch size 64; 5,000 held-out training images select the best checkpoint. A
training step of pgd_at and trades contains seven attack steps.
"""

from ml_collections import config_dict

from advjax.variants import train_on_set


def get_config(variant: str | None = None) -> config_dict.ConfigDict:
  """Returns the config of one training run."""
  return train_on_set(
    'fashion_mnist',
    variant,
    # Half of MNIST's, whose images are nearly binary; these differ by shades.
    epsilon=0.1,
    epsilons=(0.05, 0.1, 0.2),
    num_epochs=10,
    batch_size=64,
  )
