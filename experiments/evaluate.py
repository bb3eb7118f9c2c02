"""Attack a trained network with attacks given by flags, and report.

  ./launch.sh evaluate --checkpoint=runs/nsl_digits/base \\
    --attacks=fgsm,bim-20,pgd-50-10 --norm=linf --epsilons=2/255,8/255,0.1 \\
    --workdir=runs/base_evaluated
"""

import dataclasses
import json
import logging
import pathlib
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from absl import flags
from ml_collections import config_dict

from advjax import cli, data
from advjax.config import check_range, saved_config
from advjax.evaluation.members import evaluate_members, parse_attacks
from advjax.fractions import parse_number
from advjax.processes.talk import from_main, is_main
from advjax.reporting.report import (
  command_line,
  environment,
  robustness_report,
)
from advjax.reporting.run import write_run
from advjax.training.checkpoint import checkpoint_directory, load_params
from advjax.training.setup import create_training, eval_logits_fn
from advjax.training.state import evaluation_params, num_params
from advjax.training.workdir import config_to_json, prepare_workdir

logger = logging.getLogger('advjax')


def define_flags() -> None:
  """Defines the flags; not on import, which others may do for `evaluate`."""
  flags.DEFINE_string(
    'checkpoint',
    None,
    "A run's workdir (its last checkpoint), or a folder checkpoints/best in "
    'it.',
    required=True,
  )
  flags.DEFINE_list(
    'attacks', ['fgsm', 'pgd-40'], 'NAME[-STEPS[-RESTARTS]], ...'
  )
  flags.DEFINE_string('norm', 'linf', 'linf, l2 or l1.')
  flags.DEFINE_list(
    'epsilons', ['0.1'], 'Radii such as 8/255; the last is the headline.'
  )
  flags.DEFINE_string(
    'step_size', None, 'Step size of all attacks; default: by attack.'
  )
  flags.DEFINE_integer('batch_size', 64, 'Images per device.')
  flags.DEFINE_integer('seed', 0, 'Seeds the random starts.')
  flags.DEFINE_string(
    'workdir', None, 'Folder that the report is written to.', required=True
  )
  flags.register_validator('workdir', lambda path: path != '', 'is empty')


def read_run_config(directory: pathlib.Path) -> config_dict.ConfigDict:
  """Reads the config of the run that a checkpoint folder belongs to."""
  for folder in (directory, *directory.parents):
    if (folder / 'config.json').is_file():
      return saved_config(json.loads((folder / 'config.json').read_text()))
  raise ValueError(
    f"'{directory}' belongs to no run: there is no config.json above it"
  )


def evaluate(
  checkpoint: str,
  attack_names: Sequence[str],
  epsilons: Sequence[float],
  workdir: str | pathlib.Path,
  devices: Sequence[jax.Device],
  *,
  norm: str = 'linf',
  step_size: float | None = None,
  batch_size: int = 64,
  seed: int = 0,
) -> dict[str, Any]:
  """Attacks the network of a checkpoint on the test images of its data set.

  Args:
    checkpoint: As `checkpoint_directory` takes it.
    attack_names: As `parse_attack` takes them.
    epsilons: Radii; the last one is the headline.
    workdir: The folder to write to.
    devices: The devices.
    norm: 'linf', 'l2' or 'l1'.
    step_size: For all attacks; None: their defaults.
    batch_size: Images per device and call; no result depends on it.
    seed: Seeds the random starts.

  Returns:
    The content of report.json.

  Raises:
    ValueError: for anything wrong, before anything is written.
  """
  for index, epsilon in enumerate(epsilons):
    check_range(f'epsilons[{index}]', epsilon, 0.0)
  check_range('batch_size', batch_size, 1, integer=True)
  check_range('seed', seed, 0, integer=True)
  if not epsilons:
    raise ValueError('epsilons = []; allowed: one number or more')
  attacks = parse_attacks(attack_names, norm=norm, step_size=step_size)
  directory = from_main(lambda: checkpoint_directory(checkpoint))
  config = from_main(lambda: read_run_config(directory))
  bounds = config.evaluation.bounds
  if bounds is not None:
    bounds = tuple(bounds)  # JSON has lists.
  attacks = {
    name: dataclasses.replace(attack, bounds=bounds)
    for name, attack in attacks.items()
  }
  # The checkpoint has what training started from; the other run may be gone.
  config.init_from = ''
  dataset = data.load(config.dataset)
  training = create_training(config, dataset, devices)
  fresh = training.init_state()
  state = from_main(lambda: load_params(directory, fresh))
  settings = config_dict.create(
    checkpoint=str(directory.resolve()),
    attacks=tuple(attack_names),
    norm=norm,
    epsilons=tuple(epsilons),
    step_size=step_size,
    seed=seed,
  )
  path = from_main(lambda: prepare_workdir(workdir, settings))
  images, labels = data.to_float(dataset.test.images), dataset.test.labels
  name = config.objective.name
  params = evaluation_params(state)
  logger.info('attacking %d test images', len(labels))
  found = evaluate_members(
    {name: eval_logits_fn(training.model, params, state.model_state)},
    attacks,
    images,
    labels,
    epsilon=epsilons[-1],
    epsilons=epsilons,
    key=jax.random.key(seed),
    batch_size=batch_size,
    devices=devices,
  )
  report = {
    'dataset': {
      'name': dataset.name,
      'num_train': len(dataset.train.labels),
      'num_test': len(labels),
    },
    'seeds': [seed],
    'members': {
      name: {
        'num_params': num_params(params),
        **robustness_report([found], labels, name),
      }
    },
    'command': command_line(),
    'environment': environment(devices),
    'config': config_to_json(config),
  }
  if not is_main():
    return report
  text = write_run(
    path,
    report,
    found,
    np.asarray(images),
    labels,
    {name: []},
    dataset.class_names,
    title=f'{config.model.name} trained by {name}, attacked',
  )
  print(text)
  print(f'\nreport: {path / "report.html"}')
  return report


def main() -> None:
  flag = flags.FLAGS
  step_size = flag.step_size
  evaluate(
    flag.checkpoint,
    flag.attacks,
    [parse_number(text) for text in flag.epsilons],
    flag.workdir,
    cli.devices_from_flags(),
    norm=flag.norm,
    step_size=None if step_size is None else parse_number(step_size),
    batch_size=flag.batch_size,
    seed=flag.seed,
  )


if __name__ == '__main__':
  define_flags()
  cli.run(main, processes='together')
