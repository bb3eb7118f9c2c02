"""Trained networks, read back from the folders of their runs."""

import functools
import json
import operator
import pathlib
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from ml_collections import config_dict

from advjax import data
from advjax.config import config_to_json, saved_config
from advjax.models import Model, create_model
from advjax.models.adapters import PyTree
from advjax.models.logits import eval_logits_fn
from advjax.processes.collectives import from_main
from advjax.training.checkpoint import checkpoint_directory, load_params
from advjax.training.setup import network_shapes
from advjax.training.step import TrainState
from advjax.types import LogitsFn

# The field of a data set that says where it is.
_PLACES = {'folder': 'path', 'npz': 'path'}


class Trained(NamedTuple):
  """A trained network: its logits function and what it is made of."""

  directory: pathlib.Path
  config: config_dict.ConfigDict
  logits_fn: LogitsFn
  num_params: int
  model: Model
  params: PyTree
  model_state: PyTree


def load_trained(
  checkpoints: Sequence[str],
  devices: Sequence[jax.Device],
  data_dir: str | None = None,
) -> tuple[dict[str, Trained], data.Dataset]:
  """Loads trained networks by name, and the data set that they share.

  Names are those of objectives where these differ, else of folders. `data_dir`
  is where the data set is now; None: where it was in training.
  """
  directories = [
    from_main(functools.partial(checkpoint_directory, path))
    for path in checkpoints
  ]
  configs = [
    from_main(functools.partial(_read_config, folder, data_dir))
    for folder in directories
  ]
  for directory, config in zip(directories, configs, strict=True):
    for field in ('dataset', 'evaluation.bounds'):
      have, want = (_field(each, field) for each in (config, configs[0]))
      if have != want:
        raise ValueError(
          f"checkpoint = '{directory}' has {field} = {have}, "
          f"'{directories[0]}' has {want}; allowed: networks of one data set"
        )
  dataset = data.load(configs[0].dataset)
  trained = {
    name: _load(directory, config, dataset)
    for name, directory, config in zip(
      _names(directories, configs), directories, configs, strict=True
    )
  }
  return trained, dataset


def _names(
  directories: Sequence[pathlib.Path],
  configs: Sequence[config_dict.ConfigDict],
) -> list[str]:
  """Names networks by objective, else by folder, else by both and a number."""
  objectives = [config.objective.name for config in configs]
  folders = [directory.parent.parent.name for directory in directories]
  for names in (objectives, folders):
    if len({*names, ''}) == len(names) + 1:
      return names
  return [f'{name}_{index}' for index, name in enumerate(objectives)]


def _read_config(
  directory: pathlib.Path, data_dir: str | None
) -> config_dict.ConfigDict:
  """The config of the run that a checkpoint folder belongs to."""
  for folder in (directory, *directory.parents):
    if (folder / 'config.json').is_file():
      config = saved_config(json.loads((folder / 'config.json').read_text()))
      # The checkpoint has the initial weights too; their source may be gone.
      config.init_from = ''
      if 'weights' in config.model:
        config.model.weights = 'random'
      if data_dir is not None:
        config.dataset[_PLACES.get(config.dataset.name, 'data_dir')] = data_dir
      return config
  raise ValueError(
    f"'{directory}' belongs to no run: there is no config.json above it"
  )


def _field(config: config_dict.ConfigDict, name: str) -> Any:
  value = operator.attrgetter(name)(config)
  return config_to_json(value) if hasattr(value, 'to_json') else value


def _load(
  directory: pathlib.Path,
  config: config_dict.ConfigDict,
  dataset: data.Dataset,
) -> Trained:
  model = create_model(config.model, dataset.num_classes)
  shape = dataset.train.images.shape[1:]
  params, model_state = network_shapes(model, config.model.name, shape)
  like = TrainState(jnp.zeros(()), params, model_state, (), None)
  state = from_main(lambda: load_params(directory, like))
  params = jax.tree.map(jnp.asarray, state.params)
  model_state = jax.tree.map(jnp.asarray, state.model_state)
  precision = config.evaluation.matmul_precision
  return Trained(
    directory,
    config,
    eval_logits_fn(model, params, model_state, precision),
    sum(leaf.size for leaf in jax.tree.leaves(params)),
    model,
    params,
    model_state,
  )
