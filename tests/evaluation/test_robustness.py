"""Accuracy under attack does not depend on how the images are batched."""

import functools
import re
import weakref

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.tree_util import Partial

import advjax
from advjax import data
from advjax.attacks.specs import parse_attack
from advjax.devices import Batching
from advjax.evaluation import robust_accuracy
from advjax.evaluation.logits import compute_logits
from advjax.evaluation.robustness import attack_and_predict
from advjax.losses import cross_entropy
from advjax.models.logits import eval_logits_fn
from tests import compiles
from tests.evaluation.noisy_images import (
  ATTACK,
  IMAGES,
  KEY,
  LABELS,
  NUM_IMAGES,
  keys,
  network,
)
from tests.training import networks, runs

OWN = 'tests.attacks.own:uniform'


def batching(batch_size, num_devices=1):
  return Batching(batch_size, jax.devices()[:num_devices], KEY)


# Of two devices, with a last batch that is smaller.
CUT = batching(7, 2)


def noise(logits_fn, images, labels, epsilon, keys):
  """Shows the keys: a draw from each."""
  del logits_fn, labels
  draws = jax.vmap(lambda key: jax.random.uniform(key, images.shape[1:]))(keys)
  return images + epsilon * draws


@pytest.mark.accelerator
def test_draws_are_the_same_bits_for_all_batches():
  found = attack_and_predict(
    network(), {}, noise, IMAGES, LABELS, [0.5], batching(7)
  )
  expected = jax.jit(functools.partial(noise, None))(IMAGES, None, 0.5, keys())
  np.testing.assert_array_equal(found.images, expected)


@pytest.fixture(scope='module')
def direct():
  """PGD in one call on all images, as anyone would write it."""
  moved = np.asarray(
    advjax.pgd(network(), IMAGES, LABELS, 0.1, 0.1, num_steps=3, key=keys())
  )
  return moved, networks.MLP.logits(moved).argmax(-1)


def test_predictions_are_those_of_a_direct_call(direct):
  clean = compute_logits(network(), IMAGES, CUT)
  assert clean.dtype == np.float32
  np.testing.assert_allclose(clean, networks.MLP.logits(IMAGES), atol=1e-5)
  clean = clean.argmax(-1)
  found = attack_and_predict(
    network(), {'network': network()}, ATTACK, IMAGES, LABELS, [0.1], CUT
  )
  moved, predictions = direct
  np.testing.assert_allclose(found.images, moved, atol=1e-5)
  np.testing.assert_array_equal(found.predictions['network'], predictions[None])
  np.testing.assert_allclose(
    found.sizes, np.abs(moved - IMAGES).max(1)[None], atol=1e-5
  )
  table = robust_accuracy(
    network(), IMAGES, LABELS, {'pgd': ATTACK}, 0.1,
    key=KEY, batch_size=7, devices=jax.devices(),
  )  # fmt: skip
  np.testing.assert_array_equal(table.clean, clean == LABELS)
  expected = (clean == LABELS) & (predictions == LABELS)
  np.testing.assert_array_equal(table.attacked['pgd'], expected)
  np.testing.assert_array_equal(table.worst_case, expected)
  assert 0 < expected.mean() < table.clean.mean() == 0.8


@pytest.mark.accelerator
def test_flags_are_those_of_the_cpu():
  """Except for examples that a radius of a tenth more or less decides."""
  if jax.default_backend() == 'cpu':
    pytest.skip('compares an accelerator with the CPU')

  def flags(device, epsilon):
    with jax.default_device(device):
      table = robust_accuracy(
        network(), IMAGES, LABELS,
        {name: parse_attack(name) for name in ('pgd-10', 'apgd-t')},
        epsilon, key=jax.random.key(11), devices=[device],
      )  # fmt: skip
    return {'clean': table.clean, **table.attacked}

  cpu = jax.devices('cpu')[-1]
  found = flags(jax.devices()[0], 0.1)
  expected, inner, outer = (flags(cpu, e) for e in (0.1, 0.09, 0.11))
  for name, values in found.items():
    sure = inner[name] == outer[name]
    assert sure.sum() > 90
    np.testing.assert_array_equal(values[sure], expected[name][sure])
    assert 0 < values.sum() < NUM_IMAGES


EPSILONS = [0.0, 0.05, 0.1, 0.3]


