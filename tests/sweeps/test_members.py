"""Members: configs that follow what they set, and what is refused."""

import json
import pathlib
import runpy

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from advjax.config import config_to_json, default_config
from advjax.sweeps import (
  collect_sweep,
  create_members,
  cut_shard,
  parse_sweep,
  shard_members,
)

CONFIGS = pathlib.Path(__file__).parents[2] / 'configs'


def digits(variant='fgsm_at'):
  get_config = runpy.run_path(str(CONFIGS / 'digits.py'))['get_config']
  # As the flags leave it: no new fields.
  return get_config(variant).lock()


def members_of(text, config):
  return create_members(config, parse_sweep(text, config))


# --------------------------------------------------------------------- configs


def test_a_member_is_the_config_with_its_values():
  config = digits()
  before = config_to_json(config)
  members = members_of(
    'hparams.epsilon=0.05,8/255;batch_size=8;seed=0,7', config
  )
  assert [member.name for member in members] == [
    'batch_size=8,epsilon=0.05,seed=0',
    'batch_size=8,epsilon=0.05,seed=7',
    'batch_size=8,epsilon=0.0313725,seed=0',
    'batch_size=8,epsilon=0.0313725,seed=7',
  ]
  for member in members:
    alone = digits()
    for field, value in member.fields.items():
      with alone.unlocked():
        alone.update_from_flattened_dict({field: value})
    # What `train` with the same fields as flags writes to config.json.
    assert config_to_json(member.config) == config_to_json(alone)
    assert list(member.fields) == ['hparams.epsilon', 'batch_size', 'seed']
  assert config_to_json(config) == before


@pytest.mark.parametrize(
  'order',
  [
    ('hparams.epsilon', 'hparams.step_size'),
    ('hparams.step_size', 'hparams.epsilon'),
  ],
)
def test_derived_fields_follow_unless_they_are_swept(order):
  config = digits()
  following = members_of('hparams.epsilon=0.05,0.2', config)
  assert [m.config.hparams.step_size for m in following] == [0.0625, 0.25]
  values = {'hparams.epsilon': 0.2, 'hparams.step_size': 0.1}
  (member,) = create_members(config, [{f: values[f] for f in order}])
  assert member.config.hparams.epsilon == 0.2
  assert member.config.hparams.step_size == 0.1
  # Nor has any of that touched the config, or its references.
  assert config.hparams.step_size == 0.125
  config.hparams.epsilon = 0.4
  assert config.hparams.step_size == 0.5
  assert following[0].config.hparams.epsilon == 0.05


def test_a_number_that_the_config_does_not_set():
  config = digits('nsl')
  with config.unlocked():
    del config.hparams.epsilon
  (member,) = members_of('hparams.epsilon=0.3', config)
  assert member.config.hparams.epsilon == 0.3
  assert 'epsilon' not in config.hparams
  # One that is written as an integer is a number all the same.
  with config.unlocked():
    del config.hparams.multiplier
    config.hparams.multiplier = 1
  (member,) = members_of('hparams.multiplier=0.5', config)
  assert member.config.hparams.multiplier == 0.5


def test_values_from_a_file():
  (member,) = create_members(
    digits(),
    [
      {
        'hparams.epsilon': '8/255',
        'hparams.learning_rate': np.float32(0.5),
        'seed': np.int64(3),
        'ema_decay': 0,
        'schedule.name': 'piecewise',
        'schedule.boundaries': [0.25, 0.5],
      }
    ],
  )
  found = list(member.fields.values())
  assert found == [8 / 255, 0.5, 3, 0.0, 'piecewise', (0.25, 0.5)]
  assert [type(v) for v in found] == [float, float, int, float, str, tuple]
  assert member.config.schedule.boundaries == (0.25, 0.5)
  json.dumps(member.fields)


def test_fields_are_in_the_order_of_the_first_member():
  members = create_members(
    digits(), [{'seed': 0, 'batch_size': 8}, {'batch_size': 4, 'seed': 1}]
  )
  assert members[1].name == 'batch_size=4,seed=1'
  assert list(members[1].fields) == ['seed', 'batch_size']


