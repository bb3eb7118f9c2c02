"""Fine-tuning stage by stage: the rule, the optimizer and the steps."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import linen as nn
from hypothesis import given
from hypothesis import strategies as st

from advjax.config import default_config
from advjax.devices import replicate
from advjax.models import Model, from_linen
from advjax.training import setup
from advjax.training.optimizers import (
  check_unfreezing,
  create_optimizer,
  num_frozen,
  staged_optimizer,
)
from advjax.training.setup import device_inputs
from advjax.training.step import TrainState
from tests.training import runs
from tests.training.runs import assert_same

STAGES = (('stem',), ('body', 'side'), ('head',))


class Staged(nn.Module):
  """Three stages, with BatchNorm in the first two."""

  stages = (('stem', 'stem_norm'), ('body', 'body_norm'), ('head',))

  @nn.compact
  def __call__(self, images, *, train=False, num_frozen=0):
    hidden = images.reshape(len(images), -1)
    for index, name in enumerate(('stem', 'body')):
      hidden = nn.Dense(6, name=name)(hidden)
      hidden = nn.BatchNorm(
        use_running_average=not train or num_frozen > index,
        momentum=0.9,
        name=f'{name}_norm',
      )(hidden)
      hidden = nn.relu(hidden)
    return nn.Dense(runs.NUM_CLASSES, name='head')(hidden)


def staged_model():
  module = Staged()
  plain = from_linen(module)

  def apply(params, model_state, images, *, train, num_frozen=0):
    if not train:
      return plain.apply(params, model_state, images, train=False)
    logits, updated = module.apply(
      {'params': params, **model_state},
      images,
      train=True,
      num_frozen=num_frozen,
      mutable=['batch_stats'],
    )
    return logits, dict(updated)

  return Model(plain.init, apply, Staged.stages)


@pytest.fixture
def with_stages(monkeypatch):
  """Makes the networks that configs name networks with stages."""
  for cached in (setup._model, setup._steps):
    cached.cache_clear()
  model = staged_model()
  monkeypatch.setattr(setup, 'create_model', lambda *args, **kwargs: model)
  yield
  for cached in (setup._model, setup._steps):
    cached.cache_clear()


def rule(patience=2, min_improvement=0.1):
  return {
    'name': 'plateau',
    'patience': patience,
    'min_improvement': min_improvement,
    'rate_factor': 0.5,
  }


def test_every_plateau_unfreezes_one_stage_until_none_is_left():
  assert [num_frozen([1.0] * n, rule(), 4) for n in range(14)] == [
    *[3, 3, 3],
    *[2, 2, 2],
    *[1, 1, 1],
    *[0, 0, 0, 0, 0],
  ]


@jax.jit
def reduced(losses, patience):
  """By which share optax lowers the rate, after each of the losses."""
  optimizer = optax.contrib.reduce_on_plateau(0.5, patience, rtol=0.25)

  def step(state, loss):
    state = optimizer.update(jnp.zeros(()), state, value=loss)[1]
    return state, state.scale

  return jax.lax.scan(step, optimizer.init(jnp.zeros(())), losses)[1]


@given(
  losses=st.lists(st.integers(1, 400), min_size=12, max_size=12),
  patience=st.integers(1, 4),
)
def test_the_first_plateau_is_that_of_optax(losses, patience):
  """The rule by which optax lowers the learning rate, up to its first time."""
  expected = np.asarray(reduced(np.array(losses, np.float32), patience)) < 1
  found = [
    num_frozen(losses[: n + 1], rule(patience, 0.25), 4) < 3
    for n in range(len(losses))
  ]
  assert found == expected.tolist()


def parameters(value):
  names = [name for stage in STAGES for name in stage]
  return {name: {'kernel': np.full(3, value, np.float32)} for name in names}


@pytest.mark.parametrize(('name', 'frozen'), [('sgd', 0), ('adamw', 2)])
def test_each_stage_has_its_rate_and_frozen_ones_rest(name, frozen):
  config = {**default_config().optimizer, 'name': name, 'weight_decay': 0.1}
  staged = staged_optimizer(config, STAGES, 0.5, frozen)
  plain = create_optimizer(config)
  params = parameters(2.0)
  state, plain_state = staged.init(params), plain.init(params)
  start = state
  for gradient in (1.0, -0.5, 3.0):
    found, state = staged.update(parameters(gradient), state, params)
    expected, plain_state = plain.update(
      parameters(gradient), plain_state, params
    )
    for index, stage in enumerate(STAGES):
      scale = 0.0 if index < frozen else 0.5 ** (2 - index)
      for key in stage:
        np.testing.assert_allclose(
          found[key]['kernel'], scale * expected[key]['kernel'], rtol=1e-6
        )
  for index in range(frozen):
    assert_same(state.inner_states[index], start.inner_states[index])


def staged_run(num_devices=1, **changes):
  return runs.run(
    num_devices=num_devices,
    num_epochs=3,
    objective={'name': 'standard'},
    hparams={'learning_rate': 0.1},
    unfreezing=runs.UNFREEZING,
    **changes,
  )


def test_frozen_stages_keep_params_statistics_and_momentum(with_stages):
  run = staged_run(2, optimizer__name='sgd', optimizer__weight_decay=0.1)
  start = run.init_state()
  before = jax.tree.map(np.array, start)
  state, _ = run.frozen_steps(1)(
    replicate(start, run.devices), *device_inputs(run), np.int32(3)
  )
  after = TrainState(*jax.tree.map(np.asarray, tuple(state)))
  for name in ('stem', 'stem_norm'):
    assert_same(after.params[name], before.params[name])
  assert_same(
    after.model_state['batch_stats']['stem_norm'],
    before.model_state['batch_stats']['stem_norm'],
  )
  assert_same(after.opt_state.inner_states[0], before.opt_state.inner_states[0])
  for name in ('body', 'body_norm', 'head'):
    changed = jax.tree.map(
      lambda new, old: (new != old).any(),
      after.params[name],
      before.params[name],
    )
    assert all(jax.tree.leaves(changed))
  statistics = after.model_state['batch_stats']['body_norm']
  assert (statistics['mean'] != 0).any()


@pytest.mark.parametrize(
  ('changes', 'message'),
  [
    ({'patience': 0}, 'unfreezing.patience = 0; allowed: an integer >= 1'),
    ({'min_improvement': 1.0}, 'unfreezing.min_improvement = 1.0; allowed'),
    ({'rate_factor': -1.0}, 'unfreezing.rate_factor = -1.0; allowed'),
  ],
)
def test_errors_name_the_field(changes, message):
  config = {**rule(), **changes}
  with pytest.raises(ValueError, match=message):
    check_unfreezing(config, STAGES, parameters(0.0))


def test_an_unknown_rule_is_named():
  with pytest.raises(ValueError, match="did you mean 'plateau'"):
    runs.run(unfreezing={**rule(), 'name': 'platau'})


def test_a_network_without_stages_cannot_be_unfrozen():
  with pytest.raises(ValueError, match='this network has no stages'):
    runs.run(unfreezing=runs.UNFREEZING)


def test_a_part_in_no_stage_is_named(with_stages, monkeypatch):
  stages = (('stem', 'stem_norm'), ('body',), ('head',))
  model = staged_model()._replace(stages=stages)
  monkeypatch.setattr(setup, 'create_model', lambda *args, **kwargs: model)
  with pytest.raises(ValueError, match='once, which body_norm is not'):
    staged_run()
