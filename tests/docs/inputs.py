"""Writes docs/inputs.md, what is accepted, from cases that are run.

  .venv/bin/python -m tests.docs.inputs docs/inputs.md

A row is a case: tests/docs/test_inputs.py runs it.
"""

import functools
import os
import pathlib
import sys
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

import advjax
from advjax import data
from advjax.config import check_config, default_config, seed_configs
from advjax.data import decode
from advjax.models import create_model
from advjax.processes.topology import find_place
from advjax.training.setup import network_shapes
from tests.attacks import test_modes
from tests.data import image_folders, test_npz
from tests.data.test_folder import find
from tests.processes.test_topology import OPEN_MPI, SLURM_BATCH, SLURM_STEP

INTRODUCTION = """# What is accepted

Every row is run by the tests. *Refused* is a ValueError, before anything is
computed or written, with what is quoted in its message; *logged* is a line of
the log. Besides, the tests change valid files, texts and arguments at random,
and expect a result, or an error with such a message. The suite tries 10 to 100
of each, and this 10,000:

```bash
./launch.sh test tests/fuzz --hypothesis-profile=fuzz
```

This page is written by

```bash
.venv/bin/python -m tests.docs.inputs docs/inputs.md
```
"""


class Row(NamedTuple):
  """A kind of input, and what becomes of it."""

  given: str
  becomes: str  # 'refused', 'logged', or what is done
  quoted: str  # what a message has, '' where there is none
  run: Callable[[], Any]


def accepted(given: str, becomes: str, run: Callable[[], Any]) -> Row:
  return Row(given, becomes, '', run)


def refused(given: str, quoted: str, run: Callable[[], Any]) -> Row:
  return Row(given, 'refused', quoted, run)


def logged(
  given: str, becomes: str, quoted: str, run: Callable[[], Any]
) -> Row:
  return Row(given, becomes, quoted, run)


# --------------------------------------------------------------------- attacks

SHAPE = (4, 2, 3, 3)
IMAGES = np.linspace(0.1, 0.9, 72, dtype=np.float32).reshape(SHAPE)
LABELS = np.array([0, 1, 2, 1], np.int32)
EPSILON = 0.05


def linear(images):
  """Three logits, of images of any shape or a pytree with them."""
  (first, *_) = jax.tree.leaves(images)
  flat = first.reshape(first.shape[0], int(np.prod(first.shape[1:])))
  return flat.mean(-1, keepdims=True) * jnp.array([[1.0, -1.0, 0.5]])


def attack(logits_fn=linear, images=IMAGES, labels=LABELS, **choices):
  """FGSM, whose result has to be inside of the ball."""
  epsilon = choices.pop('epsilon', EPSILON)
  found = advjax.fgsm(logits_fn, images, labels, epsilon, **choices)
  originals, *_ = jax.tree.leaves(images)
  moved, *_ = jax.tree.leaves(found)
  assert moved.shape == np.shape(originals)
  return found


def moves(**changes):
  """Runs the attack, and checks that the images move as they do by default."""

  def run():
    found = np.asarray(attack(**changes), np.float32)
    np.testing.assert_allclose(found, np.asarray(attack()), atol=2e-3)

  return run


def attacked(**changes):
  return lambda: attack(**changes)


def read_only(array):
  array = array.copy()
  array.flags.writeable = False
  return array


def in_dtypes(*dtypes):
  for dtype in dtypes:
    images = jnp.asarray(IMAGES, dtype)
    assert jax.eval_shape(lambda: attack(images=images)).dtype == dtype  # noqa: B023


def drawing(key):
  return advjax.bim(linear, IMAGES, LABELS, 0.1, num_steps=1, key=key)


def shaped(*shape):
  images = np.full((4, *shape), 0.5, np.float32)
  return jax.eval_shape(lambda: attack(images=images))


def checked(**fields):
  """A config with some fields set, checked as before a run."""
  config = default_config()
  config.update_from_flattened_dict(fields)
  check_config(config)
  return config


def seeded(seed):
  """The seed of a config, checked and used as a run does."""
  return lambda: [jax.random.key(s) for s in seed_configs(checked(seed=seed))]


