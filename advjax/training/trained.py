"""Trained networks, read back from the folders of their runs."""

import dataclasses
import functools
import hashlib
import json
import operator
import pathlib
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import config_dict

from advjax import data
from advjax.config import config_to_json, saved_config, warn_of_changes
from advjax.files import read_json
from advjax.models import Model, create_model
from advjax.models.adapters import PyTree
from advjax.models.logits import eval_logits_fn
from advjax.processes.collectives import from_main
from advjax.training.checkpoint import (
  checkpoint_directory,
  fit_params,
  restore_checkpoint,
)
from advjax.training.setup import network_shapes
from advjax.types import Array

# The field of a data set that says where it is.
_PLACES = {'folder': 'path', 'npz': 'path'}


@dataclasses.dataclass(frozen=True)
class _Origin:
  """What is no array in a trained network; equal where programs are."""

  model: Model
  matmul_precision: str
  config_json: str = dataclasses.field(compare=False)
  directory: pathlib.Path = dataclasses.field(compare=False)
  step: int = dataclasses.field(compare=False)


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class Trained:
  """A trained network in evaluation mode: images `[B, H, W, C]` to logits.

  A pytree of its arrays, which attacks trace: others of the same network do not
  recompile.

  Attributes:
    params: What the run reported, as the model has it: of Linen, NNX and Keras
      networks a nested dictionary.
    model_state: BatchNorm statistics and the like; {} without.
  """

  params: PyTree
  model_state: PyTree
  origin: _Origin

  def __call__(self, images: Array) -> Array:
    arguments = self.model, self.params, self.model_state
    return eval_logits_fn(*arguments, self.origin.matmul_precision)(images)

  @property
  def model(self) -> Model:
    """The network as two pure functions."""
    return self.origin.model

  @property
  def config(self) -> config_dict.ConfigDict:
    """A copy of the run's config."""
    return saved_config(json.loads(self.origin.config_json))

  @property
  def directory(self) -> pathlib.Path:
    """The folder of the checkpoint."""
    return self.origin.directory

  @property
  def step(self) -> int:
    """Steps of training before the checkpoint."""
    return self.origin.step

  @property
  def checkpoint(self) -> str:
    """The name of the checkpoint: 'last' or 'best'."""
    return self.directory.name

  @property
  def num_params(self) -> int:
    """The size of params."""
    return sum(leaf.size for leaf in jax.tree.leaves(self.params))


jax.tree_util.register_dataclass(
  Trained, data_fields=['params', 'model_state'], meta_fields=['origin']
)


def load(
  workdir: str | pathlib.Path,
  *,
  report_checkpoint: str | None = None,
  model: Model | None = None,
) -> Trained:
  """Loads a trained network, without its data set.

  Args:
    workdir: The folder of a run, or a folder `checkpoints/best` in it.
    report_checkpoint: 'last' or 'best'; None: the one that the run reported.
    model: The network, where `train` was given an object.

  Returns:
    The network: a function of images `[B, H, W, C]` in [0, 1] to logits.

  Raises:
    ValueError: if there is no such checkpoint, or it is of another network.
  """
  directory = from_main(checkpoint_directory, workdir, report_checkpoint)
  config = from_main(_read_config, directory)
  return _load(directory, config, model=model)


