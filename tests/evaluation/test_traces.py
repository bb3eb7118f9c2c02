"""Traces are those of the attacks themselves, and of a loop in NumPy."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.tree_util import Partial

import advjax
from advjax import norms
from advjax.attacks.specs import parse_attack
from advjax.devices import Batching
from advjax.evaluation import traces
from advjax.evaluation.traces import trace
from tests import reference
from tests.training import networks

NUM_IMAGES = 30
IMAGES = (
  np.random.default_rng(8)
  .uniform(size=(NUM_IMAGES, networks.NUM_INPUTS))
  .astype(np.float32)
)
LABELS = networks.MLP.logits(IMAGES).argmax(1)
LABELS[::5] = (LABELS[::5] + 1) % networks.NUM_CLASSES
KEY = jax.random.key(11)
EPSILON = 0.3


def forward(params, images):
  return networks.apply(params, {}, images, train=False)[0]


NETWORK = Partial(forward, networks.params())
run = functools.partial(
  trace,
  NETWORK,
  images=IMAGES,
  labels=LABELS,
  epsilon=EPSILON,
  batching=Batching(None, jax.devices()[:1], KEY),
)
# Some images are where the network is flat.
FLAT = (networks.MLP.gradient(IMAGES, np.ones((1, 3)) * [0, 1, 2]) == 0).all(1)


def keys():
  return jax.vmap(jax.random.fold_in, (None, 0))(KEY, np.arange(NUM_IMAGES))


@jax.jit
def unit_draws():
  """Uniform draws from the unit ball in linf, from the keys of restart 0."""
  fold = jax.vmap(jax.random.fold_in, (0, None))
  return norms.linf.sample(fold(fold(keys(), 0), 0), IMAGES)


def measure(iterates):
  logits = [networks.MLP.logits(np.asarray(x, np.float64)) for x in iterates]
  losses = [reference.cross_entropy(z, LABELS)[0].mean() for z in logits]
  return losses, [(z.argmax(1) == LABELS).mean() for z in logits]


@pytest.mark.parametrize(
  ('text', 'norm', 'step_size', 'options'),
  [
    ('fgsm', 'linf', 0.1, {'step_size': EPSILON, 'num_steps': 1}),
    (
      'mifgsm-3',
      'l2',
      0.2,
      {'step_size': 0.2, 'num_steps': 3, 'decay': 1.0},
    ),
    ('pgd-3', 'linf', 0.05, {'step_size': 0.05, 'num_steps': 3}),
  ],
)
def test_a_trace_is_that_of_the_attack(text, norm, step_size, options):
  attack = parse_attack(text, norm=norm, step_size=step_size)
  found = run(attack=attack)
  if attack.name == 'pgd':
    options = {**options, 'start': EPSILON * np.asarray(unit_draws())}
  iterates = reference.ascend(
    networks.MLP,
    IMAGES.astype(np.float64),
    LABELS,
    EPSILON,
    norm=norm,
    **options,
  )
  losses, accuracies = measure(iterates)
  assert len(found.loss) == len(found.accuracy) == attack.num_steps + 1
  np.testing.assert_allclose(found.loss, losses, atol=1e-5)
  np.testing.assert_allclose(found.accuracy, accuracies, atol=1e-9)
  assert found.loss[-1] > found.loss[0]
  assert found.zero_gradients == pytest.approx(FLAT.mean())
  assert found.not_finite_gradients == 0 < found.zero_gradients
  assert attack.name == 'pgd' or found.accuracy[0] == 0.8


def test_apgd_records_the_best_point_so_far():
  attack = parse_attack('apgd-6')
  found = run(attack=attack)
  moved = advjax.apgd(NETWORK, IMAGES, LABELS, EPSILON, num_steps=6, key=keys())
  (loss,), (accuracy,) = measure([moved])
  assert len(found.loss) == 7
  assert found.loss[-1] == pytest.approx(loss, abs=1e-5)
  assert found.accuracy[-1] == pytest.approx(accuracy, abs=1e-9)
  assert (np.diff(found.accuracy) <= 0).all()
  assert found.accuracy[0] > found.accuracy[-1]
  assert found.loss[0] < found.loss[-1]
  assert found.zero_gradients == pytest.approx(FLAT.mean())


def test_batches_do_not_matter_and_a_thousand_images_are_enough(monkeypatch):
  fgsm = parse_attack('fgsm', step_size=0.1)
  whole = run(attack=fgsm)
  batching = Batching(5, jax.devices(), KEY)
  cut = run(attack=fgsm, batching=batching)
  np.testing.assert_allclose(cut.loss, whole.loss, rtol=1e-6)
  assert cut.accuracy == whole.accuracy
  assert traces._MAX_IMAGES == 1000
  monkeypatch.setattr(traces, '_MAX_IMAGES', 10)
  found = run(attack=fgsm, batching=batching)
  clean = networks.MLP.logits(IMAGES.astype(np.float64))
  losses, _ = reference.cross_entropy(clean, LABELS)
  assert found.loss[0] == pytest.approx(losses[:10].mean(), abs=1e-5)
  assert found.loss[0] != pytest.approx(losses.mean(), abs=1e-3)


def test_zero_and_broken_gradients_are_counted():
  """The square root has no finite slope at 0, and what is flat none at all."""

  def logits_fn(images):
    first = images[:, :1]
    flat = jax.lax.stop_gradient(first)
    signal = jnp.where(first > 0.8, flat, jnp.sqrt(first))
    return jnp.concatenate([signal, 1 - signal], axis=-1)

  images = np.full((10, 2), 0.25, np.float32)
  images[:3, 0] = 0.9
  images[3:5, 0] = 0.0
  found = trace(
    logits_fn, parse_attack('fgsm'), images, np.zeros(10, int), 0.125
  )
  assert found.zero_gradients == pytest.approx(0.3)
  assert found.not_finite_gradients == pytest.approx(0.2)
  assert np.isfinite(found.loss).all()
