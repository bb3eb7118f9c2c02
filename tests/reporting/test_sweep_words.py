"""What is said of a sweep follows from its numbers, and no more than that."""

from advjax.reporting.sweep.settings import read_settings
from advjax.reporting.sweep.words import (
  best_member,
  explain_sweep,
  sweep_facts,
  sweep_warnings,
)
from tests.reporting.sweep_reports import grid_report, make_report, product


def said(report):
  return ' '.join(explain_sweep(report, read_settings(report)))


def by_a(*scores, seeds=(0,)):
  return make_report(
    product(a=tuple(range(len(scores))), seed=seeds), lambda f: scores[f['a']]
  )


def test_best_is_the_best_setting_and_its_first_seed():
  scores = {(1, 0): 0.2, (1, 1): 0.6, (2, 0): 0.5, (2, 1): 0.4}
  report = make_report(
    product(a=(1, 2), seed=(0, 1)), lambda f: (0.9, scores[tuple(f.values())])
  )
  # The highest of all is a seed of a setting that is worse on average.
  assert best_member(read_settings(report))['member'] == 'a=2,seed=0'
  report = by_a((0.9, 0.0))
  assert best_member(read_settings(report))['member'] == 'a=0,seed=0'
  assert best_member(read_settings(by_a(None))) is None


def test_first_seed_is_the_first_that_did_not_diverge():
  report = make_report(
    product(seed=(0, 1)), lambda f: (0.9, 0.5) if f['seed'] else None
  )
  assert best_member(read_settings(report))['member'] == 'seed=1'
  assert '1 of its 2 seeds diverged and is not in these numbers' in said(report)


def test_a_clear_lead_is_called_one():
  text = said(by_a((0.9, 0.2), (0.9, 0.6)))
  assert 'Best by robust accuracy: a=1, with 60.0 % [54.9, 64.9] robust' in text
  assert 'leads the next, a=0 (20.0 %), by 40.0 points' in text
  assert 'more than chance in the test images makes' in text
  assert 'not distinguishable' not in text


def test_a_lead_within_the_intervals_is_not():
  text = said(by_a((0.9, 0.5), (0.9, 0.52), (0.9, 0.1), (0.9, 0.49)))
  assert 'by 2.0 points' in text
  assert 'not distinguishable from 2 others of 3 (a=0; a=3)' in text
  assert 'more than chance' not in text
  assert 'over the seeds' not in text


def test_a_lead_within_the_seeds_is_not():
  scores = {0: (0.3, 0.95), 1: (0.4, 0.4)}
  report = make_report(
    product(a=(0, 1), seed=(0, 1)),
    lambda f: (0.9, scores[f['a']][f['seed']]),
  )
  text = said(report)
  assert 'a=0 (mean ± standard deviation over 2 seeds), with 62.5 ± 46' in text
  assert 'not distinguishable from 1 other of 1 (a=1)' in text
  assert 'or their ranges over the seeds do' in text


def test_cautions():
  text = said(grid_report(1))
  assert 'The best of 9 settings was chosen by the images that it is' in text
  assert 'biased upwards' in text
  assert 'worst case, image by image, over the attacks FGSM, BIM, PGD' in text
  assert 'upper bound' in text
  assert 'Every setting was trained once' in text
  assert 'trained once' not in said(grid_report(2))
  text = said(by_a((0.9, 0.5)))
  assert 'biased' not in text and 'leads' not in text


def test_seeds_that_are_not_equally_many_are_told():
  report = grid_report(2)
  del report['rows'][-1]
  assert 'between 1 and 2 seeds' in said(report)


def test_masked_gradients_are_told():
  report = by_a((0.9, 0.1), (0.9, 0.3))
  report['rows'][0]['fgsm'] = 0.8
  text = said(report)
  assert (
    '1 member masks its gradients: a=0,seed=0 is right on 80.0 % after FGSM'
  ) in text
  assert 'masks' not in said(by_a((0.9, 0.1), (0.9, 0.3)))
  report['rows'][0] |= {'fgsm': 0.6, 'robust_accuracy': 0.35}
  assert 'masks' not in said(report)


def test_front_is_told():
  text = said(by_a((0.9, 0.5), (0.95, 0.4), (0.93, 0.39)))
  assert '2 of 3 settings are on the front' in text
  assert 'highest clean accuracy, 95.0 %, is that of a=1, 5.0 points' in text
  text = said(by_a((0.9, 0.5), (0.85, 0.4)))
  assert 'also has the highest clean accuracy' in text


def test_fields_that_move_together_are_told():
  report = make_report([{'a': a, 'b': 2 * a} for a in (1, 2, 3)])
  assert 'share an axis in the figures: a (with it b)' in said(report)


def test_nothing_scored():
  assert said(by_a(None, None)).startswith('No member has been scored')


def test_warnings_name_who_and_count_the_rest():
  report = by_a((0.9, 0.5), None, None)
  report |= {
    'warnings': ['of the sweep'],
    'pending': ['p1', 'p2', 'p3', 'p4'],
    'num_members': 7,
  }
  report['rows'][0]['warnings'] = ['alone']
  assert sweep_warnings(report) == [
    'of the sweep',
    'The sweep is not done: 4 of 7 members are pending (p1; p2; p3; and 1 '
    'more). Start it again to go on.',
    'a=0,seed=0: alone',
    '2 members (a=1,seed=0; a=2,seed=0): diverged: the loss is not finite',
  ]
  assert sweep_warnings(by_a((0.9, 0.5))) == []


def test_facts_leave_out_what_is_swept():
  report = grid_report(2, num_members=20)
  assert sweep_facts(report) == [
    '18 of 20 members done',
    'objective pgd_at',
    'model cnn',
    'swept: epsilon, multiplier, seed',
    'attacked at epsilon 0.1 (linf)',
    'FGSM, BIM, PGD',
  ]
  report = make_report(
    product(objective__name=('pgd_at', 'trades')), lambda f: None
  )
  facts = sweep_facts(report)
  assert facts[:3] == [
    '2 of 2 members done, 2 diverged',
    'model cnn',
    'swept: objective.name',
  ]
