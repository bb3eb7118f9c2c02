"""Training from a config: one model, or several compared side by side."""

import contextlib
import copy
import dataclasses
import logging
import math
import pathlib
import statistics
import time
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np
from ml_collections import config_dict

from advjax import data, norms, results
from advjax.config import (
  check_config,
  check_one_network,
  check_range,
  choose,
  config_to_json,
  member_config,
  member_names,
  seed_configs,
)
from advjax.data.examples import as_dataset
from advjax.devices import Batching
from advjax.environment import command_line, environment
from advjax.evaluation.models import (
  Evaluation,
  evaluate_models,
  model_result,
  parse_attacks,
)
from advjax.evaluation.shifts import (
  Fields,
  measure_shifts,
  parse_shifts,
  seen_corruptions,
)
from advjax.fields import allowed_fields, write_defaults
from advjax.jobs.workdir import open_workdir
from advjax.models import Model, summary
from advjax.processes.collectives import is_main
from advjax.reporting.formatting import format_epsilon
from advjax.reporting.write import merge_metrics, write_run
from advjax.results import mean_and_std
from advjax.training.loop import TrainResult
from advjax.training.objectives import Objective
from advjax.training.setup import Run, create_run
from advjax.training.trained import marker, objective_name
from advjax.training.vmapped import train_seeds

logger = logging.getLogger('advjax')

# A data set, or its two splits as `data.from_examples` takes them.
_Data = data.Dataset | tuple[Any, Any]


def train(
  config: config_dict.ConfigDict,
  workdir: str | pathlib.Path,
  devices: Sequence[jax.Device] | None = None,
  *,
  model: Model | None = None,
  objective: Objective | None = None,
  dataset: _Data | None = None,
  print_model: bool = False,
) -> results.Report:
  """Trains the config's network, or resumes, attacks it, and reports.

  Objects of your own take the place of what the config names: config.json says
  so, and the same call resumes the run. Commands find them again if the config
  names them as 'module:function' instead.

  Args:
    config: A training config (`advjax.config.default_config`).
    workdir: The folder to write to.
    devices: The devices; None: all.
    model: The network.
    objective: As in `advjax.training.objectives`; without `reads` it is passed
      all hparams.
    dataset: A data set, or `(train, test)` as `advjax.data.from_examples` takes
      them.
    print_model: Whether to print the network's layers first.

  Returns:
    The content of report.json.

  Raises:
    ValueError: for anything wrong in the config, before anything is written.
  """
  check_one_network(config, 'train')
  config, dataset = _with_data(config, dataset)
  given = {'model': model, 'objective': objective}
  _mark(config, given)
  name = objective_name(config)
  return _run_members(
    {name: list(seed_configs(config).values())},
    config,
    workdir,
    devices,
    {name: given},
    dataset,
    title=f'{config.model.name} trained by {name}',
    print_model=print_model,
  )


def compare(
  config: config_dict.ConfigDict,
  workdir: str | pathlib.Path,
  devices: Sequence[jax.Device] | None = None,
  *,
  model: Model | Mapping[str, Model] | None = None,
  objective: Objective | Mapping[str, Objective] | None = None,
  dataset: _Data | None = None,
  print_model: bool = False,
) -> results.Report:
  """Trains the models of a config, attacks each of them, and reports.

  Args:
    config: A config with `members` (see `advjax.config.member_config`).
    workdir: The folder to write to; each model has a folder below it.
    devices: The devices; None: all.
    model: As for `train`, of all members, or member -> its own.
    objective: The same.
    dataset: As for `train`.
    print_model: Whether to print each network's layers first.

  Returns:
    The content of report.json.

  Raises:
    ValueError: for anything wrong in the config, before anything is written.
  """
  if not config.get('members'):
    raise ValueError(
      'members = (); allowed: the names of one network or more, as in '
      "configs/nsl_digits.py; a config of one network belongs to 'train'"
    )
  names = member_names(config)
  config, dataset = _with_data(config, dataset)
  given: dict[str, dict[str, Any]] = {name: {} for name in names}
  for field, each in (('model', model), ('objective', objective)):
    own = each if isinstance(each, Mapping) else dict.fromkeys(names, each)
    for name, value in own.items():
      given[choose(f'member of {field}', name, names)][field] = value
  for name in set(names) & set(config):
    _mark(config[name], given[name])
  by_seed = seed_configs(config).values()
  return _run_members(
    {name: [member_config(each, name) for each in by_seed] for name in names},
    config,
    workdir,
    devices,
    given,
    dataset,
    title=' against '.join(names),
    print_model=print_model,
  )


