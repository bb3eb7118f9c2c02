"""The language of sweeps: what it means, and what is refused."""

import itertools
import json
import pathlib
import re
import runpy

import jax
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from advjax import data
from advjax.config import config_to_json, default_config
from advjax.evaluation.models import parse_attacks
from advjax.sweeps import (
  READ_UNDER,
  collect_sweep,
  create_trials,
  parse_sweep,
  shard_trials,
  trial_names,
)
from advjax.training.optimizers import (
  DECAYS,
  OPTIMIZERS,
  SCHEDULES,
  create_decay,
  create_optimizer,
  create_schedule,
)
from advjax.training.setup import create_run

CONFIGS = pathlib.Path(__file__).parents[1] / 'configs'


def base(**fields):
  config = default_config()
  for field, value in fields.items():
    config[field] = value
  return config.lock()


CONFIG = base()

FLOATS = st.lists(
  st.floats(0, 10, allow_nan=False), min_size=1, max_size=4, unique=True
)

# Fields of each type, and lists of different values for them.
VALUES = {
  'hparams.epsilon': FLOATS,
  'hparams.multiplier': FLOATS,
  'seed': st.lists(st.integers(-3, 99), min_size=1, max_size=4, unique=True),
  'optimizer.nesterov': st.sampled_from([[True], [False], [False, True]]),
  'model.name': st.lists(
    st.text('abcXYZ_-./:', min_size=1), min_size=1, max_size=3, unique=True
  ),
}


def written(value):
  return repr(value).lower() if isinstance(value, bool) else str(value)


def part_of(field, values):
  return f'{field}={",".join(map(written, values))}'


@st.composite
def columns(draw):
  fields = draw(
    st.lists(st.sampled_from(sorted(VALUES)), min_size=1, unique=True)
  )
  return {field: draw(VALUES[field]) for field in fields}


@given(columns())
def test_parts_are_multiplied_the_last_one_fastest(columns):
  text = ';'.join(part_of(*item) for item in columns.items())
  expected = [
    dict(zip(columns, values, strict=True))
    for values in itertools.product(*columns.values())
  ]
  found = parse_sweep(text, CONFIG)
  assert found == expected
  for row in found:
    assert list(row) == list(columns)
    for field, value in row.items():
      assert type(value) is type(columns[field][0])


@given(columns(), st.integers(1, 3))
def test_zip_and_list_are_the_same_rows(columns, length):
  columns = {
    field: values[:length]
    for field, values in columns.items()
    if len(values) >= length
  }
  if not columns:
    return
  rows = [
    dict(zip(columns, values, strict=True))
    for values in zip(*columns.values(), strict=True)
  ]
  zipped = ';'.join(part_of(*item) for item in columns.items())
  listed = ';'.join(
    ','.join(part_of(field, [value]) for field, value in row.items())
    for row in rows
  )
  assert parse_sweep(f'zip({zipped})', CONFIG) == rows
  assert parse_sweep(f'list({listed})', CONFIG) == rows


@pytest.mark.parametrize('quote', ['"', "'"])
def test_values_in_quotes(quote):
  paths = ['runs/trials/epsilon=0.1,seed=0', 'a;b (c', '', 'e']
  one, other, none, plain = (f'{quote}{path}{quote}' for path in paths)
  found = parse_sweep(f'init_from={one},{other}, {none} ,{plain},d', CONFIG)
  assert [row['init_from'] for row in found] == [*paths, 'd']
  rows = [
    {'init_from': path, 'seed': seed} for seed, path in enumerate(paths[:2])
  ]
  for text in (
    f'zip(init_from={one},{other};seed=0,1)',
    f'list(init_from={one},seed=0;seed={quote}1{quote} , init_from = {other} )',
  ):
    assert parse_sweep(text, CONFIG) == rows
  text = f'init_from={one},{other};seed={quote}0{quote}'
  assert len(parse_sweep(text, CONFIG)) == 2


