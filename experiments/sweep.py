"""Train a grid of settings as one program, attack each, and chart them."""

import json
import logging
import pathlib
import runpy
import shlex
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
from absl import flags
from ml_collections import config_dict, config_flags

from advjax import cli, data
from advjax.attacks.specs import AnyAttack
from advjax.devices import Batching
from advjax.environment import environment
from advjax.evaluation.logits import NotFinite
from advjax.evaluation.models import evaluate_models, parse_attacks
from advjax.files import write_json
from advjax.processes.topology import which_process
from advjax.reporting.sweep.content import sweep_content
from advjax.reporting.sweep.member import diverged_result, member_result
from advjax.reporting.sweep.page import write_sweep
from advjax.reporting.sweep.rows import write_rows
from advjax.sweeps import (
  Member,
  collect_sweep,
  create_members,
  cut_shard,
  parse_sweep,
  shard_members,
)
from advjax.training.compilations import count_compilations
from advjax.training.run import Diverged, TrainResult
from advjax.training.setup import Training, create_training, eval_logits_fn
from advjax.training.sweep import (
  Chunk,
  count_of,
  group_by_program,
  train_group,
)
from advjax.training.workdir import prepare_workdir

logger = logging.getLogger('advjax')


class _Job(NamedTuple):
  """A sweep, all of it checked.

  Attributes:
    config: What its members have in common.
    members: All of them, those of other shards too.
    groups: Indices of members that share a program.
    folders: Member -> its folder.
    dataset: The data.
    attacks: The attacks.
    workdir: The sweep's folder.
    devices: The devices.
    train_command: What trains a member alone, but for the fields it sets.
  """

  config: config_dict.ConfigDict
  members: list[Member]
  groups: list[list[int]]
  folders: dict[str, pathlib.Path]
  dataset: data.Dataset
  attacks: dict[str, AnyAttack]
  workdir: pathlib.Path
  devices: Sequence[jax.Device]
  train_command: Sequence[str]


def _prepare(
  config: config_dict.ConfigDict,
  settings: Sequence[Mapping[str, Any]],
  workdir: pathlib.Path,
  devices: Sequence[jax.Device],
  train_command: Sequence[str],
) -> _Job:
  """Checks all there is to check; writes nothing."""
  members = create_members(config, settings)
  dataset = data.load(config.dataset)
  evaluation = config.evaluation
  attacks = parse_attacks(
    evaluation.attacks, norm=evaluation.norm, bounds=evaluation.bounds
  )
  for member in members:
    try:
      # Of one device: how many share a batch is known when it is trained.
      create_training(member.config, dataset, devices[:1])
    except ValueError as error:
      raise ValueError(f'member {member.name}: {error}') from error
  return _Job(
    config,
    members,
    group_by_program([member.config for member in members]),
    {m.name: workdir / 'members' / m.name for m in members},
    dataset,
    attacks,
    workdir,
    devices,
    train_command,
  )


def _read_result(job: _Job, member: Member) -> dict[str, Any] | None:
  """What is kept of a member, or None if it is not done."""
  path = job.folders[member.name] / 'result.json'
  return json.loads(path.read_text()) if path.exists() else None


def _attack(
  job: _Job, member: Member, training: Training, result: TrainResult | Diverged
) -> dict[str, Any]:
  """Attacks a trained member; returns what is kept of it."""
  if isinstance(result, Diverged):
    return diverged_result(result)
  evaluation, test = job.config.evaluation, job.dataset.test
  logits_fn = eval_logits_fn(
    training.model,
    result.params,
    result.model_state,
    training.config.evaluation.matmul_precision,
  )
  try:
    found = evaluate_models(
      {member.name: logits_fn},
      job.attacks,
      np.asarray(data.to_float(test.images)),
      test.labels,
      epsilon=evaluation.epsilon,
      epsilons=evaluation.epsilons,
      batching=Batching(
        evaluation.batch_size,
        job.devices,
        jax.random.key(member.config.seed),
      ),
    )
  except NotFinite as error:
    return diverged_result(error)
  return member_result(result, found, test.labels)


def _note_training(
  job: _Job, members: Sequence[Member], chunk: Chunk, work: dict[str, Any]
) -> None:
  """Leaves in each folder how its member was trained, once for all."""
  first = members[chunk.indices[0]].name
  for index, training in zip(chunk.indices, chunk.trainings, strict=True):
    path = job.folders[members[index].name] / 'trained.json'
    if not path.exists():
      write_json(
        path,
        {
          'devices_per_run': training.plan.num_devices,
          'chunk': {'first': first, 'members': len(chunk.indices), **work},
        },
      )


def _run_group(job: _Job, members: Sequence[Member]) -> None:
  """Trains and attacks members of one group; leaves a result.json of each."""
  start = time.perf_counter()
  with count_compilations() as compilations:
    for chunk in train_group(
      [member.config for member in members],
      [job.folders[member.name] for member in members],
      [member.name for member in members],
      job.dataset,
      job.devices,
    ):
      work = {
        'how': chunk.how,
        'seconds': time.perf_counter() - start,
        'compiles': compilations.count,
      }
      _note_training(job, members, chunk, work)
      logger.info(
        'attacking %s on %d test images',
        count_of(len(chunk.indices), 'network'),
        len(job.dataset.test.labels),
      )
      with stop_on_signals() as stop:
        for index, training, result in zip(
          chunk.indices, chunk.trainings, chunk.results, strict=True
        ):
          folder = job.folders[members[index].name]
          kept = _attack(job, members[index], training, result)
          trained = json.loads((folder / 'trained.json').read_text())
          write_json(folder / 'result.json', {**kept, **trained})
          if stop.signum:
            raise Interrupted(stop.signum)
      _write_up_to_date(job, write_rows)
      start, compilations.count = time.perf_counter(), 0


