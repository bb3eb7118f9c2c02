"""Compare with torchattacks: the four attacks of AutoAttack.

  python -m experiments.benchmarks.autoattack --workdir=runs/autoattack

from the project's folder, with the Python of .venv. torchattacks runs on
PyTorch in its own venv, created by the first call (some minutes; --torch_venv
names another one, say with PyTorch's CPU build).

The four attacks of AutoAttack's standard version run individually on all images
of a file (see `load`), by default that of the tests; advjax and torchattacks
alternate, round by round, on the same --threads CPU cores. Times are medians
over the rounds, without the compilation in the first call of advjax, which has
its own column. The table is printed, and all results are written to
autoattack_benchmark.json.
"""

import functools
import os
import pathlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from absl import flags
from jax import Array
from jax.tree_util import Partial

import advjax
from advjax import cli
from advjax.devices import select_devices
from advjax.files import expand
from advjax.models import layers
from experiments.benchmarks import harness
from experiments.benchmarks.harness import OURS, Row, TimedRun, spread, timed
from experiments.benchmarks.peers import PeerError, RunJob

FILE = 'autoattack_benchmark.json'
KERNELS = tuple(
  f'{name}_kernel' for name in ('conv1', 'conv2', 'conv3', 'dense1', 'dense2')
)
# The standard version of AutoAttack, in its order.
ATTACKS = ('apgd-ce', 'apgd-t', 'fab-t', 'square')
# What the flags in these files are for.
EPSILONS = {'linf': 0.1, 'l2': 1.0}
OWN = (
  pathlib.Path(__file__).parents[2] / 'tests/evaluation/autoattack_digits.npz'
)
THEIRS = 'torchattacks'

_convolve_and_pool = layers.conv_then_max_pool((2, 2))


class Reference(NamedTuple):
  """A network, images, and which are robust under attacks of a reference."""

  kernels: Mapping[str, np.ndarray]
  images: np.ndarray  # float32 `[N, 28, 28, 1]` in [0, 1].
  labels: np.ndarray  # int32 `[N]`.
  # norm -> attack -> bool `[seeds, N]`; 'autoattack' is all four.
  robust: Mapping[str, Mapping[str, np.ndarray]]


def logits(kernels: Mapping[str, Array], images: Array) -> Array:
  """Three VALID convolutions with ReLU, two pools between; two dense layers."""
  hidden = images
  for name in KERNELS[:3]:
    last = name == KERNELS[2]
    layer = layers.conv_general_dilated if last else _convolve_and_pool
    hidden = jax.nn.relu(layer(hidden, kernels[name], (1, 1), 'VALID'))
  hidden = hidden.reshape(len(hidden), -1)
  return jax.nn.relu(hidden @ kernels[KERNELS[3]]) @ kernels[KERNELS[4]]


def load(path: pathlib.Path) -> Reference:
  """Reads a network without biases, and what attacks of a reference found."""
  if not path.is_file():
    raise ValueError(f"--golden = '{path}'; allowed: a file, here is none")
  with np.load(path) as file:
    arrays = dict(file)
  keys = {
    (norm, name): f'robust_{norm}_{name.replace("-", "_")}'
    for norm in EPSILONS
    for name in (*ATTACKS, 'autoattack')
  }
  missing = sorted({'images', 'labels', *KERNELS, *keys.values()} - set(arrays))
  if missing:
    raise ValueError(f"--golden: '{path}' lacks {', '.join(missing)}")
  robust: dict[str, dict[str, np.ndarray]] = {norm: {} for norm in EPSILONS}
  for (norm, name), key in keys.items():
    robust[norm][name] = np.atleast_2d(arrays[key])
  kernels = {name: arrays[name] for name in KERNELS}
  return Reference(kernels, arrays['images'], arrays['labels'], robust)


def our_attack(
  reference: Reference, norm: str, attack: str
) -> tuple[np.ndarray, float]:
  """Attacks all images; returns which are robust, and seconds."""
  kernels = {k: jnp.asarray(kernel) for k, kernel in reference.kernels.items()}
  batch = reference.images, reference.labels
  options: dict[str, Any] = {'norm': norm, 'attacks': [attack]}
  options['key'] = jax.random.key(0)
  result, seconds = timed(
    lambda: advjax.autoattack(
      Partial(logits, kernels), *batch, EPSILONS[norm], **options
    )
  )
  return np.asarray(result.robust), seconds


def their_attack(
  reference: Reference, run_job: RunJob, norm: str, attack: str, seed: int = 0
) -> tuple[np.ndarray, float]:
  """Attacks all images with torchattacks; which are robust, and seconds."""
  job = {'task': 'flags', 'attack': attack, 'norm': norm, 'seed': seed}
  # The standard version's, which are not torchattacks' defaults.
  job |= {'epsilon': EPSILONS[norm], 'num_steps': 100, 'num_queries': 5000}
  names = [f'Conv_{index}/kernel' for index in range(3)]
  names += [f'Dense_{index}/kernel' for index in range(2)]
  kernels = (reference.kernels[name] for name in KERNELS)
  arrays: dict[str, np.ndarray] = dict(zip(names, kernels, strict=True))
  arrays |= {'images': reference.images, 'labels': reference.labels}
  found = run_job(job, arrays)
  return found['robust'], float(found['seconds'])


