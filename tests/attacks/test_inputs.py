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


def call(attack='bim', logits_fn=cases.logits_fn, **changes):
  kwargs = {'images': cases.IMAGES, 'labels': cases.LABELS, 'epsilon': 0.1}
  if attack != 'fgsm':
    kwargs |= {'step_size': 0.1, 'num_steps': 1}
  if attack == 'pgd':
    kwargs['key'] = KEY
  return getattr(advjax, attack)(logits_fn, **{**kwargs, **changes})


MISTAKES = [
  ({'norm': 'l3'}, r"norm must be one of \['l1', 'l2', 'linf'\].*'l3'"),
  ({'norm': 2}, 'norm must be'),
  ({'num_steps': 0}, 'num_steps must be at least 1; got 0'),
  ({'num_steps': -2}, 'num_steps'),
  ({'num_steps': 2.5}, 'num_steps must be a Python integer.*2.5'),
  ({'attack': 'pgd', 'num_restarts': 0}, 'num_restarts.*got 0'),
  ({'attack': 'pgd', 'eot_samples': 0}, 'eot_samples.*got 0'),
  ({'attack': 'pgd', 'key': None}, 'key must be.*None'),
  ({'attack': 'fgsm', 'epsilon': None}, 'epsilon must be.*None'),
  ({'attack': 'mifgsm', 'decay': None}, 'decay must be.*None'),
  ({'attack': 'mifgsm', 'decay': -1.0}, 'decay must be at least 0; got -1'),
  ({'attack': 'mifgsm', 'decay': np.ones(4)}, r'decay must have shape \(\);'),
  ({'epsilon': -0.1}, r'epsilon must be at least 0; got -0\.1'),
  ({'epsilon': np.nan}, 'epsilon must be at least 0; got nan'),
  ({'epsilon': jnp.float32(-0.1)}, 'epsilon must be at least 0'),
  ({'epsilon': np.array([0.1, 0.1, -0.1, 0.1])}, 'epsilon must be at least'),
  ({'epsilon': np.ones(3)}, r'epsilon must have shape \(\) or \(4,\).*\(3,\)'),
  ({'epsilon': '8/255'}, "epsilon must be a number.*'8/255'"),
  ({'step_size': -0.1}, 'step_size must be at least 0'),
  ({'step_size': None}, 'step_size must be a number'),
  ({'step_size': np.ones((4, 1))}, 'step_size must have shape'),
  ({'images': 2 * cases.IMAGES}, r'images must be finite and inside bounds'),
  ({'images': cases.IMAGES - 0.5}, r'images must be .* got values from -0\.'),
  ({'images': NAN.astype(np.float32)}, 'images must be finite.*nan'),
  ({'images': jnp.asarray(NAN, jnp.bfloat16)}, 'images must be finite'),
  ({'images': NAN, 'bounds': None}, 'images must be finite'),
  ({'images': np.zeros((4, 30), np.uint8)}, r"images must be.*'uint8'"),
  ({'images': {}}, 'images must be'),
  ({'images': np.float32(0.5)}, 'images must share the leading batch axis'),
  ({'images': (cases.IMAGES, cases.IMAGES[:2])}, 'leading batch axis'),
  ({'labels': cases.LABELS + 1}, r'labels must lie in \[0, 3\).* 1 to 3'),
  ({'labels': cases.LABELS - 1}, r'labels must lie in \[0, 3\).* -1 to 1'),
  ({'labels': jnp.full(4, 9)}, r'labels must lie in \[0, 3\)'),
  ({'targets': cases.LABELS + 1}, r'targets must lie in \[0, 3\)'),
  ({'labels': cases.LABELS[:3]}, r'labels must have a leading axis of 4.*3'),
  ({'targets': cases.LABELS[:3]}, 'targets must have a leading axis of 4'),
  ({'labels': np.int32(1)}, 'labels must have a leading axis of 4'),
  ({'labels': SOFT[:, :2]}, r'labels must be int .*\(4, 3\); got .*\(4, 2\)'),
  ({'labels': cases.LABELS[:, None]}, 'labels must be int'),
  ({'labels': SOFT, 'loss_fn': losses.margin}, 'labels must be int'),
  ({'logits_fn': lambda x: x}, r'logits must have shape \[batch, classes\]'),
  ({'logits_fn': lambda x: x[:, 0, 0, :1]}, r'labels must lie in \[0, 1\)'),
  ({'logits_fn': None}, 'logits_fn must be callable; got None'),
  ({'loss_fn': 'cross_entropy'}, 'loss_fn must be callable'),
  (
    {'loss_fn': lambda z, y: losses.cross_entropy(z, y).mean()},
    r'loss_fn must return one loss per example, \(4,\); got shape \(\)',
  ),
  ({'bounds': 1.0}, r'bounds must be None or a pair \(lower, upper\).*1\.0'),
  ({'bounds': (0, 1, 2)}, 'bounds must be None or a pair'),
  ({'bounds': (1.0, 0.0)}, 'bounds must have lower <= upper'),
  ({'bounds': (0.0, np.ones(5))}, 'bounds must broadcast to the images'),
  ({'bounds': ({'a': 0.0}, 1.0)}, 'bounds must be a number, an array or a py'),
  ({'mask': 2 * np.ones(3)}, r'mask must hold values in \[0, 1\].* 2'),
  ({'mask': -np.ones(3)}, 'mask must hold values'),
  ({'mask': np.ones(4)}, 'mask must broadcast to the images'),
  ({'key': 0}, 'key must be one key or 4 keys.*got 0'),
  ({'key': jax.random.split(KEY, 3)}, r'key must be .*\(3,\)'),
  ({'key': np.zeros(3, np.uint32)}, r'key must be .*uint32 of shape \(3,\)'),
  ({'key': np.zeros(2, np.int32)}, 'key must be .*int32'),
]


