"""Data sets of arrays and of other libraries' items."""

import numpy as np
import pytest
from PIL import Image

from advjax.data import from_examples

rng = np.random.default_rng(0)
IMAGES = rng.integers(0, 256, (6, 5, 4, 3), np.uint8)
LABELS = np.array([0, 2, 1, 2, 0, 1])
ARRAYS = IMAGES, LABELS


class Tensor:
  """What is used of a torch tensor, whose channels come first."""

  def __init__(self, array):
    self.array = array

  def permute(self, *axes):
    return Tensor(self.array.transpose(axes))

  def mode(self):
    """Not that of a PIL image, by the same name."""

  def __array__(self, dtype=None, copy=None):
    return np.asarray(self.array, dtype)

  def __len__(self):
    return len(self.array)


class Items:
  """A sequence that makes its items when it is asked for them."""

  def __init__(self, make):
    self.make = make

  def __len__(self):
    return len(LABELS)

  def __getitem__(self, index):
    if not 0 <= index < len(LABELS):
      raise IndexError(index)
    return self.make(IMAGES[index], LABELS[index])


def pil(image, label):
  return {'img': Image.fromarray(image), 'label': int(label)}


def tensors(image, label):
  return Tensor(np.float32(image / 255).transpose(2, 0, 1)), int(label)


@pytest.mark.parametrize(
  'split',
  [
    ARRAYS,
    (Tensor(IMAGES.transpose(0, 3, 1, 2)), Tensor(LABELS)),
    Items(lambda image, label: (image, label)),
    Items(lambda image, label: {'id': 7, 'image': image, 'label': label}),
    Items(pil),
    Items(tensors),
  ],
  ids=['arrays', 'tensors', 'pairs', 'mappings', 'PIL', 'items of torch'],
)
def test_all_forms_are_one_data_set(split):
  dataset = from_examples(split, split, name='mine')
  assert dataset.name == 'mine'
  assert dataset.class_names == ('0', '1', '2') and dataset.num_classes == 3
  images = dataset.train.images
  if images.dtype == np.uint8:
    np.testing.assert_array_equal(images, IMAGES)
  else:
    np.testing.assert_allclose(images, IMAGES / 255, atol=1e-7)
    assert images.dtype == np.float32
  np.testing.assert_array_equal(dataset.test.labels, LABELS)
  assert dataset.test.labels.dtype == np.int32


def test_grey_images_get_a_channel():
  grey = [(Image.fromarray(IMAGES[0, ..., 0]), 0), (IMAGES[1, ..., 0], 1)]
  dataset = from_examples(grey, grey, class_names=('cat', 'dog', 'owl'))
  assert dataset.train.images.shape == (2, 5, 4, 1)
  assert dataset.num_classes == 3 and dataset.class_names[2] == 'owl'


def changed(index, image=None, label=0):
  items = list(zip(*ARRAYS, strict=True))
  items[index] = (IMAGES[index] if image is None else image, label)
  return items


FLOATS = np.float32(IMAGES / 255)
BRIGHT = FLOATS + (np.arange(6) == 4)[:, None, None, None]


@pytest.mark.parametrize(
  ('split', 'message'),
  [
    (changed(3, IMAGES[3, 1:]), r'train\[3\]: uint8 \(4, 4, 3\); .*\(5, 4, 3'),
    (changed(2, FLOATS[2]), r'train\[2\]: float32 .*allowed: uint8'),
    (changed(5, label=1.0), r'train\[5\]: label = 1.0; allowed: an integer'),
    (changed(5, label=[1]), r'train\[5\]: label = \[1\]'),
    (changed(1, label=-1), r'train_labels\[1\] = -1; allowed: from 0'),
    (changed(1, Image.new('P', (4, 5))), r"train\[1\]: mode = 'P'"),
    ([*changed(0), IMAGES[0]], r'train\[6\]: ndarray; allowed: \(image, label'),
    ([{'image': IMAGES[0], 'fine_label': 3}], r"train\[0\]: dict; .*'label'"),
    ((BRIGHT, LABELS), r'train_images\[4\]: float32 in \[1.*allowed: in \[0, '),
    ((FLOATS * np.nan, LABELS), r'train_images\[0\]: float32 in \[nan'),
    ((IMAGES, LABELS[:5]), 'train_images: 6 images; .*labels has, 5'),
    (([], []), r'train_images: dtype = float64; allowed: .*|shape = \(0,\)'),
    ([], r'train_images: .*; allowed'),
  ],
)
def test_what_is_wrong_is_named_with_its_index(split, message):
  with pytest.raises(ValueError, match=message):
    from_examples(split, ARRAYS)


def test_labels_of_the_test_split_are_classes():
  with pytest.raises(ValueError, match=r'test_labels\[3\] = 7; .*\[0, 3\)'):
    from_examples(ARRAYS, (IMAGES, np.array([0, 1, 2, 7, 0, 1])))
  with pytest.raises(ValueError, match=r'= 2; .*length of class_names'):
    from_examples(ARRAYS, ARRAYS, class_names=('a', 'b'))
