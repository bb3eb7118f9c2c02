"""What APGD returns, for all kinds of networks."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh
from jax.sharding import PartitionSpec as P

import advjax
from advjax import losses
from advjax.attacks import scores
from tests import compiles
from tests.attacks import cases
from tests.attacks.apgd_problems import KEYS, make, problem_of

quick = pytest.mark.usefixtures('quick_compiles')


# ------------------------------------------------------------ what it returns

KEY = jax.random.key(7)


def apgd(logits_fn, images, labels, epsilon=0.1, **kwargs):
  kwargs = {'num_steps': 10, 'key': KEY, **kwargs}
  return advjax.apgd(logits_fn, images, labels, epsilon, **kwargs)


@quick
def test_many_restarts_contain_one():
  def rank(num_restarts):
    images = two_steps(cases.logits_fn, 0.02, num_restarts=num_restarts)
    logits = cases.logits_fn(images)
    fooled = np.asarray(logits.argmax(axis=1) != cases.LABELS)
    loss = np.asarray(losses.cross_entropy(logits, cases.LABELS))
    return list(zip(fooled.tolist(), loss.tolist(), strict=True))

  one, four = rank(1), rank(4)
  assert all(f >= (o[0], o[1] - 1e-6) for f, o in zip(four, one, strict=True))
  assert four != one


@quick
@pytest.mark.parametrize('loss_fn', [losses.cross_entropy, losses.dlr])
def test_targets_are_reached(loss_fn):
  rng = np.random.default_rng(0)
  weights = rng.normal(size=(30, 5)).astype(np.float32)
  images, labels = cases.IMAGES, np.array([0, 1, 2, 1], np.int32)
  targets = np.array([4, 0, 3, 2], np.int32)

  def logits_fn(x):
    return cases.apply(weights, x)

  result = apgd(
    logits_fn, images, labels, 0.5, targets=targets, loss_fn=loss_fn
  )
  np.testing.assert_array_equal(logits_fn(result).argmax(axis=1), targets)


@quick
def test_fooled_is_any_other_class_or_the_target():
  logits = jnp.array([[0.0, 2.0, 1.0], [0.0, 2.0, 1.0], [0.0, 1.0, 2.0]])
  problem = problem_of(
    np.zeros((3, 2), np.float32),
    np.array([1, 0, 0], np.int32),
    0.1,
    np.array([2, 2, 2], np.int32),
  )
  for success, expected in (
    ('any', [False, True, True]),
    ('target', [False, False, True]),
  ):
    attack = make(targeted=True, success=success)

    @jax.jit
    def one_step(problem, attack=attack):
      t = jnp.zeros(3, jnp.int32)
      state = attack.step(lambda x: logits, problem, attack.start(problem), t)
      return attack.found(problem, state)

    assert one_step(problem).fooled.tolist() == expected


def test_nan_logits_fool_nobody():
  logits = jnp.array([[jnp.nan, 0.0], [0.0, jnp.nan], [1.0, 0.0]])
  labels = jnp.array([1, 0, 1])
  fooled = scores.fooled(logits, labels, False, jnp.zeros(3))
  assert fooled.tolist() == [False, False, True]


@quick
def test_nan_leads_nowhere():
  def logits_fn(x):  # Wild above 0.6, and fooled from 0.45 to 0.6.
    z = jnp.where(x > 0.6, jnp.nan, x - 0.45)
    return jnp.concatenate([0 * z, z], axis=1)

  images = np.full((8, 1), 0.4, np.float32)
  result = np.asarray(apgd(logits_fn, images, np.zeros(8, np.int32), 0.3))
  # Those that start at 0.7 know no way; those at 0.1 find the good ones.
  lost = np.isclose(result, 0.7, atol=1e-6)
  assert 0 < lost.sum() < 8
  assert np.all((result[~lost] > 0.45) & (result[~lost] <= 0.6))


# -------------------------------------------------------------- random models


@quick
def test_eot_draws_depend_on_key_step_and_sample_alone():
  def noisy(images, key):
    return cases.logits_fn(images + jax.random.normal(key, images.shape))

  evaluate = scores.make_evaluate(
    noisy,
    lambda logits: logits[:, 0],
    lambda logits, score: score > 0,
    cases.IMAGES[:2],
    eot_samples=3,
  )
  keys, t = KEYS[:2], jnp.array([5, 2])
  _, (score, _) = jax.jit(evaluate)([cases.IMAGES[:2]], keys, t)
  for i in range(2):
    key = jax.random.fold_in(keys[i], t[i])
    draws = [
      noisy(cases.IMAGES[i : i + 1], jax.random.fold_in(key, s))[0, 0]
      for s in range(3)
    ]
    np.testing.assert_allclose(score[i], np.mean(draws), atol=1e-5)


@quick
def test_eot_results_do_not_depend_on_the_other_rows():
  def noisy(images, key):
    return cases.logits_fn(images + 0.3 * jax.random.normal(key, images.shape))

  def attack(rows):
    rows = np.array(rows)
    result = apgd(
      noisy,
      cases.IMAGES[rows],
      cases.LABELS[rows],
      num_steps=3,
      key=KEYS[rows],
      eot_samples=2,
    )
    return np.asarray(result)

  result, order = attack([0, 1, 2, 3]), [2, 0, 3, 1]
  np.testing.assert_allclose(attack(order), result[order], atol=1e-6)
  assert np.abs(result - cases.IMAGES).max() > 0.09


# ------------------------------------------------------------ transformations


def two_steps(logits_fn, epsilon=0.1, **kwargs):
  return apgd(
    logits_fn, cases.IMAGES, cases.LABELS, epsilon, num_steps=2, **kwargs
  )


@quick
def test_shard_map_over_models_with_images_that_do_not_vary():
  both = jnp.stack([cases.WEIGHTS, -cases.WEIGHTS])

  def run(weights):
    logits_fn = functools.partial(cases.apply, weights[0])
    return two_steps(logits_fn, 0.02, num_restarts=4)[None]

  mesh = Mesh(np.array(jax.devices()[:2]), ('data',))
  result = jax.shard_map(
    run, mesh=mesh, in_specs=P('data'), out_specs=P('data')
  )(both)
  expected = two_steps(cases.logits_fn, 0.02, num_restarts=4)
  np.testing.assert_allclose(result[0], expected, atol=1e-6)
  assert np.abs(result[1] - result[0]).max() > 0.02


@quick
def test_another_epsilon_compiles_nothing():
  two_steps(cases.logits_fn, 0.1)
  with compiles.counted() as count:
    for epsilon in (0.2, np.float32(0.05), jnp.float32(0.07)):
      two_steps(cases.logits_fn, epsilon)
  assert count == [0]


# --------------------------------------------------------------------- errors


@pytest.mark.parametrize(
  ('change', 'message'),
  [
    ({'norm': 'l0'}, r"norm must be one of \['l1', 'l2', 'linf'\].*'l0'"),
    ({'norm': advjax.norms.NSL_NORMS['l2']}, 'norm must be one of .*for apgd'),
    ({'num_steps': 0}, 'num_steps must be at least 1; got 0'),
    ({'num_restarts': 0}, 'num_restarts must be at least 1; got 0'),
    ({'eot_samples': 0}, 'eot_samples must be at least 1; got 0'),
    ({'epsilon': -0.1}, 'epsilon must be at least 0; got -0.1'),
    ({'epsilon': None}, 'epsilon must be given; got None'),
    ({'key': None}, 'key must be given; got None'),
    ({'bounds': (0.2, 0.8)}, 'images must be finite and inside bounds'),
    ({'labels': cases.LABELS + 5}, 'labels must lie in .0, 3.'),
    (
      {'loss_fn': losses.dlr, 'targets': cases.LABELS},
      r'at least 4 classes with targets; got logits of shape \(4, 3\); take '
      'losses.margin',
    ),
  ],
)
def test_errors(change, message):
  arguments = {
    'logits_fn': cases.logits_fn,
    'images': cases.IMAGES,
    'labels': cases.LABELS,
    'epsilon': 0.1,
    'key': KEY,
  }
  with pytest.raises(ValueError, match=message):
    advjax.apgd(**(arguments | change))


def test_dlr_of_two_classes_is_an_error_that_names_another_loss():
  with pytest.raises(ValueError, match=r'at least 3 classes; .*losses.margin'):
    apgd(
      lambda x: cases.logits_fn(x)[:, :2],
      cases.IMAGES,
      cases.LABELS % 2,
      loss_fn=losses.dlr,
    )


def test_success_is_one_of_two():
  with pytest.raises(ValueError, match=r"success must be .*'target'.*False"):
    make(success='target')
