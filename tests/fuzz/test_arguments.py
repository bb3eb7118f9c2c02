"""Whatever attacks and explanations are given: a result, or an error of ours.

One or two arguments of a call become odd ones, drawn by hypothesis; calls are
traced, not run. What has a `!` before its name has to be refused, where it is
the only one. 10,000 cases of each function:

  ./launch.sh test tests/fuzz --hypothesis-profile=fuzz

A failure names a case of each kind, such as `call('pgd', labels='!strings')`.
"""

import contextlib
import functools
import inspect
import math

import hypothesis
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import strategies as st
from jax.tree_util import Partial

import advjax
from advjax import explain, losses, norms
from tests.fuzz.outcomes import Faults, num_cases

BATCH, SHAPE, CLASSES = 4, (4, 3, 2, 3), 4
IMAGES = np.linspace(0, 1, 72, dtype=np.float32).reshape(SHAPE)
LABELS = np.array([0, 1, 2, 1], np.int32)
KEY = jax.random.key(0)


def linear(images):
  """Logits of images of any shape, or of a pytree of them."""
  leaves = [x for x in jax.tree.leaves(images) if x.dtype != np.int32]
  flat = [x.reshape(x.shape[0], math.prod(x.shape[1:])) for x in leaves]
  means = sum(x.sum(-1) / 72 for x in flat)
  return jnp.stack([means * k for k in (1.0, -1.0, 2.0, 0.5)], axis=-1)


def returning(change):
  """A network that returns something else in place of its logits."""
  return lambda images: change(linear(images))


def weighted(weights, images):
  return linear(images) * weights


class Module:
  """A network that is an object, with a method."""

  def __call__(self, images):
    return linear(images)

  def apply(self, images):
    return linear(images)


def frozen(array):
  array = array.copy()
  array.flags.writeable = False
  return array


def objects(array):
  return np.asarray(array).astype(object)


