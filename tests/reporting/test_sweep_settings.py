"""Settings: members of several seeds, the fields that span them, the best."""

import itertools
import statistics

import pytest
from hypothesis import given
from hypothesis import strategies as st

from advjax.reporting.sweep.front import pareto_front, split_front
from advjax.reporting.sweep.settings import (
  Score,
  axis_values,
  find_axes,
  is_apart,
  rank,
  read_settings,
  split_panels,
  tick_labels,
)
from tests.reporting.sweep_reports import grid_report, make_report, product


def axes_of(settings, accuracy=lambda fields: (0.9, 0.5)):
  return find_axes(read_settings(make_report(settings, accuracy)))


def test_settings_are_means_over_the_seeds_alone():
  report = grid_report(num_seeds=3)
  settings = read_settings(report)
  assert len(settings) == 9
  first = settings[0]
  assert first.label == 'epsilon=0.05, multiplier=0.1'
  assert first.values == {'hparams.epsilon': 0.05, 'hparams.multiplier': 0.1}
  assert [row['seed'] for row in first.rows] == [0, 1, 2]
  robust = [row['robust_accuracy'] for row in report['rows'][:3]]
  assert first.robust.mean == pytest.approx(statistics.fmean(robust))
  assert first.robust.std == pytest.approx(statistics.stdev(robust))
  assert (first.robust.least, first.robust.most) == (min(robust), max(robust))
  lows = [row['robust_accuracy_low'] for row in report['rows'][:3]]
  assert first.robust.low == pytest.approx(statistics.fmean(lows))
  assert settings[-1].label == 'epsilon=0.0314, multiplier=0.5'


def test_diverged_seeds_are_counted_and_not_averaged():
  report = make_report(
    product(hparams__epsilon=(0.1, 0.3), seed=(0, 1)),
    lambda f: (
      None if f['hparams.epsilon'] > 0.2 or f['seed'] == 1 else (0.9, 0.5)
    ),
  )
  some, none = read_settings(report)
  assert (some.robust.mean, some.robust.std, some.num_diverged) == (
    0.5,
    None,
    1,
  )
  assert (none.robust, none.clean, none.num_diverged) == (None, None, 2)
  assert rank([none, some]) == [some]


def test_axes_are_numbers_first_and_leave_out_constants_and_the_seed():
  axes = axes_of(
    product(
      norm=('linf', 'l2'),
      hparams__step_size=(0.2,),
      hparams__multiplier=(0.5, 0.1),
      hparams__epsilon=(1, 2, 3),
      model__bias=(True, False),
      seed=(0, 1),
    )
  )
  assert [(axis.label, axis.numeric) for axis in axes] == [
    ('multiplier', True),
    ('epsilon', True),
    ('norm', False),
    ('bias', False),
  ]


def test_values_on_an_axis_are_sorted_numbers_or_names_as_they_come():
  settings = read_settings(
    make_report(product(norm=('linf', 'l1', 'l2'), lr=(0.5, 0.1, 1)))
  )
  lr, norm = find_axes(settings)
  assert axis_values(settings, lr) == [0.1, 0.5, 1]
  assert axis_values(settings, norm) == ['linf', 'l1', 'l2']


def test_fields_that_move_together_share_an_axis():
  zipped = [
    {'hparams.epsilon': e, 'hparams.step_size': 1.25 * e, 'seed': seed}
    for e in (0.1, 0.2, 0.3)
    for seed in (0, 1)
  ]
  (axis,) = axes_of(zipped)
  assert axis.field == 'hparams.epsilon'
  assert axis.label == 'epsilon (with it step_size)'
  random_search = [
    {'a': a, 'b': b} for a, b in zip((1, 2, 3, 4), (2, 4, 1, 3), strict=True)
  ]
  assert len(axes_of(random_search)) == 2


def test_panels_split_all_further_axes_and_nothing_is_averaged():
  settings = read_settings(
    make_report(
      product(a=(1, 2), norm=('linf', 'l2'), b=(3, 4), deep=(True, False))
    )
  )
  axes = find_axes(settings)
  panels = split_panels(settings, axes)
  assert [label for label, _ in panels] == [
    'norm=linf, deep=True',
    'norm=linf, deep=False',
    'norm=l2, deep=True',
    'norm=l2, deep=False',
  ]
  for _, inside in panels:
    keys = [(s.values['a'], s.values['b']) for s in inside]
    assert sorted(keys) == list(itertools.product((1, 2), (3, 4)))
  assert sum(len(inside) for _, inside in panels) == len(settings)


def test_best_is_by_robust_then_clean_then_order():
  scores = [(0.9, 0.5), (0.95, 0.6), (0.97, 0.6), (0.97, 0.6), (0.99, 0.4)]
  settings = read_settings(
    make_report(product(a=tuple(range(5))), lambda f: scores[f['a']])
  )
  assert [s.values['a'] for s in rank(settings)] == [2, 3, 1, 0, 4]


@pytest.mark.parametrize(
  ('second', 'apart'),
  [
    (Score(0.4, None, 0.4, 0.4, 0.35, 0.45), True),
    (Score(0.4, None, 0.4, 0.4, 0.35, 0.56), False),  # Images may do that.
    (Score(0.4, 0.2, 0.2, 0.7, 0.35, 0.45), False),  # A seed may do that.
  ],
)
def test_apart_is_clear_of_images_and_of_seeds(second, apart):
  first = Score(0.6, 0.01, 0.59, 0.61, 0.55, 0.65)
  assert is_apart(first, second) is apart


@given(st.lists(st.floats(1e-6, 1e6), unique=True, max_size=8))
def test_tick_labels_tell_values_apart(values):
  labels = tick_labels(values)
  assert len(set(labels)) == len(values)
  for label, value in zip(labels, values, strict=True):
    assert float(label) == pytest.approx(value, rel=6e-3)


POINTS = st.lists(st.tuples(*[st.sampled_from((0.0, 0.1, 0.2, 0.5, 0.9))] * 2))


@given(POINTS)
def test_front_is_every_point_that_none_dominates(points):
  def dominated(point):
    return any(
      other[0] >= point[0] and other[1] >= point[1] and other != point
      for other in points
    )

  expected = [i for i, point in enumerate(points) if not dominated(point)]
  assert pareto_front(points) == expected


def test_front_of_settings_goes_from_robust_to_clean():
  scores = [(0.99, 0.1), (0.95, 0.4), (0.94, 0.4), (0.9, 0.5), None]
  settings = read_settings(
    make_report(product(a=tuple(range(5))), lambda f: scores[f['a']])
  )
  front, rest = split_front(settings)
  assert [s.values['a'] for s in front] == [3, 1, 0]
  assert [s.values['a'] for s in rest] == [2]
