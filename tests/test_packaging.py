"""Tests of what is installed, for whom, and that every import is declared."""

import ast
import importlib.metadata
import json
import os
import pathlib
import re
import shlex
import shutil
import subprocess
import sys
import tomllib
import venv
import zipfile
from typing import NamedTuple

import pytest

ROOT = pathlib.Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / 'pyproject.toml').read_text())['project']
EXTRAS = PROJECT['optional-dependencies']

# Where the name to import is not that of the distribution.
DISTRIBUTIONS = {
  'PIL': 'pillow',
  'absl': 'absl-py',
  'dm_pix': 'dm-pix',
  'haiku': 'dm-haiku',
  'ml_collections': 'ml-collections',
  'orbax': 'orbax-checkpoint',
  'sklearn': 'scikit-learn',
  'tensorflow_datasets': 'tensorflow-datasets',
}
# Imported where they happen to be installed, or in an environment of their own.
OPTIONAL = {
  'foolbox',
  'neural_structured_learning',
  'serve',  # Of the sides of libraries to compare with: ours, beside them.
  'tensorflow',
  'torch',
  'torchattacks',
}


def requirements() -> list[str]:
  """Returns the lines of requirements.txt that name a package."""
  lines = (ROOT / 'requirements.txt').read_text().splitlines()
  return [line for line in lines if line and not line.startswith('#')]


def names(specifiers) -> set[str]:
  """Returns the names of the distributions."""
  return {re.match(r'[\w-]+', specifier).group() for specifier in specifiers}


def imports(folder: str) -> set[str]:
  """Returns the top-level names of everything imported, anywhere in files."""
  found = set()
  for file in (ROOT / folder).rglob('*.py'):
    # A script finds the files beside it by their names alone.
    beside = {path.stem for path in file.parent.glob('*.py')}
    for node in ast.walk(ast.parse(file.read_text())):
      if isinstance(node, ast.Import):
        found |= {alias.name.split('.')[0] for alias in node.names} - beside
      elif isinstance(node, ast.ImportFrom) and not node.level:
        found |= {node.module.split('.')[0]} - beside
  return found


def test_requirements_are_the_union_of_the_project_and_its_extras():
  expected = [*PROJECT['dependencies'], *EXTRAS['train'], *EXTRAS['dev']]
  expected += EXTRAS['pretrained']
  assert sorted(requirements()) == sorted(expected)
  assert len(set(expected)) == len(expected)
  assert EXTRAS['all'] == ['advjax[dev,pretrained,train]']
  assert not names(expected) & names(EXTRAS['tensorflow'])


def test_requirements_begin_with_the_nine_packages():
  nine = ['jax', 'jaxlib', 'flax', 'optax', 'tensorflow-datasets', 'numpy']
  nine += ['absl-py', 'ml-collections', 'pytest']
  assert [re.match(r'[\w-]+', r).group() for r in requirements()][:9] == nine


def test_attacks_alone_need_jax_and_numpy():
  assert names(PROJECT['dependencies']) == {'jax', 'jaxlib', 'numpy'}


@pytest.mark.parametrize(
  ('folder', 'extras'),
  [
    ('advjax', ['train', 'pretrained']),
    ('experiments', ['train']),
    ('configs', ['train']),
    ('tests', ['train', 'pretrained', 'dev']),
  ],
)
def test_every_import_is_declared(folder, extras):
  declared = names(PROJECT['dependencies'])
  declared |= names(name for extra in extras for name in EXTRAS[extra])
  own = {'advjax', 'experiments', 'configs', 'tests'}
  third_party = imports(folder) - own - set(sys.stdlib_module_names) - OPTIONAL
  assert {DISTRIBUTIONS.get(name, name) for name in third_party} <= declared


