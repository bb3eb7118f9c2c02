"""Compare with torchattacks: the four attacks of AutoAttack.

  python -m experiments.benchmarks.autoattack --workdir=runs/autoattack

from the project's folder, with the Python of .venv. torchattacks runs on
PyTorch in a venv of its own, which the first call makes (some minutes;
--torch_venv names another place, say one with PyTorch's CPU build).

The four attacks of AutoAttack's standard version run each on its own on all
images of a file of the form that `network.py` describes, of the tests' own one
by default; ours, then theirs, round after round, on --threads CPU cores, which
both sides share. Times are medians over the rounds; what ours takes to compile
in the first call stands apart. The table is printed, and all numbers written to
autoattack_benchmark.json.
"""

import os
import pathlib
from collections.abc import Sequence
from typing import Any

from absl import flags

from advjax import cli
from advjax.config import check_range, choose
from advjax.devices import select_devices
from advjax.environment import environment
from advjax.files import write_json
from experiments.benchmarks.autoattack import network, rows, sides
from experiments.benchmarks.peers import process, torch, venv

_WORKDIR = flags.DEFINE_string(
  'workdir', None, 'Folder for autoattack_benchmark.json.', required=True
)
_GOLDEN = flags.DEFINE_string(
  'golden', str(network.OWN), 'The npz file with network and images.'
)
_NORMS = flags.DEFINE_list('norms', list(network.EPSILONS), 'linf, l2.')
_ATTACKS = flags.DEFINE_list('attacks', list(network.ATTACKS), 'Which attacks.')
_ROUNDS = flags.DEFINE_integer('rounds', 3, 'Rounds of which the median is.')
_THREADS = flags.DEFINE_integer('threads', 1, 'CPU cores, of both sides.')
_NUM_IMAGES = flags.DEFINE_integer(
  'num_images', None, 'Take so many images only, for a trial.'
)
_VENV = flags.DEFINE_string(
  'torch_venv', None, "PyTorch's; default: torch_venv in the user's cache."
)
_PYTHON = flags.DEFINE_string('python', None, 'Python to make the venv with.')


def stay_on(threads: int) -> None:
  """Binds this process, and those that it starts, to so many CPU cores.

  Args:
    threads: How many.

  Raises:
    ValueError: if there are fewer, or if the system cannot do it.
  """
  if not hasattr(os, 'sched_setaffinity'):
    raise ValueError('--threads: only Linux binds a program to CPU cores')
  cores = sorted(os.sched_getaffinity(0))
  check_range('threads', threads, 1, len(cores), integer=True)
  os.sched_setaffinity(0, cores[:threads])


def _chosen(flag: Any, allowed: Sequence[str]) -> list[str]:
  return [choose(f'--{flag.name}:', value, allowed) for value in flag.value]


def main() -> None:
  norms = _chosen(_NORMS, list(network.EPSILONS))
  attacks = _chosen(_ATTACKS, network.ATTACKS)
  check_range('rounds', _ROUNDS.value, 1, integer=True)
  reference = network.load(pathlib.Path(_GOLDEN.value))
  if _NUM_IMAGES.value is not None:
    most = len(reference.labels)
    check_range('num_images', _NUM_IMAGES.value, 1, most, integer=True)
    reference = sides.first(reference, _NUM_IMAGES.value)
  workdir = pathlib.Path(_WORKDIR.value)
  python = venv.prepare(torch.PEER, _VENV.value, _PYTHON.value)
  stay_on(_THREADS.value)
  # XLA runs the body of a loop on one thread: a device for each core.
  devices = select_devices('cpu', _THREADS.value)
  workdir.mkdir(parents=True, exist_ok=True)
  with process.started(torch.PEER, python) as run_job:
    attacked = rows.compare_attacks(
      sides.our_attack(reference),
      sides.their_attack(reference, run_job),
      norms,
      attacks,
      _ROUNDS.value,
    )
  print(rows.attacks_table(attacked))
  write_json(
    workdir / 'autoattack_benchmark.json',
    {
      'attacks': attacked,
      'num_images': len(reference.labels),
      'threads': _THREADS.value,
      'environment': environment(devices),
    },
  )
  print(f'\nwritten: {workdir}')


if __name__ == '__main__':
  cli.run(main)