IMAGE_ROWS = [
  accepted('float32', 'as it is', moves()),
  accepted(
    'float16, bfloat16',
    'comes back in its dtype; losses are in float32',
    lambda: in_dtypes(jnp.float16, jnp.bfloat16),
  ),
  accepted(
    'float64',
    'float32, unless `jax_enable_x64`',
    moves(images=IMAGES.astype(np.float64)),
  ),
  accepted(
    'other byte orders, read-only, strided, Fortran order',
    'as a copy',
    lambda: [
      moves(images=each)()
      for each in (
        IMAGES.astype('>f4'),
        read_only(IMAGES),
        np.repeat(IMAGES, 2, axis=1)[:, ::2],
        np.asfortranarray(IMAGES),
      )
    ],
  ),
  refused(
    'nested lists of numbers', 'images', attacked(images=IMAGES.tolist())
  ),
  accepted(
    'any shape `[B, ...]`: vectors, 1 x 1 pixel, volumes',
    'as they are',
    lambda: [shaped(5), shaped(1, 1, 1), shaped(2, 3, 2, 1)],
  ),
  accepted(
    'a batch of 0 or 1 images',
    'a batch of 0 or 1 images',
    lambda: [attack(images=IMAGES[:n], labels=LABELS[:n]) for n in (0, 1)],
  ),
  accepted(
    'a pytree (`fgsm`, `bim`, `mifgsm`, `pgd`)',
    'one ball over its floating leaves; others stay',
    attacked(images={'a': IMAGES, 'b': LABELS}),
  ),
  refused(
    'a pytree, other attacks',
    'images = dict',
    lambda: advjax.fmn(linear, {'a': IMAGES}, LABELS, num_steps=2),
  ),
  refused(
    'uint8 and other integers: divide by 255',
    "images.dtype = ['uint8']",
    attacked(images=(255 * IMAGES).astype(np.uint8)),
  ),
  refused(
    'NaN, infinite, or outside of `bounds`',
    'images = ',
    attacked(images=255 * IMAGES),
  ),
]
LABEL_ROWS = [
  accepted(
    'integers `[B]` of any width, lists and tuples of them',
    'as classes',
    lambda: [
      moves(labels=each)()
      for each in (
        LABELS.astype(np.int64),
        LABELS.astype(np.uint8),
        LABELS.astype('>i4'),
        LABELS.tolist(),
        tuple(LABELS),
      )
    ],
  ),
  accepted(
    'floating `[B, K]`, of an attack with `cross_entropy` or an own loss',
    'as distributions',
    moves(labels=np.eye(3, dtype=np.float32)[LABELS]),
  ),
  *(
    refused(given, f'labels = {quoted}', attacked(labels=labels))
    for given, quoted, labels in (
      ('`[B, 1]`', 'int32 [4, 1]', LABELS[:, None]),
      ('one-hot integers', 'int32 [4, 3]', np.eye(3, dtype=np.int32)[LABELS]),
      ('booleans', 'bool [4]', LABELS > 0),
      ('floating `[B]`', 'float32 [4]', LABELS.astype(np.float32)),
      ('strings', '<U3 [4]', ['cat', 'dog', 'cat', 'ant']),
      ('objects', 'object [4]', LABELS.astype(object)),
      (
        'classes that the logits do not have: from 1, or -1 for unknown',
        '1 to 3',
        LABELS + 1,
      ),
      ('another number than images', 'int32 [3]', LABELS[:3]),
    )
  ),
]
NETWORK_ROWS = [
  accepted(
    'floating `[B, K]` with K >= 2, also in 16 bits',
    'logits',
    attacked(logits_fn=lambda images: linear(images).astype(jnp.bfloat16)),
  ),
  *(
    refused(given, 'logits', attacked(logits_fn=lambda x, f=f: f(linear(x))))
    for given, f in (
      ('a tuple or a list, such as (logits, features)', lambda z: (z, z)),
      ('a dictionary', lambda z: {'logits': z}),
      ('None', lambda z: None),
      ('integers, such as predictions', lambda z: z.astype(int)),
      ('`[B, K, 1]`', lambda z: z[..., None]),
      ('`[K, B]`', lambda z: jnp.concatenate([z, z]).T),
      ('`[B]`', lambda z: z[:, 0]),
      (
        '`[B, 1]`, one logit of a binary network: stack zeros',
        lambda z: z[:, :1],
      ),
    )
  ),
]
CHOICE_ROWS = [
  accepted(
    'epsilon: Python, NumPy and JAX numbers, `[B]`',
    'in the dtype of the images, at least float32',
    lambda: [
      moves(epsilon=each)()
      for each in (
        np.float64(EPSILON),
        jnp.float32(EPSILON),
        np.full(4, EPSILON),
        [EPSILON] * 4,
      )
    ],
  ),
  accepted('epsilon of 0', 'the images', attacked(epsilon=0)),
  refused('epsilon as text', "epsilon = '8/255'", attacked(epsilon='8/255')),
  refused('a negative epsilon, NaN', 'epsilon = -0.1', attacked(epsilon=-0.1)),
  refused(
    '`--config.evaluation.epsilon` from the diameter of the box on',
    'evaluation.epsilon = 8',
    lambda: checked(**{'evaluation.epsilon': 8.0}),
  ),
  refused(
    '`--config.evaluation.epsilon` that is not finite',
    'evaluation.epsilon = inf',
    lambda: checked(**{'evaluation.epsilon': float('inf')}),
  ),
  accepted('bounds of None', 'no clip', moves(bounds=None)),
  accepted(
    'bounds of numbers, arrays, one of them None',
    'a clip',
    lambda: [moves(bounds=(np.zeros(3), 1))(), moves(bounds=(0, None))()],
  ),
  refused('bounds the wrong way round', 'bounds', attacked(bounds=(1, 0))),
  accepted(
    'keys of `jax.random.key`, typed or raw, one or `[B]`',
    'draws',
    lambda: [
      jax.eval_shape(lambda key=key: drawing(key))
      for key in (
        jax.random.key(0),
        jax.random.PRNGKey(0),
        jax.random.split(jax.random.key(0), 4),
      )
    ],
  ),
  refused(
    'a seed in place of a key',
    'key = 0',
    lambda: drawing(0),
  ),
  accepted('`--config.seed` from 0 to 2**32 - 1', 'a seed', seeded(2**32 - 1)),
  refused('a negative `--config.seed`', 'seed = -1', seeded(-1)),
  refused('`--config.seed` of 2**64', f'seed = {2**64}', seeded(2**64)),
]


