"""Accuracy under attack does not depend on how the images are cut."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.tree_util import Partial

import advjax
from advjax.evaluation import robust_accuracy
from advjax.evaluation.attack_specs import parse_attack
from advjax.evaluation.attacked import attack_and_predict
from advjax.evaluation.logits import predict
from tests import compiles
from tests.training import networks

NUM_IMAGES = 100
IMAGES = (
  np.random.default_rng(8)
  .uniform(size=(NUM_IMAGES, networks.NUM_INPUTS))
  .astype(np.float32)
)
# What the network says, but for every fifth image.
LABELS = networks.MLP.logits(IMAGES).argmax(1)
LABELS[::5] = (LABELS[::5] + 1) % networks.NUM_CLASSES
KEY = jax.random.key(11)
CUTS = [(7, 1), (64, 2), (360, 1)]
each_cut = pytest.mark.parametrize(('batch_size', 'num_devices'), CUTS)


def forward(params, images):
  return networks.apply(params, {}, images, train=False)[0]


def network(factor=1.0):
  return Partial(forward, jax.tree.map(lambda x: factor * x, networks.params()))


def keys():
  return jax.vmap(jax.random.fold_in, (None, 0))(KEY, jnp.arange(NUM_IMAGES))


def cut(batch_size, num_devices):
  return {'batch_size': batch_size, 'devices': jax.devices()[:num_devices]}


def noise(logits_fn, images, labels, epsilon, keys):
  """Shows the keys: a draw from each."""
  del logits_fn, labels
  draws = jax.vmap(lambda key: jax.random.uniform(key, images.shape[1:]))(keys)
  return images + epsilon * draws


@each_cut
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


ATTACK = parse_attack('pgd-3', step_size=0.1)


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
  others = network(2.0)
  with compiles.counted() as count:
    attack_and_predict(
      others,
      {'a': others, 'b': others},
      parse_attack('fgsm'),
      IMAGES,
      LABELS,
      [0.7, 0.1],
      key=jax.random.key(5),
    )
  assert count[0] <= 1  # The key.


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


# ---------------------------------------------------------------- what it finds


@pytest.mark.parametrize('num_devices', [1, 2])
def test_probabilities_are_found(num_devices):
  def softmax(images):
    return jax.nn.softmax(network()(images))

  share = cut(7, num_devices)
  with pytest.raises(ValueError, match=r'returns probabilities.*softmax'):
    predict(softmax, IMAGES, **share)
  with pytest.raises(ValueError, match='returns probabilities'):
    robust_accuracy(
      softmax, IMAGES, LABELS, {'fgsm': ATTACK}, 0.1, key=KEY, **share
    )


def test_some_rows_that_look_like_probabilities_are_fine():
  def logits_fn(images):
    rows = jnp.array([[0.25, 0.75, 0.0], [0.6, 0.5, 0.5]])
    return rows[images[:, 0].astype(int)]

  images = np.array([[0.0], [1.0]], np.float32)
  assert predict(logits_fn, images).tolist() == [1, 0]


@pytest.mark.parametrize('value', [np.nan, np.inf])
def test_logits_that_are_not_finite_are_found(value):
  def broken(images):
    logits = network()(images)
    return jnp.where(images[:, :1] > 0.9, value, logits)

  count = int((IMAGES[:, 0] > 0.9).sum())
  assert 0 < count < NUM_IMAGES
  with pytest.raises(ValueError, match=f'not finite for {count} of 100 images'):
    predict(broken, IMAGES, batch_size=64)


@pytest.mark.parametrize(
  ('changes', 'message'),
  [
    ({'images': IMAGES[:0], 'labels': LABELS[:0]}, r'shape \(0, 6\); allowed'),
    (
      {'images': (255 * IMAGES).astype(np.uint8)},
      r'dtype uint8; allowed: a fl',
    ),
    ({'images': 255 * IMAGES}, r'values from .*; allowed: finite.*0.0 to 1.0'),
    ({'images': IMAGES - 0.5}, r'values from -0'),
    ({'images': IMAGES * np.nan}, r'values from nan'),
    ({'labels': LABELS[:-1]}, r'labels have shape \(99,\); allowed: \(100,\)'),
    ({'labels': LABELS[:, None]}, r'labels have shape \(100, 1\)'),
    (
      {'labels': LABELS + 1},
      r'labels hold values from 1 to 3; allowed: 0 to 2',
    ),
    ({'labels': LABELS - 1}, r'labels hold values from -1 to 1'),
    ({'labels': LABELS * 0.5}, r'labels have dtype float64; allowed: integers'),
    ({'epsilons': []}, r'epsilons = \[\]'),
    ({'epsilons': [0.1, -0.1]}, r'epsilons = \[0.1, -0.1\]; allowed'),
    ({'epsilons': [0.1], 'kept': 1}, r'kept = 1 is an index'),
    ({'batch_size': 0}, r'batch_size = 0; allowed: an integer >= 1'),
    ({'norm': 'l3'}, r"norm.*'l3'"),
  ],
)
def test_bad_input_is_named(changes, message):
  arguments = {
    'images': IMAGES,
    'labels': LABELS,
    'epsilons': [0.1],
    'key': KEY,
    **changes,
  }
  with pytest.raises(ValueError, match=message):
    attack_and_predict(network(), {}, parse_attack('fgsm'), **arguments)


@pytest.mark.parametrize(
  ('images', 'labels'),
  [(IMAGES * np.nan, LABELS), (IMAGES, LABELS + 1), (IMAGES, LABELS[:5])],
)
def test_robust_accuracy_looks_before_it_attacks(images, labels):
  with pytest.raises(ValueError, match=r'images hold|labels h'):
    robust_accuracy(network(), images, labels, {'fgsm': ATTACK}, 0.1, key=KEY)


def test_images_may_be_outside_bounds_that_an_attack_has_not():
  found = attack_and_predict(
    network(),
    {},
    parse_attack('fgsm', bounds=None),
    IMAGES - 0.5,
    LABELS,
    [0.1],
    key=KEY,
  )
  assert found.sizes.max() == pytest.approx(0.1)
  assert found.images.min() < -0.5
