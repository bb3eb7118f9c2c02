"""Train a tiny network and note what the reference's attacks leave of it.

  python -m experiments.benchmarks.autoattack_fixture --output=FILE.npz

from the project's folder, with the Python of .venv. The network is trained on
the embedded digits by PGD; the reference is torchattacks, which runs on PyTorch
in a venv of its own, made by the first call (--torch_venv names another). Each
of the four attacks of AutoAttack's standard version runs on its own on all
images, with several seeds, since its flags differ from seed to seed by an image
or two. The file, of the form that `autoattack.load` reads, is what the
project's tests compare its own AutoAttack with.
"""

import logging
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from absl import flags

from advjax import cli, data
from advjax.config import check_range
from advjax.models import Model
from advjax.training.objectives import pgd_at
from experiments.benchmarks import autoattack, harness, peers
from experiments.benchmarks.autoattack import Reference
from experiments.benchmarks.peers import RunJob

logger = logging.getLogger('advjax')

# Of conv1 to conv3 and of dense1: 8,544 weights.
_SIZES = (8, 16, 16, 32)
_HPARAMS = {'epsilon': 0.1, 'step_size': 0.025}
_BATCH_SIZE = 32


def init(key: jax.Array, images: jax.Array) -> tuple[Any, Any]:
  """Glorot's uniform initialisation of all kernels."""
  del images
  conv1, conv2, conv3, dense1 = _SIZES
  shapes = [
    (3, 3, 1, conv1),
    (3, 3, conv1, conv2),
    (3, 3, conv2, conv3),
    (3 * 3 * conv3, dense1),
    (dense1, 10),
  ]
  draw = jax.nn.initializers.glorot_uniform()
  keys = jax.random.split(key, len(shapes))
  drawn = [draw(*each) for each in zip(keys, shapes, strict=True)]
  return dict(zip(autoattack.KERNELS, drawn, strict=True)), {}


def apply(
  params: Any, model_state: Any, images: jax.Array, *, train: bool
) -> tuple[jax.Array, Any]:
  del train  # Nothing in it behaves differently.
  return autoattack.logits(params, images), model_state


def train_network(
  model: Model, dataset: data.Dataset, num_epochs: int, seed: int
) -> dict[str, np.ndarray]:
  """Trains by PGD with Adam and a step size that falls to 0."""
  images = jnp.asarray(data.to_float(dataset.train.images))
  labels = jnp.asarray(dataset.train.labels)
  key, init_key = jax.random.split(jax.random.key(seed))
  params, _ = model.init(init_key, images[:1])
  steps = len(labels) // _BATCH_SIZE
  optimizer = optax.adam(optax.cosine_decay_schedule(3e-3, steps * num_epochs))
  objective = pgd_at()

  @jax.jit
  def epoch(
    params: Any, opt_state: Any, order: jax.Array, key: jax.Array
  ) -> tuple[Any, Any, Any]:
    def step(carry: Any, drawn: Any) -> Any:
      params, opt_state = carry
      rows, key = drawn
      batch = {'image': images[rows], 'label': labels[rows]}
      grads, (_, metrics) = jax.grad(objective, argnums=1, has_aux=True)(
        model.apply, params, {}, batch, _HPARAMS, key
      )
      updates, opt_state = optimizer.update(grads, opt_state)
      return (optax.apply_updates(params, updates), opt_state), metrics

    keys = jax.random.split(key, len(order))
    carry, metrics = jax.lax.scan(step, (params, opt_state), (order, keys))
    return *carry, jax.tree.map(jnp.mean, metrics)

  opt_state = optimizer.init(params)
  shuffle = np.random.default_rng(seed)
  for number in range(num_epochs):
    order = shuffle.permutation(len(labels))[: steps * _BATCH_SIZE]
    key, epoch_key = jax.random.split(key)
    params, opt_state, metrics = epoch(
      params, opt_state, order.reshape(steps, _BATCH_SIZE), epoch_key
    )
    logger.info(
      'epoch %d of %d: %s',
      number + 1,
      num_epochs,
      {name: round(float(value), 3) for name, value in metrics.items()},
    )
  return {name: np.asarray(value) for name, value in params.items()}


def reference_flags(
  run_job: RunJob, reference: Reference, norm: str, num_seeds: int
) -> dict[str, np.ndarray]:
  """Runs the reference's attacks, each on its own on all images.

  Args:
    run_job: Runs a job of the other side.
    reference: Network and images.
    norm: 'linf' or 'l2'.
    num_seeds: Seeds 0, 1, ...

  Returns:
    `robust_{norm}_{attack}` and `robust_{norm}_autoattack`, bool `[seeds, N]`.
  """
  robust: dict[str, np.ndarray] = {}
  for attack in autoattack.ATTACKS:
    found = []
    for seed in range(num_seeds):
      correct, seconds = autoattack.their_attack(
        reference, run_job, norm, attack, seed
      )
      found.append(correct)
      case = f'{norm}, {attack}, seed {seed}'
      count = f'{correct.sum()} of {len(correct)}'
      logger.info('%s: %s are robust, %.0f s', case, count, seconds)
    robust[f'robust_{norm}_{attack.replace("-", "_")}'] = np.stack(found)
  robust[f'robust_{norm}_autoattack'] = np.all(list(robust.values()), axis=0)
  return robust


def main() -> None:
  flag = flags.FLAGS
  dataset = data.load({'name': 'digits'})
  most = len(dataset.test.labels)
  check_range('num_images', flag.num_images, 1, most, integer=True)
  for field in ('num_epochs', 'num_seeds'):
    check_range(field, getattr(flag, field), 1, integer=True)
  peer = peers.PEERS['torch']
  python = peers.prepare(peer, flag.torch_venv, None)
  kernels = train_network(Model(init, apply), dataset, flag.num_epochs, 0)
  images = np.asarray(data.to_float(dataset.test.images[: flag.num_images]))
  labels = dataset.test.labels[: flag.num_images]
  reference = Reference(kernels, images, labels, {})
  flagged: dict[str, Any] = {}
  with peers.started(peer, python) as run_job:
    for norm in autoattack.EPSILONS:
      flagged |= reference_flags(run_job, reference, norm, flag.num_seeds)
  arrays: dict[str, Any] = reference.arrays()
  seeds = np.arange(flag.num_seeds)
  np.savez_compressed(flag.output, seeds=seeds, **arrays, **flagged)
  for name, robust in flagged.items():
    print(name, robust.sum(axis=1))
  print(f'written: {flag.output}')


if __name__ == '__main__':
  harness.define_venv_flag('torch')
  flags.DEFINE_string('output', str(autoattack.OWN), 'The npz file to write.')
  flags.DEFINE_integer('num_images', 64, 'Test images to attack.')
  flags.DEFINE_integer('num_epochs', 40, 'Epochs of the training.')
  flags.DEFINE_integer('num_seeds', 3, 'Seeds of the attacks.')
  cli.run(main)