def test_a_curve_is_its_points():
  run = functools.partial(
    attack_and_predict,
    network(), {'network': network()}, ATTACK, IMAGES, LABELS, batching=CUT,
  )  # fmt: skip
  curve = run(EPSILONS, kept=2)
  assert curve.logits['network'].shape == (4, NUM_IMAGES, 3)
  for index, epsilon in enumerate(EPSILONS):
    point = run([epsilon])
    np.testing.assert_array_equal(
      curve.logits['network'][index], point.logits['network'][0]
    )
    assert point.sizes.max() <= epsilon + 1e-6
    if index == 2:
      np.testing.assert_array_equal(curve.images, point.images)
  correct = (curve.predictions['network'] == LABELS[None]).mean(1)
  assert correct[0] == 0.8
  assert correct[-1] < correct[1]


def test_batches_are_the_whole_and_compile_once():
  """Each is made when it is needed, and an example keeps its draws."""
  attacks = {'own': OWN, 'pgd': ATTACK, 'fmn': 'fmn-3', 'auto': 'apgd-ce'}
  options = {
    **{'attacks': attacks, 'epsilon': 0.1, 'key': KEY, 'norm': 'l2'},
    **{'batch_size': 15, 'devices': jax.devices()[:1]},
  }
  expected = robust_accuracy(network(), IMAGES, LABELS, **options)
  alive = []

  def batches(sizes):
    start = 0
    for size in sizes:
      assert not any(x() is not None for x in alive[:-1])
      images = IMAGES[start : start + size].copy()
      alive.append(weakref.ref(images))
      yield images, LABELS[start : start + size].tolist()
      start += size

  robust_accuracy(network(), batches([30]), **options)
  alive.clear()
  with compiles.counted() as count:
    found = robust_accuracy(network(), batches([30, 30, 30, 10]), **options)
  assert count == [0]
  assert list(found.attacked) == list(attacks)
  for one, other in zip(
    (found.clean, found.worst_case, *found.attacked.values()),
    (expected.clean, expected.worst_case, *expected.attacked.values()),
    strict=True,
  ):
    np.testing.assert_array_equal(one, other)
  assert 0 < found.attacked['own'].mean() < found.clean.mean()


def test_attacks_are_named_as_written_and_keep_their_norm():
  """A minimum-norm attack counts within the radius of its own norm."""
  names = ['fgsm', f' {OWN}', 'fmn-9']
  run = functools.partial(
    robust_accuracy, network(), IMAGES, LABELS, epsilon=0.1, key=KEY
  )
  found = run(attacks=names, norm='l2', bounds=(-1.0, 2.0))
  assert list(found.attacked) == ['fgsm', OWN, 'fmn-9']
  moved = advjax.fgsm(
    network(), IMAGES, LABELS, 0.1, norm='l2', bounds=(-1.0, 2.0)
  )
  right = networks.MLP.logits(np.asarray(moved)).argmax(1) == LABELS
  np.testing.assert_array_equal(found.attacked['fgsm'], found.clean & right)
  far = advjax.fmn(network(), IMAGES, LABELS, num_steps=9, bounds=(-1.0, 2.0))
  size = np.linalg.norm(far - IMAGES, axis=1)  # 0: none was found.
  expected = found.clean & ~((size > 0) & (size <= 0.1))
  np.testing.assert_array_equal(found.attacked['fmn-9'], expected)
  assert 0 < expected.sum() < found.clean.sum()
  joined = run(attacks=','.join(names), norm='l2', bounds=(-1.0, 2.0))
  np.testing.assert_array_equal(joined.worst_case, found.worst_case)


def test_worst_case_is_over_all_attacks_and_the_clean_images():
  def to_zero(logits_fn, images, labels, epsilon, keys):
    return 0 * images

  def nothing(logits_fn, images, labels, epsilon, keys):
    return images

  found = robust_accuracy(
    network(), IMAGES, LABELS, {'a': to_zero, 'b': nothing}, 0.1,
    key=KEY, batch_size=NUM_IMAGES, devices=jax.devices()[:1],
  )  # fmt: skip
  at_zero = networks.MLP.logits(0 * IMAGES).argmax(1) == LABELS
  np.testing.assert_array_equal(found.attacked['b'], found.clean)
  np.testing.assert_array_equal(found.attacked['a'], found.clean & at_zero)
  np.testing.assert_array_equal(found.worst_case, found.clean & at_zero)
  assert (at_zero & ~found.clean).any()


