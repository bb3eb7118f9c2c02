"""Writes docs/inputs.md, what is accepted, from cases that are run.

  .venv/bin/python -m tests.docs.inputs docs/inputs.md

A row is a case: tests/docs/test_inputs.py runs it.
"""

import contextlib
import os
import pathlib
import sys
import tempfile
import zipfile
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from PIL import Image

import advjax
from advjax import data, explain
from advjax.config import check_config, default_config, seed_configs
from advjax.processes.topology import find_place

INTRODUCTION = """# What is accepted

Every row is run by the tests. *Refused* is a ValueError, before anything is
computed or written, with what is quoted in its message; *said* is a line of the
log. Besides, the tests change valid files, texts and arguments at random: what
comes of them is a result, or an error with such a message. The suite tries 100
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
  becomes: str  # 'refused', 'said', or what is done
  quoted: str  # what a message has, '' where there is none
  run: Callable[[], Any]


def accepted(given: str, becomes: str, run: Callable[[], Any]) -> Row:
  return Row(given, becomes, '', run)


def refused(given: str, quoted: str, run: Callable[[], Any]) -> Row:
  return Row(given, 'refused', quoted, run)


def said(given: str, becomes: str, quoted: str, run: Callable[[], Any]) -> Row:
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


def keeps_dtype(images):
  def run():
    found = jax.eval_shape(lambda: attack(images=images))
    assert found.dtype == images.dtype

  return run


def read_only(array):
  array = array.copy()
  array.flags.writeable = False
  return array


def returning(change):
  return attacked(logits_fn=lambda images: change(linear(images)))


def search(images, labels=LABELS):
  """An attack that takes one array alone."""
  return lambda: advjax.fmn(linear, images, labels, num_steps=2)


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
    lambda: [
      keeps_dtype(jnp.asarray(IMAGES, dtype))()
      for dtype in (jnp.float16, jnp.bfloat16)
    ],
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
    lambda: [
      jax.eval_shape(
        lambda n=n, norm=norm: attack(
          images=IMAGES[:n], labels=LABELS[:n], norm=norm
        )
      )
      for n in (0, 1)
      for norm in ('linf', 'l2', 'l1')
    ],
  ),
  accepted(
    'a pytree (`fgsm`, `bim`, `mifgsm`, `pgd`)',
    'one ball over its floating leaves; others stay',
    attacked(images={'a': IMAGES, 'b': LABELS}),
  ),
  refused('a pytree, other attacks', 'images = dict', search({'a': IMAGES})),
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
  refused(
    '`[B, 1]`', 'labels = int32 [4, 1]', attacked(labels=LABELS[:, None])
  ),
  refused(
    'one-hot integers',
    'labels = int32 [4, 3]',
    attacked(labels=np.eye(3, dtype=np.int32)[LABELS]),
  ),
  refused('booleans', 'labels = bool [4]', attacked(labels=LABELS > 0)),
  refused(
    'floating `[B]`',
    'labels = float32 [4]',
    attacked(labels=LABELS.astype(np.float32)),
  ),
  refused(
    'strings', 'labels = ', attacked(labels=['cat', 'dog', 'cat', 'ant'])
  ),
  refused(
    'objects', 'labels = object [4]', attacked(labels=LABELS.astype(object))
  ),
  refused(
    'classes that the logits do not have: from 1, or -1 for unknown',
    'labels = 1 to 3',
    attacked(labels=LABELS + 1),
  ),
  refused('another number than images', 'labels', attacked(labels=LABELS[:3])),
]
NETWORK_ROWS = [
  accepted(
    'floating `[B, K]` with K >= 2, also in 16 bits',
    'logits',
    returning(lambda z: z.astype(jnp.bfloat16)),
  ),
  *(
    refused(given, 'logits', returning(change))
    for given, change in (
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


def under(*, runs=False, **modes):
  """Attacks and an explanation under settings of JAX, traced or run."""

  def all_of(images):
    return [
      advjax.bim(network, images, LABELS, 0.1, num_steps=1),
      advjax.apgd(
        network, images, LABELS, 0.1, num_steps=1, key=jax.random.key(0)
      ),
      explain.integrated_gradients(network, images, LABELS, num_steps=2),
    ]

  def network(images):  # New to JAX in every run.
    return linear(images)

  def run():
    with contextlib.ExitStack() as stack:
      for name, value in modes.items():
        before = getattr(jax.config, name)
        stack.callback(jax.config.update, name, before)
        jax.config.update(name, value)
      images = jnp.asarray(IMAGES)
      if runs:
        found = [advjax.fgsm(network, images, LABELS, 0.1)]
      else:
        found = jax.eval_shape(lambda: all_of(images))
      assert all(each.dtype == images.dtype for each in found)

  return run


MODE_ROWS = [
  accepted(
    '`jax_enable_x64`',
    'results in the dtype of the images',
    under(jax_enable_x64=True),
  ),
  accepted(
    "`jax_numpy_dtype_promotion='strict'`",
    'the same results',
    under(jax_numpy_dtype_promotion='strict'),
  ),
  accepted(
    "`jax_numpy_rank_promotion='raise'`",
    'the same results',
    under(jax_numpy_rank_promotion='raise'),
  ),
  accepted(
    '`jax_check_tracer_leaks`',
    'the same results',
    under(jax_check_tracer_leaks=True),
  ),
  accepted(
    '`jax_disable_jit`',
    'the same results, slowly',
    under(jax_disable_jit=True),
  ),
  accepted(
    '`jax_debug_nans`',
    'the same results, or an error at the first NaN of a network',
    under(jax_debug_nans=True, runs=True),
  ),
]


# ------------------------------------------------------------------- data sets


def npz(**changes):
  """Loads an npz of six and four images, some of its arrays replaced."""

  def run():
    arrays = {
      'train_images': np.zeros((6, 16, 16, 3), np.uint8),
      'train_labels': np.arange(6) % 3,
      'test_images': np.zeros((4, 16, 16, 3), np.uint8),
      'test_labels': np.arange(4) % 3,
      **changes,
    }
    for name in ('train', 'test'):
      if f'{name}_labels' not in changes and 'labels' in arrays:
        count = len(arrays[f'{name}_images'])
        arrays[f'{name}_labels'] = arrays['labels'][:count]
    arrays.pop('labels', None)
    np.savez('mine.npz', **{n: a for n, a in arrays.items() if a is not None})
    return data.load({'name': 'npz', 'path': 'mine.npz'})

  return run


def of_shape(*shape, dtype=np.uint8):
  return npz(
    train_images=np.zeros((6, *shape), dtype),
    test_images=np.zeros((4, *shape), dtype),
  )


NPZ_ROWS = [
  accepted(
    'uint8, or float16, float32, float64 in [0, 1]',
    'uint8, or float32',
    lambda: [
      of_shape(8, 8, 3, dtype=each)()
      for each in (np.uint8, np.float16, np.float32, np.float64)
    ],
  ),
  accepted(
    '`[N, H, W]`, `[N, H, W, 1]`, `[N, H, W, 3]`',
    'images `[N, H, W, C]`',
    lambda: [of_shape(8, 8)(), of_shape(8, 8, 1)(), of_shape(8, 8, 3)()],
  ),
  refused(
    '`[N, C, H, W]`: transpose',
    '(6, 3, 16, 16)',
    of_shape(3, 16, 16),
  ),
  refused('integers of more bits', 'int64', of_shape(8, 8, dtype=np.int64)),
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
  said(
    'labels from 1, or with gaps, without `class_names`',
    'said, with the number of empty classes',
    '1',
    npz(labels=np.arange(6) % 3 + 1),
  ),
  refused(
    'labels `[N, 1]`, one-hot, floating, bool or strings',
    'train_labels = ',
    npz(train_labels=np.zeros((6, 1), int)),
  ),
  refused('pickled arrays', 'train_labels', npz(train_labels=np.full(6, None))),
  refused('a field that is missing', 'test_labels', npz(test_labels=None)),
]


def pictures(*names, to_zip=False, **kinds):
  """Loads a folder with these files, in a format that Pillow names."""

  def run():
    root = pathlib.Path(tempfile.mkdtemp(dir='.')) / 'pets'
    files = names or ('cat', 'dog')
    for name in files:
      # A folder: four images in it.
      ends = (
        ('',) if pathlib.Path(name).suffix else [f'/{i}.png' for i in '0123']
      )
      for end in ends:
        path = root / f'{name}{end}'
        path.parent.mkdir(parents=True, exist_ok=True)
        image = Image.new(kinds.get('mode', 'RGB'), (9, 9))
        image.save(path, kinds.get('format', 'PNG'), **kinds.get('save', {}))
    path = root
    if to_zip:
      path = pathlib.Path('pets.zip')
      with zipfile.ZipFile(path, 'w') as archive:
        for file in sorted(root.rglob('*.*')):
          archive.write(file, file.relative_to(root))
    found = data.load(
      {'name': 'folder', 'path': str(path), 'cache_dir': 'cache'}
    )
    assert set(found.class_names) == {'cat', 'dog'}
    count = len(found.train.labels) + len(found.test.labels)
    assert count == kinds.get('count', count)
    return found

  return run


CLASSES = ('cat', 'dog')
BOTH = ('train/cat', 'train/dog')
FILE_ROWS = [
  accepted(
    'PNG, JPEG, WebP, BMP, GIF, TIFF, PPM, whatever the ending says',
    'RGB, uint8',
    lambda: [
      pictures(format=each)()
      for each in ('PNG', 'JPEG', 'WEBP', 'BMP', 'GIF', 'TIFF', 'PPM')
    ],
  ),
  accepted(
    'grey, palette, alpha, CMYK, 16-bit grey',
    'RGB, uint8; counted in the log',
    lambda: [
      pictures(mode=mode, format='TIFF')()
      for mode in ('L', 'P', 'RGBA', 'CMYK', 'I;16')
    ],
  ),
  accepted(
    'broken EXIF or XMP beside whole pixels',
    'read, as if there were none',
    pictures(save={'exif': b'garbage'}, count=8),
  ),
  said(
    'files of other endings beside them, such as .heic',
    'passed over; counted in the log',
    'heic',
    pictures(*CLASSES, 'cat/5.heic', count=8),
  ),
  accepted(
    'hidden files, and those of file systems: `__MACOSX`, `Thumbs.db`, '
    '`@eaDir`, `#recycle`, `$RECYCLE.BIN`',
    'passed over',
    pictures(
      *CLASSES,
      'cat/.0.png',
      '__MACOSX/cat/0.png',
      '@eaDir/0.png',
      '#recycle/cat/0.png',
      '$RECYCLE.BIN/0.png',
      'cat/@eaDir/0.png/thumb.png',
      count=8,
    ),
  ),
]
LAYOUT_ROWS = [
  accepted('`CLASS/*`', 'a fifth of each class is the test split', pictures()),
  accepted(
    '`train/CLASS/*` with `test/`, `val/` or `validation/`',
    'as the splits',
    lambda: [
      pictures(*BOTH, f'{name}/cat', f'{name}/dog')()
      for name in ('test', 'val', 'validation')
    ],
  ),
  accepted(
    'a .zip of one of these', 'read, never unpacked', pictures(to_zip=True)
  ),
  refused('a class without images', "'dog'", pictures('cat', 'dog/x.txt.bmp')),
  refused(
    'splits of different classes',
    "'dog'",
    pictures(*BOTH, 'test/cat', 'test/cow'),
  ),
  refused(
    'a zip with absolute paths, `..`, links, doubles, encryption',
    "'../a.png'",
    lambda: hostile_zip('../a.png'),
  ),
]


def hostile_zip(name):
  with zipfile.ZipFile('hostile.zip', 'w') as archive:
    archive.writestr(name, b'')
  return data.load({'name': 'folder', 'path': 'hostile.zip'})


# ---------------------------------------------------------------- environments

SLURM = {
  'SLURM_PROCID': '3',
  'SLURM_STEP_NUM_TASKS': '4',
  'SLURM_LOCALID': '1',
  'SLURM_STEP_TASKS_PER_NODE': '2(x2)',
  'SLURM_NODEID': '1',
}
MPI = {
  f'OMPI_COMM_WORLD_{name}': number
  for name, number in zip(
    ('RANK', 'SIZE', 'LOCAL_RANK', 'LOCAL_SIZE'), '1424', strict=True
  )
} | {'OMPI_COMM_WORLD_LOCAL_RANK': '1', 'OMPI_COMM_WORLD_LOCAL_SIZE': '2'}


def place(expected, variables):
  def run():
    assert find_place(variables)[:2] == expected

  return run


@contextlib.contextmanager
def environment(**variables):
  before = dict(os.environ)
  for name, value in variables.items():
    if value is None:
      os.environ.pop(name, None)
    else:
      os.environ[name] = value
  try:
    yield
  finally:
    os.environ.clear()
    os.environ.update(before)


def in_home():
  """An npz that is named by its place in the home folder."""
  npz()()
  with environment(HOME=os.getcwd()):
    data.load({'name': 'npz', 'path': '~/mine.npz'})


ENVIRONMENT_ROWS = [
  accepted('no launcher', 'one process', place((0, 1), {})),
  accepted('a step of SLURM (`srun`)', 'its rank', place((3, 4), SLURM)),
  accepted(
    'an allocation of SLURM without a step (`salloc`, a batch script)',
    'one process',
    place((0, 1), {'SLURM_NTASKS': '4', 'SLURM_PROCID': '0'}),
  ),
  accepted('Open MPI', 'its rank', place((1, 4), MPI)),
  refused(
    'a launcher that sets some of its variables only',
    'OMPI_COMM_WORLD_',
    lambda: find_place({'OMPI_COMM_WORLD_SIZE': '4'}),
  ),
  refused(
    'ranks that are no numbers, or outside of the size',
    'OMPI_COMM_WORLD_RANK',
    lambda: find_place({**MPI, 'OMPI_COMM_WORLD_RANK': '7'}),
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