def load_trained(
  checkpoints: Sequence[str],
  data_dir: str | None = None,
  report_checkpoint: str | None = None,
) -> tuple[dict[str, Trained], data.Dataset]:
  """Loads trained networks by name, and the data set that they share.

  Names are those of objectives where these differ, else of folders, else with
  that of the checkpoint. `data_dir` is where the data set is now; None: where
  it was in training.
  """
  if not checkpoints or isinstance(checkpoints, str):
    raise ValueError(
      f'checkpoint = {checkpoints!r}; allowed: a list of one or more'
    )
  directories = [
    from_main(checkpoint_directory, path, report_checkpoint)
    for path in checkpoints
  ]
  configs = [from_main(_read_config, each, data_dir) for each in directories]
  for directory, config in zip(directories, configs, strict=True):
    for field in ('dataset', 'evaluation.bounds'):
      have, want = (_field(each, field) for each in (config, configs[0]))
      if have != want:
        raise ValueError(
          f"checkpoint = '{directory}' has {field} = {have}, "
          f"'{directories[0]}' has {want}; allowed: networks of one data set"
        )
  _check_named(configs[0], 'dataset')
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
  """Names networks by objective, folder, checkpoint or number, that differ."""
  objectives = [objective_name(config) for config in configs]
  folders = [directory.parent.parent.name for directory in directories]
  checkpoints = [
    f'{name}_{directory.name}'
    for name, directory in zip(objectives, directories, strict=True)
  ]
  for names in (objectives, folders, checkpoints):
    if len({*names, ''}) == len(names) + 1:
      return names
  return [f'{name}_{index}' for index, name in enumerate(objectives)]


def _read_config(
  directory: pathlib.Path, data_dir: str | None = None
) -> config_dict.ConfigDict:
  """The config of the run that a checkpoint folder belongs to."""
  for folder in (directory, *directory.parents):
    if (folder / 'config.json').is_file():
      saved = read_json(folder / 'config.json')
      try:
        config = saved_config(saved)
      except ValueError as error:
        raise ValueError(f"'{folder}/config.json': {error}") from error
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
  if not hasattr(value, 'to_json'):
    return value
  return {k: v for k, v in config_to_json(value).items() if v is not None}


def objective_name(config: config_dict.ConfigDict) -> str:
  """The name of an objective in reports and files: 'mart' of 'own:mart'."""
  name: str = config.objective.name
  return name.rpartition(':')[2].strip('<>')


def marker(value: Any) -> str:
  """What a config says in place of a name where an object was given."""
  if isinstance(value, data.Dataset):
    digest = hashlib.sha256()
    for array in (*value.train, *value.test):
      digest.update(np.ascontiguousarray(array).data)
    return f'<{value.name} {digest.hexdigest()[:16]}>'
  return f'<{getattr(value, "__name__", type(value).__name__)}>'


def _check_named(config: config_dict.ConfigDict, section: str) -> None:
  name = config[section].name
  if name.startswith('<'):
    raise ValueError(
      f'{section}.name = {name!r}, an object that train was given; allowed: to '
      f"give it again, or to train with {section}.name = 'module:function'"
    )


def _load(
  directory: pathlib.Path,
  config: config_dict.ConfigDict,
  dataset: data.Dataset | None = None,
  model: Model | None = None,
) -> Trained:
  found = from_main(restore_checkpoint, directory)
  assert found is not None  # `checkpoint_directory` has seen it.
  shape = found.record.get('image_shape', ())
  num_classes = found.record.get('num_classes')
  if dataset:  # Checkpoints of older versions do not say.
    shape, num_classes = dataset.train.images.shape[1:], dataset.num_classes
  elif not num_classes:
    raise ValueError(
      f"num_classes = None in the checkpoint in '{directory}'; allowed: one of "
      'this version of advjax. evaluate takes it, which reads the data set'
    )
  if model is None:
    _check_named(config, 'model')
    model = _model(config_dict.FrozenConfigDict(config.model), num_classes)
  warn_of_changes(found.record.get('sources', {}), config, directory)
  shapes = network_shapes(model, config.model.name, shape)
  fitted = fit_params(directory, found, *shapes)
  params, model_state = jax.tree.map(jnp.asarray, fitted)
  precision, step = config.evaluation.matmul_precision, found.state['step']
  origin = _Origin(model, precision, config.to_json(), directory, int(step))
  return Trained(params, model_state, origin)


# A network that is loaded twice compiles once.
_model = functools.lru_cache(maxsize=16)(create_model)
