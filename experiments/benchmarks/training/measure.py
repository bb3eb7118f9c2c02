"""Everything that the comparison of training steps measures."""

import logging
from collections.abc import Mapping, Sequence
from typing import Any

import jax

from advjax import data
from experiments.benchmarks import floor
from experiments.benchmarks.peers import process
from experiments.benchmarks.training import rows, sides
from experiments.benchmarks.training.work import least_work
from experiments.benchmarks.turns import in_turns

logger = logging.getLogger('advjax')


def measure(
  dataset: data.Dataset,
  devices: Sequence[jax.Device],
  run_jobs: Mapping[str, process.RunJob],
  objectives: Sequence[str],
  batch_sizes: Sequence[int],
  *,
  steps: int,
  rounds: int,
  compiled: bool = True,
) -> dict[str, Any]:
  """Measures everything.

  Args:
    dataset: Images of 28 x 28 x 1 in 10 classes.
    devices: Ours.
    run_jobs: 'keras' and 'torch', or fewer, from `process.started`.
    objectives: Of sides.OBJECTIVES.
    batch_sizes: Which.
    steps: Of each variant in a round.
    rounds: How many.
    compiled: Whether torch.compile is tried too.

  Returns:
    What training_steps.json holds.
  """
  taken: dict[tuple[str, int], dict[str, list[float]]] = {}
  tables = {'keras': sides.KERAS, 'torch': sides.TORCH}
  for objective in objectives:
    for batch_size in batch_sizes:
      training = sides.our_training(objective, batch_size, dataset, devices)
      arrays = sides.peer_arrays(training)
      variants = {rows.OURS: sides.our_steps(training, steps)}
      for peer, run_job in run_jobs.items():
        for name, options in tables[peer][objective].items():
          if options.get('compile') and not compiled:
            continue
          variants[name] = sides.their_steps(
            run_job, name, options, objective, batch_size, steps, arrays
          )
      taken[objective, batch_size] = in_turns(variants, rounds)
      logger.info('%s, batches of %d: measured', objective, batch_size)
  # At the end, when no other side is busy any more with its start.
  rates = floor.measure_rates(devices)
  found: list[dict[str, Any]] = []
  for (objective, batch_size), seconds in taken.items():
    work = least_work(objective, batch_size, sides.ATTACK_STEPS)
    found += rows.make_rows(seconds, objective, batch_size, work, rates)
  return {'rows': found, 'rates': rates._asdict(), 'steps': steps}
