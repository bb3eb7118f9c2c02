"""Every file of configs/: variants, docstring, and one step of `smoke`."""

import pathlib
import re
import runpy

import jax
import numpy as np
import pytest

from advjax.config import member_config
from advjax.devices import replicate
from advjax.evaluation.models import parse_attacks
from advjax.training.setup import create_run, device_inputs
from tests import stand_ins

FOLDER = pathlib.Path(__file__).parents[1] / 'configs'
FILES = sorted(FOLDER.glob('*.py'))
each_file = pytest.mark.parametrize('path', FILES, ids=lambda path: path.stem)


def load(path, variant=None):
  get_config = runpy.run_path(str(path))['get_config']
  return get_config(*[variant] if variant else [])


def variants(path):
  """The variants that the file itself says are allowed."""
  with pytest.raises(ValueError, match="unknown variant 'none such'") as error:
    load(path, 'none such')
  allowed = str(error.value).partition('allowed: ')[2].partition(' (did')[0]
  return re.findall("'([^']*)'", allowed)


def members(config):
  if 'members' in config:
    return {name: member_config(config, name) for name in config.members}
  return {config.objective.name: config}


@each_file
def test_the_docstring_names_the_command_and_the_variants(path):
  text = runpy.run_path(str(path))['__doc__']
  assert re.search(
    rf'\./launch.sh \w+ --config=configs/{path.name}(:\w+)?[ \n\\]', text
  )
  assert '--workdir=runs/' in text
  for variant in ['smoke', *variants(path)]:
    assert f'`{variant}`' in text
  load(path, 'smoke')


def check_variants(path, wanted):
  """Builds the members that are wanted, of all variants."""
  for variant in [None, 'smoke', *variants(path)]:
    config = load(path, variant)
    parse_attacks(config.evaluation.attacks, norm=config.evaluation.norm)
    dataset = stand_ins.load(config.dataset)
    for member in members(config).values():
      if wanted(variant, member.model):
        training = create_run(member, dataset, jax.devices()[:1])
        assert training.plan.steps_per_epoch > 0


@each_file
def test_every_variant_is_a_whole_config(path):
  def wanted(variant, model):
    return variant != 'families' and model.name != 'keras'

  check_variants(path, wanted)


@pytest.mark.slow
def test_all_families_are_whole_configs():
  """Those of Keras take seconds to build."""
  built = set()

  def wanted(variant, model):
    if variant == 'families' or model.name == 'keras':
      built.add(model.get('architecture', model.name))
      return True
    return False

  check_variants(FOLDER / 'tiny_imagenet.py', wanted)
  assert len(built) == 16


@each_file
def test_a_config_is_inert(path):
  """Numbers, strings, tuples: nothing that a JSON file could not hold."""

  def check(value):
    if isinstance(value, dict):
      for item in value.values():
        check(item)
    elif isinstance(value, tuple):
      for item in value:
        check(item)
    else:
      assert value is None or isinstance(value, (bool, int, float, str))

  check(load(path).to_dict())


@pytest.mark.parametrize(
  'path',
  [path for path in FILES if path.stem in ('digits', 'matlab_digits')],
  ids=lambda path: path.stem,
)
def test_smoke_takes_a_step(path):
  config = load(path, 'smoke')
  assert config.num_epochs == 1
  config.batch_size = 16  # A step of seconds becomes one of less.
  dataset = stand_ins.load(config.dataset)
  # The last member: what is beside it trains the same network, plainly.
  for member in list(members(config).values())[-1:]:
    training = create_run(member, dataset, jax.devices()[:1])
    state = replicate(training.init_state(), training.devices)
    before = jax.tree.map(np.asarray, state.params)
    state, history = training.train_steps(
      state, *device_inputs(training), np.int32(1)
    )
    assert int(state.step) == 1
    # The loss of guessing, about, and twice that where two are added.
    guessing = np.log(dataset.num_classes)
    assert 0.6 < float(history['loss'][0]) / guessing < 2.6
    moved = jax.tree.map(
      lambda new, old: bool((new != old).any()), state.params, before
    )
    assert all(jax.tree.leaves(moved))


# -------------------------------------------------------- the two tutorials


