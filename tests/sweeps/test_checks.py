"""Which fields are idle: the table says what the parts themselves do."""

import jax.numpy as jnp
import numpy as np
import optax
import pytest
from advjax.sweeps.checks import READ_UNDER
from advjax.training.decay import _NAMES as DECAYS

from advjax.config import default_config
from advjax.training.optimizers import (
  OPTIMIZERS,
  SCHEDULES,
  create_decay,
  create_optimizer,
  create_schedule,
)

# Another value for each field, far from the default.
OTHERS = {
  'optimizer': {
    'b1': 0.1,
    'b2': 0.1,
    'eps': 1.0,
    'momentum': 0.1,
    'nesterov': True,
    'weight_decay': 0.5,
  },
  'schedule': {'warmup': 0.5, 'boundaries': (0.1,), 'factor': 0.9},
  'multiplier_decay': {
    'decay_steps': 10,
    'decay_rate': 0.1,
    'min_value': 0.95,
  },
}


def optimizer(config):
  tx = create_optimizer(config)
  params = jnp.ones(2)
  state, updates = tx.init(params), []
  for gradient in ([1.0, -2.0], [0.5, 3.0]):
    update, state = tx.update(jnp.asarray(gradient), state, params)
    params = optax.apply_updates(params, update)
    updates.append(np.asarray(update))
  return np.concatenate(updates)


def schedule(config):
  shape = create_schedule(config, 100)
  return np.array([float(shape(step)) for step in range(0, 100, 9)])


def decay(config):
  decayed = create_decay(config)
  return np.array([float(decayed(1.0, step)) for step in (0, 5, 5000)])


PARTS = {
  'optimizer': (optimizer, OPTIMIZERS),
  'schedule': (schedule, SCHEDULES),
  'multiplier_decay': (decay, DECAYS),
}


@pytest.mark.parametrize(
  ('part', 'name'),
  [(part, name) for part, (_, names) in PARTS.items() for name in names],
)
def test_a_field_is_idle_where_the_table_says_so(part, name):
  run, _ = PARTS[part]
  section = default_config()[part]
  section.name = name
  before = run(section)
  assert set(OTHERS[part]) == set(section) - {'name'}
  for field, value in OTHERS[part].items():
    changed = section.copy_and_resolve_references()
    changed[field] = value
    moved = not np.allclose(run(changed), before, rtol=1e-3, atol=1e-6)
    selector, names = READ_UNDER.get(
      f'{part}.{field}', (f'{part}.name', PARTS[part][1])
    )
    assert selector == f'{part}.name'
    assert moved == (name in names), f'{field} under {name}'


def test_the_table_speaks_of_fields_that_there_are():
  config = default_config()
  for field, (selector, _) in READ_UNDER.items():
    for name in (field, selector):
      section, _, last = name.rpartition('.')
      assert last in (config[section] if section else config)
  monitored = {f'monitor.{name}' for name in config.monitor}
  assert monitored <= set(READ_UNDER)
