"""Train a grid of settings as one program, attack each, and chart them."""

import json
import logging
import pathlib
import runpy
import shlex
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
from absl import flags
from ml_collections import config_dict, config_flags

from advjax import cli, data
from advjax.evaluation.attack_specs import Attack
from advjax.evaluation.members import evaluate_members, parse_attacks
from advjax.processes.place import which_process
from advjax.reporting.report import environment
from advjax.reporting.sweep.content import sweep_content
from advjax.reporting.sweep.member import diverged_result, member_result
from advjax.reporting.sweep.page import write_sweep
from advjax.reporting.sweep.rows import write_rows
from advjax.sweeps import (
  Member,
  collect_sweep,
  create_members,
  parse_sweep,
  shard_members,
)
from advjax.training.compilations import count_compilations
from advjax.training.run import Diverged
from advjax.training.setup import create_training, eval_logits_fn
from advjax.training.sweep import Chunk, group_by_program, train_group
from advjax.training.workdir import prepare_workdir, write_json

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
  attacks: dict[str, Attack]
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
      # A single team: a batch is cut least where there are as many teams.
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


def _attack_chunk(
  job: _Job, members: Sequence[Member], chunk: Chunk
) -> Iterator[tuple[Member, dict[str, Any]]]:
  """Attacks the members of a chunk, one after the other."""
  evaluation, test = job.config.evaluation, job.dataset.test
  images = np.asarray(data.to_float(test.images))
  for index, training, result in zip(
    chunk.indices, chunk.trainings, chunk.results, strict=True
  ):
    member = members[index]
    if isinstance(result, Diverged):
      yield member, diverged_result(result)
      continue
    found = evaluate_members(
      {
        member.name: eval_logits_fn(
          training.model, result.params, result.model_state
        )
      },
      job.attacks,
      images,
      test.labels,
      epsilon=evaluation.epsilon,
      epsilons=evaluation.epsilons,
      key=jax.random.key(member.config.seed),
      batch_size=evaluation.batch_size,
      devices=job.devices,
    )
    kept = member_result(result, found, test.labels)
    kept['row']['devices_per_run'] = training.plan.num_devices
    yield member, kept


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
      logger.info(
        'attacking %d networks on %d test images',
        len(chunk.indices),
        len(job.dataset.test.labels),
      )
      kept = list(_attack_chunk(job, members, chunk))
      work = {
        'first': kept[0][0].name,
        'members': len(kept),
        'how': chunk.how,
        'seconds': time.perf_counter() - start,
        'compiles': compilations.count,
      }
      for member, result in kept:
        write_json(
          job.folders[member.name] / 'result.json', {**result, 'chunk': work}
        )
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
      devices = result['row'].get('devices_per_run', 1)
      result['row']['command'] = _command(job, member, devices)
      result['row']['folder'] = str(
        job.folders[member.name].relative_to(job.workdir)
      )
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


def _command(job: _Job, member: Member, num_devices: int) -> str:
  """Returns the command that trains a member alone."""
  values = [f'--config.{name}={value}' for name, value in member.fields.items()]
  return shlex.join(
    [
      *job.train_command,
      *values,
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
    '%d members in %d groups; %d of them are done%s',
    len(job.members),
    len(job.groups),
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


def _share(shard: str, process_id: int, num_processes: int) -> str:
  """Cuts a shard further, for each of several processes: members[i::n][p::m].

  Example:
    >>> _share('1/3', 0, 2), _share('1/3', 1, 2)
    ('1/6', '4/6')
  """
  index, _, count = shard.partition('/')
  if num_processes == 1 or not (index.isdigit() and count.isdigit()):
    return shard  # Of what is wrong with it, `sweep` says more.
  place = int(index) + int(count) * process_id
  return f'{place}/{int(count) * num_processes}'


def _train_command(arguments: Sequence[str]) -> list[str]:
  """Returns the command of a single run with the same config flags."""
  command, value_follows = ['./launch.sh', 'train'], False
  for argument in arguments:
    is_config = argument.lstrip('-').startswith(('config', 'noconfig'))
    if value_follows or (argument.startswith('-') and is_config):
      command.append(argument)
      value_follows = not value_follows and '=' not in argument
  return command


def main() -> None:
  flag = flags.FLAGS
  config_file = config_flags.get_config_filename(flag['config'])
  sweep(
    flag.config,
    _settings(flag.config, flag.sweep, config_file),
    flag.workdir,
    cli.devices_from_flags(),
    shard=_share(flag.shard, *which_process()),
    train_command=_train_command(sys.argv[1:]),
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
  cli.run(main, processes='apart')