def _write_up_to_date(
  job: _Job, write: Callable[[pathlib.Path, dict[str, Any]], str | None]
) -> tuple[dict[str, Any], str | None]:
  """Writes what is made of all results, again if another shard adds some."""
  while True:
    report = _report(job)
    text = write(job.workdir, report)
    if _report(job)['pending'] == report['pending']:
      return report, text


def _report(job: _Job) -> dict[str, Any]:
  """Returns the content of sweep.json, of the members that are done."""
  results = {}
  for member in job.members:
    result = _read_result(job, member)
    if result is not None:
      num_devices = result['devices_per_run']
      result['row'] |= {
        'devices': num_devices,
        'command': _command(job, member, num_devices),
        'folder': str(job.folders[member.name].relative_to(job.workdir)),
      }
    results[member.name] = result
  return sweep_content(
    job.config,
    {member.name: member.fields for member in job.members},
    [[job.members[index].name for index in group] for group in job.groups],
    results,
    job.dataset,
    list(job.attacks),
    environment(job.devices),
  )


def _command(job: _Job, member: Member, num_devices: int) -> str | None:
  """Returns the command that trains a member alone, if flags can say it."""
  base = job.config.to_dict()
  for field in member.fields:
    section, _, name = field.rpartition('.')
    # A number that this member's objective reads, and the config's own not.
    if name not in (base[section] if section else base):
      return None
  values = [f'--config.{name}={value}' for name, value in member.fields.items()]
  return shlex.join(
    [
      *job.train_command,
      *values,
      f'--platform={job.devices[0].platform}',
      f'--devices={num_devices}',
      f'--workdir={job.workdir / "alone" / member.name}',
    ]
  )


def sweep(
  config: config_dict.ConfigDict,
  settings: Sequence[Mapping[str, Any]],
  workdir: str | pathlib.Path,
  devices: Sequence[jax.Device],
  *,
  shard: str = '0/1',
  train_command: Sequence[str] = ('./launch.sh', 'train'),
) -> dict[str, Any]:
  """Trains the members of a sweep, attacks each of them, and reports.

  Members that are done already, in this folder, are not trained again.

  Args:
    config: A training config, what the members have in common.
    settings: What each member sets (`parse_sweep`, `collect_sweep`).
    workdir: The folder to write to; members train in folders below it.
    devices: The devices.
    shard: 'i/n' trains the i-th share of n; the jobs of the other shares may
      run at the same time and write to the same folder.
    train_command: What trains the config alone.

  Returns:
    The content of sweep.json.

  Raises:
    ValueError: for anything wrong in a member, before anything is written.
  """
  path = pathlib.Path(workdir)
  job = _prepare(config, settings, path, devices, train_command)
  share = shard_members(job.members, shard)
  prepare_workdir(path, config)
  for member in share:
    prepare_workdir(job.folders[member.name], member.config)
  names = {member.name for member in share if not _read_result(job, member)}
  logger.info(
    '%s in %s; %d of them done%s',
    count_of(len(job.members), 'member'),
    count_of(len(job.groups), 'group'),
    len(share) - len(names),
    '' if len(share) == len(job.members) else f'; shard {shard}: {len(share)}',
  )
  for group in job.groups:
    members = [m for i in group if (m := job.members[i]).name in names]
    if members:
      _run_group(job, members)
  report, text = _write_up_to_date(job, write_sweep)
  print(text)
  print(f'\nreport: {path / "report.html"}')
  return report


def _settings(
  config: config_dict.ConfigDict, text: str | None, config_file: str
) -> list[dict[str, Any]]:
  """Returns what the members set: by the flag, or by the config file."""
  if text is not None:
    return parse_sweep(text, config)
  path, _, variant = config_file.partition(':')
  function = runpy.run_path(path).get('sweep')
  if function is None:
    raise ValueError(
      f"--config: '{path}' has no function sweep(add); give "
      '--sweep="hparams.epsilon=0.1,0.2;seed=0,1", or a file of configs/sweeps'
    )
  return collect_sweep(function, variant or None)


def main() -> None:
  flag = flags.FLAGS
  config_file = config_flags.get_config_filename(flag['config'])
  sweep(
    flag.config,
    _settings(flag.config, flag.sweep, config_file),
    flag.workdir,
    cli.devices_from_flags(),
    shard=cut_shard(flag.shard, *find_place()[:2]),
    train_command=['./launch.sh', 'train', *cli.config_arguments(sys.argv)],
  )


if __name__ == '__main__':
  cli.define_config_flags()
  flags.DEFINE_string(
    'sweep',
    None,
    'What to sweep over, "FIELD=V1,V2;FIELD=V1,V2": all combinations. Also '
    'zip(FIELD=V1,V2;FIELD=V1,V2) and list(FIELD=V,FIELD=V;...). Default: the '
    "config file's sweep(add).",
  )
  flags.DEFINE_string(
    'shard',
    '0/1',
    'i/n: train the i-th share of n; of it, several processes '
    'take a share each.',
  )
  cli.run(main, processes='apart', keep_compiled=True)
