"""Train several networks side by side, attack each, and report who resists."""

import logging
import pathlib
import time
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np
from absl import flags
from ml_collections import config_dict

from advjax import cli, data
from advjax.config import check_config, member_config
from advjax.evaluation.members import evaluate_members, parse_attacks
from advjax.models import summary
from advjax.reporting.report import (
  command_line,
  environment,
  robustness_report,
)
from advjax.reporting.run import merge_metrics, write_run
from advjax.training.loop import TrainResult, train
from advjax.training.setup import (
  Training,
  create_training,
  eval_logits_fn,
)
from advjax.training.state import num_params
from advjax.training.workdir import config_to_json, prepare_workdir

logger = logging.getLogger('advjax')


def member_report(training: Training, result: TrainResult) -> dict[str, Any]:
  """Returns what report.json says of a member besides its robustness."""
  split, config = training.test_split, training.config
  arguments = (
    result.params,
    result.model_state,
    split,
    training.hparams,
    jax.random.key(config.seed),
  )
  test = training.evaluate(*arguments)
  start = time.perf_counter()
  training.evaluate(*arguments)
  seconds = time.perf_counter() - start
  per_call = config.evaluation.batch_size * len(training.devices)
  epochs = [r for r in result.records if r['kind'] == 'epoch']
  return {
    'objective': config.objective.name,
    'hparams': training.hparams,
    'num_params': num_params(result.params),
    'train_seconds': result.train_seconds,
    'step_milliseconds': result.step_milliseconds,
    'eval_step_milliseconds': 1000
    * seconds
    / -(-len(split.labels) // per_call),
    'epochs': [_with_accuracy(epoch) for epoch in epochs],
    'test': _with_accuracy(test),
    'warnings': result.warnings,
  }


def _with_accuracy(metrics: Mapping[str, Any]) -> dict[str, Any]:
  return {**metrics, 'accuracy': metrics['clean_accuracy']}


def run_members(
  configs: Mapping[str, config_dict.ConfigDict],
  folders: Mapping[str, pathlib.Path],
  config: config_dict.ConfigDict,
  workdir: pathlib.Path,
  devices: Sequence[jax.Device],
  *,
  title: str,
  print_model: bool = False,
) -> dict[str, Any]:
  """Trains members, attacks them, and writes the report.

  Args:
    configs: Member -> its training config.
    folders: Member -> the folder its training writes to.
    config: The config of the whole run.
    workdir: Its folder.
    devices: The devices.
    title: Heading of the report.
    print_model: Whether to print each network's layers first.

  Returns:
    The content of report.json.

  Raises:
    ValueError: for anything wrong in a config, before anything is written.
  """
  check_config(config)
  dataset = data.load(config.dataset)
  evaluation = config.evaluation
  attacks = parse_attacks(evaluation.attacks, norm=evaluation.norm)
  trainings = {
    name: create_training(member, dataset, devices)
    for name, member in configs.items()
  }
  workdir = prepare_workdir(workdir, config)
  folders = {
    name: prepare_workdir(folders[name], member)
    for name, member in configs.items()
  }
  images, labels = data.to_float(dataset.test.images), dataset.test.labels
  for name, training in trainings.items():
    if print_model:
      print(f'{name}:\n{summary(training.model, images[:1])}')
  results = {
    name: train(training, folders[name], name=name)
    for name, training in trainings.items()
  }
  logger.info('attacking %d test images', len(labels))
  found = evaluate_members(
    {
      name: eval_logits_fn(
        trainings[name].model, result.params, result.model_state
      )
      for name, result in results.items()
    },
    attacks,
    images,
    labels,
    epsilon=evaluation.epsilon,
    epsilons=evaluation.epsilons,
    key=jax.random.key(config.seed),
    batch_size=evaluation.batch_size,
    devices=devices,
  )
  members = {
    name: {
      **member_report(trainings[name], results[name]),
      **robustness_report(found, labels, name),
    }
    for name in configs
  }
  report = {
    'dataset': {
      'name': dataset.name,
      'num_train': len(dataset.train.labels),
      'num_test': len(labels),
    },
    'seeds': [config.seed],
    'members': members,
    'command': command_line(),
    'environment': environment(devices),
    'config': config_to_json(config),
  }
  records = {name: result.records for name, result in results.items()}
  text = write_run(
    workdir,
    report,
    found,
    np.asarray(images),
    labels,
    records,
    dataset.class_names,
    title=title,
  )
  if list(folders.values()) != [workdir]:
    merge_metrics(workdir / 'metrics.jsonl', records)
  print(text)
  print(f'\nreport: {workdir / "report.html"}')
  return report


def compare(
  config: config_dict.ConfigDict,
  workdir: str | pathlib.Path,
  devices: Sequence[jax.Device],
  *,
  print_model: bool = False,
) -> dict[str, Any]:
  """Trains the config's members, attacks each of them, and reports.

  Args:
    config: A config with `members` (see `advjax.config.member_config`).
    workdir: The folder to write to; members train in folders below it.
    devices: The devices.
    print_model: Whether to print each network's layers first.

  Returns:
    The content of report.json.

  Raises:
    ValueError: for anything wrong in the config, before anything is written.
  """
  workdir = pathlib.Path(workdir)
  if not config.get('members'):
    raise ValueError(
      'the config has no members to compare; compare takes a config such as '
      "configs/nsl_digits.py, a config of one network belongs to 'train'"
    )
  return run_members(
    {name: member_config(config, name) for name in config.members},
    {name: workdir / name for name in config.members},
    config,
    workdir,
    devices,
    title=' against '.join(config.members),
    print_model=print_model,
  )


def main() -> None:
  flag = flags.FLAGS
  compare(
    flag.config,
    flag.workdir,
    cli.devices_from_flags(),
    print_model=flag.print_model,
  )


if __name__ == '__main__':
  cli.define_config_flags()
  cli.run(main)
