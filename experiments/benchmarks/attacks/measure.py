"""Everything that the comparison of attacks measures."""

from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np

from advjax import data
from advjax.models import create_model
from advjax.models.logits import eval_logits_fn
from experiments.benchmarks.attacks import rows, sides
from experiments.benchmarks.peers import process
from experiments.benchmarks.turns import in_turns


def measure(
  names: Sequence[str],
  batch_size: int,
  devices: Sequence[jax.Device],
  run_jobs: Mapping[str, process.RunJob],
  rounds: int,
) -> list[dict[str, Any]]:
  """Measures attacks by all libraries.

  Args:
    names: Of sides.ATTACKS.
    batch_size: Images of the embedded digits; the devices divide it.
    devices: Ours.
    run_jobs: By peer, from `process.started`.
    rounds: How many.

  Returns:
    The rows.
  """
  dataset = data.load({'name': 'digits'})
  images = np.asarray(data.to_float(dataset.train.images[:batch_size]))
  labels = dataset.train.labels[:batch_size]
  model = create_model({'name': 'cnn'}, dataset.num_classes)
  params, state = model.init(jax.random.key(0), images[:1])
  network = eval_logits_fn(model, params, state)
  found: list[dict[str, Any]] = []
  for name in names:
    measured = sides.ATTACKS[name]
    run, perturbed = sides.our_attack(
      measured, model, params, images, labels, devices
    )
    runs, results = {rows.OURS: run}, {rows.OURS: perturbed}
    for peer, run_job in run_jobs.items():
      for variant, options in sides.PEERS[peer].items():
        runs[variant], results[variant] = sides.their_attack(
          run_job, variant, options, measured, params, images, labels
        )
    for variant, result in results.items():
      rows.check_perturbed(images, result, sides.EPSILON, variant)
    found += rows.make_rows(
      in_turns(runs, rounds), results, name, network, labels
    )
    print(rows.table(found[-len(runs) :]), flush=True)
  return found
