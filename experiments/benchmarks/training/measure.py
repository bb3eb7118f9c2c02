"""Everything that the comparison of training steps measures."""

from collections.abc import Mapping, Sequence
from typing import Any

import jax

from advjax import data
from experiments.benchmarks import floor
from experiments.benchmarks.peers import process
from experiments.benchmarks.training import rows, sides
from experiments.benchmarks.training.work import least_work
from experiments.benchmarks.turns import in_turns


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
  rates = floor.measure_rates(devices)
  found: list[dict[str, Any]] = []
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
      found += rows.make_rows(
        in_turns(variants, rounds),
        objective,
        batch_size,
        least_work(objective, batch_size, sides.ATTACK_STEPS),
        rates,
      )
      print(rows.table(found[-len(variants) - 1 :]), flush=True)
  return {'rows': found, 'rates': rates._asdict(), 'steps': steps}
