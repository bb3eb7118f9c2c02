"""Attacks as users write them."""

import re

import jax
import numpy as np
import pytest

import advjax
from advjax import parse_attack
from advjax.attacks.specs import Attack
from advjax.evaluation.models import parse_attacks
from tests.attacks import cases, own


@pytest.mark.parametrize(
  ('text', 'name', 'num_steps', 'num_restarts', 'step_ratio'),
  [
    ('fgsm', 'fgsm', 1, 1, 1.0),
    ('bim-20', 'bim', 20, 1, 0.1),
    ('bim-4', 'bim', 4, 1, 0.5),
    ('mifgsm', 'mifgsm', 10, 1, 0.1),
    ('pgd', 'pgd', 40, 1, 2.5 / 40),
    ('pgd-50-10', 'pgd', 50, 10, 0.05),
    (' pgd-1-2 ', 'pgd', 1, 2, 2.5),
  ],
)
def test_parse(text, name, num_steps, num_restarts, step_ratio):
  attack = parse_attack(text)
  assert attack.name == name
  assert attack.num_steps == num_steps
  assert attack.num_restarts == num_restarts
  assert attack.step_ratio == pytest.approx(step_ratio)
  assert (attack.norm, attack.bounds, attack.step_size) == (
    'linf',
    (0.0, 1.0),
    None,
  )


@pytest.mark.parametrize(
  'text',
  [
    *('fgms', '', 'autoattack-rand', 'FGSM', 'pgd50', '-20', 'fgsm,bim'),
    *('fgsm-2', 'bim-0', 'bim-20-2', 'mifgsm-3-3', 'pgd-', 'pgd-5-0'),
    *('pgd-5-2-1', 'pgd-2.5', 'pgd--5', 'pgd-x', 'fmn-5-2'),
    *(3, None),
  ],
)
def test_unknown_names_and_numbers_that_do_not_fit_are_named(text):
  message = re.escape(f'attack = {text!r}; allowed: NAME[-STEPS[-RESTARTS]] ')
  with pytest.raises(ValueError, match=message + '.*>= 1.* fgsm, bim, mifgsm'):
    parse_attack(text)


@pytest.mark.parametrize(
  ('options', 'message'),
  [
    ({'norm': 'l3'}, r"norm = 'l3'; allowed: 'linf', 'l2', 'l1'"),
    ({'step_size': 0.0}, r'step_size = 0.0; allowed: a number > 0'),
    ({'step_size': float('nan')}, r'step_size = nan'),
    ({'step_size': float('inf')}, r'step_size = inf'),
  ],
)
def test_options_that_do_not_fit_are_named(options, message):
  with pytest.raises(ValueError, match=message):
    parse_attack('pgd', **options)


def test_names_are_short_where_they_can_be():
  found = parse_attacks(['fgsm', 'bim-5', 'pgd-40', 'pgd-50-10'])
  assert list(found) == ['fgsm', 'bim', 'pgd-40', 'pgd-50-10']
  assert found['pgd-50-10'].num_restarts == 10
  found = parse_attacks(['pgd'], norm='l2', bounds=None, step_size=0.5)['pgd']
  assert (found.norm, found.bounds, found.step_size) == ('l2', None, 0.5)


@pytest.mark.parametrize('texts', ['fgsm, pgd-3,', ['fgsm,', 'pgd-3, ']])
def test_a_last_comma_names_no_attack(texts):
  assert [*parse_attacks(texts)] == ['fgsm', 'pgd']


@pytest.mark.parametrize('texts', [[], ['fgsm', 'fgsm'], ['pgd', 'bim', 'pgd']])
def test_attacks_are_named_once_at_least(texts):
  with pytest.raises(ValueError, match='one attack or more, each named once'):
    parse_attacks(texts)


@pytest.mark.parametrize(
  ('text', 'version', 'parts'),
  [
    ('autoattack', 'standard', None),
    ('autoattack-plus', 'plus', None),
    ('apgd-t', 'standard', ('apgd-t',)),
  ],
)
def test_autoattack_and_its_parts(text, version, parts):
  attack = parse_attack(text, norm='l1', bounds=None)
  assert attack == Attack(text, 'l1', None, version=version, parts=parts)
  with pytest.raises(ValueError, match=f'{text}; .* runs on the device'):
    attack(cases.logits_fn, cases.IMAGES, cases.LABELS, 0.1, cases.KEY)
  assert attack.settings(0.1) == {'attack': text, 'version': version}