# ------------------------------------------------------------------- JAX modes


def under(mode):
  """An attack gives what it does without a mode, of one network."""

  def run():
    expected = test_modes.run('fgsm')
    with mode():
      np.testing.assert_allclose(test_modes.run('fgsm'), expected, atol=1e-6)

  return run


MODES = {
  'enable_x64': functools.partial(jax.enable_x64, True),
  'numpy_dtype_promotion': lambda: jax.numpy_dtype_promotion('strict'),
  'numpy_rank_promotion': lambda: jax.numpy_rank_promotion('raise'),
  'check_tracer_leaks': jax.checking_leaks,
  'disable_jit': jax.disable_jit,
  'debug_nans': functools.partial(jax.debug_nans, True),
}
BECOMES = {
  'enable_x64': 'results in the dtype of the images',
  'disable_jit': 'the same results, slowly',
  'debug_nans': 'the same results, or an error at the first NaN of a network',
}
MODE_ROWS = [
  accepted(f'`jax_{name}`', BECOMES.get(name, 'the same results'), under(mode))
  for name, mode in MODES.items()
]


# ------------------------------------------------------------------- data sets


def npz(**changes):
  """Loads an npz of six and four images, some of its arrays replaced."""
  return lambda: test_npz.load('mine.npz', **changes)


def of_shape(*shape, dtype=np.uint8):
  images = np.zeros((6, *shape), dtype)
  found = test_npz.load('mine.npz', train_images=images, test_images=images[:4])
  assert found.train.images.shape[:3] == (6, *shape[:2])