@pytest.mark.parametrize(
  ('text', 'message'),
  [
    ('', "sweep = ''; allowed: FIELD=VALUE"),
    ('seed=0;;seed=1', "part 2 of the sweep, '': ''; allowed: FIELD=V"),
    ('seed', "part 1 of the sweep, 'seed': 'seed'; allowed: FIELD=VALUE"),
    ('seed=', "part 1 of the sweep, 'seed=': seed = ''; allowed"),
    ('seed=0,,1', r"'seed=0,,1': seed = ''; allowed: an integer"),
    ('batch_size=8;seed=0.5', r"part 2 .* 'seed=0.5': seed = '0.5'; allowed"),
    ('optimizer.nesterov=1', "optimizer.nesterov = '1'; allowed: true or"),
    (
      'schedule.boundaries=(0.5,0.7)',
      r'boundaries = .*; allowed: a tuple .* in sweep\(add\)',
    ),
    # Fields.
    ('hparams.epsilom=1', "'hparams.epsilom'; .*did you mean 'hparams.eps"),
    ('epsilon=1', "allowed: 'hparams.epsilon', 'monitor.epsilon'"),
    ('optimizer=adam', "field = 'optimizer'; allowed: 'optimizer.b1', 'opt"),
    ('dataset.name=a', "'dataset.name'; allowed: .* other than dataset, "),
    (
      'evaluation.norm=l2',
      "'evaluation.norm'; allowed: .* the same attacks",
    ),
    ('seeds=0,1', "'seeds'; allowed: .* since a sweep over 'seed'"),
    # Forms.
    ('zip(seed=0,1;batch_size=8)', 'seed has 2, batch_size has 1 values; all'),
    ('zip(seed=0;seed=1)', 'zip sets seed twice; allowed: each field once'),
    ('list(seed=0,seed=1)', 'a trial sets seed twice'),
    ('lst(seed=0)', "form of a sweep = 'lst'.*did you mean 'list'"),
    ('zip(seed=0', r"part 1 of the sweep, 'zip\(seed=0': .* is not closed"),
    ('batch_size=8;seed=0)', 'part 2 .* a parenthesis is not opened'),
    ("seed=0;init_from='a,b", 'part 2 .* a quote is not closed'),
    ("init_from='a'b,c", "init_from = 'a'b; allowed: quotes around the whole"),
    # Twice the same.
    ('seed=0;batch_size=8;seed=1', "part 3 .* 'seed=1': the sweep sets seed t"),
  ],
)
def test_what_is_wrong_is_named(text, message):
  with pytest.raises(ValueError, match=message):
    parse_sweep(text, CONFIG)


ANY = {
  'hparams.epsilon': st.floats(0, 1e6),
  'seed': st.integers(0, 10**12),
  'init_from': st.text(max_size=300),
  'optimizer.nesterov': st.booleans(),
  'model.conv_filters': st.lists(st.integers(0, 99)).map(tuple),
}

ROWS = st.lists(st.fixed_dictionaries(ANY), min_size=1, max_size=6)


@given(ROWS)
def test_names_are_unique_and_safe(rows):
  different = {repr(row): row for row in rows}
  names = trial_names(list(different.values()))
  assert len({name.lower() for name in names}) == len(different)
  for name in names:
    assert re.fullmatch(r'[A-Za-z0-9_.+,=-]{1,220}', name)


def test_values_that_look_alike_are_written_in_full():
  values = [0.1, 0.10000000001, 0.2]
  names = trial_names([{'hparams.epsilon': value} for value in values])
  assert names == ['epsilon=0.1', 'epsilon=0.10000000001', 'epsilon=0.2']
  one, other, last = trial_names(
    [{'init_from': text} for text in ('runs/a', 'runs:A', '../b')]
  )
  assert re.fullmatch('init_from=runs-a-[0-9a-f]{8}', one)
  assert re.fullmatch('init_from=runs-A-[0-9a-f]{8}', other)
  assert last == 'init_from=..-b'


