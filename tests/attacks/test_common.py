"""What holds for every attack: in ball and box, compiled once, transformed.

Every attack has one program here, of drawn images; test_drawn.py sees all norms
and shapes.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh
from jax.sharding import PartitionSpec as P
from jax.tree_util import Partial

import advjax
from advjax.callables import Callee
from tests import compiles, reference
from tests.attacks import cases

# Shape of an image, number of classes.
SHAPES = {
  (4, 3, 2): 10,
  (1, 1, 1): 2,
  (5,): 1000,
  (1, 1, 3): 1000,
  (33,): 2,
  (2, 9): 3,
  (7, 7, 1): 100,
  (6, 6, 3): 4,
}
ROWS = 200
BOUNDS = [(0.0, 1.0), (-0.1, 0.9)]  # The latter are no floats.
EPSILONS = np.float32(
  [0, 1e-30, 1e-9, 1e-7, 1e-4, 1 / 255, 8 / 255, 0.1, 0.3, 1, 4, 100]
)
# Every family of attacks, and every norm and precision with several.
PROGRAMS = {
  'fgsm': ('linf', 'float32'),
  'bim': ('linf', 'float32'),
  'bim_random': ('linf', 'bfloat16'),
  'pgd': ('l2', 'float32'),
  'mifgsm': ('l1', 'float32'),
  'apgd': ('linf', 'bfloat16'),
  'fab': ('l2', 'float32'),
  'square': ('linf', 'float32'),
  'deepfool': ('linf', 'bfloat16'),
  'carlini_wagner': ('l2', 'bfloat16'),
  'fmn': ('l1', 'bfloat16'),
}
TARGETED = ('fab', 'pgd')


def weights_of(shape):
  size = (int(np.prod(shape)), SHAPES[shape])
  return np.random.default_rng(0).normal(size=size).astype(np.float32)


def apply(weights, images):
  numpy = jnp if isinstance(images, jax.Array) else np
  flat = images.reshape(len(images), -1).astype(np.float32)
  return numpy.tanh(2 * flat - 1) @ weights


def draw(shape, bounds=BOUNDS[0], dtype='float32', seed=0):
  """Images, many of them at the border of the box, labels, targets, radii."""
  rng = np.random.default_rng(seed)
  lower, upper = np.float32(bounds)
  images = rng.uniform(lower, upper, (ROWS, *shape)).astype(np.float32)
  ends = np.where(rng.random(images.shape) < 0.5, lower, upper)
  near = np.nextafter(ends, np.float32(0.5))
  kind = rng.integers(6, size=(ROWS, *[1] * len(shape)))
  some = rng.random(images.shape) < 0.5
  images = np.select(
    [kind == 1, kind == 2, kind == 3, kind == 4],
    [lower, upper, np.where(some, ends, images), np.where(some, near, ends)],
    images,
  ).astype(np.float32)
  images = np.where((images == 0) & some, np.float32(-0.0), images)
  if dtype != 'float32':  # Inside after rounding, too.
    images = (images * np.float32(0.99)).astype(jnp.dtype(dtype))
  classes = SHAPES[shape]
  labels = apply(weights_of(shape), images).argmax(axis=1)
  labels = np.where(kind.ravel() == 5, rng.integers(classes, size=ROWS), labels)
  targets = (labels + rng.integers(1, classes, size=ROWS)) % classes
  epsilon = rng.choice(EPSILONS, ROWS)
  return images, labels.astype(np.int32), targets.astype(np.int32), epsilon


KEYS = jax.random.wrap_key_data(
  np.random.default_rng(7).integers(2**32, size=(ROWS, 2), dtype=np.uint32)
)


def attack(name, weights, images, labels, targets, epsilon, keys, **choices):
  """The attack on a network with these weights, which may be traced."""
  choices = {'norm': PROGRAMS[name][0], **choices}
  if name == 'carlini_wagner':
    del choices['norm']
  if name in TARGETED:
    choices['targets'] = targets
  if name in cases.KEYED:
    choices['key'] = keys
  if name in cases.BALL:
    choices['epsilon'] = epsilon
  return cases.ALL[name](Partial(apply, weights), images, labels, **choices)


def check(name, norm, result, images, epsilon, bounds):
  """That the result is in ball and box, and not all of it where it was."""
  result = np.asarray(result)
  assert result.dtype == images.dtype and result.shape == images.shape
  lower, upper = np.float32(bounds)
  wide = result.astype(np.float64)
  assert np.all((wide >= lower) & (wide <= upper))  # No NaN either.
  size = cases.sizes(wide - images, norm)
  assert np.mean(size > 0) > 0.05  # It did something.
  if name in cases.MINIMUM:
    return
  assert np.all(size <= np.float64(epsilon))  # No rounding leads out of it.
  fixed = epsilon == 0
  assert result[fixed].tobytes() == images[fixed].tobytes()


SHAPE = (4, 3, 2)
WEIGHTS = jnp.asarray(weights_of(SHAPE))


def arguments(name='fgsm', bounds=BOUNDS[0]):
  """Weights, images, labels, targets, epsilons and keys of its program."""
  drawn = draw(SHAPE, bounds, PROGRAMS[name][1])
  return WEIGHTS, *map(jnp.asarray, drawn), KEYS


@functools.cache
def eager(name, bounds=BOUNDS[0]):
  return np.asarray(attack(name, *arguments(name, bounds), bounds=bounds))


@pytest.mark.accelerator
@pytest.mark.parametrize('name', PROGRAMS)
def test_inside_ball_and_box_and_other_values_compile_nothing(name):
  """Thousands of pixels, many of them at a border; then other numbers."""
  norm, dtype = PROGRAMS[name]
  eager(name)
  weights, *others = arguments(name, BOUNDS[1])
  other = jax.block_until_ready(-weights)
  with compiles.counted() as count:
    eager(name, BOUNDS[1])
    attack(name, other, *others, bounds=BOUNDS[1])
  assert count == [0]
  for bounds in BOUNDS:
    images, _, _, epsilon = draw(SHAPE, bounds, dtype)
    check(name, norm, eager(name, bounds), images, epsilon, bounds)


def same(name, result):
  expected = eager(name)
  result = np.asarray(result).reshape(expected.shape)
  np.testing.assert_allclose(result, expected, atol=2e-6)
  assert np.any(result != arguments(name)[1])


def test_a_loop_over_kinds_of_numbers_compiles_once():
  epsilons = [0.1, 1 / 255, np.float64(0.05), np.float32(0.02), 1]
  epsilons += [jnp.float32(0.03), jnp.asarray(0.04)]
  args = cases.IMAGES, cases.LABELS
  kinds = [jax.block_until_ready(e) for e in epsilons]

  def closure(images):
    return cases.apply(cases.WEIGHTS, images)

  with compiles.counted() as count:
    for epsilon in kinds:
      advjax.bim(closure, *args, epsilon, epsilon, num_steps=2)
      advjax.bim(closure, *args, epsilon, num_steps=2)
    advjax.bim(closure, *args, 0.1, 0.1, num_steps=2, bounds=(0, 2))
  assert count == [1]


# ------------------------------------------------------------ transformations


def test_vmap_over_examples_as_batches_of_one():
  def one(weights, *row):
    return attack('fab', weights, *(x[None] for x in row))[0]

  same('fab', jax.jit(jax.vmap(one, (None, *[0] * 5)))(*arguments()))


def test_vmap_over_epsilons_is_a_curve_and_epsilon_is_per_example():
  weights, images, labels, targets, epsilon, keys = arguments()

  def run(epsilon):
    return attack('bim', weights, images, labels, targets, epsilon, keys)

  curve = np.asarray(jax.vmap(run)(np.append(np.float32(0), epsilon[:7])))
  np.testing.assert_array_equal(curve[0], images)
  expected = eager('bim')
  for row in range(7):
    np.testing.assert_allclose(curve[1 + row, row], expected[row], atol=1e-6)


def test_success_of_every_row_untargeted_and_targeted():
  """By its logits alone; in a batch, row by row, and where they are NaN."""
  images, labels, targets, _ = draw(SHAPE)
  moved = jnp.asarray(eager('pgd'))
  network = Partial(apply, WEIGHTS)
  classes = apply(weights_of(SHAPE), np.asarray(moved)).argmax(axis=1)
  success = advjax.is_adversarial(network, moved, labels)
  np.testing.assert_array_equal(success, classes != labels)
  hit = advjax.is_adversarial(network, moved, labels, targets=targets)
  np.testing.assert_array_equal(hit, classes == targets)
  assert 0 < hit.sum() < success.sum() < ROWS

  def one(image, label):
    return advjax.is_adversarial(network, image[None], label[None])[0]

  rows = jax.jit(jax.vmap(one))(moved, jnp.asarray(labels))
  np.testing.assert_array_equal(rows, success)
  broken = Partial(lambda w, x: apply(w, x) * jnp.nan, WEIGHTS)
  assert not advjax.is_adversarial(broken, images, labels).any()


def test_gradient_of_the_surroundings_does_not_see_the_attack():
  weights, images, *rest = arguments()

  def loss(weights, images):
    attacked = attack('bim', weights, images, *rest)
    return advjax.losses.cross_entropy(apply(weights, attacked), rest[0]).sum()

  gradient = jax.jit(jax.grad(loss, (0, 1)))(weights, images)
  hidden = np.tanh(2 * np.float64(eager('bim').reshape(ROWS, -1)) - 1)
  logits = hidden @ np.float64(WEIGHTS)
  _, by_logits = reference.cross_entropy(logits, np.asarray(rest[0]))
  np.testing.assert_allclose(gradient[0], hidden.T @ by_logits, atol=1e-4)
  assert not np.asarray(gradient[1]).any()


@pytest.mark.parametrize('name', ['pgd', *cases.SEARCHES, *cases.MINIMUM])
def test_every_attack_is_traced_in_a_gradient(name):
  """Nothing in an attack is differentiated: some of it could not be."""
  _, *rest = arguments(name)
  shape = jax.eval_shape(
    jax.grad(lambda weights: attack(name, weights, *rest).sum()), WEIGHTS
  )
  assert shape.shape == WEIGHTS.shape


def test_a_closure_over_traced_weights_is_attacked_in_a_gradient():
  _, images, labels, *_ = arguments()

  def loss(weights):
    network = functools.partial(apply, weights)
    return advjax.fab(network, images, labels, None, num_steps=2).sum()

  assert jax.eval_shape(jax.grad(loss), WEIGHTS).shape == WEIGHTS.shape


def halves():
  return jax.tree.map(
    lambda x: x.reshape(2, ROWS // 2, *x.shape[1:]), arguments()[1:]
  )


def test_scan_under_jit():
  def run(batches):
    return jax.lax.map(lambda b: attack('fgsm', WEIGHTS, *b), batches)

  same('fgsm', jax.jit(run)(halves()))


def test_pmap():
  run = jax.pmap(
    functools.partial(attack, 'bim'), axis_name='data', in_axes=(None, *[0] * 5)
  )
  same('bim', run(WEIGHTS, *halves()))


def shard(run, in_specs):
  mesh = Mesh(np.array(jax.devices()[:2]), ('data',))
  return jax.jit(
    jax.shard_map(run, mesh=mesh, in_specs=in_specs, out_specs=P('data'))
  )


def test_shard_map():
  run = shard(functools.partial(attack, 'pgd'), (P(), *[P('data')] * 5))
  same('pgd', run(*arguments('pgd')))


@pytest.mark.parametrize('name', cases.ALL)
def test_every_attack_is_traced_in_shard_map(name):
  run = shard(functools.partial(attack, name), (P(), *[P('data')] * 5))
  assert jax.eval_shape(run, *arguments(name)).shape == draw(SHAPE)[0].shape


def test_shard_map_over_models_with_images_that_do_not_vary():
  _, *rest = arguments()

  def run(weights):
    return attack('bim', weights[0], *rest)[None]

  result = np.asarray(shard(run, P('data'))(jnp.stack([WEIGHTS, -WEIGHTS])))
  same('bim', result[0])
  assert np.abs(result[1] - result[0]).max() > 0.05


def test_many_restarts_contain_one():
  targets = draw(SHAPE)[2]
  one, two = attack('pgd', *arguments(), num_restarts=1), eager('pgd')

  def ranks(images):
    logits = apply(weights_of(SHAPE), np.asarray(images))
    loss, _ = reference.cross_entropy(logits, targets)
    return logits.argmax(1) == targets, -loss

  (hit_one, loss_one), (hit_two, loss_two) = ranks(one), ranks(two)
  assert np.all(hit_two >= hit_one)
  worse = (hit_two == hit_one) & (loss_two < loss_one - 1e-5)
  assert not worse.any() and np.any(loss_two > loss_one + 1e-3)


def test_arrays_of_a_callable_are_traced_and_the_rest_is_static():
  def scaled(config, images, flag):
    assert isinstance(config['scale'], float) and config['name'] == 'a'
    assert isinstance(config['weights'], jax.core.Tracer)
    return config['scale'] * cases.apply(config['weights'], images) + flag

  config = {'scale': 2.0, 'name': 'a', 'weights': cases.WEIGHTS}
  network = Partial(lambda config, flag, x: scaled(config, x, flag), config, 1)
  jax.eval_shape(
    lambda epsilon: advjax.fgsm(network, cases.IMAGES, cases.LABELS, epsilon),
    0.1,
  )
  # 1 == True, yet they are two programs.
  one, true = (Callee.of(Partial(cases.apply, x)) for x in (1, True))
  assert one.structure != true.structure
