"""What `import advjax` brings in, and what it costs."""

import pathlib
import subprocess
import sys
import tomllib

import advjax

HEAVY = ('flax', 'optax', 'orbax', 'scipy', 'sklearn', 'tensorflow', 'absl')
HEAVY += ('tensorflow_datasets', 'ml_collections', 'matplotlib')


def _python(*args):
  return subprocess.run(
    [sys.executable, *args], capture_output=True, text=True, check=True
  )


def test_import_brings_in_jax_and_numpy_alone():
  code = (
    'import jax, sys; old = set(sys.modules); import advjax, advjax.attacks'
  )
  code += f'; print([m for m in {HEAVY} if m in set(sys.modules) - old])'
  assert _python('-c', code).stdout.strip() == '[]'


def test_import_brings_in_the_attacks_and_no_training():
  code = 'import advjax, sys; print(*[m for m in sys.modules if "advjax" in m])'
  own = _python('-c', code).stdout.split()
  assert len(own) >= 10
  folders = {name.split('.')[1] for name in own if name.count('.') > 1}
  assert folders == {'attacks', 'evaluation', 'processes'}


def test_namespace():
  for name in ('fgsm', 'bim', 'pgd', 'mifgsm'):
    assert getattr(advjax, name) is getattr(advjax.attacks, name)
  assert advjax.losses.cross_entropy and advjax.norms.Norm
  root = pathlib.Path(advjax.__file__).parents[1]
  if (root / 'pyproject.toml').exists():
    project = tomllib.loads((root / 'pyproject.toml').read_text())['project']
    assert project['version'] == advjax.__version__
