"""The content of sweep.json, put together from what is kept of each member."""

from collections.abc import Mapping, Sequence
from typing import Any

from ml_collections import config_dict

from advjax.data import Dataset
from advjax.environment import command_line
from advjax.training.workdir import config_to_json


def sweep_content(
  config: config_dict.ConfigDict,
  fields: Mapping[str, Mapping[str, Any]],
  groups: Sequence[Sequence[str]],
  results: Mapping[str, Mapping[str, Any] | None],
  dataset: Dataset,
  attacks: Sequence[str],
  environment: Mapping[str, Any],
) -> dict[str, Any]:
  """Returns what the report of a sweep is made of.

  Args:
    config: What the members have in common.
    fields: Member -> what it sets, in the order of the sweep.
    groups: The members of each group, all of which share a program.
    results: Member -> its result (`member_result`), with `chunk`, how it was
      trained; None for one that is not done.
    dataset: The data.
    attacks: Names of the attacks.
    environment: Where the numbers were made.

  Returns:
    The content of sweep.json. Its `rows` are those of the members that are
    done, in order: name, group, what they set, and their result's row.
  """
  group_of = {
    name: number for number, group in enumerate(groups) for name in group
  }
  done = {name: kept for name in fields if (kept := results[name]) is not None}
  return {
    'title': f'{config.model.name} trained by {config.objective.name}, '
    f'{len(fields)} ways',
    'dataset': {
      'name': dataset.name,
      'num_train': len(dataset.train.labels),
      'num_test': len(dataset.test.labels),
    },
    'command': command_line(),
    'environment': dict(environment),
    'config': config_to_json(config),
    'objective': config.objective.name,
    'model': config.model.name,
    'epsilon': config.evaluation.epsilon,
    'norm': config.evaluation.norm,
    'attacks': list(attacks),
    'fields': list(next(iter(fields.values()))),
    'rows': [
      {'member': name, 'group': group_of[name], **fields[name], **kept['row']}
      for name, kept in done.items()
    ],
    'curves': {
      name: kept['curve'] for name, kept in done.items() if 'curve' in kept
    },
    'num_members': len(fields),
    'pending': [name for name in fields if name not in done],
    'groups': [
      _group([done[name] for name in group if name in done], len(group))
      for group in groups
    ],
  }


def _group(
  results: Sequence[Mapping[str, Any]], num_members: int
) -> dict[str, Any]:
  """What is known of the chunks of a group."""
  chunks = {kept['chunk']['first']: kept['chunk'] for kept in results}.values()
  return {
    'members': num_members,
    'how': '; '.join(dict.fromkeys(chunk['how'] for chunk in chunks)),
    'chunks': [chunk['members'] for chunk in chunks],
    'seconds': sum(chunk['seconds'] for chunk in chunks),
    'compiles': sum(chunk['compiles'] for chunk in chunks),
  }
