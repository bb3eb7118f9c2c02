"""Every file of configs/: variants, docstring, and one step of `smoke`."""

import pathlib
import re
import runpy

import jax
import pytest

from advjax.config import member_config
from advjax.evaluation.models import parse_attacks
from advjax.training.setup import create_run
from tests import stand_ins

FOLDER = pathlib.Path(__file__).parents[1] / 'configs'
FILES = sorted(FOLDER.glob('*.py'))
each_file = pytest.mark.parametrize('path', FILES, ids=lambda path: path.stem)


def load(path, variant=None):
  get_config = runpy.run_path(str(path))['get_config']
  return get_config(*[variant] if variant else [])


def variants(path):
  """The variants that the file itself says are allowed."""
  with pytest.raises(ValueError, match="variant = 'none such'") as error:
    load(path, 'none such')
  allowed = str(error.value).partition('allowed: ')[2].partition(' (did')[0]
  names = re.findall("'([^']*)'", allowed)
  return [name for name in names if not name.endswith('-smoke')]


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


@pytest.mark.parametrize(
  'path',
  [
    # Sixteen families, seconds each; the others have the same fields.
    pytest.param(path, marks=pytest.mark.slow)
    if path.stem == 'tiny_imagenet'
    else path
    for path in FILES
  ],
  ids=lambda path: path.stem,
)
def test_every_variant_is_a_whole_config(path):
  for variant in [None, 'smoke', *variants(path)]:
    config = load(path, variant)
    parse_attacks(config.evaluation.attacks, norm=config.evaluation.norm)
    dataset = stand_ins.load(config.dataset)
    for member in members(config).values():
      training = create_run(member, dataset, jax.devices()[:1])
      assert training.plan.steps_per_epoch > 0


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
    'linf',
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
  said = f'{config.num_epochs} epochs of {num_steps} steps with batch size'
  text = runpy.run_path(str(path))['__doc__'].split()
  assert f'{said} {config.batch_size}' in ' '.join(text)
  smoke = load(path, 'trades-smoke')
  assert (smoke.dataset.train_split, smoke.dataset.test_split) == (
    'train[:2000]',
    'test[:500]',
  )
  assert smoke.num_validation == 200