NPZ_ROWS = [
  accepted(
    'uint8, or float16, float32, float64 in [0, 1]',
    'uint8, or float32',
    lambda: [
      of_shape(8, 8, 3, dtype=each)
      for each in (np.uint8, np.float16, np.float32, np.float64)
    ],
  ),
  accepted(
    '`[N, H, W]`, `[N, H, W, 1]`, `[N, H, W, 3]`',
    'images `[N, H, W, C]`',
    lambda: [of_shape(8, 8), of_shape(8, 8, 1), of_shape(8, 8, 3)],
  ),
  accepted(
    '2, 4 or 5 channels, of satellites or with alpha',
    'as they are: nothing is dropped',
    lambda: [of_shape(8, 8, channels) for channels in (2, 4, 5)],
  ),
  refused(
    'images too small for the network',
    '(8, 8, 3)',
    lambda: network_shapes(create_model({'name': 'cnn'}, 3), 'cnn', (8, 8, 3)),
  ),
  refused(
    '`[N, C, H, W]`: transpose',
    '(6, 3, 16, 16)',
    lambda: of_shape(3, 16, 16),
  ),
  refused(
    'integers of more bits', 'int64', lambda: of_shape(8, 8, dtype=np.int64)
  ),
  refused(
    'floating outside of [0, 1]',
    'train_images',
    npz(train_images=np.full((6, 16, 16, 3), 1.5, np.float32)),
  ),
  accepted(
    '`class_names`',
    'names, and how many classes there are',
    npz(class_names=np.array(['ant', 'bee', 'cat', 'dog'])),
  ),
  logged(
    'labels from 1, or with gaps, without `class_names`',
    'logged, with the number of empty classes',
    '1',
    npz(train_labels=np.arange(6) % 3 + 1, test_labels=np.arange(4) % 3 + 1),
  ),
  refused(
    'labels `[N, 1]`, one-hot, floating, bool or strings',
    'train_labels = ',
    npz(train_labels=np.zeros((6, 1), int)),
  ),
  refused('pickled arrays', 'train_labels', npz(train_labels=np.full(6, None))),
  refused('a field that is missing', 'test_labels', npz(test_labels=None)),
]


def pictures(*others, write=image_folders.write, name='cat'):
  """Loads a folder of eight images of two classes, and other files."""

  def run():
    files, _ = image_folders.class_folders(classes=(name, 'dog'), count=4)
    picture = image_folders.encode(image_folders.picture(9))
    path = write(
      pathlib.Path('pets.zip'), files | dict.fromkeys(others, picture)
    )
    found = data.load(
      {'name': 'folder', 'path': str(path), 'cache_dir': 'cache'}
    )
    assert len(found.train.labels) + len(found.test.labels) == 8
    return found

  return run


def decoded(*kinds, mode='RGB', **options):
  """Decodes an image of each kind."""
  for kind in kinds:
    image = Image.fromarray(image_folders.picture(0))
    if mode != 'RGB':
      image = Image.new(mode, image.size)
    encoded = image_folders.encode(image, kind, **options)
    assert decode.decode_rgb(encoded, (4, 5))[0].shape == (4, 5, 3)


def splits(*names):
  """The layout of folders that hold folders of two classes."""
  found = find(
    [f'{name}/{c}/{i}.png' for name in names for c in 'ab' for i in '12']
  )
  assert found.class_names == ('a', 'b')
  assert all(name.startswith(names[-1]) for name, _ in found.test)


def hostile_zip(name):
  image_folders.write_zip(pathlib.Path('hostile.zip'), {name: b''})
  return data.load({'name': 'folder', 'path': 'hostile.zip'})


