"""Show FGSM where it is exact: on logistic regression, 3 against 7.

Trains the models of a config like `compare`, then shows their weights, as in
section 5 and figure 2 of Goodfellow et al. 2014 (arXiv 1412.6572):
`figures/goodfellow.png`, a table, and `goodfellow` in report.json.

  ./launch.sh goodfellow --config=configs/goodfellow.py:digits \\
    --workdir=runs/goodfellow_digits
"""

import pathlib
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from absl import flags
from ml_collections import config_dict

from advjax import cli, data
from advjax.files import expand, write_json
from advjax.jobs.train import compare
from advjax.processes.collectives import is_main
from advjax.reporting.figures.charts import encode, save_pictures
from advjax.reporting.formatting import format_epsilon
from advjax.training import load
from experiments.linear import figure
from experiments.linear.measure import check, measure


def demonstrate(
  config: config_dict.ConfigDict,
  workdir: str | pathlib.Path,
  devices: Sequence[jax.Device],
  *,
  print_model: bool = False,
) -> dict[str, Any]:
  """Trains and compares the models of a config, then shows their weights.

  Args:
    config: A config with `members` (configs/goodfellow.py).
    workdir: The folder to write to.
    devices: The devices.
    print_model: Whether to print each network's layers first.

  Returns:
    The content of report.json; `goodfellow` has the epsilon, the names of the
    classes and, for each model, what `merge_seeds` returns.

  Raises:
    ValueError: for anything wrong in the config, before anything is written.
  """
  dataset = data.load(config.dataset)
  check(config, dataset)
  report = compare(config, workdir, devices, print_model=print_model).to_json()
  workdir = expand(workdir)
  images = np.asarray(data.to_float(dataset.test.images))
  labels, epsilon = dataset.test.labels, config.evaluation.epsilon
  entries, shown = {}, {}
  for name in config.members:
    seeds = [f'seed_{seed}' for seed in config.seeds] or ['']
    networks = [load(workdir / name / seed) for seed in seeds]
    found = [measure(n, images, labels, epsilon, devices) for n in networks]
    entries[name] = figure.merge_seeds([x.entry for x in found], len(labels))
    shown[name] = found[0]
  classes = first, second = list(dataset.class_names)
  own = {'epsilon': epsilon, 'classes': classes, 'members': entries}
  report['goodfellow'] = own
  if not is_main():
    return report
  write_json(workdir / 'report.json', report)
  picture = encode(
    'goodfellow',
    'Weights, their sign and adversarial examples',
    f'Each model is linear, so that FGSM is the sign of its weights for '
    f'every image: added to {second}, subtracted from {first}. No other '
    'perturbation within epsilon increases the loss more. Below each image is '
    'the prediction of the model, red where it is wrong.',
    figure.linear_figure(shown, images, labels, epsilon, classes),
  )
  save_pictures([picture], workdir / 'figures')
  print(
    f'\nlogistic regression, {first} against {second}: error on '
    f'{len(labels):,} test images, FGSM at epsilon {format_epsilon(epsilon)}\n'
    f'{figure.format_table(entries)}\n\n'
    f'figure: {workdir / "figures" / picture.name}.png'
  )
  return report


def main() -> None:
  flag = flags.FLAGS
  devices = cli.devices_from_flags()
  demonstrate(flag.config, flag.workdir, devices, print_model=flag.print_model)


if __name__ == '__main__':
  cli.define_config_flags()
  kept = 'the checkpoints so far'
  cli.run(main, processes='together', keep_compiled=True, kept=kept)
