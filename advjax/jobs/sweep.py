"""A sweep: many trials trained as few compiled programs, attacked, reported."""

import contextlib
import copy
import logging
import pathlib
import shlex
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
from ml_collections import config_dict

from advjax import data, results
from advjax.attacks.specs import Attack
from advjax.compile_cache import count_compilations
from advjax.config import config_to_json
from advjax.devices import Batching
from advjax.environment import command_line, environment
from advjax.evaluation.logits import NotFinite
from advjax.evaluation.models import (
  evaluate_models,
  model_result,
  parse_attacks,
)
from advjax.fields import write_defaults
from advjax.files import lock_folder, read_json, write_json
from advjax.fractions import count_of
from advjax.jobs.workdir import prepare_workdir
from advjax.processes.signals import Interrupted, stop_on_signals
from advjax.processes.topology import find_place
from advjax.reporting.sweep import write_rows, write_sweep
from advjax.sweeps import Trial, create_trials, shard_trials
from advjax.training.loop import Diverged, TrainResult
from advjax.training.setup import Run, create_run
from advjax.training.vmapped import group_by_program, train_group

logger = logging.getLogger('advjax')


class _Job(NamedTuple):
  """A sweep, all of it checked; `groups` are indices of `trials`."""

  config: config_dict.ConfigDict
  trials: list[Trial]
  groups: list[list[int]]
  dataset: data.Dataset
  attacks: dict[str, Attack]
  workdir: pathlib.Path
  devices: Sequence[jax.Device]
  train_command: Sequence[str]

  def folder(self, trial: Trial) -> pathlib.Path:
    return self.workdir / 'members' / trial.name

  def result(self, trial: Trial) -> dict[str, Any] | None:
    """The saved result of a trial, or None if it is pending."""
    path = self.folder(trial) / 'result.json'
    return read_json(path) if path.exists() else None


def sweep(
  config: config_dict.ConfigDict,
  rows: Sequence[Mapping[str, Any]],
  workdir: str | pathlib.Path,
  devices: Sequence[jax.Device] | None = None,
  *,
  shard: str = '0/1',
  train_command: Sequence[str] = ('./launch.sh', 'train'),
) -> results.SweepReport:
  """Trains the trials of a sweep, attacks each of them, and reports.

  Trials that are done in this folder are not trained again.

  Args:
    config: A training config, what the trials have in common.
    rows: The fields that each trial sets (`parse_sweep`, `collect_sweep`).
    workdir: The folder to write to; trials train in folders below it.
    devices: The devices; None: all.
    shard: 'i/n' trains the i-th of n shards; the jobs of the other shards may
      run concurrently and write to the same folder.
    train_command: The command that trains the config alone.

  Returns:
    The content of sweep.json.

  Raises:
    ValueError: for anything wrong in a trial, before anything is written.
  """
  devices = devices or jax.devices()
  config = copy.deepcopy(config)
  with config.unlocked():
    write_defaults(config)
  trials = create_trials(config, rows)
  share = shard_trials(trials, shard, *find_place()[:2])
  dataset = data.load(config.dataset)
  evaluation = config.evaluation
  attacks = parse_attacks(
    evaluation.attacks,
    image_shape=dataset.test.images.shape[1:],
    num_classes=dataset.num_classes,
    norm=evaluation.norm,
    bounds=evaluation.bounds,
  )
  for trial in trials:
    try:
      # On one device: how many share a batch is known when it is trained.
      create_run(trial.config, dataset, devices[:1])
    except ValueError as error:
      raise ValueError(f'trial {trial.name}: {error}') from error
  job = _Job(
    config,
    trials,
    group_by_program([trial.config for trial in trials]),
    dataset,
    attacks,
    # Not locked, unlike the folders of trials: all shards write there, complete
    # files.
    prepare_workdir(workdir, config),
    devices,
    train_command,
  )
  for trial in share:
    prepare_workdir(job.folder(trial), trial.config)
  names = {trial.name for trial in share}
  done = {trial.name for trial in share if job.result(trial)}
  logger.info(
    '%s in %s; %d of them done%s',
    count_of(len(trials), 'trial'),
    count_of(len(job.groups), 'group'),
    len(done),
    '' if len(share) == len(trials) else f'; here {len(share)}',
  )
  for group in job.groups:
    own = [trial for i in group if (trial := trials[i]).name in names]
    left = [trial for trial in own if trial.name not in done]
    if left:
      with contextlib.ExitStack() as stack:
        for trial in left:
          stack.enter_context(lock_folder(job.folder(trial)))
        _run_group(job, left, len(own))
  report, text = _write(job, write_sweep)
  print(text)
  print(f'\nreport: {job.workdir / "report.html"}')
  return report


