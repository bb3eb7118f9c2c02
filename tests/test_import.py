"""What `import advjax` brings in, and what it costs."""

import pathlib
import subprocess
import sys
import tomllib

import advjax

HEAVY = ('flax', 'optax', 'orbax', 'scipy', 'sklearn', 'tensorflow', 'absl')
HEAVY += ('tensorflow_datasets', 'ml_collections', 'matplotlib', 'tqdm')
# Prints what an import and AutoAttack add to JAX alone.
ADDED = """
import jax, numpy as np, sys
old = set(sys.modules)
import advjax, advjax.attacks
images, labels = np.float32([[0.9, 0.1], [0.6, 0.5]]), np.array([0, 0])
options = {'key': jax.random.key(0), 'attacks': ['apgd-ce']}
advjax.autoattack(lambda x: 10 * x, images, labels, 0.1, **options)
print(*set(sys.modules) - old)
"""


def test_import_brings_in_the_attacks_and_no_training():
  done = subprocess.run(
    [sys.executable, '-c', ADDED], capture_output=True, text=True, check=True
  )
  added = done.stdout.split()
  assert not {name.split('.')[0] for name in added} & set(HEAVY)
  own = [name.split('.') for name in added if name.startswith('advjax')]
  assert len(own) >= 10
  folders = {parts[1] for parts in own if len(parts) > 2}
  assert folders == {'attacks', 'evaluation', 'processes'}


def test_namespace():
  for name in ('fgsm', 'bim', 'pgd', 'mifgsm'):
    assert getattr(advjax, name) is getattr(advjax.attacks, name)
  assert advjax.losses.cross_entropy and advjax.norms.Norm
  root = pathlib.Path(advjax.__file__).parents[1]
  if (root / 'pyproject.toml').exists():
    project = tomllib.loads((root / 'pyproject.toml').read_text())['project']
    assert project['version'] == advjax.__version__