def test_other_params_and_epsilons_compile_nothing():
  """Nor does another number of epsilons."""

  def run(source, epsilons):
    attack_and_predict(
      source, {'network': source}, ATTACK, IMAGES, LABELS, epsilons, CUT
    )

  run(network(), [0.1])
  other = network(2.0)
  with compiles.counted() as count:
    run(other, [0.7, 0.1, 0.0])
  assert count == [0]


# -------------------------------------- attacks that do not take a radius alone

LINEAR = np.array([0.5, -1.0, 2.0, -0.25, 1.5, 1.0], np.float32)


def linear(weights, images):
  signal = (images - 0.5) @ weights
  return jnp.stack([-signal, signal], axis=-1)


def test_every_image_within_reach_is_fooled():
  """The border is |w . (x - 1/2)| / |w|_1 away; the box is out of reach."""
  images = 0.25 + 0.5 * IMAGES
  signal = (images.astype(np.float64) - 0.5) @ LINEAR
  labels = (signal > 0).astype(np.int32)
  labels[::5] = 1 - labels[::5]
  right = labels == (signal > 0)
  distances = np.where(right, np.abs(signal) / np.abs(LINEAR).sum(), 0.0)
  logits_fn = Partial(linear, jnp.asarray(LINEAR))
  deepfool = parse_attack('deepfool-3')
  epsilons = [0.0, 0.1, 0.05]
  found = attack_and_predict(
    logits_fn,
    {'itself': logits_fn, 'other': Partial(linear, -jnp.asarray(LINEAR))},
    deepfool, images, labels, epsilons, batching(50, 2), kept=1,
  )  # fmt: skip
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
  assert found.autoattack == ()
  table = robust_accuracy(
    logits_fn, images, labels, {'deepfool': deepfool}, 0.1,
    key=KEY, batch_size=50,
  )  # fmt: skip
  np.testing.assert_array_equal(
    table.worst_case, right & (found.predictions['itself'][1] == labels)
  )


# ------------------------------------------------------------------- bad input


def test_probabilities_are_refused():
  def softmax(images):
    return jax.nn.softmax(network()(images))

  with pytest.raises(ValueError, match=r'returns probabilities.*softmax'):
    robust_accuracy(softmax, IMAGES, LABELS, {'fgsm': ATTACK}, 0.1, key=KEY)


def test_some_rows_that_look_like_probabilities_are_fine():
  def logits_fn(images):
    rows = jnp.array([[0.25, 0.75, 0.0], [0.6, 0.5, 0.5]])
    return rows[images[:, 0].astype(int)]

  images = np.array([[0.0], [1.0]], np.float32)
  assert compute_logits(logits_fn, images).argmax(-1).tolist() == [1, 0]


def test_logits_that_are_not_finite_are_refused():
  def broken(images):
    logits = network()(images)
    return jnp.where(images[:, :1] > 0.9, jnp.nan, logits)

  count = int((IMAGES[:, 0] > 0.9).sum())
  assert 0 < count < NUM_IMAGES
  with pytest.raises(ValueError, match=f'not finite for {count} of 100 images'):
    compute_logits(broken, IMAGES, CUT)


@pytest.mark.parametrize(
  ('changes', 'message'),
  [
    (
      {'images': IMAGES[:0], 'labels': LABELS[:0]},
      r'images = float32 \[0, 6\]; al',
    ),
    ({'images': (255 * IMAGES).astype(np.uint8)}, r'images = uint8 .*divide'),
    ({'images': 255 * IMAGES}, r'images = .*; allowed: finite.*0.0 to 1.0'),
    ({'images': IMAGES * np.nan}, r'images = nan to nan'),
    ({'labels': LABELS[:-1]}, r'labels = int64 \[99\]; .*\[100\]'),
    ({'labels': LABELS + 1}, r'labels = 1 to 3; .* in \[0, 3\)'),
    ({'labels': LABELS * 0.5}, r'labels = float64 .*allowed: int'),
    ({'epsilons': []}, r'epsilons = \[\]'),
    ({'epsilons': [0.1, -0.1]}, r'epsilons = \[0.1, -0.1\]; allowed'),
    ({'epsilons': [0.1], 'kept': 1}, r'kept = 1; allowed: an index'),
    ({'norm': 'l3'}, r"norm.*'l3'"),
    (
      {'attack': lambda f, x, y, epsilon, keys: x[:, 0]},
      r'attack\(...\).shape = \(50,\); allowed: \(50, 6\)',
    ),
  ],
)
def test_bad_input_is_named(changes, message):
  arguments = {'images': IMAGES, 'labels': LABELS, 'epsilons': [0.1]}
  arguments |= {'attack': parse_attack('fgsm'), **changes}
  with pytest.raises(ValueError, match=message):
    attack_and_predict(network(), {}, **arguments)