def _run_group(job: _Job, trials: Sequence[Trial], num_runs: int) -> None:
  """Trains and attacks trials of one group; writes a result.json of each.

  Their devices follow from `num_runs`, those that are done included: else a
  sweep that resumes would train the others on more devices than before.
  """
  start = time.perf_counter()
  with count_compilations() as compilations:
    for chunk in train_group(
      [trial.config for trial in trials],
      [job.folder(trial) for trial in trials],
      [trial.name for trial in trials],
      job.dataset,
      job.devices,
      num_runs=num_runs,
    ):
      done = [trials[index] for index in chunk.indices]
      work = {
        'first': done[0].name,
        'members': len(done),
        'how': chunk.how,
        'seconds': time.perf_counter() - start,
        'compiles': compilations.count,
      }
      for trial, run in zip(done, chunk.runs, strict=True):
        # Kept from the first time, if it is only attacked again.
        path = job.folder(trial) / 'trained.json'
        if not path.exists():
          devices = run.plan.num_devices
          write_json(path, {'devices_per_run': devices, 'chunk': work})
      logger.info(
        'attacking %s on %d test images',
        count_of(len(done), 'network'),
        len(job.dataset.test.labels),
      )
      with stop_on_signals() as stop:
        for trial, run, result in zip(
          done, chunk.runs, chunk.results, strict=True
        ):
          folder = job.folder(trial)
          trained = read_json(folder / 'trained.json')
          measured = _measure(job, trial, run, result)
          write_json(folder / 'result.json', {**measured, **trained})
          if stop.signum:
            raise Interrupted(stop.signum)
      _write(job, write_rows)
      start, compilations.count = time.perf_counter(), 0


def _measure(
  job: _Job, trial: Trial, run: Run, trained: TrainResult | Diverged
) -> dict[str, Any]:
  """Attacks a trained network: a `row` and, unless it diverged, a `curve`."""
  evaluation, test = job.config.evaluation, job.dataset.test
  name, labels = trial.name, test.labels
  try:
    if isinstance(trained, Diverged):
      raise trained
    found = evaluate_models(
      {name: run.network(trained.params, trained.model_state)},
      job.attacks,
      np.asarray(data.to_float(test.images)),
      labels,
      epsilon=evaluation.epsilon,
      epsilons=evaluation.epsilons,
      batching=Batching(
        evaluation.batch_size, job.devices, jax.random.key(trial.config.seed)
      ),
    )
  except (Diverged, NotFinite) as error:
    return {'row': {'status': 'diverged', 'reason': str(error), 'warnings': []}}
  model = model_result([found], labels, name)
  attacks = model.robust_accuracy
  correct = [
    each[name] == labels for each in (found.clean, *found.predictions.values())
  ]
  robust = results.Estimate.of_correct([np.all(correct, axis=0)])
  row = {
    'status': 'done',
    'checkpoint': results.ReportedCheckpoint.of(trained).to_json(),
    'attacks': {attack: x.white_box.value for attack, x in attacks.items()},
    'loss': [r['loss'] for r in trained.records if r['kind'] == 'epoch'][-1],
    'train_seconds': trained.train_seconds,
    'step_milliseconds': trained.step_milliseconds,
    'warnings': trained.warnings,
    'clean_accuracy': model.clean_accuracy.value,
    'clean_accuracy_ci': model.clean_accuracy.ci,
    'robust_accuracy': robust.value,
    'robust_accuracy_ci': robust.ci,
  }
  curve = {
    attack: [point.white_box.value for point in x.curve]
    for attack, x in attacks.items()
  }
  return {'row': row, 'curve': {'epsilons': [*found.epsilons], **curve}}


