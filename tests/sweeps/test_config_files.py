"""Every file of configs/sweeps/: variants, docstring, members."""

import pathlib
import re
import runpy

import jax
import pytest

from advjax import data
from advjax.evaluation.members import parse_attacks
from advjax.sweeps import collect_sweep, create_members
from advjax.training.setup import create_run

FOLDER = pathlib.Path(__file__).parents[2] / 'configs' / 'sweeps'
VARIANTS = {
  'nsl': ('infinity', 'l2', 'l1', 'infinity-smoke', 'l2-smoke', 'l1-smoke'),
  'fgsm_training': (),
}
FILES = sorted(FOLDER.glob('*.py'))
each_file = pytest.mark.parametrize('path', FILES, ids=lambda path: path.stem)


def load(path, variant=None):
  """The config of a file, and the members of its sweep."""
  module = runpy.run_path(str(path))
  config = module['get_config'](*[variant] if variant else []).lock()
  settings = collect_sweep(module['sweep'], variant)
  return config, create_members(config, settings)


def test_every_file_is_tested():
  assert {path.stem for path in FILES} == set(VARIANTS)


@each_file
def test_the_docstring_names_command_variants_and_cost(path):
  text = runpy.run_path(str(path))['__doc__']
  assert re.search(
    rf'\./launch.sh sweep --config=configs/sweeps/{path.name}[ \n\\]', text
  )
  assert '--workdir=runs/sweep_' in text
  assert 'the cost is about' in ' '.join(text.split())
  for variant in ('smoke', *VARIANTS[path.stem]):
    if not variant.endswith('-smoke') or variant == 'l2-smoke':
      assert f'`{variant}`' in text


@each_file
def test_other_variants_are_refused(path):
  module = runpy.run_path(str(path))
  for variant in ('smok', 'l2-smok', ''):
    with pytest.raises(ValueError, match='unknown variant'):
      module['get_config'](variant)
    with pytest.raises(ValueError, match='unknown variant'):
      module['sweep'](lambda fields: None, variant)


@each_file
def test_every_variant_is_a_whole_sweep(path):
  for variant in (None, 'smoke', *VARIANTS[path.stem]):
    config, members = load(path, variant)
    text = ' '.join(runpy.run_path(str(path))['__doc__'].split())
    smoke = variant is not None and variant.endswith('smoke')
    assert config.num_epochs == (1 if smoke else 20)
    if smoke:
      assert len(members) == 4
      numbers = list(zip(*(m.fields.values() for m in members), strict=True))
      assert [len(set(column)) for column in numbers] == [2, 2, 1]
    else:
      assert f'All {len(members)} members' in text
    evaluation = config.evaluation
    parse_attacks(evaluation.attacks, norm=evaluation.norm)
    assert evaluation.epsilon in evaluation.epsilons
    dataset = data.load(config.dataset)
    trainings = [
      create_run(member.config, dataset, jax.devices()[:1])
      for member in members
    ]
    # One program for all of them.
    assert len({id(training.train_steps) for training in trainings}) == 1
    # The config alone is one of the members.
    alone = create_run(config, dataset, jax.devices()[:1])
    assert alone.hparams in [training.hparams for training in trainings]


def test_nsl_steps_suit_their_norm():
  norms = {}
  for variant in ('infinity', 'l2', 'l1'):
    config, members = load(FOLDER / 'nsl.py', variant)
    assert config.objective.norm == variant
    assert config.evaluation.norm == variant.replace('infinity', 'linf')
    norms[variant] = {m.fields['hparams.step_size'] for m in members}
  # The longest step that moves all 784 pixels by s has l2 length 28 s.
  assert max(norms['infinity']) < max(norms['l2']) < 28 * max(norms['infinity'])
  assert max(norms['l2']) < max(norms['l1']) < 784 * max(norms['infinity'])


def test_fgsm_steps_follow_epsilon_and_ratio():
  config, members = load(FOLDER / 'fgsm_training.py')
  assert config.hparams.step_size == pytest.approx(0.125)
  assert {m.fields['step_ratio'] for m in members} == {0.5, 1.0, 1.25, 2.0}
  for member in members:
    hparams = member.config.hparams
    assert hparams.epsilon == member.fields['hparams.epsilon']
    step_size = hparams.epsilon * member.fields['step_ratio']
    assert hparams.step_size == pytest.approx(step_size)
    assert member.config.report_checkpoint == 'last'