@pytest.mark.parametrize(('changes', 'message'), MISTAKES)
def test_mistake(changes, message):
  with pytest.raises(ValueError, match=f'(?s){message}'):
    call(**changes)


@pytest.mark.parametrize('name', list(cases.SEARCHES))
@pytest.mark.parametrize(
  ('changes', 'message'),
  [
    ({'norm': 'l3'}, r"norm must be one of \['l1', 'l2', 'linf'\].*'l3'"),
    ({'norm': norms.NSL_NORMS['l2']}, 'norm must be one of'),
    ({'key': 0}, 'key must be one key or 4 keys.*got 0'),
    ({'num_restarts': 0}, 'num_restarts must be at least 1; got 0'),
    ({'epsilon': -0.1}, r'epsilon must be at least 0; got -0\.1'),
    ({'epsilon': np.ones(3)}, r'epsilon must have shape \(\) or \(4,\)'),
    ({'images': 2 * cases.IMAGES}, 'images must be finite and inside bounds'),
    ({'images': NAN.astype(np.float32)}, 'images must be finite.*nan'),
    ({'labels': cases.LABELS + 1}, r'labels must lie in \[0, 3\).* 1 to 3'),
    ({'labels': cases.LABELS[:3]}, 'labels must have a leading axis of 4'),
    ({'targets': cases.LABELS + 1}, r'targets must lie in \[0, 3\)'),
    ({'bounds': 1.0}, 'bounds must be None or a pair'),
    ({'logits_fn': None}, 'logits_fn must be callable; got None'),
  ],
)
def test_mistake_with_a_search(name, changes, message):
  kwargs = {'images': cases.IMAGES, 'labels': cases.LABELS, **changes}
  logits_fn = kwargs.pop('logits_fn', cases.logits_fn)
  with pytest.raises(ValueError, match=f'(?s){message}'):
    cases.SEARCHES[name](logits_fn, **kwargs)


@pytest.mark.parametrize('name', list(cases.NEAREST))
@pytest.mark.parametrize(
  ('changes', 'message'),
  [
    ({'num_steps': 0}, 'num_steps must be at least 1; got 0'),
    ({'images': 2 * cases.IMAGES}, 'images must be finite and inside bounds'),
    ({'labels': cases.LABELS + 1}, r'labels must lie in \[0, 3\).* 1 to 3'),
    ({'labels': SOFT}, 'labels must be int'),
    ({'bounds': (1.0, 0.0)}, 'bounds must have lower <= upper'),
    ({'logits_fn': None}, 'logits_fn must be callable; got None'),
  ],
)
def test_mistake_with_an_attack_without_epsilon(name, changes, message):
  kwargs = {'images': cases.IMAGES, 'labels': cases.LABELS, **changes}
  logits_fn = kwargs.pop('logits_fn', cases.logits_fn)
  with pytest.raises(ValueError, match=f'(?s){message}'):
    cases.NEAREST[name](logits_fn, **kwargs)


@pytest.mark.parametrize('name', [*cases.SEARCHES, *cases.NEAREST])
def test_one_array_for_searches_and_attacks_without_epsilon(name):
  attack = {**cases.SEARCHES, **cases.NEAREST}[name]
  for images, got in (
    ((cases.IMAGES,), 'tuple'),
    ([cases.IMAGES], 'list'),
    ({'a': cases.IMAGES}, 'dict'),
    (cases.IMAGES[:, 0, 0, 0], r'\(4,\)'),
  ):
    message = rf'images must be one array \[B, ...\] of at least.*; got {got}'
    with pytest.raises(ValueError, match=message):
      attack(cases.logits_fn, images, cases.LABELS)


def test_values_of_tracers_are_not_looked_at():
  result = jax.jit(lambda x, y, e: call(images=x, labels=y, epsilon=e))(
    2 * cases.IMAGES, cases.LABELS + 7, -0.1
  )
  assert result.shape == cases.SHAPE
  with pytest.raises(ValueError, match='epsilon must have shape'):
    jax.jit(lambda e: call(epsilon=e))(np.ones(3))


def test_custom_losses_take_any_labels():
  labels = {'value': np.zeros((4, 7), np.float32), 'sign': np.int32([-1] * 4)}

  def loss_fn(logits, labels):
    return logits[:, 0] * labels['sign'] + labels['value'].sum(axis=1)

  result = call('pgd', labels=labels, loss_fn=loss_fn)
  assert np.all(
    cases.logits_fn(result)[:, 0] < cases.logits_fn(cases.IMAGES)[:, 0]
  )


def test_images_of_float64_come_back_as_jax_would_make_them():
  result = call(images=cases.IMAGES.astype(np.float64))
  assert result.dtype == jnp.float32
  with jax.enable_x64(True):
    result = call(images=cases.IMAGES.astype(np.float64))
    assert result.dtype == jnp.float64
