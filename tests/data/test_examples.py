"""Data sets of arrays and of other libraries' items."""

import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from advjax.data import Dataset, Split, from_examples
from advjax.data.examples import as_dataset

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
      r'train_images: shape = \(6, 1, 28, 28\); .*transpose\(0, 2, 3, 1\)',
    ),
    (
      (np.zeros((6, 4, 32, 32), np.float32), LABELS),
      r'\(6, 4, 32, 32\); .*transpose\(0, 2, 3, 1\)',
    ),
    (
      changed(0, np.zeros((3, 8, 8), np.uint8))[:1],
      r'train_images: shape = \(1, 3, 8, 8\); .*transpose\(0, 2, 3, 1\)',
    ),
    (([[1], [1, 2]], LABELS), 'train_images: .*; allowed: an array'),
    ((IMAGES, [[0], [1, 2]]), 'train_labels: .*; allowed: an array'),
    ([([[1], [1, 2]], 0)], r'train\[0\]: .*; allowed: an array'),
    (None, r'train = NoneType; allowed: \(images, labels'),
    ((IMAGES, LABELS + 2**30), r'train_labels\[1\] = 1073741826; allowed: '),
    *(
      ((IMAGES.astype(dtype), LABELS), f'train_images: dtype = .*{dtype}')
      for dtype in ('bool', 'int64', 'uint16', 'object')
    ),
    ((IMAGES, list('abcdef')), r'train_labels = <U1 \[6\]; allowed: int'),
    ((IMAGES, np.eye(6, dtype=int)), r'train_labels = int64 \[6, 6\]'),
  ],
)
def test_what_is_no_split_is_named(split, message):
  with pytest.raises(ValueError, match=message):
    from_examples(split, (IMAGES, LABELS))


@pytest.mark.parametrize(
  'images',
  [
    FLOATS.astype('>f4'),
    FLOATS.astype(np.longdouble),
    np.asfortranarray(FLOATS),
    jnp.asarray(FLOATS),
  ],
  ids=['big-endian', 'long double', 'Fortran', 'JAX'],
)
def test_arrays_of_any_floating_form_are_taken(images):
  if isinstance(images, np.ndarray):
    images.flags.writeable = False
  made = from_examples((images, LABELS.astype('>i8')), (images, list(LABELS)))
  np.testing.assert_array_equal(made.train.images, FLOATS, strict=True)
  np.testing.assert_array_equal(made.test.labels, LABELS)
  assert made.train.labels.dtype == np.int32
  halves = jnp.bfloat16(0.5 * np.ones_like(IMAGES))
  made = from_examples((halves, LABELS), (halves, LABELS))
  np.testing.assert_array_equal(made.train.images, np.full_like(FLOATS, 0.5))


def test_any_number_of_channels_is_taken():
  for channels in (2, 4, 5):
    images = np.zeros((6, 8, 8, channels), np.uint8)
    made = from_examples((images, LABELS), (images, LABELS))
    assert made.train.images.shape == images.shape


def test_names_that_cannot_be_drawn_are_escaped():
  split = IMAGES, LABELS
  names = ['caf\udce9', 'a\nb\0', '\u732b $x$ \U0001f600']
  found = from_examples(split, split, class_names=names).class_names
  assert found == ('caf\\udce9', 'a\\nb\\x00', names[2])
  alike = ['caf\xe9', 'cafe\u0301', 'tea']
  with pytest.raises(ValueError, match=r"'caf\\xe9', 'cafe\\u0301'; allowed"):
    from_examples(split, split, class_names=alike)


def test_a_data_set_of_ones_own_is_checked_too():
  split = Split(FLOATS, LABELS)
  good = Dataset('birds', split, split, 3, tuple('abc'), ('n1', 'n2', 'n3'))
  made = as_dataset(good)
  assert made.class_ids == good.class_ids and made.name == 'birds'
  assert made.train.labels.dtype == np.int32
  for wrong, message in (
    (good._replace(num_classes=4), 'num_classes = 4; allowed: .*, 3'),
    (good._replace(test=Split(BRIGHT, LABELS)), r'test_images\[4\]'),
    (good._replace(train=Split(FLOATS, LABELS + 1)), r'train_labels\[1\] = 3'),
    ([split], r'dataset = list; allowed: .*\(train, test\)'),
    (7, 'dataset = int; allowed: '),
  ):
    with pytest.raises(ValueError, match=message):
      as_dataset(wrong)
