"""Attack trained networks with attacks given by flags, and report.

  ./launch.sh evaluate --checkpoint=runs/nsl_digits/base \\
    --attacks=fgsm,pgd-50-10,autoattack --norm=linf \\
    --epsilons=2/255,8/255,0.1 --workdir=runs/base_evaluated

Several checkpoints, separated by commas, are attacked side by side, and each is
asked about the images made on the others.
"""

import functools
import json
import logging
import pathlib
import sys
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
from absl import flags
from ml_collections import config_dict

from advjax import cli, data
from advjax.config import check_range, saved_config
from advjax.evaluation.attack_specs import replace_bounds
from advjax.evaluation.members import evaluate_members, parse_attacks
from advjax.fractions import parse_number
from advjax.processes.talk import from_main, is_main
from advjax.reporting.extras import measure_extras
from advjax.reporting.report import (
  command_line,
  environment,
  robustness_report,
)
from advjax.reporting.run import write_run
from advjax.reporting.sanity.findings import sanity_findings
from advjax.reporting.sanity.scores import large_epsilon
from advjax.training.checkpoint import checkpoint_directory, load_params
from advjax.training.setup import create_training, eval_logits_fn
from advjax.training.state import evaluation_params, num_params
from advjax.training.workdir import config_to_json, prepare_workdir
from advjax.types import LogitsFn

logger = logging.getLogger('advjax')


def define_flags() -> None:
  """Defines the flags; not on import, which others may do for `evaluate`."""
  flags.DEFINE_list(
    'checkpoint',
    None,
    "A run's workdir (its last checkpoint), or a folder checkpoints/best in "
    'it; several between commas.',
    required=True,
  )
  flags.DEFINE_list(
    'attacks',
    ['fgsm', 'pgd-40'],
    'NAME[-STEPS[-RESTARTS]], autoattack, apgd-t, deepfool, ...',
  )
  flags.DEFINE_string('norm', 'linf', 'linf, l2 or l1.')
  flags.DEFINE_list(
    'epsilons', ['0.1'], 'Radii such as 8/255; the last is the headline.'
  )
  flags.DEFINE_string(
    'step_size', None, 'Step size of bim, mifgsm and pgd; default: by attack.'
  )
  flags.DEFINE_integer('batch_size', 64, 'Images per device.')
  flags.DEFINE_integer('seed', 0, 'Seeds all that is drawn.')
  flags.DEFINE_integer(
    'num_images', None, 'So many test images, the first; default: all.'
  )
  flags.DEFINE_string(
    'data_dir', None, 'Where the data set lies; default: where it lay.'
  )
  flags.DEFINE_bool(
    'corruptions', True, 'Whether to measure 15 corruptions at 5 severities.'
  )
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


class _Trained(NamedTuple):
  """A network to attack."""

  config: config_dict.ConfigDict
  logits_fn: LogitsFn
  num_params: int


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


def _read_configs(
  directories: Sequence[pathlib.Path], data_dir: str | None
) -> list[config_dict.ConfigDict]:
  """Reads the configs of the runs, which must be about the same images."""
  configs = [
    from_main(functools.partial(read_run_config, folder))
    for folder in directories
  ]
  for config in configs:
    # The checkpoint has what training started from; the other run may be gone.
    config.init_from = ''
    if data_dir is not None:
      config.dataset.data_dir = data_dir
  first = configs[0]
  for directory, config in zip(directories, configs, strict=True):
    for field in ('dataset', 'evaluation.bounds'):
      have, want = (_field(each, field) for each in (config, first))
      if have != want:
        raise ValueError(
          f"checkpoint = '{directory}' has {field} = {have}, "
          f"'{directories[0]}' has {want}; allowed: networks of one data set"
        )
  return configs


def _field(config: config_dict.ConfigDict, name: str) -> Any:
  value = config
  for part in name.split('.'):
    value = value[part]
  return config_to_json(value) if hasattr(value, 'to_json') else value


def _load(
  directory: pathlib.Path,
  config: config_dict.ConfigDict,
  dataset: data.Dataset,
  devices: Sequence[jax.Device],
) -> _Trained:
  training = create_training(config, dataset, devices)
  fresh = training.init_state()
  state = from_main(lambda: load_params(directory, fresh))
  params = evaluation_params(state)
  return _Trained(
    config,
    eval_logits_fn(training.model, params, state.model_state),
    num_params(params),
  )


def _curve(
  epsilons: Sequence[float],
  norm: str,
  bounds: tuple[float, float] | None,
  image_shape: Sequence[int],
) -> list[float]:
  """Those asked for, and one at which no network can be right."""
  large = large_epsilon(norm, bounds, image_shape)
  if large is None or large <= max(epsilons):
    return list(epsilons)
  return [*epsilons, large]


