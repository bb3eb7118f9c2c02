"""Compare attacks with foolbox, on JAX and on PyTorch, and torchattacks.

  python -m experiments.benchmarks.attacks --workdir=runs/attack_times

from the project's folder, with the Python of .venv. Every library runs in a
venv of its own, which the first call makes (some minutes), in a process that
stays. NSL's network with the same random weights, the same digits, FGSM, BIM
and PGD in linf, all CPU cores; ours in one program that is cut over them.
All variants take turns, round after round; the loss that each reached on that
network tells that they did the same.
"""

import contextlib
import pathlib

from absl import flags

from advjax import cli
from advjax.config import check_range, choose
from advjax.environment import environment
from advjax.files import write_json
from experiments.benchmarks.attacks import rows, sides
from experiments.benchmarks.attacks.measure import measure
from experiments.benchmarks.peers import foolbox_jax, process, torch, venv

_WORKDIR = flags.DEFINE_string(
  'workdir', None, 'Folder for attacks.json.', required=True
)
_ATTACKS = flags.DEFINE_list('attacks', list(sides.ATTACKS), 'Which.')
_PEERS = flags.DEFINE_list('peers', list(sides.PEERS), 'Whom to compare with.')
_BATCH_SIZE = flags.DEFINE_integer('batch_size', 128, 'Images.')
_ROUNDS = flags.DEFINE_integer('rounds', 7, 'Rounds of which the median is.')
_TORCH_VENV = flags.DEFINE_string(
  'torch_venv', None, "PyTorch's; default: torch_venv in the user's cache."
)
_FOOLBOX_JAX_VENV = flags.DEFINE_string(
  'foolbox_jax_venv', None, 'Of foolbox on JAX; default: there, likewise.'
)


def main() -> None:
  names = [choose('--attacks:', n, sides.ATTACKS) for n in _ATTACKS.value]
  peers = [choose('--peers:', name, sides.PEERS) for name in _PEERS.value]
  check_range('rounds', _ROUNDS.value, 1, integer=True)
  check_range('batch_size', _BATCH_SIZE.value, 1, 1437, integer=True)
  devices = cli.devices_from_flags()
  if _BATCH_SIZE.value % len(devices):
    raise ValueError(
      f'--batch_size={_BATCH_SIZE.value}; allowed: a multiple of the number of '
      f'devices, {len(devices)}'
    )
  if devices[0].platform != 'cpu' and peers:
    raise ValueError(
      f'--platform: the devices are {devices[0].platform}, but the others run '
      'on the CPU here; give --platform=cpu, or --peers='
    )
  known = {
    'foolbox_jax': (foolbox_jax.PEER, _FOOLBOX_JAX_VENV.value),
    'torch': (torch.PEER, _TORCH_VENV.value),
  }
  pythons = {name: venv.prepare(*known[name], None) for name in peers}
  workdir = pathlib.Path(_WORKDIR.value)
  workdir.mkdir(parents=True, exist_ok=True)
  with contextlib.ExitStack() as stack:
    run_jobs = {
      name: stack.enter_context(process.started(known[name][0], python))
      for name, python in pythons.items()
    }
    found = measure(names, _BATCH_SIZE.value, devices, run_jobs, _ROUNDS.value)
  print(f'\n{rows.table(found)}')
  result = {'rows': found, 'environment': environment(devices)}
  write_json(workdir / 'attacks.json', result)
  print(f'\nwritten: {workdir / "attacks.json"}')


if __name__ == '__main__':
  cli.run(main)
