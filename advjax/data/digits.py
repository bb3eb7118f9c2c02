"""The embedded data: scikit-learn's handwritten digits, no download needed.

1,797 grey images of 8 x 8 pixels with values 0..16 (the test part of the UCI
Optical Recognition of Handwritten Digits set, E. Alpaydin and C. Kaynak, 1998),
here resized to MNIST's 28 x 28 and split once and for all into 1,437 images to
train on and 360 to test on.
"""

import importlib.util
import pathlib

import numpy as np

from advjax.data.dataset import Dataset, Split

_NUM_TEST = 360
_FILE = pathlib.Path('datasets', 'data', 'digits.csv.gz')


def load() -> Dataset:
  """Loads the digits: the same bytes on every machine."""
  pixels, labels = _read()
  images, labels = _resize(pixels)[..., np.newaxis], labels.astype(np.int32)
  train, test = _stratified_split(labels)
  return Dataset(
    name='digits',
    train=Split(images[train], labels[train]),
    test=Split(images[test], labels[test]),
    num_classes=10,
    class_names=tuple('0123456789'),
  )


def _read() -> tuple[np.ndarray, np.ndarray]:
  """Returns int64 [N, 8, 8] of 0..16 and [N], as scikit-learn has them."""
  # From its file, if there: the import of scikit-learn takes longer than all
  # else that comes before training.
  package = importlib.util.find_spec('sklearn')
  if package and package.origin:
    path = pathlib.Path(package.origin).parent / _FILE
    if path.exists():
      rows = np.loadtxt(path, np.int64, delimiter=',')
      return rows[:, :-1].reshape(-1, 8, 8), rows[:, -1]
  from sklearn.datasets import load_digits

  bunch = load_digits()
  return bunch.images.astype(np.int64), bunch.target


def _resize(images: np.ndarray) -> np.ndarray:
  """Resizes [N, 8, 8] of 0..16 to uint8 [N, 28, 28] of 0..255, bilinearly.

  The centre of target pixel i lies at (4 i - 5) / 14 of a source pixel, so all
  weights are multiples of 1 / 14: in integers the result is exact, where an
  image library's rounding of 127.5 would depend on its version.
  """
  positions = np.clip(4 * np.arange(28) - 5, 0, 14 * 7)
  distances = np.abs(positions[:, np.newaxis] - 14 * np.arange(8)[np.newaxis])
  weights = np.maximum(14 - distances, 0)  # [28, 8], every row sums to 14.
  resized = weights @ images @ weights.T
  highest = 16 * 14 * 14
  return ((255 * resized + highest // 2) // highest).astype(np.uint8)


def _stratified_split(labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
  """Returns shuffled rows to train and to test on, classes in proportion."""
  # RandomState's streams are frozen; those of default_rng may change.
  random = np.random.RandomState(0)
  order = random.permutation(len(labels))
  shares = np.bincount(labels) * _NUM_TEST / len(labels)
  num_test = np.floor(shares).astype(int)
  # The largest remainders get the images that rounding down left over.
  remainders = np.argsort(num_test - shares, kind='stable')
  num_test[remainders[: _NUM_TEST - num_test.sum()]] += 1
  is_test = np.zeros(len(labels), bool)
  for digit, count in enumerate(num_test):
    is_test[order[labels[order] == digit][:count]] = True
  # Shuffled again: the test rows are the first of their class in this order, so
  # the training rows would begin with whichever class was full first.
  order = random.permutation(len(labels))
  return order[~is_test[order]], order[is_test[order]]