@pytest.fixture(scope='module')
def wheel(tmp_path_factory) -> pathlib.Path:
  """The project's wheel, built without the network."""
  try:
    version = importlib.metadata.version('setuptools')
  except importlib.metadata.PackageNotFoundError:
    version = '0'
  if int(version.split('.')[0]) < 77:
    pytest.skip(f'needs setuptools 77 to build a wheel, has {version}')
  folder = tmp_path_factory.mktemp('wheel')
  source = folder / 'source'  # A copy, since building leaves files behind.
  source.mkdir()
  for name in ('pyproject.toml', 'README.md', 'LICENSE'):
    shutil.copy(ROOT / name, source)
  for name in ('advjax', 'configs', 'experiments', 'tests'):
    ignored = shutil.ignore_patterns('__pycache__')
    shutil.copytree(ROOT / name, source / name, ignore=ignored)
  command = [sys.executable, '-m', 'pip', 'wheel', '--quiet', '--no-deps']
  command += ['--no-build-isolation', '--no-index', f'--wheel-dir={folder}']
  subprocess.run([*command, source], check=True, timeout=120)
  (built,) = folder.glob('*.whl')
  return built


class Installed(NamedTuple):
  """The interpreter of an environment with the wheel, and its script."""

  python: pathlib.Path
  advjax: pathlib.Path

  def run(self, *command, folder, code=0) -> subprocess.CompletedProcess[str]:
    """Runs a program of the environment; nothing of the project is found."""
    program, *arguments = command
    environment = {**os.environ, 'JAX_PLATFORMS': 'cpu'}
    environment.pop('PYTHONPATH', None)
    process = subprocess.run(
      [getattr(self, program), *arguments],
      cwd=folder,
      env=environment,
      capture_output=True,
      text=True,
      timeout=300,
    )
    assert process.returncode == code, process.stderr
    return process


@pytest.fixture(scope='module')
def installed(wheel, tmp_path_factory) -> Installed:
  """The wheel in an environment of its own, its dependencies from this one."""
  folder = tmp_path_factory.mktemp('installed')
  venv.create(folder, symlinks=True)
  python = folder / 'bin' / 'python'
  (packages,) = folder.glob('lib/python*/site-packages')
  ours = [path for path in sys.path if path.endswith('-packages')]
  (packages / 'dependencies.pth').write_text('\n'.join(ours))
  command = [sys.executable, '-m', 'pip', f'--python={python}', 'install']
  command += ['--quiet', '--no-deps', '--no-index', '--ignore-installed', wheel]
  subprocess.run(command, check=True, timeout=120)
  return Installed(python, folder / 'bin' / 'advjax')


def test_wheel_holds_the_package_and_nothing_else(wheel):
  with zipfile.ZipFile(wheel) as archive:
    files = {name for name in archive.namelist() if '.dist-info/' not in name}
    metadata, scripts = (
      archive.read(
        next(name for name in archive.namelist() if name.endswith(f'/{end}'))
      ).decode()
      for end in ('METADATA', 'entry_points.txt')
    )
    licences = [n for n in archive.namelist() if n.endswith('/LICENSE')]
  expected = {
    str(file.relative_to(ROOT))
    for pattern in ('*.py', '*.html.j2', '*.css')
    for file in (ROOT / 'advjax').rglob(pattern)
  }
  configs = {
    f'advjax/{file.relative_to(ROOT)}'
    for file in (ROOT / 'configs').rglob('*.py')
  }
  assert 'advjax/configs/digits.py' in configs
  assert files == {*expected, *configs, 'advjax/py.typed'}
  assert scripts.split('\n', 1)[0] == '[console_scripts]'
  assert 'License-Expression: Apache-2.0' in metadata
  assert f'Requires-Python: {PROJECT["requires-python"]}' in metadata
  assert len(licences) == 1


