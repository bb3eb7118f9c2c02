"""One of two processes; the first saves and restores while the other waits.

Arguments: its number, the port of the first, a folder.
"""

import pathlib
import sys

import jax
import numpy as np
from jax.experimental import multihost_utils

from advjax.training.checkpoint import restore_checkpoint, save_checkpoint
from advjax.training.step import TrainState


def main() -> None:
  index, port, folder = int(sys.argv[1]), sys.argv[2], pathlib.Path(sys.argv[3])
  jax.distributed.initialize(f'127.0.0.1:{port}', 2, index)
  assert jax.process_count() == 2
  state = TrainState(np.int32(4), {'w': np.arange(6.0)}, {}, (), None)
  if index == 0:
    for step in (4, 8, 12, 12):
      save_checkpoint(folder, state._replace(step=np.int32(step)), {}, keep=2)
    found = restore_checkpoint(folder, state)
    np.testing.assert_array_equal(found.state.params['w'], np.arange(6.0))
    assert found.state.step == 12
  # Barriers are counted by name: one taken by a process alone hangs this one.
  multihost_utils.sync_global_devices('both are here')
  # The second reads what the first wrote, without it.
  if index == 1:
    assert restore_checkpoint(folder, state).state.step == 12
  print('done', index)


if __name__ == '__main__':
  main()
