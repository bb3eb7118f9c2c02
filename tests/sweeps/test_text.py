"""Sweeps as text: what is written is what is read, and what is refused."""

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from advjax.config import default_config
from advjax.sweeps import parse_sweep


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


def test_forms_are_multiplied_too():
  found = parse_sweep(
    'zip(hparams.epsilon=0.1,0.2;hparams.step_size=0.125,0.25);'
    'list(seed=0,num_epochs=1;num_epochs=2,seed=1); batch_size=8',
    CONFIG,
  )
  short = [tuple(row.values()) for row in found]
  assert short == [
    (0.1, 0.125, 0, 1, 8),
    (0.1, 0.125, 1, 2, 8),
    (0.2, 0.25, 0, 1, 8),
    (0.2, 0.25, 1, 2, 8),
  ]
  assert list(found[1]) == list(found[0])


def test_spaces_and_lines_do_not_matter():
  found = parse_sweep(
    ' hparams.epsilon = 0.05, 8 / 255 ;\n zip ( seed = 0 , 1 ;\n'
    ' batch_size = 8 , 16 ) ',
    CONFIG,
  )
  assert found[2:] == [
    {'hparams.epsilon': 8 / 255, 'seed': 0, 'batch_size': 8},
    {'hparams.epsilon': 8 / 255, 'seed': 1, 'batch_size': 16},
  ]


@pytest.mark.parametrize('quote', ['"', "'"])
def test_values_in_quotes(quote):
  paths = ['runs/members/epsilon=0.1,seed=0', 'a;b (c', '', 'e']
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


def test_an_apostrophe_within_a_value_is_no_quote():
  found = parse_sweep('init_from=it\'s,"it\'s, too";seed=0', CONFIG)
  assert [row['init_from'] for row in found] == ["it's", "it's, too"]


def test_numbers_of_hparams_are_floats():
  config = default_config()
  # Written without a point, and still a number that is traced.
  config.hparams.multiplier = 1
  found = parse_sweep('hparams.multiplier=2,0.5;hparams.beta=6', config)
  assert [list(row.values()) for row in found] == [[2.0, 6.0], [0.5, 6.0]]
  assert type(found[0]['hparams.multiplier']) is float


@pytest.mark.parametrize(
  ('text', 'message'),
  [
    ('', 'the sweep is empty: there is nothing to sweep'),
    (' ', 'nothing to sweep'),
    (';', "part 1 of the sweep, '': it is empty"),
    ('seed=0;', "part 2 of the sweep, '': it is empty"),
    ('seed', "part 1 of the sweep, 'seed': 'seed'; allowed: FIELD=VALUE"),
    ('seed=', "part 1 of the sweep, 'seed=': seed has an empty list"),
    ('seed=0,,1', r"'seed=0,,1': seed has an empty value; allowed: an int"),
    ('batch_size=8;seed=0.5', r"part 2 .* 'seed=0.5': seed = '0.5'; allowed"),
    ('seed=1_0', "seed = '1_0'; allowed: an integer"),
    ('seed=true', "seed = 'true'; allowed: an integer"),
    ('hparams.epsilon=8/', r"hparams.epsilon: not a number: '8/'"),
    ('hparams.epsilon=nan', "hparams.epsilon: not a number: 'nan'"),
    ('optimizer.nesterov=1', "optimizer.nesterov = '1'; allowed: true or"),
    ('schedule.boundaries=(0.5,0.7)', r'boundaries = .*tuples cannot be wri'),
    # Fields.
    ('hparams.epsilom=1', "'hparams.epsilom'; .*did you mean 'hparams.eps"),
    ('nun_epochs=1', "unknown field 'nun_epochs'.*did you mean 'num_epochs'"),
    ('epsilon=1', 'did you mean hparams.epsilon or monitor.epsilon?'),
    ('=1', "unknown field ''"),
    ('optimizer=adam', 'optimizer is a section; .*: optimizer.b1, optimizer'),
    ('dataset.name=a', 'dataset.name cannot be swept: all members are train'),
    ('dataset=a', 'dataset cannot be swept'),
    ('evaluation.norm=l2', 'evaluation.norm cannot be swept: all members meet'),
    ('seeds=0,1', "seeds cannot be swept: sweep over 'seed' instead"),
    ('log_every_steps=1', 'it changes nothing that is trained'),
    # Forms.
    ('zip(seed=0,1;batch_size=8)', 'seed has 2, batch_size has 1 values; all'),
    ('zip()', "''; allowed: FIELD=VALUE"),
    ('zip(seed=0;seed=1)', 'zip sets seed twice; allowed: each field once'),
    ('list(seed=0;batch_size=8)', 'sets batch_size, the first one sets seed'),
    ('list(seed=0,seed=1)', 'a member sets seed twice'),
    ('list(seed=0;)', "''; allowed: FIELD=VALUE"),
    ('lst(seed=0)', "unknown form 'lst'.*did you mean 'list'"),
    ('zip(seed=0', r"part 1 of the sweep, 'zip\(seed=0': .* is not closed"),
    ('batch_size=8;seed=0)', 'part 2 .* a parenthesis is not opened'),
    ("seed=0;init_from='a,b", 'part 2 .* a quote is not closed'),
    ("init_from='a'b,c", "init_from = 'a'b; allowed: quotes around the whole"),
    ("seed='',1", 'seed has an empty value'),
    # Twice the same.
    ('seed=0;batch_size=8;seed=1', "part 3 .* 'seed=1': the sweep sets seed t"),
    ('hparams.epsilon=0.1,1/10', 'hparams.epsilon = 0.1 is there twice'),
    ('seed=7,007', 'seed = 7 is there twice'),
    ('zip(seed=0,0;batch_size=8,8)', 'seed = 0, batch_size = 8 is there twic'),
    ('list(seed=0;seed=0)', 'seed = 0 is there twice'),
  ],
)
def test_what_is_wrong_is_named(text, message):
  with pytest.raises(ValueError, match=message):
    parse_sweep(text, CONFIG)


def test_a_field_without_a_value_has_no_type():
  config = default_config()
  config.objective.bounds = None
  with pytest.raises(ValueError, match=r'objective.bounds is None in the con'):
    parse_sweep('objective.bounds=1', config)


def test_only_one_network_is_swept():
  with pytest.raises(ValueError, match=r'seeds = \(0, 1\); .* over .seed.'):
    parse_sweep('batch_size=8', base(seeds=(0, 1)))
  with pytest.raises(ValueError, match=r"members, a, b: it belongs to 'comp"):
    parse_sweep('batch_size=8', base(members=('a', 'b')))