def test_installed_wheel_attacks_with_jax_and_numpy_alone(wheel, tmp_path):
  with zipfile.ZipFile(wheel) as archive:
    archive.extractall(tmp_path)
  core = {'jax', 'jaxlib', 'numpy'}
  extras = {name.replace('-', '_') for name in names(requirements())} - core
  extras |= set(DISTRIBUTIONS) | OPTIONAL
  program = f"""
import sys
sys.path.insert(0, {str(tmp_path)!r})
import jax
before = set(sys.modules)
import advjax
assert advjax.__file__.startswith({str(tmp_path)!r}), advjax.__file__
added = {{name.split('.')[0] for name in set(sys.modules) - before}}
assert not added & {extras!r}, added & {extras!r}
images = jax.numpy.full([2, 3], 0.5)
found = advjax.fgsm(lambda x: x, images, jax.numpy.array([0, 1]), 0.1)
assert abs(found - images).max() <= 0.1 + 1e-6
assert (found != images).any()
sys.modules |= dict.fromkeys({extras!r})  # As if they were not installed.
import runpy
try:
  runpy.run_module('advjax', run_name='__main__')
except SystemExit as end:
  assert end.code == 2
"""
  # Isolated (-I), so that the working tree is not found.
  subprocess.run([sys.executable, '-I', '-c', program], check=True, timeout=120)


def test_installed_commands_train_and_evaluate_in_an_empty_folder(
  installed, tmp_path
):
  # Would end every program that imports it.
  (tmp_path / 'optax.py').write_text('raise SystemExit("shadowed")')
  train = ['train', '--config=configs/digits.py:standard-smoke']
  train += ['--workdir=runs/a', '--platform=cpu', '--devices=1']
  train += ['--config.model.name=logistic_regression']
  train += [
    '--config.dataset.classes=(3,7)',
    '--config.evaluation.attacks=fgsm',
  ]
  installed.run('advjax', *train, folder=tmp_path)
  evaluate = ['evaluate', '--checkpoint=runs/a', '--attacks=fgsm']
  evaluate += ['--num_images=8', '--nocorruptions', '--workdir=runs/b']
  installed.run('advjax', *evaluate, folder=tmp_path)
  trained, evaluated = (
    json.loads((tmp_path / 'runs' / name / 'report.json').read_text())
    for name in 'ab'
  )
  # As one can type it again.
  assert trained['command'] == shlex.join(['advjax', *train])
  assert evaluated['dataset']['num_test'] == 8
  missing = [*train[:1], '--config=configs/digit.py', '--workdir=runs/c']
  errors = installed.run('advjax', *missing, folder=tmp_path, code=2).stderr
  assert 'configs/digits.py' in errors
  assert not (tmp_path / 'runs/c').exists()


TRAIN = """
from advjax.config import default_config
from advjax.training import train

config = default_config()
config.dataset = {'name': 'mine:stripes', 'num_images': 160}
config.model = {'name': 'mine:Net', 'width': 4}
config.objective = {'name': 'mine:mart', 'num_steps': 2}
config.hparams.update(learning_rate=0.01, epsilon=0.1, step_size=0.05)
config.augmentation.custom = ('mine:darken',)
config.num_epochs = 8
config.evaluation.update(attacks=('fgsm',), epsilons=(0.1,))
member = train(config, 'runs/mart').members['mart']
assert member.training.hparams['beta'] == 5.0, member.training.hparams
print(member.clean_accuracy.value, member.robust_accuracy['fgsm'].norm)
"""
LOAD = """
import jax, numpy
import advjax, mine
from advjax.training import load

network = load('runs/mart')
images, labels = mine.stripes().test
adversarial = advjax.pgd(network, images, labels, 0.1, key=jax.random.key(0))
success = advjax.is_adversarial(network, adversarial, labels)
assert set(network.params) == {'conv', 'head'}, network.params.keys()
shape = jax.ShapeDtypeStruct(
  jax.export.symbolic_shape('b, 28, 28, 1'), 'float32'
)
exported = jax.export.export(
  jax.jit(network), platforms=('cpu', 'cuda', 'tpu')
)(shape)
open('network.bin', 'wb').write(exported.serialize(vjp_order=1))
numpy.savez('images.npz', images=images, logits=network(images))
clean = (network(images).argmax(-1) == labels).mean()
print(float(clean), float(success.mean()))
"""
ALONE = """
import sys
sys.modules.update(dict.fromkeys(['advjax', 'flax', 'optax']))
import jax, numpy

saved = numpy.load('images.npz')
network = jax.export.deserialize(open('network.bin', 'rb').read())
for images in (saved['images'], saved['images'][:3]):
  logits = network.call(images)
  expected = saved['logits'][:len(images)]
  numpy.testing.assert_allclose(logits, expected, 1e-4, 1e-5)
  (gradient,) = network.vjp().call(images, numpy.ones_like(logits))
  assert gradient.shape == images.shape and numpy.any(gradient)
"""