def digits(variant='fgsm_at'):
  get_config = runpy.run_path(str(CONFIGS / 'digits.py'))['get_config']
  # As the flags leave it: no new fields.
  return get_config(variant).lock()


def trials_of(text, config):
  return create_trials(config, parse_sweep(text, config))


def test_a_member_is_the_config_with_its_values():
  config = digits()
  before = config_to_json(config)
  trials = trials_of('hparams.epsilon=0.05,8/255;batch_size=8;seed=0,7', config)
  assert [trial.name for trial in trials] == [
    'batch_size=8,epsilon=0.05,seed=0',
    'batch_size=8,epsilon=0.05,seed=7',
    'batch_size=8,epsilon=0.0313725,seed=0',
    'batch_size=8,epsilon=0.0313725,seed=7',
  ]
  for trial in trials:
    alone = digits()
    for field, value in trial.fields.items():
      with alone.unlocked():
        alone.update_from_flattened_dict({field: value})
    # All are evaluated at the epsilon of the config.
    alone.evaluation.epsilon = alone.monitor.epsilon = 0.1
    # What `train` with the same fields as flags writes to config.json.
    assert config_to_json(trial.config) == config_to_json(alone)
    assert list(trial.fields) == ['hparams.epsilon', 'batch_size', 'seed']
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
  following = trials_of('hparams.epsilon=0.05,0.2', config)
  assert [m.config.hparams.step_size for m in following] == [0.0625, 0.25]
  values = {'hparams.epsilon': 0.2, 'hparams.step_size': 0.1}
  (trial,) = create_trials(config, [{f: values[f] for f in order}])
  assert trial.config.hparams.epsilon == 0.2
  assert trial.config.hparams.step_size == 0.1
  # Nor has any of that touched the config, or its references.
  assert config.hparams.step_size == 0.125
  config.hparams.epsilon = 0.4
  assert config.hparams.step_size == 0.5
  assert following[0].config.hparams.epsilon == 0.05


