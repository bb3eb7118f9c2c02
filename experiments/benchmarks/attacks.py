"""Compare attacks with foolbox, on JAX and on PyTorch, and torchattacks.

  python -m experiments.benchmarks.attacks --workdir=runs/attack_times

from the project's folder, with the Python of .venv. Every library runs in its
own venv, created by the first call (some minutes), in one process that persists
over rounds. NSL's network with the same random weights, the same digits, FGSM,
BIM and PGD in linf, all CPU cores; advjax in one program sharded over them. All
libraries alternate, round by round; the final losses show that the attacks are
equivalent.
"""

import functools
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from absl import flags

import advjax
from advjax import cli, data, losses
from advjax.callables import Callee
from advjax.models import create_model
from advjax.models.logits import eval_logits_fn
from experiments.benchmarks import harness, runs
from experiments.benchmarks.harness import OURS, Row, Side, TimedRun, timed
from experiments.benchmarks.peers import RunJob

FILE = 'attacks.json'
EPSILON = 0.1
STEP_SIZE = 0.01
# Every library has them: by name, the attack and its steps.
ATTACKS = {'fgsm': ('fgsm', 1), 'bim-20': ('bim', 20), 'pgd-40': ('pgd', 40)}
# By peer, the variants: a name for the table, and options of the job.
VARIANTS: dict[str, dict[str, dict[str, Any]]] = {
  'foolbox_jax': {
    'foolbox on JAX': {'jit': False},
    'foolbox on JAX, jitted network': {'jit': True},
  },
  'torch': {
    'foolbox on PyTorch': {'library': 'foolbox'},
    'torchattacks': {'library': 'torchattacks'},
  },
}


def check_perturbed(
  images: np.ndarray, perturbed: np.ndarray, epsilon: float, name: str
) -> None:
  """Raises RuntimeError where images are not in the linf ball or [0, 1]."""
  size = np.abs(perturbed - images).max()
  inside = perturbed.min() >= 0 and perturbed.max() <= 1
  if not inside or not size <= epsilon * (1 + 1e-5):
    raise RuntimeError(
      f'{name} moved a pixel by {size}, into [{perturbed.min()}, '
      f'{perturbed.max()}]; allowed: {epsilon} in [0, 1]'
    )


def our_attack(
  attack: str,
  num_steps: int,
  network: Any,
  images: np.ndarray,
  labels: np.ndarray,
  devices: Sequence[jax.Device],
) -> tuple[TimedRun, np.ndarray]:
  """Returns our run, one program cut over the devices, and what it finds."""

  def attacked(network: Any, images: Any, labels: Any, key: Any) -> Any:
    if attack == 'fgsm':
      return advjax.fgsm(network, images, labels, EPSILON)
    arguments = (network, images, labels, EPSILON, STEP_SIZE)
    if attack == 'bim':
      return advjax.bim(*arguments, num_steps=num_steps)
    # The best of all iterates, where the other libraries return the last.
    return advjax.pgd(*arguments, num_steps=num_steps, key=key)

  mapped = jax.pmap(attacked, in_axes=(None, 0, 0, None), devices=devices)
  cut = (len(devices), len(images) // len(devices))
  arguments = (
    Callee.of(network),
    jnp.asarray(images).reshape(*cut, *images.shape[1:]),
    jnp.asarray(labels).reshape(cut),
    jax.random.key(0),
  )
  found = np.asarray(mapped(*arguments)).reshape(images.shape)
  return lambda: timed(lambda: mapped(*arguments))[1], found


def measure(
  name: str,
  batch_size: int,
  devices: Sequence[jax.Device],
  run_jobs: Mapping[str, RunJob],
  rounds: int,
) -> list[dict[str, Any]]:
  """Measures an attack by all libraries."""
  dataset = data.load({'name': 'digits'})
  images = np.asarray(data.to_float(dataset.train.images[:batch_size]))
  labels = dataset.train.labels[:batch_size]
  model = create_model({'name': 'cnn'}, dataset.num_classes)
  params, state = model.init(jax.random.key(0), images[:1])
  network = eval_logits_fn(model, params, state)
  arrays = {**runs.by_name(params), 'images': images, 'labels': labels}
  attack, num_steps = ATTACKS[name]
  perturbed: dict[str, np.ndarray] = {}

  def ours() -> TimedRun:
    run, perturbed[OURS] = our_attack(
      attack, num_steps, network, images, labels, devices
    )
    return run

  def theirs(variant: str, run_job: RunJob, options: Row) -> TimedRun:
    job = {'name': f'{variant}/{name}', 'attack': attack, **options}
    job |= {'num_steps': num_steps, 'epsilon': EPSILON, 'step_size': STEP_SIZE}
    found = run_job({**job, 'task': 'prepare_attack'}, arrays)
    perturbed[variant] = found['perturbed']
    return lambda: float(run_job({**job, 'task': 'attack'}, {})['seconds'])

  sides: dict[str, Side] = {OURS: ours}
  for peer, run_job in run_jobs.items():
    for variant, options in VARIANTS[peer].items():
      sides[variant] = functools.partial(theirs, variant, run_job, options)
  times, size = harness.in_turns(sides, rounds), len(labels)
  rows = harness.compare(times, size, attack=name, batch_size=size)
  logits_fn = jax.jit(network)
  for row in rows:
    if 'error' not in row:
      found = perturbed[row['name']]
      check_perturbed(images, found, EPSILON, row['name'])
      reached = losses.cross_entropy(logits_fn(found), jnp.asarray(labels))
      row['loss'] = float(reached.mean())
  return rows


def table(result: Row) -> str:
  """Returns the rows of a result as a table in Markdown."""
  return harness.table(
    result['rows'],
    ('attack', 'attack', ''),
    ('batch', 'batch_size', 'd'),
    *harness.SIDE_COLUMNS,
    ('final loss', 'loss', '.4f'),
  )


def main() -> None:
  flag = flags.FLAGS
  names = harness.chosen('attacks', ATTACKS)
  peers = harness.chosen('peers', VARIANTS)
  harness.check_counts('batch_size', high=1437)
  devices = cli.devices_from_flags()
  if flag.batch_size % len(devices):
    raise ValueError(
      f'--batch_size = {flag.batch_size}; allowed: a multiple of the number of '
      f'devices, {len(devices)}'
    )
  workdir = harness.make_workdir()
  with harness.start_peers(peers, devices) as run_jobs:
    result: dict[str, Any] = {'rows': []}
    for name in names:
      result['rows'] += measure(
        name, flag.batch_size, devices, run_jobs, flag.rounds
      )
  print(f'\n{table(result)}')
  harness.save(workdir / FILE, result, devices)


if __name__ == '__main__':
  harness.define_flags(rounds=7, use=list(VARIANTS))
  flags.DEFINE_list('attacks', list(ATTACKS), 'Attacks to measure.')
  flags.DEFINE_list('peers', list(VARIANTS), 'Libraries to compare with.')
  flags.DEFINE_integer('batch_size', 128, 'Images.')
  cli.run(main)
