"""Train several networks side by side, attack each, and report who resists."""

import dataclasses
import logging
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np
from absl import flags
from ml_collections import config_dict

from advjax import cli, data
from advjax.attacks.specs import AnyAttack
from advjax.config import (
  check_range,
  member_config,
  member_names,
  seed_configs,
)
from advjax.config_checks import check_config
from advjax.devices import Batching
from advjax.environment import environment
from advjax.evaluation.models import (
  Evaluation,
  evaluate_models,
  parse_attacks,
)
from advjax.evaluation.shifts import (
  Fields,
  Networks,
  measure_shifts,
  parse_shifts,
  seen_corruptions,
)
from advjax.models import summary
from advjax.processes.collectives import from_main, is_main
from advjax.reporting.trained import comparison_report
from advjax.reporting.write import merge_metrics, write_run
from advjax.results import Report
from advjax.training.loop import train_seeds
from advjax.training.run import TrainResult
from advjax.training.setup import (
  Training,
  create_training,
  eval_logits_fn,
)
from advjax.training.workdir import prepare_workdir

logger = logging.getLogger('advjax')


def _check_seeds(
  configs: Mapping[str, Sequence[config_dict.ConfigDict]],
) -> None:
  """Raises a ValueError if a member would be the same with several seeds."""
  for name, members in configs.items():
    seeds = [member.seed for member in members]
    if len(set(seeds)) < len(seeds):
      raise ValueError(
        f'{name}.seed = {seeds[0]}; allowed: a reference to the common seed, '
        f'for the same network would be trained {len(seeds)} times'
      )


def _prepare_folders(
  folder: pathlib.Path,
  members: Sequence[config_dict.ConfigDict],
  seeds: Sequence[int],
) -> list[pathlib.Path]:
  """Makes a member's folder, or one below it for each of several seeds."""
  if not seeds:
    return [prepare_workdir(folder, members[0])]
  return [
    prepare_workdir(folder / f'seed_{seed}', member)
    for seed, member in zip(seeds, members, strict=True)
  ]


def _train_members(
  trainings: Mapping[str, Sequence[Training]],
  folders: Mapping[str, Sequence[pathlib.Path]],
) -> dict[str, list[TrainResult]]:
  """Trains one member after the other, each with all its seeds."""
  return {
    name: train_seeds(
      runs,
      folders[name],
      names=[
        name if len(runs) == 1 else f'{name} {folder.name}'
        for folder in folders[name]
      ],
    )
    for name, runs in trainings.items()
  }


def _measure_members(
  networks: Networks,
  seen: Mapping[str, Sequence[str]],
  config: config_dict.ConfigDict,
  attacks: Mapping[str, AnyAttack],
  shifts: Sequence[str],
  images: np.ndarray,
  labels: np.ndarray,
  devices: Sequence[jax.Device],
) -> tuple[list[Evaluation], Fields]:
  """Attacks the members of each seed, and shifts the images as configured.

  Perturbed images stay for the first seed alone.
  """
  evaluation = config.evaluation
  found: list[Evaluation] = []
  for index, seed in enumerate(config.seeds or (config.seed,)):
    logger.info('attacking %d test images (seed %d)', len(images), seed)
    result = evaluate_models(
      {name: each[index] for name, each in networks.items()},
      attacks,
      images,
      labels,
      epsilon=evaluation.epsilon,
      epsilons=evaluation.epsilons,
      batching=Batching(evaluation.batch_size, devices, jax.random.key(seed)),
    )
    found.append(dataclasses.replace(result, images={}) if found else result)
  if shifts:
    logger.info('measuring %s', ', '.join(shifts))
  return found, measure_shifts(
    shifts,
    networks,
    images,
    labels,
    epsilon=evaluation.epsilon,
    norm=next(iter(attacks.values())).norm,
    bounds=evaluation.bounds,
    seen=seen,
    batching=Batching(
      evaluation.batch_size, devices, jax.random.key(config.seed)
    ),
    top_k=evaluation.top_k,
  )


def _parse(
  config: config_dict.ConfigDict, dataset: data.Dataset
) -> tuple[dict[str, AnyAttack], tuple[str, ...]]:
  """Returns attacks and shifts, after checking what is about the data too."""
  evaluation = config.evaluation
  num_classes = dataset.num_classes
  check_range(
    'evaluation.top_k', evaluation.top_k, 1, num_classes - 1, integer=True
  )
  shifts = parse_shifts(evaluation.shifts, dataset.test.images.shape[1:])
  attacks = parse_attacks(
    evaluation.attacks, norm=evaluation.norm, bounds=evaluation.bounds
  )
  return attacks, shifts


def _networks(
  trainings: Mapping[str, Sequence[Training]],
  results: Mapping[str, Sequence[TrainResult]],
) -> Networks:
  """Returns each member's network of each seed, in evaluation mode."""
  return {
    name: [
      eval_logits_fn(
        training.model,
        run.params,
        run.model_state,
        training.config.evaluation.matmul_precision,
      )
      for training, run in zip(trainings[name], runs, strict=True)
    ]
    for name, runs in results.items()
  }


def run_members(
  configs: Mapping[str, Sequence[config_dict.ConfigDict]],
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
    configs: Member -> its training config for each seed.
    folders: Member -> the folder its training writes to; several seeds write
      to folders below it.
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
  _check_seeds(configs)
  dataset = data.load(config.dataset)
  attacks, shifts = _parse(config, dataset)
  trainings = {
    name: [create_training(member, dataset, devices) for member in members]
    for name, members in configs.items()
  }
  workdir = from_main(lambda: prepare_workdir(workdir, config))
  run_folders = from_main(
    lambda: {
      name: _prepare_folders(folders[name], members, config.seeds)
      for name, members in configs.items()
    }
  )
  if print_model and is_main():
    images = data.to_float(dataset.test.images[:1])
    for name, runs in trainings.items():
      print(f'{name}:\n{summary(runs[0].model, images)}')
  results = _train_members(trainings, run_folders)
  networks = _networks(trainings, results)
  images = np.asarray(data.to_float(dataset.test.images))
  labels = dataset.test.labels
  seen = {name: seen_corruptions(each[0]) for name, each in configs.items()}
  found, shifted = _measure_members(
    networks, seen, config, attacks, shifts, images, labels, devices
  )
  report = comparison_report(
    config, dataset, trainings, results, found, shifted
  )
  report['environment'] = environment(devices)
  if not is_main():
    return report
  text = write_run(
    workdir,
    Report.from_json(report),
    found[0],
    images,
    labels,
    {name: runs[0].records for name, runs in results.items()},
    dataset.class_names,
    title=title,
  )
  if [workdir] not in run_folders.values():
    merge_metrics(
      workdir / 'metrics.jsonl',
      [
        ({'member': name, 'seed': seed}, run.records)
        for name, runs in results.items()
        for seed, run in zip(report['seeds'], runs, strict=True)
      ],
    )
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
  names = member_names(config)
  by_seed = seed_configs(config).values()
  return run_members(
    {name: [member_config(each, name) for each in by_seed] for name in names},
    {name: workdir / name for name in names},
    config,
    workdir,
    devices,
    title=' against '.join(names),
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
  cli.run(main, processes='together', keep_compiled=True)