def evaluate(
  checkpoints: Sequence[str],
  attack_names: Sequence[str],
  epsilons: Sequence[float],
  workdir: str | pathlib.Path,
  devices: Sequence[jax.Device],
  *,
  norm: str = 'linf',
  step_size: float | None = None,
  batch_size: int = 64,
  seed: int = 0,
  num_images: int | None = None,
  corruptions: bool = True,
  data_dir: str | None = None,
) -> dict[str, Any]:
  """Attacks trained networks on the test images of their data set.

  Args:
    checkpoints: Each as `checkpoint_directory` takes it.
    attack_names: As `parse_attack` takes them.
    epsilons: Radii; the last one is the headline.
    workdir: The folder to write to.
    devices: The devices.
    norm: 'linf', 'l2' or 'l1'.
    step_size: Of bim, mifgsm and pgd; None: their defaults.
    batch_size: Images per device and call; no result depends on it.
    seed: Seeds all that is drawn.
    num_images: So many test images, the first; None: all.
    corruptions: Whether to measure common corruptions.
    data_dir: Where the data set lies now; None: where it lay in training.

  Returns:
    The content of report.json.

  Raises:
    ValueError: for anything wrong, before anything is written.
  """
  for index, epsilon in enumerate(epsilons):
    check_range(f'epsilons[{index}]', epsilon, 0.0)
  check_range('batch_size', batch_size, 1, integer=True)
  check_range('seed', seed, 0, integer=True)
  if num_images is not None:
    check_range('num_images', num_images, 1, integer=True)
  if not epsilons or not checkpoints:
    raise ValueError(
      f'checkpoint = {list(checkpoints)}, epsilons = {list(epsilons)}; '
      'allowed: one of each or more'
    )
  attacks = parse_attacks(attack_names, norm=norm, step_size=step_size)
  directories = [
    from_main(functools.partial(checkpoint_directory, path))
    for path in checkpoints
  ]
  configs = _read_configs(directories, data_dir)
  names = _names(directories, configs)
  bounds = configs[0].evaluation.bounds
  bounds = None if bounds is None else tuple(bounds)  # JSON has lists.
  attacks = replace_bounds(attacks, bounds)
  dataset = data.load(configs[0].dataset)
  trained = {
    name: _load(directory, config, dataset, devices)
    for name, directory, config in zip(names, directories, configs, strict=True)
  }
  settings = config_dict.create(
    checkpoint=tuple(str(directory.resolve()) for directory in directories),
    attacks=tuple(attack_names),
    norm=norm,
    epsilons=tuple(epsilons),
    step_size=step_size,
    seed=seed,
    num_images=num_images,
    corruptions=corruptions,
  )
  path = from_main(lambda: prepare_workdir(workdir, settings))
  test = dataset.test
  images = np.asarray(data.to_float(test.images[:num_images]))
  labels = test.labels[:num_images]
  logger.info('attacking %d test images', len(labels))
  members = {name: each.logits_fn for name, each in trained.items()}
  share: dict[str, Any] = {'batch_size': batch_size, 'devices': devices}
  found = evaluate_members(
    members,
    attacks,
    images,
    labels,
    epsilon=epsilons[-1],
    epsilons=_curve(epsilons, norm, bounds, images.shape[1:]),
    key=jax.random.key(seed),
    folder=path / 'autoattack',
    progress=sys.stderr.isatty(),
    **share,
  )
  parts = measure_extras(
    members,
    found,
    images,
    labels,
    num_classes=dataset.num_classes,
    bounds=bounds,
    key=jax.random.key(seed),
    corruptions=corruptions,
    **share,
  )
  report: dict[str, Any] = {
    'dataset': {
      'name': dataset.name,
      'num_train': len(dataset.train.labels),
      'num_test': len(labels),
      'image_shape': list(images.shape[1:]),
    },
    'seeds': [seed],
    'classes': list(dataset.class_names),
    'members': {
      name: {
        'num_params': each.num_params,
        **robustness_report([found], labels, name),
        **parts[name],
      }
      for name, each in trained.items()
    },
    'command': command_line(),
    'environment': environment(devices),
    'config': {
      name: config_to_json(each.config) for name, each in trained.items()
    },
  }
  report['sanity'] = sanity_findings(report)
  if not is_main():
    return report
  text = write_run(
    path,
    report,
    found,
    images,
    labels,
    {name: [] for name in trained},
    dataset.class_names,
    title=_title(trained),
  )
  print(text)
  print(f'\nreport: {path / "report.html"}')
  return report


def _title(trained: Mapping[str, _Trained]) -> str:
  (name, first), *others = trained.items()
  if others:
    return f'{len(trained)} networks, attacked'
  return f'{first.config.model.name} trained by {name}, attacked'


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
    num_images=flag.num_images,
    corruptions=flag.corruptions,
    data_dir=flag.data_dir,
  )


if __name__ == '__main__':
  define_flags()
  cli.run(main, processes='together')
