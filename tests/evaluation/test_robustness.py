"""Accuracy under attack does not depend on how the images are cut."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.tree_util import Partial

import advjax
from advjax.attacks.specs import parse_attack
from advjax.evaluation import robust_accuracy
from advjax.evaluation.logits import predict
from advjax.evaluation.robustness import attack_and_predict
from tests import compiles
from tests.evaluation.noisy_images import (
  ATTACK,
  IMAGES,
  KEY,
  LABELS,
  NUM_IMAGES,
  cut,
  keys,
  network,
)
from tests.training import networks

CUTS = [(7, 1), (64, 2), (360, 1)]
each_cut = pytest.mark.parametrize(('batch_size', 'num_devices'), CUTS)


def noise(logits_fn, images, labels, epsilon, keys):
  """Shows the keys: a draw from each."""
  del logits_fn, labels
  draws = jax.vmap(lambda key: jax.random.uniform(key, images.shape[1:]))(keys)
  return images + epsilon * draws


@pytest.mark.parametrize(
  ('batch_size', 'num_devices'),
  [pytest.param(*c, marks=pytest.mark.accelerator) for c in CUTS[::2]]
  + CUTS[1:2],
)
def test_draws_are_the_same_bits_for_every_cut(batch_size, num_devices):
  found = attack_and_predict(
    network(),
    {'network': network()},
    noise,
    IMAGES,
    LABELS,
    [0.5],
    key=KEY,
    **cut(batch_size, num_devices),
  )
  expected = noise(None, jnp.asarray(IMAGES), None, jnp.float32(0.5), keys())
  np.testing.assert_array_equal(found.images, expected)


@pytest.fixture(scope='module')
def direct():
  """PGD in one call on all images, as anyone would write it."""
  moved = advjax.pgd(
    network(), IMAGES, LABELS, 0.1, 0.1, num_steps=3, key=keys()
  )
  return np.asarray(moved), np.asarray(network()(moved).argmax(-1))


@each_cut
def test_predictions_are_those_of_a_direct_loop(
  direct, batch_size, num_devices
):
  share = cut(batch_size, num_devices)
  clean = predict(network(), IMAGES, **share)
  assert clean.dtype == np.int32
  np.testing.assert_array_equal(clean, networks.MLP.logits(IMAGES).argmax(1))
  found = attack_and_predict(
    network(),
    {'network': network()},
    ATTACK,
    IMAGES,
    LABELS,
    [0.1],
    key=KEY,
    **share,
  )
  moved, predictions = direct
  np.testing.assert_allclose(found.images, moved, atol=1e-5)
  np.testing.assert_array_equal(found.predictions['network'], predictions[None])
  np.testing.assert_allclose(
    found.sizes, np.abs(moved - IMAGES).max(1)[None], atol=1e-5
  )
  table = robust_accuracy(
    network(), IMAGES, LABELS, {'pgd': ATTACK}, 0.1, key=KEY, **share
  )
  np.testing.assert_array_equal(table.clean, clean == LABELS)
  expected = (clean == LABELS) & (predictions == LABELS)
  np.testing.assert_array_equal(table.attacked['pgd'], expected)
  np.testing.assert_array_equal(table.worst_case, expected)
  assert 0 < expected.mean() < table.clean.mean() == 0.8


@pytest.mark.accelerator
def test_flags_are_those_of_the_cpu():
  """Save for examples that a radius of a tenth more or less decides."""

  def flags(device, epsilon):
    with jax.default_device(device):
      table = robust_accuracy(
        network(),
        IMAGES,
        LABELS,
        {name: parse_attack(name) for name in ('pgd-10', 'apgd-t')},
        epsilon,
        key=jax.random.key(11),
        devices=[device],
      )
    return {'clean': table.clean, **table.attacked}

  cpu = jax.devices('cpu')[-1]
  found = flags(jax.devices()[0], 0.1)
  expected, inner, outer = (flags(cpu, e) for e in (0.1, 0.09, 0.11))
  for name, values in found.items():
    sure = inner[name] == outer[name]
    assert sure.sum() > 90
    np.testing.assert_array_equal(
      values[sure], expected[name][sure], err_msg=name
    )
    assert 0 < values.sum() < NUM_IMAGES


EPSILONS = [0.0, 0.05, 0.1, 0.3]


def test_a_curve_is_its_points():
  run = functools.partial(
    attack_and_predict,
    network(),
    {'network': network()},
    ATTACK,
    IMAGES,
    LABELS,
    key=KEY,
    **cut(360, 1),
  )
  curve = run(EPSILONS, kept=2)
  assert curve.predictions['network'].shape == (4, NUM_IMAGES)
  for index, epsilon in enumerate(EPSILONS):
    point = run([epsilon])
    np.testing.assert_array_equal(
      curve.predictions['network'][index], point.predictions['network'][0]
    )
    np.testing.assert_allclose(curve.sizes[index], point.sizes[0], atol=1e-6)
    if index == 2:
      np.testing.assert_allclose(curve.images, point.images, atol=1e-6)
    assert point.sizes.max() <= epsilon + 1e-6
  correct = (curve.predictions['network'] == LABELS[None]).mean(1)
  assert correct[0] == 0.8
  assert correct[-1] < correct[1]


def test_worst_case_is_over_all_attacks_and_the_clean_images():
  def to_zero(logits_fn, images, labels, epsilon, keys):
    del logits_fn, labels, epsilon, keys
    return 0 * images

  def nothing(logits_fn, images, labels, epsilon, keys):
    del logits_fn, labels, epsilon, keys
    return images

  found = robust_accuracy(
    network(), IMAGES, LABELS, {'a': to_zero, 'b': nothing}, 0.1, key=KEY
  )
  at_zero = networks.MLP.logits(0 * IMAGES).argmax(1) == LABELS
  np.testing.assert_array_equal(found.attacked['b'], found.clean)
  np.testing.assert_array_equal(found.attacked['a'], found.clean & at_zero)
  np.testing.assert_array_equal(found.worst_case, found.clean & at_zero)
  assert (at_zero & ~found.clean).any()


def test_other_params_and_epsilons_compile_nothing():
  def run(factor, epsilons):
    return attack_and_predict(
      network(factor),
      {'a': network(), 'b': network(factor)},
      parse_attack('fgsm'),
      IMAGES,
      LABELS,
      epsilons,
      key=KEY,
    )

  run(1.0, [0.1, 0.2])
  with compiles.counted() as count:
    run(1.5, [0.3, 0.0])
  # The product of factor and params apart.
  assert count[0] <= len(jax.tree.leaves(networks.params()))
  others, key = network(2.0), jax.random.key(5)
  with compiles.counted() as count:
    attack_and_predict(
      others,
      {'a': others, 'b': others},
      parse_attack('fgsm'),
      IMAGES,
      LABELS,
      [0.7, 0.1],
      key=key,
    )
  assert count == [0]


# ------------------------------------ attacks that are called in another manner

LINEAR = np.array([0.5, -1.0, 2.0, -0.25, 1.5, 1.0], np.float32)


def linear(weights, images):
  signal = (images - 0.5) @ weights
  return jnp.stack([-signal, signal], axis=-1)


@pytest.fixture(scope='module')
def limits():
  """The linear network, images, labels, and how far the border is from each.

  |w . (x - 1/2)| / |w|_1, beyond which every image is fooled; 0 for those that
  are wrong as they are. The box is out of reach.
  """
  images = 0.25 + 0.5 * IMAGES
  signal = (images.astype(np.float64) - 0.5) @ LINEAR
  labels = (signal > 0).astype(np.int32)
  labels[::5] = 1 - labels[::5]
  right = labels == (signal > 0)
  distances = np.where(right, np.abs(signal) / np.abs(LINEAR).sum(), 0.0)
  return Partial(linear, jnp.asarray(LINEAR)), images, labels, distances


@pytest.mark.parametrize('name', ['apgd-ce', 'deepfool-3'])
def test_other_kinds_of_attacks_find_what_is_there(limits, name):
  logits_fn, images, labels, distances = limits
  epsilons = [0.0, 0.05, 0.1]
  found = attack_and_predict(
    logits_fn,
    {'itself': logits_fn, 'other': Partial(linear, -jnp.asarray(LINEAR))},
    parse_attack(name),
    images,
    labels,
    epsilons,
    key=KEY,
    kept=1,
    **cut(64, 2),
  )
  assert (found.predictions['other'] == 1 - found.predictions['itself']).all()
  for epsilon, predictions, sizes in zip(
    epsilons, found.predictions['itself'], found.sizes, strict=True
  ):
    # DeepFool goes 2 % farther than it must.
    sure = np.abs(distances - epsilon) > 0.03 * epsilon
    assert sure.sum() > 75
    expected = distances > epsilon if epsilon else distances > 0
    np.testing.assert_array_equal((predictions == labels)[sure], expected[sure])
    assert sizes.max() <= epsilon + 1e-6
    assert (sizes[(predictions == labels) | (distances == 0)] == 0).all()
  moved = np.abs(found.images - images).max(1)
  np.testing.assert_allclose(moved, found.sizes[1], atol=1e-7)
  assert [e['epsilon'] for e in found.autoattack] == (
    epsilons if name == 'apgd-ce' else []
  )
  for entry, predictions in zip(
    found.autoattack, found.predictions['itself'], strict=False
  ):
    assert entry['accuracy'] == pytest.approx((predictions == labels).mean())


def test_they_are_among_the_worst_cases(limits):
  logits_fn, images, labels, distances = limits
  table = robust_accuracy(
    logits_fn,
    images,
    labels,
    {name: parse_attack(name) for name in ('apgd-ce', 'deepfool-3')},
    0.1,
    key=KEY,
    **cut(64, 2),
  )
  np.testing.assert_array_equal(table.clean, distances > 0)
  sure = np.abs(distances - 0.1) > 0.003
  for flags in (*table.attacked.values(), table.worst_case):
    np.testing.assert_array_equal(flags[sure], (distances > 0.1)[sure])
  both = np.logical_and(*table.attacked.values())
  np.testing.assert_array_equal(table.worst_case, both)
  assert 0 < table.worst_case.mean() < table.clean.mean() == 0.8
