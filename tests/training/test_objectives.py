"""One suite over all objectives, their errors and BatchNorm modes."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from advjax.training import objectives
from advjax.training.objectives import OBJECTIVES, create_objective
from tests import reference
from tests.training import networks, nsl
from tests.training.networks import IMAGES, LABELS, MLP

BATCH = len(LABELS)
ADVERSARIAL = {
  'adversarial_loss',
  'adversarial_accuracy',
  'perturbation_size',
}
VIRTUAL = {'virtual_adversarial_loss', 'scaled_virtual_adversarial_loss'}
ALWAYS = {'loss', 'clean_loss', 'clean_accuracy'}

# Name: (objective, hparams, metrics beyond the three that all have). In l2,
# where the direction depends smoothly on the params, a gradient that flowed
# through the perturbation would show.
CASES = {
  'standard': (objectives.standard(), {}, set()),
  'nsl_pgd': (
    objectives.adversarial_regularization(
      norm='l2', num_steps=2, bounds=(0.0, None)
    ),
    {'multiplier': 0.5, 'step_size': 0.3, 'epsilon': 0.5},
    ADVERSARIAL | {'scaled_adversarial_loss'},
  ),
  'noisy_fgsm_at': (
    objectives.noisy_fgsm_at(norm='l2'),
    {'noise_size': 0.6, 'step_size': 0.4},
    ADVERSARIAL,
  ),
  'pgd_at': (
    objectives.pgd_at(norm='l2', num_steps=2, random_start=False),
    {'epsilon': 0.4, 'step_size': 0.3},
    ADVERSARIAL,
  ),
  'trades': (
    objectives.trades(norm='l2', num_steps=2),
    {'epsilon': 0.4, 'step_size': 0.3, 'beta': 2.0},
    ADVERSARIAL | {'kl'},
  ),
  'virtual': (
    objectives.virtual_adversarial_regularization(),
    {'multiplier': 2.0, 'step_size': 0.5, 'approx_difference': 0.1},
    ADVERSARIAL | VIRTUAL,
  ),
}
each_objective = pytest.mark.parametrize('case', CASES)


def run(case, params, batch, hparams):
  """Returns the loss, and the metrics with the images trained on."""
  seen = []

  def spy(params, model_state, images, *, train):
    if train:
      seen.append(images)
    return networks.apply(params, model_state, images, train=train)

  loss, (state, metrics) = CASES[case][0](
    spy, params, {}, batch, hparams, networks.keys()
  )
  assert state == {}
  return loss, (metrics, seen[-1])


@functools.cache
def program(case):
  """(params, batch, hparams) -> ((loss, (metrics, images)), gradient)."""
  function = jax.value_and_grad(functools.partial(run, case), has_aux=True)
  return jax.jit(function)


def hparams_of(case, factor=1.0):
  # Numbers of one type, the learning rate among them: one compilation.
  hparams = CASES[case][1] | {'learning_rate': 1.0}
  return {name: np.float32(factor * x) for name, x in hparams.items()}


def loss_and_gradient(case, **changes):
  batch = {'weight': np.full(BATCH, 1 / BATCH, np.float32)} | changes
  found = program(case)(
    networks.params(), networks.batch(**batch), hparams_of(case)
  )
  return jax.device_get(found)


@each_objective
def test_metrics_are_finite_and_one_per_example(case):
  (loss, (metrics, _)), _ = loss_and_gradient(case)
  assert set(metrics) == ALWAYS | CASES[case][2]
  for value in metrics.values():
    assert value.shape == (BATCH,)
    assert value.dtype == jnp.float32
    assert np.isfinite(value).all()
  assert loss.shape == ()
  np.testing.assert_allclose(loss, np.mean(metrics['loss']), rtol=1e-6)


def numpy_loss(case, mlp, adversarial):
  """The loss by the formula, at adversarial images that are given."""
  hparams = CASES[case][1]
  clean, _ = reference.cross_entropy(mlp.logits(IMAGES), LABELS)
  moved, _ = reference.cross_entropy(mlp.logits(adversarial), LABELS)
  if case == 'standard':
    return clean.mean()
  if case.startswith('nsl'):
    return (clean + hparams['multiplier'] * moved).mean()
  if case == 'trades':
    kl = networks.divergence(mlp.logits(IMAGES), mlp.logits(adversarial))
    return (clean + hparams['beta'] * kl).mean()
  if case.startswith('virtual'):
    # Not mlp but MLP: the clean logits do not move with the params.
    spread = nsl.distance('l2', MLP.logits(IMAGES), mlp.logits(adversarial))
    return (clean + hparams['multiplier'] * spread).mean()
  return moved.mean()


@each_objective
def test_no_gradient_flows_through_the_perturbation(case):
  (loss, (_, adversarial)), gradient = loss_and_gradient(case)
  adversarial = np.asarray(adversarial, np.float64)
  np.testing.assert_allclose(
    loss, numpy_loss(case, MLP, adversarial), rtol=1e-5
  )
  rng = np.random.default_rng(5)
  for _ in range(3):
    tangent = jax.tree.map(lambda leaf: rng.normal(size=leaf.shape), MLP)
    ahead, behind = (
      numpy_loss(
        case,
        jax.tree.map(lambda leaf, t, h=h: leaf + h * t, MLP, tangent),
        adversarial,
      )
      for h in (1e-6, -1e-6)
    )
    slope = sum(
      np.vdot(g, t)
      for g, t in zip(
        jax.tree.leaves(gradient), jax.tree.leaves(tangent), strict=True
      )
    )
    np.testing.assert_allclose(slope, (ahead - behind) / 2e-6, atol=2e-5)


@each_objective
def test_rows_of_weight_zero_change_nothing(case):
  weight = np.array([0.5, 0.5, 0.0, 0.0], np.float32)
  images = np.array(networks.batch()['image'])
  images[2:] = 1 - images[2:] ** 2
  (loss, (metrics, _)), gradient = loss_and_gradient(case, weight=weight)
  (same_loss, (same_metrics, _)), same_gradient = loss_and_gradient(
    case,
    weight=weight,
    image=images,
    label=np.array([0, 1, 0, 0]),
  )
  np.testing.assert_array_equal(same_loss, loss)
  np.testing.assert_allclose(loss, np.mean(metrics['loss'][:2]), rtol=1e-6)
  jax.tree.map(np.testing.assert_array_equal, same_gradient, gradient)
  for name, value in metrics.items():
    np.testing.assert_array_equal(same_metrics[name][:2], value[:2])
    if case != 'standard' and name == 'loss':
      assert (same_metrics[name][2:] != value[2:]).all()


@pytest.mark.parametrize(
  ('config', 'message'),
  [
    ({'name': 'pgdat'}, r"objective.name = 'pgdat'.*did you mean 'pgd_at'"),
    (
      {'name': 'pgd_at', 'num_step': 3},
      r"option of pgd_at = 'num_step'.*did you mean 'num_steps'",
    ),
    ({'name': 'standard', 'norm': 'l2'}, r"option of standard = 'norm'"),
    ({'name': 'pgd_at', 'norm': 'infinity'}, r"norm = 'infinity'.*linf"),
    (
      {'name': 'adversarial_regularization', 'norm': 'l3'},
      r"norm = 'l3'.*'infinity', 'l1', 'l2', 'linf'",
    ),
    ({'name': 'pgd_at', 'num_steps': 0}, r'num_steps = 0; allowed: an integer'),
    (
      {'name': 'pgd_at', 'attack_batch_norm': 'test'},
      r"attack_batch_norm = 'test'; allowed: 'eval', 'train'",
    ),
    (
      {'name': 'virtual_adversarial_regularization', 'distance': 'l3'},
      r"distance = 'l3'.*'cosine', 'jensen_shannon', 'kl', 'l1', 'l2'",
    ),
    (
      {'name': 'virtual_adversarial_regularization', 'transform': 'soft'},
      r"transform = 'soft'.*did you mean 'softmax'",
    ),
    (
      {'name': 'virtual_adversarial_regularization', 'mask': (0.0, 2.0)},
      r'mask = 0.0 to 2.0; allowed: values in \[0, 1\]',
    ),
  ],
)
def test_a_wrong_objective_is_named(config, message):
  with pytest.raises(ValueError, match=message):
    create_objective(config)


@pytest.mark.parametrize(
  ('hparams', 'objective', 'message'),
  [
    (
      {'epsilon': 0.1},
      'standard',
      r"epsilon = 0.1 is not read by .* 'standard'; allowed: learning_rate$",
    ),
    (
      {'beta': 6.0, 'epsilon': 0.1, 'step_size': 0.1},
      'pgd_at',
      r'hparams.beta.*allowed: learning_rate, epsilon, step_size$',
    ),
    (
      {'epsilon': 0.1},
      'fgsm_at',
      r'hparams.step_size = None; allowed: a number',
    ),
    ({'epsilon': -0.1, 'step_size': 0.1}, 'pgd_at', r'epsilon = -0.1; allowed'),
    ({'epsilon': 0.1, 'step_size': float('nan')}, 'pgd_at', r'step_size = nan'),
    (
      {'multiplier': 1, 'step_size': 1, 'approx_difference': 0},
      'virtual_adversarial_regularization',
      r'approx_difference = 0; allowed: a number > 0',
    ),
  ],
)
def test_hparams_are_those_that_the_objective_reads(
  hparams, objective, message
):
  with pytest.raises(ValueError, match=message):
    objectives.read_hparams({'learning_rate': 0.1} | hparams, objective)


def moody(params, model_state, images, *, train):
  """Counts its training passes; its logits turn over between the two modes."""
  logits = images @ params * (-1 if train else 1)
  if train:
    model_state = {
      'passes': model_state['passes'] + 1,
      'mean': (model_state['mean'] + images.mean()) / 2,
    }
  return logits, model_state


WEIGHTS = np.random.default_rng(3).normal(size=(6, 3)).astype(np.float32)


def moody_run(config):
  """Returns the statistics at the end, and the images trained on."""
  objective = create_objective(config)
  hparams = dict.fromkeys(OBJECTIVES[config['name']].hparams, 0.05)

  def run(weights, batch):
    seen = []

    def spy(params, model_state, images, *, train):
      if train:
        seen.append(images)
      return moody(params, model_state, images, train=train)

    state = {'passes': jnp.zeros(()), 'mean': jnp.zeros(())}
    _, (state, _) = objective(
      spy, weights, state, batch, hparams, networks.keys()
    )
    return state, seen[-1]

  state, images = jax.jit(run)(WEIGHTS, networks.batch())
  return state, np.asarray(images)


@pytest.mark.parametrize(
  ('objective', 'num_passes', 'mode'),
  [
    ({'name': 'adversarial_regularization'}, 2, 'train'),
    (
      {'name': 'adversarial_regularization', 'adversarial_batch_stats': False},
      1,
      None,
    ),
    ({'name': 'virtual_adversarial_regularization'}, 2, None),
    ({'name': 'fgsm_at', 'random_start': False}, 1, 'eval'),
    (
      {
        'name': 'pgd_at',
        'random_start': False,
        'num_steps': 1,
        'attack_batch_norm': 'train',
      },
      1,
      'train',
    ),
  ],
  ids=str,
)
def test_modes_of_attacks_and_passes_that_move_statistics(
  objective, num_passes, mode
):
  no_clip = {'bounds': None} if mode else {}
  state, adversarial = moody_run(objective | no_clip)
  assert state['passes'] == num_passes
  # The clean pass comes first, where there is one.
  clean = [] if objective['name'].endswith('_at') else [IMAGES]
  passes = [*clean, adversarial][:num_passes]
  expected = functools.reduce(lambda mean, x: (mean + x.mean()) / 2, passes, 0)
  np.testing.assert_allclose(state['mean'], expected, rtol=1e-6)
  if mode:
    weights = WEIGHTS.astype(np.float64) * (-1 if mode == 'train' else 1)
    _, by_logits = reference.cross_entropy(IMAGES @ weights, LABELS)
    step = 0.05 * np.sign(by_logits @ weights.T)
    np.testing.assert_allclose(adversarial - IMAGES, step, atol=1e-6)


def test_an_objective_by_name_is_made_by_a_factory():
  name = f'{networks.__name__}:apply'  # Its parameters are no fields.
  with pytest.raises(
    ValueError, match=r'missing a required argument.*a factory'
  ):
    create_objective({'name': name})


def test_what_is_declared_is_of_each_factory():
  """Also where they return one function, or what takes no attributes."""

  @dataclasses.dataclass
  class Frozen:
    __slots__ = ()

    def __call__(self, *args):
      return args

  made = Frozen()
  first = objectives.reads('a')(lambda: made)()
  second = objectives.reads(b=2)(lambda: made)()
  assert set(first.hparams) == {'a'} and second.hparams == {'b': 2.0}
  assert first(1, 2) == second(1, 2) == (1, 2)
  assert hash(first) != hash(second)