def _with_data(
  config: config_dict.ConfigDict, given: _Data | None
) -> tuple[config_dict.ConfigDict, data.Dataset | None]:
  """A copy of the config, marked if a data set is given, and the data set."""
  config = copy.deepcopy(config)
  dataset = None if given is None else as_dataset(given)
  if dataset:
    for warning in dataset.warnings:
      logger.warning('%s: %s', dataset.name, warning)
  _mark(config, {'dataset': dataset})
  with config.unlocked():
    names = member_names(config) if 'members' in config else ()
    for each in (config, *(config[name] for name in names if name in config)):
      write_defaults(each)
  return config, dataset


def _mark(config: config_dict.ConfigDict, given: Mapping[str, Any]) -> None:
  """Says in a config what is an object in place of a name."""
  for field, value in given.items():
    if value is not None:
      with config.unlocked():
        config[field] = config_dict.ConfigDict({'name': marker(value)})


def _run_members(
  configs: Mapping[str, Sequence[config_dict.ConfigDict]],
  config: config_dict.ConfigDict,
  workdir: str | pathlib.Path,
  devices: Sequence[jax.Device] | None,
  given: Mapping[str, Mapping[str, Any]],
  dataset: data.Dataset | None,
  *,
  title: str,
  print_model: bool,
) -> results.Report:
  """Trains models, each with its config of every seed, and reports.

  Each run has a folder of its own, and no other where there is one alone.
  `given` has the objects of each model in place of names in its config.
  """
  devices = devices or jax.devices()
  check_config(config)
  for name, members in configs.items():
    first = members[0].seed
    if len({member.seed for member in members}) < len(members):
      raise ValueError(
        f'{name}.seed = {first}; allowed: a reference to the common seed, '
        f'else the same network would be trained {len(members)} times'
      )
  dataset = dataset or data.load(config.dataset)
  evaluation, test = config.evaluation, dataset.test
  most = max(1, dataset.num_classes - 1)  # A single class is refused below.
  check_range('evaluation.top_k', evaluation.top_k, 1, most, integer=True)
  shifts = parse_shifts(evaluation.shifts, test.images.shape[1:])
  attacks = parse_attacks(
    evaluation.attacks,
    image_shape=test.images.shape[1:],
    num_classes=dataset.num_classes,
    norm=evaluation.norm,
    bounds=evaluation.bounds,
  )
  runs = {
    name: [create_run(m, dataset, devices, **given[name]) for m in members]
    for name, members in configs.items()
  }
  for name, each in runs.items():
    for warning in _epsilon_warnings(each[0]) if is_main() else ():
      logger.warning('%s: %s', name, warning)
  images = np.asarray(data.to_float(test.images))
  with contextlib.ExitStack() as stack:
    workdir = stack.enter_context(open_workdir(workdir, config))
    if print_model and is_main():
      for name, each in runs.items():
        example = data.to_float(test.images[:1])
        print(f'{name}:\n{summary(each[0].model, example)}')
    folders = {}
    for name, members in configs.items():
      above = workdir / name if 'members' in config else workdir
      folders[name] = [above / f'seed_{seed}' for seed in config.seeds] or [
        above
      ]
      for folder, member in zip(folders[name], members, strict=True):
        if folder != workdir:
          stack.enter_context(open_workdir(folder, member))
    trained = {
      name: train_seeds(
        each,
        folders[name],
        names=[
          f'{name} {folder.name}' if config.seeds[1:] else name
          for folder in folders[name]
        ],
      )
      for name, each in runs.items()
    }
    networks = {
      name: [
        run.network(result.params, result.model_state)
        for run, result in zip(runs[name], each, strict=True)
      ]
      for name, each in trained.items()
    }
    evaluations: list[Evaluation] = []
    for index, seed in enumerate(config.seeds or (config.seed,)):
      logger.info('attacking %d test images (seed %d)', len(images), seed)
      found = evaluate_models(
        {name: each[index] for name, each in networks.items()},
        attacks,
        images,
        test.labels,
        epsilon=evaluation.epsilon,
        epsilons=evaluation.epsilons,
        batching=Batching(evaluation.batch_size, devices, jax.random.key(seed)),
      )
      # Adversarial examples are kept for the first seed alone.
      evaluations.append(
        dataclasses.replace(found, images={}) if evaluations else found
      )
    if shifts:
      logger.info('measuring %s', ', '.join(shifts))
    shifted = measure_shifts(
      shifts,
      networks,
      images,
      test.labels,
      epsilon=evaluation.epsilon,
      norm=next(iter(attacks.values())).norm,
      bounds=evaluation.bounds,
      seen={
        name: seen_corruptions(each[0].config) for name, each in runs.items()
      },
      batching=Batching(
        evaluation.batch_size, devices, jax.random.key(config.seed)
      ),
      top_k=evaluation.top_k,
    )
    report = _report(
      config, dataset, runs, trained, evaluations, shifted, devices
    )
    if not is_main():
      return report
    text = write_run(
      workdir,
      report,
      evaluations[0],
      images,
      test.labels,
      {name: each[0].records for name, each in trained.items()},
      dataset.class_names,
      title=title,
    )
    if [workdir] not in folders.values():
      merge_metrics(
        workdir / 'metrics.jsonl',
        [
          ({'member': name, 'seed': seed}, result.records)
          for name, each in trained.items()
          for seed, result in zip(report.seeds, each, strict=True)
        ],
      )
  print(text)
  print(f'\nreport: {workdir / "report.html"}')
  return report


