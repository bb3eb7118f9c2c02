"""Configs: numbers as fractions, members, ranges, suggestions."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st
from ml_collections import config_dict

from advjax.config import (
  check_config,
  check_range,
  choose,
  default_config,
  member_config,
)
from advjax.fractions import expand_fractions, parse_number


@pytest.mark.parametrize(
  ('text', 'value'),
  [
    ('8/255', 8 / 255),
    ('0.031', 0.031),
    ('1e-3', 1e-3),
    ('-8/255', -8 / 255),
    (' 1 / 4 ', 0.25),
    ('8/1e2', 0.08),
    ('1e2/8', 12.5),
    (3, 3.0),
    (0.5, 0.5),
  ],
)
def test_parse_number(text, value):
  assert parse_number(text) == value


@pytest.mark.parametrize(
  'text', ['', 'x', '8/', '/255', '1/0', '1/2/3', 'nan', 'inf', '8//255', '1,2']
)
def test_what_is_no_number_is_named(text):
  with pytest.raises(ValueError, match=r'number = .*; allowed') as error:
    parse_number(text)
  assert repr(text) in str(error.value)


@given(st.integers(0, 10**6), st.integers(1, 10**6))
def test_fractions_are_exact(numerator, denominator):
  text = f'{numerator}/{denominator}'
  assert parse_number(text) == numerator / denominator
  (expanded,) = expand_fractions([f'--config.x={text}'])
  assert float(expanded.partition('=')[2]) == numerator / denominator


@pytest.mark.parametrize(
  ('arguments', 'expected'),
  [
    (
      ['--config.hparams.epsilon=8/255'],
      [f'--config.hparams.epsilon={8 / 255}'],
    ),
    (['--config.x', '1/8'], ['--config.x', '0.125']),
    (['-config.x=1/8'], ['-config.x=0.125']),
    (['--config.x=-1/8'], ['--config.x=-0.125']),
    (['--config.x=8/1e2'], ['--config.x=0.08']),
    (['--config.e=(1/8, 1/4,0.5)'], ['--config.e=(0.125, 0.25,0.5)']),
    (['--config.e=1/8,2'], ['--config.e=0.125,2']),
    # What is no number is left alone.
    (['--workdir=1/8'], ['--workdir=1/8']),
    (['--workdir', '1/8'], ['--workdir', '1/8']),
    (['--config.init_from=runs/8/255'], ['--config.init_from=runs/8/255']),
    (
      ['--config.dataset.path=/a/1/2.npz'],
      ['--config.dataset.path=/a/1/2.npz'],
    ),
    (['--config=configs/1/2.py'], ['--config=configs/1/2.py']),
    (['--config.x', '--config.y=1/8'], ['--config.x', '--config.y=0.125']),
    (['--config.x'], ['--config.x']),
    ([], []),
  ],
)
def test_expand_fractions(arguments, expected):
  assert expand_fractions(arguments) == expected


def test_a_fraction_by_zero_is_named():
  with pytest.raises(ValueError, match=r"--config.x = '8/0'; allowed"):
    expand_fractions(['--config.x=8/0'])


@pytest.mark.parametrize(
  ('name', 'hint'),
  [('traeds', "did you mean 'trades'"), ('xyz', None), (None, None)],
)
def test_choose_suggests(name, hint):
  with pytest.raises(ValueError, match=r'^objective = ') as error:
    choose('objective', name, ['trades', 'pgd_at'])
  message = str(error.value)
  assert repr(name) in message
  assert "allowed: 'pgd_at', 'trades'" in message
  assert hint in message if hint else 'did you mean' not in message


@pytest.mark.parametrize(
  ('value', 'integer', 'fine'),
  [
    (1, True, True),
    (1.0, True, False),
    (True, True, False),
    (0, True, False),
    (1.5, False, True),
    (math.nan, False, False),
    (math.inf, False, False),
    ('1', False, False),
    (None, False, False),
  ],
)
def test_check_range(value, integer, fine):
  if fine:
    check_range('x', value, 1, integer=integer)
    return
  kind = 'an integer' if integer else 'a number'
  with pytest.raises(ValueError, match=f'x = .*; allowed: {kind} >= 1'):
    check_range('x', value, 1, integer=integer)


@pytest.mark.parametrize(
  ('field', 'value', 'message'),
  [
    ('seed', -1, r'seed = -1; allowed: an integer from 0 to 4294967295'),
    ('batch_size', 0, r'batch_size = 0; allowed: an integer >= 1'),
    ('ema_decay', 1.5, r'ema_decay = 1.5; allowed: a number from 0.0 to 1.0'),
    ('monitor.num_images', 0, r'monitor.num_images = 0'),
    ('monitor.epsilon', -0.1, r'monitor.epsilon = -0.1'),
    ('evaluation.epsilons', (0.1, -0.2), r'evaluation.epsilons\[1\] = -0.2'),
    ('evaluation.epsilons', (), r'evaluation.epsilons = \(\); allowed'),
    ('evaluation.top_k', 0, r'evaluation.top_k = 0; allowed: an integer >= 1'),
    ('report_checkpoint', 'bset', r"'bset'.*did you mean 'best'"),
    ('report_checkpoint', 'best', r"best.*; allowed: 'last', or num_val"),
  ],
)
def test_check_config(field, value, message):
  config = default_config()
  section, _, name = field.rpartition('.')
  (config[section] if section else config)[name] = value
  with pytest.raises(ValueError, match=message):
    check_config(config)


# --------------------------------------------------------------------- members


def comparison():
  config = default_config()
  config.batch_size = 7
  config.members = ('plain', 'robust')
  config.plain = {'objective': {'name': 'standard'}}
  config.robust = {
    'seed': config.get_ref('seed') + 1,
    'objective': {'name': 'pgd_at', 'bounds': config_dict.placeholder(tuple)},
    'hparams': {'epsilon': 0.1, 'step_size': 0.025},
    'optimizer': {'eps': 1e-7},
  }
  return config


def test_a_member_replaces_what_is_named_and_merges_the_rest():
  plain = member_config(comparison(), 'plain')
  assert plain.hparams.to_dict() == {'learning_rate': 1e-3}
  assert (plain.seed, plain.batch_size) == (0, 7)
  robust = member_config(comparison(), 'robust')
  assert robust.objective.to_dict() == {'name': 'pgd_at', 'bounds': None}
  assert robust.hparams.to_dict() == {
    'learning_rate': 1e-3,
    'epsilon': 0.1,
    'step_size': 0.025,
  }
  assert (robust.optimizer.name, robust.optimizer.eps) == ('adam', 1e-7)
  assert set(robust) == set(default_config())


def test_references_follow_what_the_flags_set():
  config = comparison()
  config.seed = 5
  config.robust.hparams.epsilon = 0.2
  assert member_config(config, 'plain').seed == 5
  assert member_config(config, 'robust').seed == 6
  assert member_config(config, 'robust').hparams.epsilon == 0.2
  # The config itself is as it was.
  assert config.seed == 5


def test_a_member_that_is_not_there_is_named():
  config = comparison()
  with pytest.raises(ValueError, match=r"member = 'robots'.*'robust'"):
    member_config(config, 'robots')
  config.members = ('plain', 'robots')
  with pytest.raises(ValueError, match=r"section for member = 'robots'"):
    member_config(config, 'robots')


@pytest.mark.parametrize('field', ['objektive', 'dataset', 'evaluation'])
def test_a_member_sets_fields_of_its_own_training(field):
  config = comparison()
  config.plain = {field: {'name': 'digits'}}
  with pytest.raises(ValueError, match=f"field of plain = '{field}'"):
    member_config(config, 'plain')


@pytest.mark.parametrize(
  ('field', 'message'),
  [
    ('num_epoch', "field of the config = 'num_epoch'; .*mean 'num_epochs'"),
    ('optimizer.nme', "field of optimizer = 'nme'; .*mean 'name'"),
    ('evaluation.attack', "field of evaluation = 'attack'; .*mean 'attacks'"),
  ],
)
def test_a_field_that_nothing_reads_is_named(field, message):
  config = default_config()
  section, _, name = field.rpartition('.')
  (config[section] if section else config)[name] = 3
  with pytest.raises(ValueError, match=message):
    check_config(config)
  # Others may refer to a field of a config file's own.
  config = default_config()
  config.step_ratio = 1.25
  check_config(config)


def test_a_member_of_the_same_network_keeps_the_fields_of_all():
  config = default_config()
  config.model = {'name': 'cnn', 'conv_filters': (4,)}
  config.members = ('same', 'other')
  config.same = {'model': {'name': 'cnn', 'batch_norm': True}}
  config.other = {'model': {'name': 'mlp'}}
  assert member_config(config, 'same').model.to_dict() == {
    **{'name': 'cnn', 'conv_filters': (4,), 'batch_norm': True},
  }
  assert member_config(config, 'other').model.to_dict() == {'name': 'mlp'}