def measure(
  sides: Mapping[str, Callable[[str, str], tuple[np.ndarray, float]]],
  norms: Sequence[str],
  attacks: Sequence[str],
  rounds: int,
) -> list[dict[str, Any]]:
  """Runs each attack on its own on all images, both sides in turns."""
  rows: list[dict[str, Any]] = []
  for norm in norms:
    own = [_compare(sides, norm, attack, rounds) for attack in attacks]
    total: dict[str, Any] = {'norm': norm, 'attack': 'all', 'robust': {}}
    for key in ('ours', 'theirs', 'compile_seconds'):
      total[key] = sum(row[key] for row in own)
    for side in sides:
      total['robust'][side] = np.all([r['robust'][side] for r in own], axis=0)
    rows += [*own, total]
  for row in rows:
    ours, theirs = row['robust'][OURS], row['robust'][THEIRS]
    row['robust'] = {OURS: int(ours.sum()), THEIRS: int(theirs.sum())}
    row['only_ours_robust'] = int((ours & ~theirs).sum())
    row['times_as_fast'] = row['theirs'] / row['ours']
  return rows


def _compare(
  sides: Mapping[str, Any], norm: str, attack: str, rounds: int
) -> dict[str, Any]:
  robust: dict[str, np.ndarray] = {}

  def prepare(name: str) -> TimedRun:
    def run() -> float:
      robust[name], seconds = sides[name](norm, attack)
      return seconds

    return run

  times = harness.in_turns(
    {name: functools.partial(prepare, name) for name in sides}, rounds
  )
  if times.failures:
    raise PeerError(times.failures[THEIRS])
  ours, theirs = (spread(times.seconds[n])[1] for n in (OURS, THEIRS))
  return {
    **{'norm': norm, 'attack': attack, 'robust': robust},
    **{'ours': ours, 'theirs': theirs, 'rounds': times.seconds},
    'compile_seconds': times.first[OURS] - ours,
  }


def table(result: Row) -> str:
  """Returns the rows of a result as a table in Markdown."""
  return harness.table(
    result['rows'],
    ('norm', 'norm', ''),
    ('attack', 'attack', ''),
    ('robust images: ours', lambda row: row['robust'][OURS], 'd'),
    ('theirs', lambda row: row['robust'][THEIRS], 'd'),
    ('only under ours', 'only_ours_robust', 'd'),
    ('s: ours', 'ours', '.2f'),
    ('theirs', 'theirs', '.2f'),
    ('speed-up', 'times_as_fast', '.2f'),
    ('s to compile', 'compile_seconds', '.1f'),
  )


def main() -> None:
  flag = flags.FLAGS
  norms = harness.chosen('norms', EPSILONS)
  attacks = harness.chosen('attacks', ATTACKS)
  reference = load(expand(flag.golden))
  if flag.num_images is not None:
    harness.check_counts('num_images', high=len(reference.labels))
    some = slice(flag.num_images)
    images, labels = reference.images[some], reference.labels[some]
    reference = reference._replace(images=images, labels=labels)
  if not hasattr(os, 'sched_setaffinity'):
    raise ValueError('--threads: only Linux binds a program to CPU cores')
  cores = sorted(os.sched_getaffinity(0))
  harness.check_counts('threads', high=len(cores))
  # Of this process, and of those that it starts.
  os.sched_setaffinity(0, cores[: flag.threads])
  # XLA runs the body of a loop on one thread: a device for each core.
  devices = select_devices('cpu', flag.threads)
  workdir = harness.make_workdir()
  with harness.start_peers(['torch'], devices) as run_jobs:
    theirs = functools.partial(their_attack, reference, run_jobs['torch'])
    sides = {OURS: functools.partial(our_attack, reference), THEIRS: theirs}
    rows = measure(sides, norms, attacks, flag.rounds)
  num_images = len(reference.labels)
  result = {'rows': rows, 'num_images': num_images, 'threads': flag.threads}
  print(table(result))
  harness.save(workdir / FILE, result, devices)


if __name__ == '__main__':
  harness.define_flags(rounds=3, use=['torch'])
  flags.DEFINE_string('golden', str(OWN), 'npz with network and images.')
  flags.DEFINE_list('norms', list(EPSILONS), 'linf, l2.')
  flags.DEFINE_list('attacks', list(ATTACKS), 'Which attacks.')
  flags.DEFINE_integer('threads', 1, 'CPU cores, of both sides.')
  flags.DEFINE_integer('num_images', None, 'Images, for a trial.')
  cli.run(main)
