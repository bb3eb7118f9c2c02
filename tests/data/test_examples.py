"""Data sets of arrays and of other libraries' items."""

import numpy as np
import pytest
from PIL import Image

from advjax.data import from_examples

IMAGES = np.random.default_rng(0).integers(0, 256, (6, 5, 4, 3), np.uint8)
FLOATS = np.float32(IMAGES / 255)
LABELS = np.array([0, 2, 1, 2, 0, 1])
BRIGHT = FLOATS + (np.arange(6) == 4)[:, None, None, None]


class Tensor:
  """What a torch tensor has: the channels come first."""

  def __init__(self, array):
    self.array = np.moveaxis(array, -1, -3) if array.ndim > 2 else array

  def __array__(self, dtype=None, copy=None):
    return np.asarray(self.array, dtype)

  def permute(self, *axes):
    """Told apart by this."""

  def mode(self):
    """Not that of a PIL image."""


class Items:
  """A sequence that makes an item when it is asked for."""

  def __init__(self, make):
    self.make = make

  def __len__(self):
    return len(LABELS)

  def __getitem__(self, index):
    return self.make(IMAGES[index], LABELS[index])


@pytest.mark.parametrize(
  'split',
  [
    (IMAGES, LABELS),
    (Tensor(FLOATS), Tensor(LABELS)),
    Items(lambda image, label: (image, label)),
    Items(lambda image, label: {'id': 7, 'image': image, 'label': label}),
    Items(lambda x, label: {'img': Image.fromarray(x), 'label': int(label)}),
    Items(lambda image, label: (Tensor(np.float32(image / 255)), int(label))),
  ],
  ids=['arrays', 'tensors', 'pairs', 'mappings', 'PIL', 'items of torch'],
)
def test_all_forms_are_one_data_set(split):
  dataset = from_examples(split, split, name='mine')
  assert dataset[0] == 'mine' and dataset[3:] == (3, ('0', '1', '2'), ())
  images = dataset.train.images
  expected = IMAGES if images.dtype == np.uint8 else FLOATS
  np.testing.assert_array_equal(images, expected, strict=True)
  labels = dataset.test.labels
  np.testing.assert_array_equal(labels, LABELS.astype(np.int32), strict=True)


def test_grey_images_get_a_channel():
  grey = [(Image.fromarray(IMAGES[0, ..., 0]), 0), (IMAGES[1, ..., 0], 1)]
  dataset = from_examples(grey, grey, class_names=('cat', 'dog', 'owl'))
  assert dataset.train.images.shape == (2, 5, 4, 1)
  assert dataset.num_classes == 3 and dataset.class_names[2] == 'owl'


def changed(index, image=None, label=0):
  items = list(zip(IMAGES, LABELS, strict=True))
  items[index] = (IMAGES[index] if image is None else image, label)
  return items


@pytest.mark.parametrize(
  ('split', 'message'),
  [
    (changed(3, IMAGES[3, 1:]), r'train\[3\]: uint8 \(4, 4, 3\); .*\(5, 4, 3'),
    (changed(2, FLOATS[2]), r'train\[2\]: float32 .*allowed: uint8'),
    (changed(5, label=1.0), r'train\[5\]: label = 1.0; allowed: an integer'),
    (changed(5, label=[1]), r'train\[5\]: label = \[1\]'),
    (changed(1, label=-1), r'train_labels\[1\] = -1; allowed: \[0, '),
    (changed(1, Image.new('P', (4, 5))), r"train\[1\]: mode = 'P'"),
    ([*changed(0), IMAGES[0]], r'train\[6\]: ndarray; allowed: \(image, label'),
    ([{'image': IMAGES[0], 'fine_label': 3}], r"train\[0\]: dict; .*'label'"),
    ((BRIGHT, LABELS), r'train_images\[4\]: float32 in \[1.*allowed: in \[0, '),
    ((FLOATS * np.nan, LABELS), r'train_images\[0\]: float32 in \[nan'),
    ([], r'train_images: .*; allowed'),
  ],
)
def test_what_is_wrong_is_named_with_its_index(split, message):
  with pytest.raises(ValueError, match=message):
    from_examples(split, (IMAGES, LABELS))


@pytest.mark.parametrize(
  ('split', 'message'),
  [
    (
      (IMAGES, LABELS, LABELS),
      r'train = tuple of 3; allowed: \(images, labels',
    ),
    ({'image': IMAGES, 'label': LABELS}, r'train = dict of 2; allowed: \(im'),
    (
      (np.zeros((6, 1, 28, 28), np.uint8), LABELS),
      r'train_images: shape = \(6, 1, 28, 28\); .*channels last',
    ),
  ],
)
def test_what_is_no_split_is_named(split, message):
  with pytest.raises(ValueError, match=message):
    from_examples(split, (IMAGES, LABELS))