def _write(
  job: _Job, write: Callable[[pathlib.Path, results.SweepReport], str | None]
) -> tuple[results.SweepReport, str | None]:
  """Writes files of all results, again if another shard adds some."""
  while True:
    try:
      report = _report(job)
    except (KeyError, TypeError, AttributeError) as error:
      raise ValueError(
        f"a result.json in '{job.workdir}/members' holds no result "
        f'({error!r}); remove it to attack its trial again'
      ) from error
    text = write(job.workdir, report)
    if _report(job).pending == report.pending:
      return report, text


def _report(job: _Job) -> results.SweepReport:
  """The content of sweep.json, of the trials that are done."""
  config = job.config
  found = [job.result(trial) for trial in job.trials]
  rows, curves, groups = {}, {}, []
  for number, indices in enumerate(job.groups):
    chunks = {}
    for index in indices:
      kept, trial = found[index], job.trials[index]
      if kept is None:
        continue
      chunks[kept['chunk']['first']] = kept['chunk']
      rows[index] = results.Trial(
        member=trial.name,
        group=number,
        fields=trial.fields,
        devices=kept['devices_per_run'],
        command=_command(job, trial, kept['devices_per_run']),
        folder=str(job.folder(trial).relative_to(job.workdir)),
        **_read_row(kept['row']),
      )
      if 'curve' in kept:
        curves[trial.name] = kept['curve']
    groups.append(
      results.TrialGroup(
        members=len(indices),
        how='; '.join(dict.fromkeys(c['how'] for c in chunks.values())),
        chunks=[chunk['members'] for chunk in chunks.values()],
        seconds=sum(chunk['seconds'] for chunk in chunks.values()),
        compiles=sum(chunk['compiles'] for chunk in chunks.values()),
      )
    )
  model, objective = config.model.name, config.objective.name
  return results.SweepReport(
    title=f'{model} trained by {objective}, {len(job.trials)} trials',
    dataset=results.DatasetSummary.of(job.dataset),
    objective=objective,
    model=model,
    epsilon=config.evaluation.epsilon,
    norm=config.evaluation.norm,
    attacks=list(job.attacks),
    fields=list(job.trials[0].fields),
    rows=[rows[index] for index in sorted(rows)],
    curves=curves,
    num_members=len(job.trials),
    pending=[
      trial.name
      for trial, kept in zip(job.trials, found, strict=True)
      if kept is None
    ],
    groups=groups,
    command=command_line(),
    environment=environment(job.devices),
    config=config_to_json(config),
  )


def _read_row(row: dict[str, Any]) -> dict[str, Any]:
  """The fields of a trial that its result.json holds."""
  if 'checkpoint' in row:
    row['checkpoint'] = results.ReportedCheckpoint(**row['checkpoint'])
  for name in {'clean_accuracy', 'robust_accuracy'} & {*row}:
    ci = tuple(row.pop(f'{name}_ci'))
    row[name] = results.Estimate(row[name], ci)
  return row


def _command(job: _Job, trial: Trial, num_devices: int) -> str:
  """The command that trains a trial alone."""
  fields, alone = dict(trial.fields), copy.deepcopy(job.config)
  with alone.unlocked(), alone.ignore_type():
    for name, value in trial.fields.items():
      section, _, last = name.rpartition('.')
      (alone[section] if section else alone)[last] = value
  for name in ('evaluation.epsilon', 'monitor.epsilon'):
    if alone[name] != trial.config[name]:  # It would follow a swept field.
      fields[name] = trial.config[name]
  values = [f'--config.{name}={value}' for name, value in fields.items()]
  return shlex.join(
    [
      *job.train_command,
      *values,
      f'--platform={job.devices[0].platform}',
      f'--devices={num_devices}',
      f'--workdir={job.workdir / "alone" / trial.name}',
    ]
  )