def test_attacks_that_look_for_the_nearest_image():
  assert parse_attack('cw-20', norm='l2').num_steps == 20
  fmn = parse_attack('fmn', norm='l1')
  assert (fmn.num_steps, fmn.norm, fmn.is_minimal) == (100, 'l1', True)
  with pytest.raises(ValueError, match=r'attack = fmn; .* has a radius'):
    fmn(cases.logits_fn, cases.IMAGES, cases.LABELS, 0.1, cases.KEY)
  for text, norm, allowed in [
    ('cw', 'linf', "'l2'"),
    ('deepfool', 'l1', "'linf', 'l2'"),
  ]:
    with pytest.raises(
      ValueError, match=f'{norm!r} with {text}; allowed: {allowed}'
    ):
      parse_attack(text, norm=norm)


def test_attacks_that_find_their_step_size_have_none():
  assert 'step_size' not in parse_attack('apgd').settings(0.1)
  assert parse_attack('fgsm', step_size=0.3).settings(0.1)['step_size'] == 0.1
  assert parse_attack('bim-4').settings(0.1)['step_size'] == 0.05
  assert parse_attack('bim-4', step_size=0.3).settings(0.1)['step_size'] == 0.3


@pytest.mark.parametrize(
  ('text', 'options', 'expected'),
  [
    (
      'bim-3',
      {'step_size': 0.01, 'bounds': None, 'norm': 'l2'},
      lambda *a, key: advjax.bim(
        *a, 0.2, 0.01, num_steps=3, bounds=None, norm='l2'
      ),
    ),
    (
      'pgd-2-2',
      {},
      lambda *a, key: advjax.pgd(
        *a, 0.2, 0.25, num_steps=2, num_restarts=2, key=key
      ),
    ),
  ],
)
def test_an_attack_calls_the_library(text, options, expected):
  args = cases.logits_fn, cases.IMAGES, cases.LABELS
  found = parse_attack(text, **options)(*args, 0.2, cases.KEY)
  np.testing.assert_array_equal(found, expected(*args, key=cases.KEY))
  assert np.any(found != cases.IMAGES)


@pytest.mark.parametrize(
  ('attack', 'steps', 'share'),
  [
    (advjax.bim, 20, 1 / 10),
    (advjax.mifgsm, 10, 1 / 10),
    (advjax.pgd, 40, 1 / 16),
  ],
)
def test_steps_by_default_are_those_of_the_name(attack, steps, share):
  """As many as in the literature, whose size follows epsilon, traced or not."""
  epsilon = np.float32([0.05, 0.1, 0.2, 0.3])
  key = {'key': cases.KEY} if attack is advjax.pgd else {}

  def run(epsilon, *step_size, **options):
    args = cases.logits_fn, cases.IMAGES, cases.LABELS
    return np.asarray(attack(*args, epsilon, *step_size, **options, **key))

  expected = run(epsilon, share * epsilon, num_steps=steps)
  np.testing.assert_array_equal(run(epsilon), expected)
  named = parse_attack(attack.__name__)
  args = cases.logits_fn, cases.IMAGES, cases.LABELS
  np.testing.assert_array_equal(named(*args, epsilon, cases.KEY), expected)
  traced = jax.jit(lambda e: attack(*args, e, **key))(epsilon)
  np.testing.assert_allclose(traced, expected, atol=1e-6)


def test_an_attack_of_ones_own_is_called_as_the_others_are():
  attack = parse_attack('tests.attacks.own:uniform', norm='l2', bounds=None)
  assert (attack.name, attack.norm) == ('tests.attacks.own:uniform', 'l2')
  keys = jax.random.split(cases.KEY, len(cases.IMAGES))
  args = cases.logits_fn, cases.IMAGES, cases.LABELS, 0.1, keys
  expected = own.uniform(*args, norm='l2', bounds=None)
  np.testing.assert_array_equal(attack(*args), expected)
  clipped = parse_attack(attack.name, norm='l2', bounds=(0.4, 0.6))(*args)
  assert clipped.min() == np.float32(0.4) and clipped.max() == np.float32(0.6)
  for name, message in [
    ('tests.attacks.own:unifrom', "'module:function' that exists"),
    ('tests.attacks.own:NUMBER', 'attack = 3; allowed: a callable'),
    ('not_there:attack', "No module named 'not_there'"),
  ]:
    with pytest.raises(ValueError, match=message):
      parse_attack(name)