def test_values_from_a_file():
  (trial,) = create_trials(
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
  found = list(trial.fields.values())
  assert found == [8 / 255, 0.5, 3, 0.0, 'piecewise', (0.25, 0.5)]
  assert [type(v) for v in found] == [float, float, int, float, str, tuple]
  assert trial.config.schedule.boundaries == (0.25, 0.5)
  json.dumps(trial.fields)


@pytest.mark.parametrize(
  'shard', ['2/2', '0/0', '-1/2', '1', '', '1/2/3', 'a/b', '0.5/2', '1/']
)
def test_wrong_shards(shard):
  with pytest.raises(ValueError, match='allowed: i/n with 0 <= i < n') as error:
    shard_trials([], shard)
  assert f'shard = {shard!r}' in str(error.value)


def test_a_sweep_may_ask_for_the_variant():
  def plain(add):
    add({'seed': 0})

  def asking(add, variant=None):
    add({'seed': {'smoke': 1, None: 2}[variant]})

  assert collect_sweep(plain) == collect_sweep(plain, 'smoke') == [{'seed': 0}]
  assert collect_sweep(asking) == [{'seed': 2}]
  assert collect_sweep(asking, 'smoke') == [{'seed': 1}]


@given(st.integers(1, 5), st.integers(1, 5), st.integers(0, 40))
def test_shards_and_their_processes_hold_every_trial_once(
  count, num_processes, num_trials
):
  shares = [
    shard_trials(list(range(num_trials)), f'{index}/{count}', p, num_processes)
    for index in range(count)
    for p in range(num_processes)
  ]
  assert sorted(itertools.chain(*shares)) == list(range(num_trials))
  sizes = [len(share) for share in shares]
  assert max(sizes) - min(sizes) <= 1


@pytest.mark.parametrize(
  ('text', 'message'),
  [
    # What the objective does not read, or lacks.
    (
      'hparams.beta=1,6',
      "^trial 'beta=1' of the sweep: hparams.beta = 1.0 is not read",
    ),
    (
      'objective.name=fgsm_at,noisy_fgsm_at',
      "^trial 'name=noisy_fgsm_at' of the sweep: hparams.epsilon = 0.1 is not",
    ),
    (
      'objective.norm=l2,l3',
      "^trial 'norm=l3' of the sweep: norm = 'l3'",
    ),
    # What is out of range.
    ('hparams.epsilon=-0.1', 'hparams.epsilon = -0.1; allowed: a number >= 0'),
    # What is idle.
    (
      'optimizer.momentum=0.5',
      'momentum = 0.5 has no effect with optimizer.name = '
      "'adam'; allowed: optimizer.name = 'sgd'",
    ),
    (
      'multiplier_decay.decay_rate=0.5',
      "'fgsm_at'; allowed: objective.na",
    ),
    ('report_checkpoint=last;monitor.epsilon=0.2', 'monitor.epsilon = 0.2 has'),
    # In float64 they differ.
    (
      'hparams.epsilon=0.1,0.1000000001',
      r'1 \(epsilon=0.1\) and 2 \(epsilon=0.1000000001\) of the sweep are equ',
    ),
  ],
)
def test_wrong_members_are_named(text, message):
  with pytest.raises(ValueError, match=message):
    trials_of(text, digits())


@pytest.mark.parametrize(
  ('rows', 'message'),
  [
    ([], r'rows = \[\]; allowed: one or more'),
    ([{}], r'rows = \[{}\]; allowed'),
    ([{'seed': 0}, {}], 'trial 2 of the sweep sets nothing; allowed: seed, as'),
    (
      [{'seed': 0}, {'seed': 0.5}],
      'trial 2 of the sweep: seed = 0.5; allowed',
    ),
    ([{'seed': '1'}], "seed = '1'; allowed: an integer"),
    ([{'ema_decay': None}], 'ema_decay = None; allowed: a finite number'),
    ([{'hparams.epsilon': float('inf')}], 'inf; allowed: .* such as 0.03'),
    ([{'model.name': 3}], 'model.name = 3; allowed: a string'),
    ([{'optimizer.nesterov': 1}], 'optimizer.nesterov = 1; allowed: true or'),
    ([{'schedule.boundaries': 0.5}], 'boundaries = 0.5; allowed: a tuple'),
    ([{'objective': {'name': 'trades'}}], "'objective'; allowed: 'objective."),
    (
      [{'seed': 1}, {'seed': 0}, {'seed': 1}],
      r'trials 1 \(seed=1\) and 3 \(seed=1\) of the sweep are equivalent',
    ),
  ],
)
def test_rows_of_a_file_are_checked(rows, message):
  with pytest.raises(ValueError, match=message):
    create_trials(digits(), rows)


def test_only_one_network_is_swept():
  config = default_config()
  config.seeds = (0, 1)
  with pytest.raises(ValueError, match=r"seeds = \(0, 1\); .*over 'seed'"):
    create_trials(config, [{'batch_size': 8}])
  config.members = ('a',)
  with pytest.raises(ValueError, match="'compare' takes several"):
    create_trials(config, [{'batch_size': 8}])


# Another value for each field, far from the default.
ADAM = {'b1': 0.1, 'b2': 0.1, 'eps': 1.0, 'weight_decay': 0.5}
DECAY = {'decay_steps': 10, 'decay_rate': 0.1, 'min_value': 0.95}
OTHERS = {
  'optimizer': ADAM | {'momentum': 0.1, 'nesterov': True},
  'schedule': {'warmup': 0.5, 'boundaries': (0.1,), 'factor': 0.9},
  'multiplier_decay': DECAY,
}


def optimizer(config):
  tx = create_optimizer(config)
  params = np.ones(2, np.float32)
  first, state = tx.update(np.float32([1, -2]), tx.init(params), params)
  second, _ = tx.update(np.float32([0.5, 3]), state, params + first)
  return np.concatenate([first, second])


def schedule(config):
  shape = create_schedule(config, 100)
  return np.array([float(shape(step)) for step in range(0, 100, 9)])


def decay(config):
  decayed = create_decay(config)
  return np.array([float(decayed(1.0, step)) for step in (0, 5, 5000)])


@pytest.mark.parametrize(
  ('part', 'run', 'names'),
  [
    ('optimizer', optimizer, OPTIMIZERS),
    ('schedule', schedule, SCHEDULES),
    ('multiplier_decay', decay, DECAYS),
  ],
)
def test_a_field_is_idle_where_the_table_says_so(part, run, names):
  for name in names:
    section = default_config()[part]
    section.name = name
    before = run(section)
    assert set(OTHERS[part]) == set(section) - {'name'}
    for field, value in OTHERS[part].items():
      changed = section.copy_and_resolve_references()
      changed[field] = value
      moved = not np.allclose(run(changed), before, rtol=1e-3, atol=1e-6)
      selector, read = READ_UNDER.get(
        f'{part}.{field}', (f'{part}.name', names)
      )
      assert selector == f'{part}.name'
      assert moved == (name in read), f'{field} under {name}'


FOLDER = pathlib.Path(__file__).parents[1] / 'configs' / 'sweeps'

VARIANTS = {
  'nsl': ('infinity', 'l2', 'l1', 'l2-smoke'),
  'fgsm_training': (),
}

FILES = sorted(FOLDER.glob('*.py'))

each_file = pytest.mark.parametrize('path', FILES, ids=lambda path: path.stem)


def load(path, variant=None):
  """The config of a file, and the trials of its sweep."""
  module = runpy.run_path(str(path))
  config = module['get_config'](*[variant] if variant else []).lock()
  return config, create_trials(config, collect_sweep(module['sweep'], variant))


@each_file
def test_the_docstring_names_command_variants_and_cost(path):
  text = runpy.run_path(str(path))['__doc__']
  assert re.search(
    rf'\./launch.sh sweep --config=configs/sweeps/{path.name}[ \n\\]', text
  )
  assert '--workdir=runs/sweep_' in text
  assert 'the cost is about' in ' '.join(text.split())
  for variant in ('smoke', *VARIANTS[path.stem]):
    assert f'`{variant}`' in text


@each_file
def test_every_variant_is_a_whole_sweep(path):
  for variant in (None, 'smoke', *VARIANTS[path.stem]):
    config, trials = load(path, variant)
    text = ' '.join(runpy.run_path(str(path))['__doc__'].split())
    smoke = variant is not None and variant.endswith('smoke')
    assert config.num_epochs == (1 if smoke else 20)
    if smoke:
      assert len(trials) == 4
      numbers = list(zip(*(m.fields.values() for m in trials), strict=True))
      assert [len(set(column)) for column in numbers] == [2, 2, 1]
    else:
      assert f'All {len(trials)} trials' in text
    evaluation = config.evaluation
    parse_attacks(evaluation.attacks, norm=evaluation.norm)
    assert evaluation.epsilon in evaluation.epsilons
    dataset = data.load(config.dataset)
    trainings = [
      create_run(trial.config, dataset, jax.devices()[:1]) for trial in trials
    ]
    # One program for all of them.
    assert len({id(training.train_steps) for training in trainings}) == 1
    # The config alone is one of the trials.
    alone = create_run(config, dataset, jax.devices()[:1])
    assert alone.hparams in [training.hparams for training in trainings]


def test_fgsm_steps_follow_epsilon_and_ratio():
  config, trials = load(FOLDER / 'fgsm_training.py')
  assert config.hparams.step_size == pytest.approx(0.125)
  assert {m.fields['step_ratio'] for m in trials} == {0.5, 1.0, 1.25, 2.0}
  for trial in trials:
    hparams = trial.config.hparams
    assert hparams.epsilon == trial.fields['hparams.epsilon']
    step_size = hparams.epsilon * trial.fields['step_ratio']
    assert hparams.step_size == pytest.approx(step_size)
    assert trial.config.report_checkpoint == 'last'
