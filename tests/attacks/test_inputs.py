"""What people hand over: forms of labels, arrays, batches and networks."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import advjax
from advjax import explain
from tests.attacks import cases

IMAGES, LABELS = cases.IMAGES, cases.LABELS
ONE_HOT = np.eye(3, dtype=np.int32)[LABELS]
RUNS = {
  **cases.ALL,
  'is_adversarial': advjax.is_adversarial,
  'saliency': explain.saliency,
  'robust_accuracy': lambda f, x, y: (
    advjax.robust_accuracy(f, x, y, 'fgsm', 0.1, key=cases.KEY).worst_case
  ),
  'autoattack': lambda f, x, y: (
    advjax.autoattack(f, x, y, 0.1, key=cases.KEY, attacks=['fab-t']).robust
  ),
}
SOME = ['fgsm', 'fab', 'is_adversarial', 'saliency', 'robust_accuracy']


@pytest.mark.parametrize('name', SOME)
def test_forms_of_arrays_give_one_result(name):
  run = RUNS[name]
  expected = np.asarray(run(cases.logits_fn, IMAGES, LABELS))
  fixed = IMAGES.copy()
  fixed.flags.writeable = False
  for images, labels in (
    (IMAGES, LABELS.tolist()),
    (IMAGES, tuple(LABELS)),
    (IMAGES, LABELS.astype(np.int64)),
    (IMAGES, LABELS.astype('>i4')),
    (IMAGES, jnp.asarray(LABELS, jnp.uint8)),
    (IMAGES.astype('>f4'), LABELS.astype(np.int8)),
    (fixed, LABELS),
  ):
    found = run(cases.logits_fn, images, labels)
    np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize(
  ('labels', 'got', 'way_out'),
  [
    (LABELS[:, None], r'int32 \[4, 1\]', r'labels\[:, 0\]'),
    (ONE_HOT, r'int32 \[4, 3\]', r'labels.argmax\(-1\)'),
    (ONE_HOT > 0, r'bool \[4, 3\]', r'labels.argmax\(-1\)'),
    (ONE_HOT.tolist(), r'int64 \[4, 3\]', r'labels.argmax\(-1\)'),
    (LABELS[None], r'int32 \[1, 4\]', 'int'),
    (LABELS * 0.5, r'float64 \[4\]', 'int'),
    (LABELS > 0, r'bool \[4\]', 'int'),
    ([True, False, True, True], r'bool \[4\]', 'int'),
    (LABELS.astype(str), r'<U\d+ \[4\]', 'int'),
    (LABELS.astype(object), r'object \[4\]', 'int'),
    (None, 'None', 'int'),
  ],
)
def test_other_labels_are_refused_with_the_way_out(labels, got, way_out):
  for name in (*SOME[:4], 'square'):
    with pytest.raises(
      ValueError, match=f'labels = {got}; allowed: .*{way_out}'
    ):
      RUNS[name](cases.logits_fn, IMAGES, labels)


@pytest.mark.parametrize(
  'changes',
  [
    {'images': IMAGES.astype(object)},
    {'images': IMAGES.astype(str)},
    {'images': IMAGES.tolist()},
    {'epsilon': '0.1'},
    {'epsilon': 1j},
    {'epsilon': np.full((4, 1), 0.1)},
    {'bounds': ('0', '1')},
    {'mask': np.full(3, 'a')},
  ],
)
def test_arrays_of_no_numbers_are_named(changes):
  given = {'images': IMAGES, 'epsilon': 0.1, **changes}
  with pytest.raises(ValueError, match=f'^{next(iter(changes))}.* = .*allowed'):
    advjax.fgsm(cases.logits_fn, labels=LABELS, **given)


def for_any_number(images):
  return jnp.tanh(images.reshape(len(images), 30) - 0.5) @ cases.WEIGHTS


@pytest.mark.parametrize('norm', cases.NORMS)
@pytest.mark.parametrize('name', cases.ALL)
def test_no_images_and_one(name, norm):
  choices = {'norm': norm}
  if name == 'carlini_wagner' or (name, norm) == ('deepfool', 'l1'):
    choices = {}
  for count in (0, 1):
    images, labels = IMAGES[:count], LABELS[:count]
    found = jax.eval_shape(
      lambda x, y: cases.ALL[name](for_any_number, x, y, **choices),
      images,
      labels,
    )
    assert found.shape == images.shape
  if norm == 'linf':
    found = cases.ALL[name](for_any_number, IMAGES[:0], LABELS[:0])
    assert found.shape == IMAGES[:0].shape


def test_success_of_no_images():
  found = advjax.is_adversarial(for_any_number, IMAGES[:0], LABELS[:0])
  assert found.shape == (0,) and found.dtype == bool


NETWORKS = {
  'a tuple': (lambda z, x: (z, x), r"\('float32 \[4, 3\]', .*alone"),
  'a list': (lambda z, x: [z], r"\['float32 \[4, 3\]'\].*alone"),
  'a dict': (lambda z, x: {'logits': z}, r"\{'logits': 'float32.*alone"),
  'None': (lambda z, x: None, 'None; .*alone'),
  'classes': (lambda z, x: z.argmax(-1), r'int32 \[4\]; .*classes'),
  'bool': (lambda z, x: z > 0, r'bool \[4, 3\]'),
  'complex': (lambda z, x: z * 1j, r'complex64 \[4, 3\]'),
  '[B, K, 1]': (lambda z, x: z[..., None], r'float32 \[4, 3, 1\]'),
  '[K, B]': (lambda z, x: z.T, r'float32 \[3, 4\]'),
  'one row': (lambda z, x: z[:1], r'float32 \[1, 3\]'),
  '[B]': (lambda z, x: z[:, 0], r'float32 \[4\]; .*jnp.stack'),
  '[B, 1]': (lambda z, x: z[:, :1], r'float32 \[4, 1\]; .*jnp.concatenate'),
}


@pytest.mark.parametrize('kind', NETWORKS)
def test_what_is_no_logits_is_said(kind):
  """Before anything compiles: outside of jit, and inside of one."""
  change, message = NETWORKS[kind]

  def network(images):
    return change(cases.apply(cases.WEIGHTS, images), images)

  for name in (*cases.ALL, *SOME[2:], 'autoattack'):
    if name == 'saliency' and kind == '[B, 1]':
      continue  # It explains one logit, too.
    if name in ('saliency', 'robust_accuracy'):  # Other batches, other advice.
      message = r'.*allowed: float \['
    with pytest.raises(ValueError, match=f'logits = {message}'):
      RUNS[name](network, IMAGES, np.zeros_like(LABELS))
  for name in cases.ALL:
    with pytest.raises(ValueError, match='logits = '):
      jax.eval_shape(lambda y: RUNS[name](network, IMAGES, y), LABELS)  # noqa: B023


@pytest.mark.parametrize('name', ['fgsm', 'fab', 'is_adversarial', 'saliency'])
def test_a_network_in_numpy_is_said(name):
  def in_numpy(images):
    return np.asarray(images).reshape(len(images), 30) @ cases.WEIGHTS

  def in_another_framework(images):
    raise TypeError(f'linear() must be Tensor, not {type(images).__name__}')

  for network in (in_numpy, in_another_framework):
    with pytest.raises(ValueError, match=r'logits_fn .* JAX'):
      RUNS[name](network, IMAGES, LABELS)


def test_own_losses_take_what_the_network_returns():
  def loss_fn(found, wanted):
    return ((found['features'] - wanted['features']) ** 2).mean(1)

  wanted = {'features': np.zeros((4, 30), np.float32)}
  found = advjax.pgd(
    lambda x: {'features': x.reshape(len(x), 30), 'count': 1},
    IMAGES,
    wanted,
    0.1,
    num_steps=2,
    key=cases.KEY,
    loss_fn=loss_fn,
  )
  assert (np.square(found) > np.square(IMAGES)).mean() > 0.9
  moved = advjax.fgsm(
    lambda x: x.sum((1, 2, 3)),
    IMAGES,
    [0.0, 0.0, 100.0, 100.0],
    0.1,
    loss_fn=lambda z, y: (z - y) ** 2,
  )
  assert (np.sign(moved - IMAGES).mean((1, 2, 3)) * [1, 1, -1, -1] > 0.9).all()


@pytest.mark.parametrize(
  'result', [lambda z: (z[:, 0],), lambda z: z, lambda z: z[:, 0] > 0]
)
def test_results_of_own_losses_are_checked(result):
  with pytest.raises(ValueError, match=r'loss_fn\(...\) = .*float \[4\]'):
    advjax.fgsm(
      cases.logits_fn, IMAGES, LABELS, 0.1, loss_fn=lambda z, y: result(z)
    )


@pytest.mark.parametrize('dtype', ['float16', 'bfloat16', 'float32'])
def test_sure_networks_are_attacked_in_every_dtype(dtype):
  """Gradients of their loss are far below the least float16."""
  images = jnp.full((1, 4), 0.5, dtype)

  def network(gap, images):
    lead = images.sum(1) - 2 + (gap / 2).astype(dtype)
    return jnp.stack([lead, -lead], 1)

  for gap in (20, 60, 200):
    logits_fn = jax.tree_util.Partial(network, jnp.float32(gap))
    found = advjax.bim(logits_fn, images, [0], 0.125, num_steps=2)
    np.testing.assert_array_equal(np.float32(found), 0.375)