MODULE = Module()
ONE_HOT = np.eye(CLASSES)[LABELS]
NETWORKS = {
  'object': MODULE,
  'method': MODULE.apply,
  'partial': functools.partial(linear),
  'Partial': Partial(weighted, jnp.ones((1, CLASSES))),
  'float16 logits': returning(lambda z: z.astype(jnp.float16)),
  'bfloat16 logits': returning(lambda z: z.astype(jnp.bfloat16)),
  'two logits': returning(lambda z: z[:, 1:3]),
  '!tuple': returning(lambda z: (z, z)),
  '!list': returning(lambda z: [z]),
  '!dict': returning(lambda z: {'logits': z}),
  '!nothing': returning(lambda z: None),
  '!ints': returning(lambda z: z.astype(int)),
  '!bools': returning(lambda z: z > 0),
  '!complex': returning(lambda z: z.astype(jnp.complex64)),
  '![B, K, 1]': returning(lambda z: z[..., None]),
  '![1, B, K]': returning(lambda z: z[None]),
  '![K, B]': returning(lambda z: z[:, :3].T),
  '![B]': returning(lambda z: z[:, 0]),
  '![B, 1]': returning(lambda z: z[:, :1]),
  '![B, 0]': returning(lambda z: z[:, :0]),
  '!a mean': returning(lambda z: z.mean()),
  '!a number': lambda images: 1.0,
  '!an object': lambda images: MODULE,
  '!no function': 'linear',
  '!None': None,
}
_LABELS = {
  'list': LABELS.tolist(),
  'tuple': tuple(LABELS.tolist()),
  'list of NumPy ints': list(LABELS),
  'jax': jnp.asarray(LABELS),
  'int64': LABELS.astype(np.int64),
  'uint8': LABELS.astype(np.uint8),
  'uint64': LABELS.astype(np.uint64),
  'big-endian': LABELS.astype('>i4'),
  'read-only': frozen(LABELS),
  'strided': np.repeat(LABELS, 2)[::2],
  'float one-hot': ONE_HOT.astype(np.float32),
  '!one-hot ints': ONE_HOT.astype(int),
  '!bool one-hot': ONE_HOT.astype(bool),
  '!bool': LABELS > 0,
  '!floats': LABELS.astype(np.float32),
  '!complex': LABELS.astype(complex),
  '![B, 1]': LABELS[:, None],
  '![1, B]': LABELS[None],
  '!short': LABELS[:3],
  '!strings': np.array(['cat', 'dog', 'cat', 'dog']),
  '!bytes': np.array([b'a', b'b', b'a', b'b']),
  '!list of strings': ['cat', 'dog', 'cat', 'dog'],
  '!objects': objects(LABELS),
  '!ragged': [[0, 1], [2], 1, 0],
  '!dates': LABELS.astype('M8[s]'),
  '!a text': 'cat',
  '!a set': {0, 1, 2, 3},
  '!from 1': LABELS + 2,
  '!negative': LABELS - 1,
  '!2**40': LABELS.astype(np.int64) + 2**40,
}
LABEL_FORMS = {**_LABELS, '!None': None, '!a number': 1}
IMAGE_FORMS = {
  'jax': jnp.asarray(IMAGES),
  'float16': IMAGES.astype(np.float16),
  'bfloat16': jnp.asarray(IMAGES, jnp.bfloat16),
  'float64': IMAGES.astype(np.float64),
  'big-endian': IMAGES.astype('>f4'),
  'read-only': frozen(IMAGES),
  'Fortran': np.asfortranarray(IMAGES),
  'strided': np.repeat(IMAGES, 2, axis=1)[:, ::2],
  'list': IMAGES.tolist(),
  'tuple': (IMAGES, IMAGES[:, 0]),
  'dict': {'pixels': IMAGES, 'ids': LABELS},
  'one pixel': IMAGES[:, :1, :1, :1],
  'vectors': IMAGES[:, 0, 0],
  'voxels': IMAGES[..., None],
  'no pixels': IMAGES[:, :0],
  '!uint8': (255 * IMAGES).astype(np.uint8),
  '!ints': IMAGES.astype(int),
  '!bools': IMAGES > 0.5,
  '!complex': IMAGES.astype(np.complex64),
  '!objects': objects(IMAGES),
  '!strings': IMAGES.astype(str),
  'nan': np.where(IMAGES > 0.9, np.nan, IMAGES).astype(np.float32),
  'to 255': 255 * IMAGES,
  '!fewer': IMAGES[:3],
  '!a number': 0.5,
  '!text': 'images',
  '!None': None,
  '!nothing': {},
  '!ragged': [[0.5], [0.5, 0.5], [0.5], [0.5]],
}
RADII = {
  '0': 0,
  '0.0': 0.0,
  'inf': np.inf,
  'float16': np.float16(0.1),
  'jax': jnp.float32(0.1),
  '0-D': np.array(0.1),
  '[B]': np.full(BATCH, 0.1),
  'list [B]': [0.1] * BATCH,
  '1e300': 1e300,
  '1e-300': 1e-300,
  '!text': '8/255',
  '!-0.1': -0.1,
  '!nan': np.nan,
  '!nan in [B]': np.full(BATCH, np.nan),
  '![3]': np.ones(3),
  '![B, 1]': np.full((BATCH, 1), 0.1),
  '!complex': 0.1j,
  '!objects': objects(np.full(BATCH, 'x')),
  '!10**400': 10**400,
  '!dict': {'epsilon': 0.1},
  '!function': abs,
}
BOUNDS = {
  'None': None,
  'open': (None, None),
  'from 0': (0, None),
  'list': [0, 1],
  'of a channel': (np.zeros(3), np.ones(3)),
  'of an image': (np.zeros(SHAPE[1:]), np.ones(SHAPE[1:])),
  'float64': (np.float64(0), np.float64(1)),
  'bools': (False, True),
  'wide': (-np.inf, np.inf),
  '!number': 1.0,
  '!swapped': (1.0, 0.0),
  '!one': (0.0,),
  '!three': (0.0, 0.5, 1.0),
  '!text': '01',
  '!texts': ('a', 'b'),
  '!nan': (np.nan, 1.0),
  '!narrow': (0.4, 0.6),
  '![5]': (0.0, np.ones(5)),
  '!ragged': ([[0], [0, 0]], 1.0),
  '!complex': (0j, 1.0),
  '!dict': {'lower': 0, 'upper': 1},
}
MASKS = {
  'None': None,
  'bool': IMAGES > 0.5,
  'half': 0.5,
  'of a channel': np.array([0.0, 1.0, 1.0]),
  'list': [0.0, 1.0, 1.0],
  '!2': 2 * np.ones(3),
  '!negative': -np.ones(3),
  '!nan': np.full(3, np.nan),
  '![5]': np.ones(5),
  '!text': 'mask',
  '!ragged': [[0], [0, 0]],
  '!strings': np.array(['a', 'b', 'c']),
}
KEYS = {
  'raw': jax.random.key_data(KEY),
  'NumPy': np.zeros(2, np.uint32),
  '[B]': jax.random.split(KEY, BATCH),
  'rbg': jax.random.key(0, impl='rbg'),
  '!0': 0,
  '!text': 'key',
  '!int32': np.zeros(2, np.int32),
  '![3]': jax.random.split(KEY, 3),
  '!3 words': np.zeros(3, np.uint32),
  '!generator': np.random.default_rng(0),
}
NORMS = {
  'linf': 'linf',
  'l2': 'l2',
  'l1': 'l1',
  'object': norms.get('l2'),
  '!l3': 'l3',
  '!None': None,
  '!2': 2,
  '!inf': np.inf,
  '!list': ['linf'],
}
LOSSES = {
  'margin': losses.margin,
  'dlr': losses.dlr,
  'float16': lambda z, y: z[:, 0].astype(jnp.float16),
  '!text': 'margin',
  '!None': None,
  '!scalar': lambda z, y: z.mean(),
  '!matrix': lambda z, y: z,
  '!tuple': lambda z, y: (z[:, 0], z[:, 0]),
  '!nothing': lambda z, y: None,
}
COUNTS = {
  '2': 2,
  'NumPy': np.int64(1),
  '!0': 0,
  '!-1': -1,
  '!1.5': 1.5,
  '!text': '3',
  '!nan': np.nan,
  '!list': [3],
  '!10**400': -(10**400),
}
OTHERS = {
  'number': 0.5,
  'NumPy': np.float32(0.5),
  '1': 1,
  '0': 0,
  'True': True,
  'None': None,
  'jax': jnp.float32(0.5),
  'inf': np.inf,
  '[B]': np.full(BATCH, 0.5),
  '!-1': -1,
  '!nan': np.nan,
  '!text': 'x',
  '!complex': 1j,
  '!list': ['x'],
}
# Settings of JAX that calls are made under.
MODES = {
  '': contextlib.nullcontext,
  'x64': functools.partial(jax.enable_x64, True),
  'strict': functools.partial(jax.numpy_dtype_promotion, 'strict'),
}
# Argument -> name -> value.
FORMS = {
  'batch': {'0': 0, '1': 1},
  'mode': {name: name for name in MODES if name},
  'logits_fn': NETWORKS,
  'images': IMAGE_FORMS,
  'labels': LABEL_FORMS,
  'epsilon': RADII,
  'bounds': BOUNDS,
  'mask': MASKS,
  'key': KEYS,
  'norm': NORMS,
  'loss_fn': LOSSES,
  'targets': {**_LABELS, 'None': None},
  **dict.fromkeys(
    ('num_steps', 'num_queries', 'num_restarts', 'num_searches'), COUNTS
  ),
  'num_samples': COUNTS,
  'eot_samples': {n: v for n, v in COUNTS.items() if n[0] == '!'},
  'step_size': {**RADII, 'None': None},
  **dict.fromkeys(
    ('decay', 'eta', 'beta', 'alpha_max', 'p_init', 'overshoot', 'gamma'),
    OTHERS,
  ),
  'initial_const': OTHERS,
  'confidence': OTHERS,
  'learning_rate': OTHERS,
  'num_candidates': {n: v for n, v in COUNTS.items() if n != 'NumPy'},
}


