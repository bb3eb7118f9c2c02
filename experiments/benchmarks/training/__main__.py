"""Compare training steps with Keras, NSL and PyTorch, and with the floor.

  python -m experiments.benchmarks.training --workdir=runs/training_steps \\
    --data_dir=DIR

from the project's folder, with the Python of .venv. Every library runs in a
venv of its own, which the first call makes (some minutes), in a process that
stays; same network, same first weights, same MNIST images, same batch size,
same number of CPU cores. All variants take turns, round after round: ours
runs the compiled loop that `train` runs, Keras and NSL model.fit after its
first batch, PyTorch a plain loop over images in memory. The table has medians
and quartiles, and the floor: operations over the measured rate of matrix
products, or bytes over that of copies, whichever takes longer.
"""

import contextlib
import pathlib

from absl import flags

from advjax import cli, data
from advjax.config import check_range, choose
from advjax.environment import environment
from advjax.files import write_json
from experiments.benchmarks.peers import nsl as nsl_peer
from experiments.benchmarks.peers import process, torch, venv
from experiments.benchmarks.training import rows, sides
from experiments.benchmarks.training.measure import measure

_WORKDIR = flags.DEFINE_string(
  'workdir', None, 'Folder for training_steps.json.', required=True
)
_DATA_DIR = flags.DEFINE_string(
  'data_dir', None, 'Sets of TensorFlow Datasets, with mnist.'
)
_OBJECTIVES = flags.DEFINE_list('objectives', list(sides.OBJECTIVES), 'Which.')
_BATCH_SIZES = flags.DEFINE_list('batch_sizes', ['32', '128'], 'Which.')
_PEERS = flags.DEFINE_list('peers', ['keras', 'torch'], 'Whom to compare with.')
_ROUNDS = flags.DEFINE_integer('rounds', 7, 'Rounds of which the median is.')
_STEPS = flags.DEFINE_integer('steps', 32, 'Steps of each in a round.')
_COMPILED = flags.DEFINE_bool('compiled', True, 'torch.compile as well.')
_NSL_VENV = flags.DEFINE_string(
  'nsl_venv', None, "NSL's venv; default: nsl_venv in the user's cache folder."
)
_TORCH_VENV = flags.DEFINE_string(
  'torch_venv', None, "PyTorch's; default: torch_venv in the user's cache."
)


def main() -> None:
  objectives = [
    choose('--objectives:', name, sides.OBJECTIVES)
    for name in _OBJECTIVES.value
  ]
  peers = [
    choose('--peers:', name, ('keras', 'torch')) for name in _PEERS.value
  ]
  batch_sizes = []
  for text in _BATCH_SIZES.value:
    if not text.isdigit() or not 1 <= int(text) <= 1024:
      raise ValueError(f'--batch_sizes: {text!r}; allowed: 1 to 1024')
    batch_sizes.append(int(text))
  check_range('rounds', _ROUNDS.value, 1, integer=True)
  most = 60000 // max(batch_sizes)
  check_range('steps', _STEPS.value, 1, most, integer=True)
  dataset = data.load(
    {'name': 'tfds', 'builder': 'mnist', 'data_dir': _DATA_DIR.value}
  )
  devices = cli.devices_from_flags()
  if devices[0].platform != 'cpu' and peers:
    raise ValueError(
      f'--platform: the devices are {devices[0].platform}, but Keras and '
      'PyTorch run on the CPU here; give --platform=cpu, or --peers='
    )
  workdir = pathlib.Path(_WORKDIR.value)
  known = {
    'keras': (nsl_peer.PEER, _NSL_VENV.value),
    'torch': (torch.PEER, _TORCH_VENV.value),
  }
  pythons = {name: venv.prepare(*known[name], None) for name in peers}
  workdir.mkdir(parents=True, exist_ok=True)
  with contextlib.ExitStack() as stack:
    run_jobs = {
      name: stack.enter_context(process.started(known[name][0], python))
      for name, python in pythons.items()
    }
    result = measure(
      dataset,
      devices,
      run_jobs,
      objectives,
      batch_sizes,
      steps=_STEPS.value,
      rounds=_ROUNDS.value,
      compiled=_COMPILED.value,
    )
  print(f'\n{rows.table(result["rows"])}')
  result['environment'] = environment(devices)
  write_json(workdir / 'training_steps.json', result)
  print(f'\nwritten: {workdir / "training_steps.json"}')


if __name__ == '__main__':
  cli.run(main)