def test_a_new_idea_needs_one_file(installed, tmp_path):
  """Own network, objective, data and attack, in a folder with this file."""
  shutil.copy(ROOT / 'docs' / 'mine.py', tmp_path)
  for name, text in (('train', TRAIN), ('load', LOAD), ('alone', ALONE)):
    (tmp_path / f'{name}.py').write_text(text)
  found = {}
  for name in ('train', 'load', 'alone'):
    output = installed.run('python', f'{name}.py', folder=tmp_path).stdout
    found[name] = output.split()[-2:]
  evaluate = ['evaluate', '--checkpoint=runs/mart', '--workdir=runs/attacked']
  evaluate += ['--attacks=fgsm,mine:sign_noise', '--nocorruptions']
  installed.run('advjax', *evaluate, folder=tmp_path)
  report = json.loads((tmp_path / 'runs/attacked/report.json').read_text())
  (member,) = report['members'].values()
  assert found['train'][1] == 'linf'
  # The same network by both ways, and a data set that it can learn.
  clean = member['clean_accuracy']
  assert float(found['train'][0]) == float(found['load'][0]) == clean > 0.9
  noise = member['robust_accuracy']['mine:sign_noise']['white_box']
  fgsm = member['robust_accuracy']['fgsm']['white_box']
  assert fgsm <= noise <= clean
  assert 1 - float(found['load'][1]) <= fgsm + 0.01
  assert member['checkpoint'] == {'name': 'last', 'steps': [40]}


def test_a_missing_package_is_named_with_the_extra_that_brings_it():
  """Whatever is imported first, with that one package missing or with all."""
  missing = {
    **{'config': 'ml_collections', 'cli': 'absl', 'commands': 'absl'},
    **{'models': 'flax', 'data': 'filelock', 'augmentation': 'dm_pix'},
    **{'training': 'optax', 'jobs.train': 'flax', 'reporting.html': 'jinja2'},
    **{'reporting.figures.charts': 'matplotlib'},
    **{'evaluation.corruptions': 'PIL', 'variants': 'ml_collections'},
    **{'fields': 'flax', 'sweeps': 'flax', 'tutorials': 'ml_collections'},
  }
  program = f"""
import importlib, sys
import advjax

own = set(sys.modules)
for everything in (False, True):
  for module, package in {missing}.items():
    for name in set(sys.modules) - own:
      del sys.modules[name]
    blocked = {set(missing.values())} if everything else {{package}}
    sys.modules.update(dict.fromkeys(blocked))
    try:
      importlib.import_module('advjax.' + module)
    except ModuleNotFoundError as error:
      assert error.name in blocked and error.__cause__, (module, error)
      assert "pip install 'advjax[train]'" in str(error), (module, error)
    else:
      raise AssertionError(module)
"""
  program += """
import runpy

for name in set(sys.modules) - own:
  del sys.modules[name]
try:
  runpy.run_module('advjax', run_name='__main__')
except SystemExit as end:
  assert end.code == 2
else:
  raise AssertionError
"""
  run = [sys.executable, '-c', program]
  subprocess.run(run, check=True, timeout=120, cwd=ROOT)