def minimal_epsilon(logits_fn, images, labels, **choices):
  return advjax.minimal_epsilon(
    advjax.fgsm, logits_fn, images, labels, **choices
  )


ATTACKS = {
  f.__name__: f
  for f in (
    *(advjax.fgsm, advjax.bim, advjax.mifgsm, advjax.pgd, advjax.apgd),
    *(advjax.fab, advjax.square, advjax.deepfool, advjax.carlini_wagner),
    *(advjax.fmn, advjax.is_adversarial),
    *(explain.saliency, explain.integrated_gradients, explain.smooth_grad),
  )
}
GIVEN = {'epsilon': 0.1, 'key': KEY}
FEW = {'num_steps': 2, 'num_queries': 2, 'num_searches': 1, 'num_samples': 2}


def arguments_of(name):
  """The arguments of an attack that have odd forms here."""
  known = inspect.signature(ATTACKS[name]).parameters
  return [a for a in FORMS if a in known or a in ('batch', 'mode')]


def call(name, **forms):
  """Traces a call with some arguments of these forms; checks what returns."""
  known = inspect.signature(ATTACKS[name]).parameters
  batch = int(forms.get('batch', BATCH))
  given = {
    'logits_fn': linear,
    'images': IMAGES[:batch],
    'labels': LABELS[:batch],
    **{n: v for n, v in {**GIVEN, **FEW}.items() if n in known},
    **{a: FORMS[a][form] for a, form in forms.items() if a in known},
  }
  with MODES[forms.get('mode', '')]():
    found = jax.eval_shape(lambda: ATTACKS[name](**given))
    wanted = [
      (x.shape, jax.dtypes.canonicalize_dtype(x.dtype.newbyteorder('=')))
      for x in map(np.asarray, jax.tree.leaves(given['images']))
    ]
    if name == 'is_adversarial':
      wanted = [((batch,), bool)]
  if len(forms) == 1 and '!' in (taken := str(forms)):
    pytest.fail(f'taken: {taken}')
  found = [(x.shape, x.dtype) for x in jax.tree.leaves(found)]
  if found != wanted and forms.get('images') != 'list':
    pytest.fail(f'returned: {found}, not {wanted}')


def forms_of(name):
  """Draws one or two odd arguments of an attack."""
  one = st.sampled_from(arguments_of(name)).flatmap(
    lambda argument: st.tuples(
      st.just(argument), st.sampled_from([*FORMS[argument]])
    )
  )
  forms = st.lists(one, min_size=1, max_size=2).map(dict)
  # A loss of one's own may be of other things than logits, or fail itself.
  return forms.filter(lambda x: not {'logits_fn', 'loss_fn'} <= {*x})


@pytest.mark.parametrize('name', ATTACKS)
def test_call(name):
  faults = Faults()

  @hypothesis.settings(max_examples=num_cases(0.6))
  @hypothesis.given(forms_of(name))
  def run(forms):
    shown = ', '.join(f'{a}={form!r}' for a, form in sorted(forms.items()))
    faults.call(f'call({name!r}, {shown})', lambda: call(name, **forms))

  call(name)
  run()
  if faults.kinds:
    pytest.fail(f'{faults}', pytrace=False)