def _report(
  config: config_dict.ConfigDict,
  dataset: data.Dataset,
  runs: Mapping[str, Sequence[Run]],
  trained: Mapping[str, Sequence[TrainResult]],
  evaluations: Sequence[Evaluation],
  shifted: Fields,
  devices: Sequence[jax.Device],
) -> results.Report:
  labels, seeds = dataset.test.labels, list(config.seeds or (config.seed,))
  top_k = config.evaluation.top_k
  members = {
    name: dataclasses.replace(
      model_result(evaluations, labels, name, top_k=top_k),
      checkpoint=results.ReportedCheckpoint.of(*each),
      num_params=sum(x.size for x in jax.tree.leaves(each[0].params)),
      training=_training(runs[name], each, seeds),
      **shifted[name],
    )
    for name, each in trained.items()
  }
  per_seed = {
    str(seed): {
      name: model_result([evaluation], labels, name, top_k=top_k)
      for name in runs
    }
    for seed, evaluation in zip(seeds, evaluations, strict=True)
  }
  return results.Report(
    dataset=results.DatasetSummary.of(dataset),
    seeds=seeds,
    members=members,
    per_seed=per_seed if len(seeds) > 1 else None,
    command=command_line(),
    environment=environment(devices),
    config=config_to_json(config),
  )


def _training(
  runs: Sequence[Run], trained: Sequence[TrainResult], seeds: Sequence[int]
) -> results.Training:
  """How a model was trained: means over its seeds."""
  config = runs[0].config
  tests, seconds = zip(
    *[_test(run, result) for run, result in zip(runs, trained, strict=True)],
    strict=True,
  )
  epochs = [
    [record for record in result.records if record['kind'] == 'epoch']
    for result in trained
  ]
  return results.Training(
    objective=objective_name(config),
    hparams=runs[0].hparams,
    num_validation=config.num_validation,
    train_seconds=statistics.fmean(r.train_seconds for r in trained),
    step_milliseconds=statistics.fmean(r.step_milliseconds for r in trained),
    eval_step_milliseconds=1000 * statistics.fmean(seconds),
    epochs=[mean_and_std(each) for each in zip(*epochs, strict=True)],
    test=mean_and_std(tests),
    warnings=_epsilon_warnings(runs[0])
    + [
      warning if len(runs) == 1 else f'seed {seed}: {warning}'
      for seed, result in zip(seeds, trained, strict=True)
      for warning in result.warnings
    ],
  )


def _epsilon_warnings(run: Run) -> list[str]:
  """Says where a model is measured in another ball than it is trained in."""
  epsilon, config = run.hparams.get('epsilon'), run.config
  if not epsilon:
    return []
  norm = config.objective.get('norm')
  if norm is None and not config.objective.name.startswith('<'):
    norm = allowed_fields(config, 'objective').get('norm')
  used = config.evaluation.norm
  ball = norms.NSL_NORMS.get(norm)
  same_norm = norm in (None, used) or ball == norms.NORMS[used]
  trained = '' if same_norm else f' ({norm})'
  return [
    f'trained at epsilon {format_epsilon(epsilon)}{trained}, {measured} at '
    f'{format_epsilon(config[section].epsilon)} ({section}.epsilon, {used})'
    for section, measured in (
      ('evaluation', 'evaluated'),
      ('monitor', 'monitored'),
    )
    if not (same_norm and math.isclose(config[section].epsilon, epsilon))
  ]


def _test(run: Run, result: TrainResult) -> tuple[dict[str, Any], float]:
  """The objective's metrics on the test images, and the seconds per batch."""
  arguments = (
    result.params,
    result.model_state,
    run.test_split,
    run.final_hparams,
    jax.random.key(run.config.seed),
  )
  metrics = run.evaluate(*arguments)
  start = time.perf_counter()
  run.evaluate(*arguments)
  seconds = time.perf_counter() - start
  per_call = run.config.evaluation.batch_size * len(run.devices)
  num_calls = -(-len(run.test_split.labels) // per_call)
  return metrics, seconds / num_calls