# ------------------------------------------------------------------- precision

# On accelerators, evaluations compute float32 products in float32. The CPU does
# so in any case; what is tested is what the programs ask for.
EYE, THREE = np.eye(3, dtype=np.float32), np.arange(3)


class Network:
  """Notes at which precision it is traced."""

  def __init__(self):
    self.seen = set()

  def __call__(self, images):
    self.seen.add(jax.config.jax_default_matmul_precision)
    return 10 * images


def test_the_highest_unless_the_caller_has_set_one():
  network = Network()

  def evaluate():
    attacks = {name: parse_attack(name) for name in ('fgsm', 'apgd-ce')}
    advjax.robust_accuracy(network, EYE, THREE, attacks, 0.1, key=KEY)

  evaluate()
  assert network.seen == {'highest'}
  network.seen.clear()
  # Compiled again, though the network is the same.
  with jax.default_matmul_precision('high'):
    evaluate()
  assert network.seen == {'high'}
  assert jax.config.jax_default_matmul_precision is None


def test_trained_networks_take_that_of_their_config():
  training = runs.run(
    data=runs.dataset(),
    model={'name': 'small_resnet', 'widths': (4,)},
    evaluation__matmul_precision='default',
  )
  variables = jax.eval_shape(training.init_state)[1:3]
  images = data.to_float(training.test_split.images[:2])

  def precisions(name):
    """Of the products in the gradient by the images."""

    def loss(images, variables):
      logits = eval_logits_fn(training.model, *variables, name)(images)
      return cross_entropy(logits, np.zeros(2, np.int32)).sum()

    text = str(jax.make_jaxpr(jax.grad(loss))(images, variables))
    return set(re.findall(r'Precision\.(\w+)', text))

  assert precisions(training.config.evaluation.matmul_precision) == {'DEFAULT'}
  # None is what the caller has set.
  with jax.default_matmul_precision('high'):
    assert precisions(None) == {'HIGH'}


def test_what_robust_accuracy_refuses():
  for attacks, epsilon, message in [
    ({}, 0.1, r'attacks = \{\}; allowed: one attack or more'),
    ([], 0.1, r'attacks = \[\]; allowed: one attack or more'),
    ('fgsm,fgsm', 0.1, "attacks = 'fgsm,fgsm'; .* each named once"),
    ('fgms', 0.1, "attack = 'fgms'; allowed"),
    ([parse_attack('fgsm')], 0.1, 'attacks = .*; allowed: .* a mapping'),
    ({'a': 1}, 0.1, 'attacks = .*; allowed: one'),
    ('fgsm', -0.1, 'epsilon = -0.1; allowed: .*number >= 0'),
    ('fgsm', np.nan, 'epsilon = nan; allowed'),
    ('fgsm', None, 'epsilon = None; allowed'),
  ]:
    with pytest.raises(ValueError, match=message):
      advjax.robust_accuracy(jnp.tanh, EYE, THREE, attacks, epsilon, key=KEY)
  for key in (0, -1, 2**40, 2**64, None):
    with pytest.raises(ValueError, match=f'key = {key}; allowed: one key'):
      advjax.robust_accuracy(jnp.tanh, EYE, THREE, 'fgsm', 0.1, key=key)
  for batches, message in [
    (EYE, r'labels = None; allowed: int \[N\], or batches .* not ndarray'),
    (0, 'labels = None; .* not int'),
    ([], r'batches = \(\); allowed: one'),
    ([{'images': EYE}], r'batches\[0\] = dict; allowed: a pair'),
    ([(EYE, THREE[:2])], r'labels = int64 \[2\]'),
    (
      [(EYE, THREE), (EYE[:2, :2], THREE[:2])],
      r'batches\[1\]\[0\] = float32 \[B, 2\]; allowed: float32 \[B, 3\]',
    ),
  ]:
    with pytest.raises(ValueError, match=message):
      robust_accuracy(
        lambda x: 9 * x, batches, attacks='fgsm', epsilon=0.1, key=KEY
      )
