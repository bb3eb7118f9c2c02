"""Names of members: unique, short, and good as names of folders."""

import re

from advjax.sweeps.names import member_names
from hypothesis import assume, given
from hypothesis import strategies as st

ANY = {
  'hparams.epsilon': st.floats(0, 1e6),
  'seed': st.integers(0, 10**12),
  'init_from': st.text(max_size=300),
  'optimizer.nesterov': st.booleans(),
  'model.conv_filters': st.lists(st.integers(0, 99)).map(tuple),
}
ORDERS = st.permutations(sorted(ANY))
ROWS = st.lists(st.fixed_dictionaries(ANY), min_size=1, max_size=6)


@given(ROWS)
def test_names_are_unique_and_safe(rows):
  different = {repr(row): row for row in rows}
  names = member_names(list(different.values()))
  assert len({name.lower() for name in names}) == len(different)
  for name in names:
    assert re.fullmatch(r'[A-Za-z0-9_.+,=-]{1,220}', name)


@given(ROWS)
def test_a_name_does_not_depend_on_the_other_members(rows):
  short = [{'hparams.epsilon': row['hparams.epsilon']} for row in rows]
  texts = {f'{row["hparams.epsilon"]:.6g}' for row in short}
  # Unless two values look alike.
  assume(len(texts) == len({row['hparams.epsilon'] for row in short}))
  alone = [member_names([row])[0] for row in short]
  assert member_names(short) == alone


@given(ROWS, ORDERS)
def test_a_name_does_not_depend_on_the_order_of_the_fields(rows, order):
  rows = list({repr(row): row for row in rows}.values())
  turned = [{field: row[field] for field in order} for row in rows]
  assert member_names(turned) == member_names(rows)


def test_fields_are_sorted_and_the_seed_is_last():
  row = {'seed': 0, 'weight': 1.5, 'hparams.epsilon': 0.1, 'batch_size': 8}
  assert member_names([row]) == ['batch_size=8,epsilon=0.1,weight=1.5,seed=0']


def test_the_last_part_unless_two_end_alike():
  row = {'hparams.epsilon': 8 / 255, 'monitor.epsilon': 0.1, 'seed': 2}
  assert member_names([row]) == [
    'hparams.epsilon=0.0313725,monitor.epsilon=0.1,seed=2'
  ]
  assert member_names([{'hparams.epsilon': 1.0}]) == ['epsilon=1']


def test_values_that_look_alike_are_written_in_full():
  values = [0.1, 0.10000000001, 0.2]
  names = member_names([{'hparams.epsilon': value} for value in values])
  assert names == ['epsilon=0.1', 'epsilon=0.10000000001', 'epsilon=0.2']
  one, other, last = member_names(
    [{'init_from': text} for text in ('runs/a', 'runs:A', '../b')]
  )
  assert re.fullmatch('init_from=runs-a-[0-9a-f]{8}', one)
  assert re.fullmatch('init_from=runs-A-[0-9a-f]{8}', other)
  assert last == 'init_from=..-b'


def test_truth_values_and_tuples():
  rows = [{'optimizer.nesterov': True, 'schedule.boundaries': (0.5, 0.75)}]
  assert member_names(rows) == ['nesterov=true,boundaries=0.5-0.75']


def test_long_names_are_cut():
  rows = [{'init_from': 'a' * 300 + last} for last in 'bc']
  names = member_names(rows)
  assert len(set(names)) == 2
  for name, row in zip(names, rows, strict=True):
    assert re.fullmatch('init_from=a{190}-[0-9a-f]{8}', name)
    assert member_names([row]) == [name]