@given(st.integers(1, 3), st.integers(1, 3), st.integers(1, 6))
def test_shards_hold_every_member_once(num_seeds, num_sizes, count):
  sizes = ','.join(str(2**size) for size in range(num_sizes))
  seeds = ','.join(map(str, range(num_seeds)))
  members = members_of(f'batch_size={sizes};seed={seeds}', default_config())
  shards = [shard_members(members, f'{i}/{count}') for i in range(count)]
  sizes = [len(shard) for shard in shards]
  assert max(sizes) - min(sizes) <= 1
  assert sum(sizes) == len(members)
  # In turns, so that all shards are alike in what they hold.
  for index, member in enumerate(members):
    assert shards[index % count][index // count] is member


@pytest.mark.parametrize(
  'shard', ['2/2', '0/0', '-1/2', '1', '', '1/2/3', 'a/b', '0.5/2', '1/']
)
def test_wrong_shards(shard):
  with pytest.raises(ValueError, match='allowed: i/n with 0 <= i < n') as error:
    shard_members([], shard)
  assert f'shard = {shard!r}' in str(error.value)


# ------------------------------------------------------- references in a config


def derived(**references):
  """A config with a field of its own, and fields that follow it."""
  config = default_config()
  config.ratio = 1.0
  for field, section in references.items():
    config[section][field] = config.get_ref('ratio') * 0.1
  return config


def test_members_that_differ_in_nothing_that_is_read():
  config = derived(weight_decay='optimizer')
  _, second = members_of('ratio=1,2', config)
  assert second.config.optimizer.weight_decay == 0.2
  # One that is swept itself no longer follows.
  with pytest.raises(
    ValueError, match=r"ratio=1' and '.*ratio=2' .*trained ali"
  ):
    members_of('ratio=1,2;optimizer.weight_decay=0.1', config)


def test_what_members_share_does_not_follow():
  config = derived(epsilon='evaluation')
  message = r"^ratio=2 \(member 'ratio=2'\): evaluation.epsilon = 0.2 foll"
  with pytest.raises(ValueError, match=message):
    members_of('ratio=1,2', config)


def test_two_names_of_one_field():
  config = default_config()
  config.monitor.epsilon = config.evaluation.epsilon
  config.hparams.learning_rate = config.get_ref('ema_decay')
  with pytest.raises(
    ValueError, match=r'ema_decay = 0.1 became 0.2: .* is one'
  ):
    members_of('ema_decay=0.1;hparams.learning_rate=0.2', config)


def test_what_cannot_be_derived():
  config = default_config()
  config.ratio = 1.0
  config.one = 1.0
  config.ema_decay = config.get_ref('one') / config.get_ref('ratio')
  with pytest.raises(
    ValueError, match=r"^ratio=0 \(member 'ratio=0'\): .*division by"
  ):
    members_of('ratio=0', config)


# ----------------------------------------------------------------- sweep(add)


def test_a_sweep_may_ask_for_the_variant():
  def plain(add):
    add({'seed': 0})

  def asking(add, variant=None):
    add({'seed': {'smoke': 1, None: 2}[variant]})

  assert collect_sweep(plain) == collect_sweep(plain, 'smoke') == [{'seed': 0}]
  assert collect_sweep(asking) == [{'seed': 2}]
  assert collect_sweep(asking, 'smoke') == [{'seed': 1}]


def test_what_is_added_is_kept_as_it_was():
  def sweep(add):
    fields = {'seed': 0}
    add(fields)
    fields['seed'] = 1
    add(fields)

  assert collect_sweep(sweep) == [{'seed': 0}, {'seed': 1}]


def test_wrong_sweeps():
  with pytest.raises(ValueError, match=r'sweep\(add\) added no member'):
    collect_sweep(lambda add: None)

  def sweep(add):
    add({'seed': 0})
    add(3)

  with pytest.raises(ValueError, match=r'add\(3\) is call 2; allowed: a mapp'):
    collect_sweep(sweep)


@given(st.integers(1, 5), st.integers(1, 5), st.integers(0, 40))
def test_processes_take_shares_of_a_shard(count, num_processes, num_members):
  members = list(range(num_members))
  for index in range(count):
    found = [
      shard_members(members, cut_shard(f'{index}/{count}', p, num_processes))
      for p in range(num_processes)
    ]
    share = shard_members(members, f'{index}/{count}')
    assert found == [share[p::num_processes] for p in range(num_processes)]
