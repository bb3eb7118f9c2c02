"""Mistakes are ValueErrors that name the argument, the value, the choices."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import advjax
from advjax import losses, norms
from tests.attacks import cases

KEY = jax.random.key(0)
NAN = np.where(np.arange(4)[:, None, None, None] == 1, np.nan, cases.IMAGES)
SOFT = np.eye(3, dtype=np.float32)[cases.LABELS]


def call(name, logits_fn=cases.logits_fn, **changes):
  kwargs = {'images': cases.IMAGES, 'labels': cases.LABELS, **changes}
  images, labels = kwargs.pop('images'), kwargs.pop('labels')
  return cases.ALL[name](logits_fn, images, labels, **kwargs)


INSIDE = 'allowed: finite and inside bounds'
SHARED = [
  ({'images': 2 * cases.IMAGES}, rf'images = 0\.\d* to 1\.\d*; {INSIDE}'),
  ({'images': NAN.astype(np.float32)}, f'images = nan to nan; {INSIDE}'),
  ({'labels': cases.LABELS + 1}, r'labels = 1 to 3; allowed: .* \[0, 3\)'),
  ({'labels': cases.LABELS[:3]}, r'labels = int32 \[3\]; allowed: int \[4\]'),
  ({'bounds': (1.0, 0.0)}, r'bounds = .*; allowed: lower <= upper'),
  ({'logits_fn': None}, 'logits_fn = None; allowed: a callable'),
]
IN_A_BALL = [
  ({'norm': 'l3'}, "norm = 'l3'; allowed: 'linf', 'l2', 'l1'"),
  ({'epsilon': -0.1}, r'epsilon = -0\.1; allowed: finite numbers >= 0'),
  ({'epsilon': np.inf}, r'epsilon = inf; allowed: finite numbers >= 0'),
  ({'epsilon': np.ones(3)}, r'epsilon.shape = \(3,\); .* \(\) or \(4,\)'),
  ({'targets': cases.LABELS + 1}, r'targets = 1 to 3; allowed: .* \[0, 3\)'),
]
ONE_ARRAY = [
  ({'images': (cases.IMAGES,)}, r'images = tuple; allowed: one array \[B, ..'),
  ({'images': cases.IMAGES[:, 0, 0, 0]}, r'images = \(4,\); allowed: one arr'),
]
SEARCH = [
  ({'norm': norms.NSL_NORMS['l2']}, "norm = .*; allowed: 'linf', 'l2', 'l1'$"),
  ({'norm': 'infinity'}, r"norm = 'infinity'; .* \(did you mean 'linf'\?\)$"),
  ({'num_restarts': 0}, 'num_restarts = 0; allowed: .* >= 1'),
]
MINIMUM = [
  ({'num_steps': 0}, 'num_steps = 0; allowed: .* integer >= 1'),
  ({'labels': SOFT}, r'labels = float32 \[4, 3\]; allowed: int \[4\]'),
]
OWN = {
  'bim': [
    ({'num_steps': 2.5}, 'num_steps = 2.5; allowed: a Python integer'),
    ({'epsilon': np.nan}, 'epsilon = nan'),
    ({'epsilon': '8/255', 'step_size': 0.1}, "epsilon = '8/255'; allowed"),
    (
      {'epsilon': None, 'step_size': None},
      'step_size = None; .* epsilon is No',
    ),
    ({'images': jnp.asarray(NAN, jnp.bfloat16)}, 'images = nan'),
    ({'images': np.zeros((4, 30), np.uint8)}, r"images.dtype = \['uint8'\]"),
    ({'images': {}}, 'images.dtype'),
    ({'images': np.float32(0.5)}, 'images.shape = .*the same leading axis'),
    ({'images': (cases.IMAGES, cases.IMAGES[:2])}, 'the same leading axis'),
    ({'labels': SOFT[:, :2]}, r'labels = float32 \[4, 2\]; allowed: int \[4'),
    ({'labels': SOFT, 'loss_fn': losses.margin}, r'labels = .*; allowed: int'),
    ({'logits_fn': lambda x: x}, r'logits = float32 \[4, 2, 5, 3\]; all'),
    (
      {'logits_fn': lambda x: x[:, 0, 0, :1]},
      r'logits = float32 \[4, 1\]; allowed:',
    ),
    ({'loss_fn': 'cross_entropy'}, "loss_fn = 'cross_entropy'; allowed"),
    (
      {'loss_fn': lambda z, y: losses.cross_entropy(z, y).mean()},
      r'loss_fn\(...\) = float32 \[\]; allowed: float \[4\]',
    ),
    ({'bounds': 1.0}, r'bounds = 1\.0; allowed: None or a pair'),
    ({'bounds': (0.0, np.ones(5))}, r'bounds.shape = \(5,\); allowed'),
    ({'bounds': ({'a': 0.0}, 1.0)}, 'bounds = .*; allowed: .* pytree prefix'),
    ({'mask': 2 * np.ones(3)}, r'mask = 2.0 to 2.0; allowed: values in \[0'),
    ({'mask': np.ones(4)}, r'mask.shape = \(4,\); allowed'),
    ({'key': 0}, 'key = 0; allowed: one key .* or 4 keys'),
    (
      {'key': jax.random.wrap_key_data(np.zeros((3, 2), np.uint32))},
      r'key = .* \[3\]; allowed',
    ),
    ({'key': np.zeros(3, np.uint32)}, r'key = uint32 \[3\]'),
    ({'key': np.zeros(2, np.int32)}, r'key = int32 \[2\]'),
  ],
  'fgsm': [({'epsilon': None}, 'epsilon = None; allowed')],
  'mifgsm': [
    ({'decay': None}, 'decay = None'),
    ({'decay': -1.0}, r'decay = -1\.0; allowed'),
    ({'decay': np.ones(4)}, r'decay.shape = \(4,\)'),
  ],
  'pgd': [
    ({'num_restarts': 0}, 'num_restarts = 0'),
    ({'eot_samples': 0}, 'eot_samples = 0'),
    ({'key': None}, 'key = None'),
  ],
  'apgd': [
    ({'num_steps': 0}, 'num_steps = 0'),
    ({'eot_samples': 0}, 'eot_samples = 0'),
    ({'epsilon': None}, 'epsilon = None'),
    ({'key': None}, 'key = None'),
    (
      {'loss_fn': losses.dlr, 'targets': cases.LABELS},
      r'logits of shape \(4, 3\); allowed: at least 4 .* or losses.margin',
    ),
  ],
  'fab': [
    ({'num_restarts': 2, 'key': None}, 'key = None; .* num_restarts = 2'),
    ({'eta': 0.9}, r'eta = 0\.9; allowed: a Python number >= 1'),
    ({'beta': 1.5}, r'beta = 1\.5; allowed: a Python number in \[0, 1\]'),
    ({'alpha_max': '1'}, "alpha_max = '1'; allowed"),
    ({'targets': np.ones(4)}, r'targets = float64 \[4\]; allowed: int \[4\]'),
  ],
  'square': [
    ({'num_queries': 0}, 'num_queries = 0'),
    ({'p_init': 0.0}, r'p_init = 0\.0; allowed: .* \(0, 1\]'),
    ({'key': None}, 'key = None'),
    ({'epsilon': None}, 'epsilon = None'),
  ],
  'deepfool': [
    ({'num_candidates': 1}, 'num_candidates = 1; allowed: .* >= 2'),
    ({'overshoot': -0.1}, r'overshoot = -0\.1; allowed'),
    ({'norm': 'l1'}, "norm = 'l1'; allowed: 'l2', 'linf'"),
  ],
  'carlini_wagner': [
    ({'num_searches': 0}, 'num_searches = 0'),
    ({'initial_const': 0}, 'initial_const = 0; allowed: a number > 0'),
    ({'confidence': -1.0}, r'confidence = -1\.0'),
    ({'learning_rate': None}, 'learning_rate = None'),
  ],
  'fmn': [
    ({'norm': 'l0'}, "norm = 'l0'; allowed: 'l2', 'linf', 'l1'"),
    ({'gamma': 1}, r'gamma = 1\.0; allowed: .* \[0, 1\)'),
  ],
}
TABLE = [
  (name, changes, message)
  for names, mistakes in (
    (('bim', *cases.SEARCHES, *cases.MINIMUM), SHARED),
    (('bim', *cases.SEARCHES), IN_A_BALL),
    ((*cases.SEARCHES, *cases.MINIMUM), ONE_ARRAY),
    (cases.SEARCHES, SEARCH),
    (cases.MINIMUM, MINIMUM),
    *(((name,), mistakes) for name, mistakes in OWN.items()),
  )
  for name in names
  for changes, message in mistakes
]


@pytest.mark.parametrize(('name', 'changes', 'message'), TABLE)
def test_mistake(name, changes, message):
  with pytest.raises(ValueError, match=f'(?s){message}'):
    call(name, **changes)


@pytest.mark.parametrize(
  ('changes', 'message'),
  [
    *SHARED[2:4],
    MINIMUM[1],
    ({'logits_fn': jnp.sum}, r'logits = float32 \[\]'),
  ],
)
def test_mistake_of_asking_for_success(changes, message):
  given = {'logits_fn': cases.logits_fn, 'images': cases.IMAGES, **changes}
  given = {'labels': cases.LABELS, **given}
  with pytest.raises(ValueError, match=message):
    advjax.is_adversarial(**given)


def test_values_of_tracers_are_not_looked_at():
  result = jax.eval_shape(
    lambda x, y, e: call('bim', images=x, labels=y, epsilon=e),
    2 * cases.IMAGES,
    cases.LABELS + 7,
    -0.1,
  )
  assert result.shape == cases.SHAPE
  with pytest.raises(ValueError, match=r'epsilon.shape = \(3,\)'):
    jax.eval_shape(lambda e: call('bim', epsilon=e), np.ones(3))
