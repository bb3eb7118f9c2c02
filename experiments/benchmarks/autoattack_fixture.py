"""Train a tiny network and save its robust images under the reference attacks.

  python -m experiments.benchmarks.autoattack_fixture --output=FILE.npz

from the project's folder, with the Python of .venv. The network is trained on
the embedded digits by PGD; the reference is torchattacks, which runs on PyTorch
in its own venv, created by the first call (--torch_venv names another). Each of
the four attacks of AutoAttack's standard version runs individually on all
images, with several seeds, since the set of robust images varies by one or two
over seeds. The file, in the format of `autoattack.load`, is the reference for
the project's tests of AutoAttack.
"""

import logging
from typing import Any

import jax
import numpy as np
from absl import flags

from advjax import cli, data
from advjax.files import expand
from advjax.models import Model
from advjax.training.setup import create_run
from experiments.benchmarks import autoattack, harness, peers, runs
from experiments.benchmarks.autoattack import Reference
from experiments.benchmarks.peers import RunJob

logger = logging.getLogger('advjax')

# 8,544 weights.
_SHAPES = ((3, 3, 1, 8), (3, 3, 8, 16), (3, 3, 16, 16), (144, 32), (32, 10))


def init(key: jax.Array, images: jax.Array) -> tuple[Any, Any]:
  """Glorot's uniform initialisation of all kernels."""
  del images
  draw = jax.nn.initializers.glorot_uniform()
  keys = jax.random.split(key, len(_SHAPES))
  drawn = [draw(*each) for each in zip(keys, _SHAPES, strict=True)]
  return dict(zip(autoattack.KERNELS, drawn, strict=True)), {}


def apply(
  params: Any, model_state: Any, images: jax.Array, *, train: bool
) -> tuple[jax.Array, Any]:
  del train  # Nothing in it behaves differently.
  return autoattack.logits(params, images), model_state


def network(num_classes: int) -> Model:
  """The network of AutoAttack's reference, for config.model.name."""
  del num_classes
  return Model(init, apply)


def attack_all(
  run_job: RunJob, reference: Reference, norm: str, num_seeds: int
) -> dict[str, np.ndarray]:
  """Runs the reference's attacks, each on its own on all images."""
  robust: dict[str, np.ndarray] = {}
  for attack in autoattack.ATTACKS:
    found = []
    for seed in range(num_seeds):
      case = norm, attack, seed
      correct, seconds = autoattack.their_attack(reference, run_job, *case)
      found.append(correct)
      count = f'{correct.sum()} of {len(correct)}'
      logger.info('%s: %s are robust, %.0f s', case, count, seconds)
    robust[f'robust_{norm}_{attack.replace("-", "_")}'] = np.stack(found)
  robust[f'robust_{norm}_autoattack'] = np.all(list(robust.values()), axis=0)
  return robust


def main() -> None:
  flag = flags.FLAGS
  dataset = data.load({'name': 'digits'})
  harness.check_counts('num_images', high=len(dataset.test.labels))
  harness.check_counts('num_epochs', 'num_seeds')
  peer = peers.PEERS['torch']
  python = peers.prepare(peer, flag.torch_venv, None)
  # PGD with Adam and a learning rate that falls to 0.
  config = runs.tutorial_config('pgd')
  config.model = {'name': 'experiments.benchmarks.autoattack_fixture:network'}
  config.schedule.name = 'cosine'
  config.hparams.learning_rate = 3e-3
  config.num_epochs = flag.num_epochs
  training = create_run(config, dataset, jax.devices()[:1])
  kernels = runs.train_timed(training).params
  images = np.asarray(data.to_float(dataset.test.images[: flag.num_images]))
  labels = dataset.test.labels[: flag.num_images]
  reference = Reference(kernels, images, labels, {})
  flagged: dict[str, Any] = {}
  with peers.started(peer, python) as run_job:
    for norm in autoattack.EPSILONS:
      flagged |= attack_all(run_job, reference, norm, flag.num_seeds)
  arrays = {**kernels, 'images': images, 'labels': labels, **flagged}
  seeds = np.arange(flag.num_seeds)
  np.savez_compressed(expand(flag.output), seeds=seeds, **arrays)
  for name, robust in flagged.items():
    print(name, robust.sum(axis=1))
  print(f'written: {flag.output}')


if __name__ == '__main__':
  harness.define_venv_flags('torch')
  flags.DEFINE_string('output', str(autoattack.OWN), 'The npz file to write.')
  flags.DEFINE_integer('num_images', 64, 'Test images to attack.')
  flags.DEFINE_integer('num_epochs', 40, 'Epochs of the training.')
  flags.DEFINE_integer('num_seeds', 3, 'Seeds of the attacks.')
  cli.run(main)