def test_nsl_digits_is_the_tutorial():
  config = load(FOLDER / 'nsl_digits.py')
  assert config.members == ('base', 'adversarial')
  adversarial = member_config(config, 'adversarial')
  assert adversarial.hparams.to_dict() == {
    'learning_rate': 0.001,
    'multiplier': 0.2,
    'step_size': 0.2,
    'epsilon': None,
  }
  objective = adversarial.objective
  assert (objective.name, objective.norm, objective.num_steps) == (
    'adversarial_regularization',
    'infinity',
    1,
  )
  assert objective.bounds is None
  assert not objective.random_start
  assert (config.batch_size, config.optimizer.name) == (32, 'adam')
  assert config.optimizer.eps == 1e-7
  assert config.evaluation.epsilon == 0.1
  assert config.evaluation.epsilon in config.evaluation.epsilons
  found = parse_attacks(config.evaluation.attacks)
  assert {
    name: (attack.num_steps, attack.step_ratio)
    for name, attack in found.items()
  } == {'fgsm': (1, 1.0), 'bim': (20, 0.1), 'pgd': (40, 2.5 / 40)}


@pytest.mark.parametrize(
  ('file', 'variant', 'field', 'member'),
  [
    ('matlab_digits', None, 'robust', 'robust'),
    ('digits', 'trades', '', None),
  ],
)
def test_step_sizes_follow_epsilon(file, variant, field, member):
  config = load(FOLDER / f'{file}.py', variant)
  section = config[field] if field else config
  ratio = section.hparams.step_size / section.hparams.epsilon
  section.hparams.epsilon = 0.3
  resolved = member_config(config, member) if member else config
  assert resolved.hparams.step_size == pytest.approx(0.3 * ratio)


# --------------------------------------------------- one network per objective


def test_digits_has_an_objective_per_variant():
  """The numbers of every variant, written out."""
  seven_steps = 2.5 / 7 * 0.1
  expected = {
    'standard': ('standard', {}),
    'nsl': (
      'adversarial_regularization',
      {'multiplier': 0.2, 'step_size': 0.2},
    ),
    'virtual': (
      'virtual_adversarial_regularization',
      {'multiplier': 1.0, 'step_size': 2.0, 'approx_difference': 2.0},
    ),
    'fgsm_at': ('fgsm_at', {'epsilon': 0.1, 'step_size': 0.125}),
    'pgd_at': ('pgd_at', {'epsilon': 0.1, 'step_size': seven_steps}),
    'trades': (
      'trades',
      {'epsilon': 0.1, 'step_size': seven_steps, 'beta': 6.0},
    ),
  }
  assert variants(FOLDER / 'digits.py') == sorted(expected)
  for variant, (objective, hparams) in expected.items():
    config = load(FOLDER / 'digits.py', variant)
    assert config.objective.name == objective
    found = {k: v for k, v in config.hparams.items() if v is not None}
    assert found.pop('learning_rate') == 0.001
    assert found == pytest.approx(hparams)
    last = 'last' if variant == 'standard' else 'best'
    assert config.report_checkpoint == last
    assert (config.num_epochs, config.num_validation) == (20, 137)
    assert config.monitor.every_epochs == 2
    steps = config.objective.get('num_steps')
    assert steps == (7 if variant in ('pgd_at', 'trades') else None)


@pytest.mark.parametrize('name', stand_ins.SETS)
def test_tfds_configs_name_their_set(name):
  path = FOLDER / f'{name}.py'
  assert variants(path) == variants(FOLDER / 'digits.py')
  config = load(path)
  assert (config.dataset.name, config.dataset.builder) == ('tfds', name)
  assert config.objective.name == 'pgd_at'
  epsilon = config.hparams.epsilon
  assert epsilon == (8 / 255 if name.startswith('cifar') else epsilon)
  # What is trained on is what is watched and reported.
  assert config.monitor.epsilon == config.evaluation.epsilon == epsilon
  assert epsilon in config.evaluation.epsilons
  # What the docstring says of the run.
  num_images = stand_ins.SETS[name][1] - config.num_validation
  num_steps = -(-num_images // config.batch_size)
  said = f'{config.num_epochs} epochs of {num_steps} steps of'
  text = runpy.run_path(str(path))['__doc__'].split()
  assert f'{said} {config.batch_size} images' in ' '.join(text)
  smoke = load(path, 'trades-smoke')
  assert (smoke.dataset.train_split, smoke.dataset.test_split) == (
    'train[:2000]',
    'test[:500]',
  )
  assert smoke.num_validation == 200