JUNK = ('__MACOSX', 'Thumbs.db', '@eaDir', '#recycle', '$RECYCLE.BIN')
FILE_ROWS = [
  accepted(
    'PNG, JPEG, WebP, BMP, GIF, TIFF, PPM, whatever the extension',
    'RGB, uint8',
    lambda: decoded('PNG', 'JPEG', 'WEBP', 'BMP', 'GIF', 'TIFF', 'PPM'),
  ),
  accepted(
    'grey, palette, alpha, CMYK, 16-bit grey',
    'RGB, uint8; counted in the log',
    lambda: [
      decoded('TIFF', mode=mode) for mode in ('L', 'P', 'RGBA', 'CMYK', 'I;16')
    ],
  ),
  accepted(
    'broken EXIF or XMP beside whole pixels',
    'read, as if there were none',
    lambda: decoded('PNG', 'JPEG', exif=b'garbage'),
  ),
  logged(
    'files of other extensions beside them, such as .heic',
    'skipped; counted in the log',
    'heic',
    pictures('cat/5.heic'),
  ),
  accepted(
    'hidden files, and those of file systems: '
    + ', '.join(f'`{name}`' for name in JUNK),
    'skipped',
    pictures('cat/.0.png', *(f'{name}/cat/0.png' for name in JUNK)),
  ),
  accepted(
    'names that are not UTF-8, or have control characters',
    'written as escapes',
    pictures(name='caf\udce9\n'),
  ),
]
DIFFERENT = ('train/cat', 'train/cow', 'test/cat', 'test/dog')
LAYOUT_ROWS = [
  accepted('`CLASS/*`', 'a fifth of each class is the test split', pictures()),
  accepted(
    '`train/CLASS/*` with `test/`, `val/` or `validation/`',
    'as the splits',
    lambda: [splits('train', name) for name in ('test', 'val', 'validation')],
  ),
  accepted(
    'other spellings of all of them: `Training/` and `Testing/`, `train_set/` '
    'and `test_set/`, `seg_train/` and `seg_test/`',
    'as the splits',
    lambda: [
      splits('Training', 'Testing'),
      splits('train_set', 'test_set'),
      splits('seg_train', 'seg_test'),
    ],
  ),
  accepted(
    'names of classes with such words: `drug_test/` and `weight_training/`',
    'as classes',
    lambda: find([f'{c}/{i}.png' for c in ('a_test', 'b_train') for i in '12']),
  ),
  refused(
    'names of splits without classes inside, such as `dev/*` and `test/*`',
    "'dev', 'test'",
    lambda: find(['dev/1.png', 'test/1.png']),
  ),
  accepted(
    'a .zip of one of these',
    'read, never unpacked',
    pictures(write=image_folders.write_zip),
  ),
  refused(
    'a class without images',
    "'dog'",
    lambda: find(['cat/1.png', 'dog/x.txt']),
  ),
  refused(
    'splits of different classes',
    "'cow'",
    lambda: find([f'{s}/1.png' for s in DIFFERENT]),
  ),
  refused(
    'a zip with absolute paths, `..`, links, doubles, encryption',
    "'../a.png'",
    lambda: hostile_zip('../a.png'),
  ),
]


# ---------------------------------------------------------------- environments


def place(expected, variables):
  def run():
    assert find_place(variables)[:2] == expected

  return run


def in_home():
  """An npz that is named by its place in the home folder."""
  test_npz.load('mine.npz')
  with pytest.MonkeyPatch.context() as patch:
    patch.setenv('HOME', os.getcwd())
    data.load({'name': 'npz', 'path': '~/mine.npz'})


ENVIRONMENT_ROWS = [
  accepted('no launcher', 'one process', place((0, 1), {})),
  accepted('a step of SLURM (`srun`)', 'its rank', place((3, 7), SLURM_STEP)),
  accepted(
    'an allocation of SLURM without a step (`salloc`, a batch script)',
    'one process',
    place((0, 1), SLURM_BATCH),
  ),
  accepted('Open MPI', 'its rank', place((5, 8), OPEN_MPI)),
  refused(
    'a launcher that sets some of its variables only',
    'OMPI_COMM_WORLD_',
    lambda: find_place({'OMPI_COMM_WORLD_SIZE': '4'}),
  ),
  refused(
    'ranks that are no numbers, or outside of the size',
    'OMPI_COMM_WORLD_RANK',
    lambda: find_place({**OPEN_MPI, 'OMPI_COMM_WORLD_RANK': '9'}),
  ),
  accepted('`~` in paths', 'the home folder', in_home),
  refused(
    '`~name` of nobody',
    '~nobody-here',
    lambda: data.load({'name': 'npz', 'path': '~nobody-here/mine.npz'}),
  ),
]

SECTIONS = {
  'Images of attacks': IMAGE_ROWS,
  'Labels and targets of attacks': LABEL_ROWS,
  'What networks return': NETWORK_ROWS,
  'Radii, bounds, keys, seeds': CHOICE_ROWS,
  'Settings of JAX': MODE_ROWS,
  'Arrays of an .npz': NPZ_ROWS,
  'Image files': FILE_ROWS,
  'Folders and zips': LAYOUT_ROWS,
  'Environments': ENVIRONMENT_ROWS,
}


def page() -> str:
  """The whole page."""
  parts = [INTRODUCTION]
  for heading, rows in SECTIONS.items():
    lines = ['| given | |', '| --- | --- |']
    for row in rows:
      quoted = f': `{row.quoted}`' if row.becomes == 'refused' else ''
      lines.append(f'| {row.given} | {row.becomes}{quoted} |')
    parts.append(f'## {heading}\n\n' + '\n'.join(lines) + '\n')
  return '\n'.join(parts)


if __name__ == '__main__':
  pathlib.Path(sys.argv[1]).write_text(page())
