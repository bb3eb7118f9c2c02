"""Attack trained networks with attacks given by flags, and report.

  ./launch.sh evaluate --checkpoint=runs/nsl_digits/base \\
    --attacks=fgsm,pgd-50-10,autoattack --norm=linf \\
    --epsilons=2/255,8/255,0.1 --workdir=runs/base_evaluated

Several checkpoints, separated by commas, are attacked side by side, and each is
asked about the images made on the others.
"""

import logging
import pathlib
import sys
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np
from absl import flags
from ml_collections import config_dict

from advjax import cli, data
from advjax.attacks.specs import replace_bounds
from advjax.config import check_range, config_to_json
from advjax.evaluation.members import (
  Evaluation,
  evaluate_members,
  parse_attacks,
)
from advjax.fractions import parse_number
from advjax.jobs.workdir import prepare_workdir
from advjax.processes.collectives import from_main, is_main
from advjax.reporting.extras import measure_extras
from advjax.reporting.report import (
  command_line,
  environment,
  robustness_report,
)
from advjax.reporting.run import write_run
from advjax.reporting.sanity.findings import sanity_findings
from advjax.reporting.sanity.scores import large_epsilon
from advjax.reporting.shifted import seen_corruptions
from advjax.training.trained import Trained, load_trained

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
  flags.DEFINE_integer(
    'batch_size',
    None,
    'Images per device; default: 64, of AutoAttack as memory allows.',
  )
  flags.DEFINE_integer('seed', 0, 'Seeds all that is drawn.')
  flags.DEFINE_integer(
    'num_images', None, 'So many test images, the first; default: all.'
  )
  flags.DEFINE_string(
    'data_dir', None, 'Where the data set lies; default: where it lay.'
  )
  flags.DEFINE_bool(
    'corruptions',
    True,
    'Whether to measure 15 corruptions and pasted objects at 5 severities.',
  )
  flags.DEFINE_string(
    'workdir', None, 'Folder that the report is written to.', required=True
  )
  flags.register_validator('workdir', lambda path: path != '', 'is empty')


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
  batch_size: int | None = None,
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
    batch_size: Images per device and call; None: 64, of AutoAttack its own
      choice. No accuracy depends on it but for the rounding of networks.
    seed: Seeds all that is drawn.
    num_images: So many test images, the first; None: all.
    corruptions: Whether to measure common corruptions and pasted objects.
    data_dir: Where the data set lies now; None: where it lay in training.

  Returns:
    The content of report.json.

  Raises:
    ValueError: for anything wrong, before anything is written.
  """
  for index, epsilon in enumerate(epsilons):
    check_range(f'epsilons[{index}]', epsilon, 0.0)
  check_range('seed', seed, 0, integer=True)
  for name, value in (('batch_size', batch_size), ('num_images', num_images)):
    if value is not None:
      check_range(name, value, 1, integer=True)
  if not epsilons or not checkpoints or isinstance(checkpoints, str):
    raise ValueError(
      f'checkpoint = {checkpoints!r}, epsilons = {epsilons!r}; allowed: lists '
      'of one or more'
    )
  attacks = parse_attacks(attack_names, norm=norm, step_size=step_size)
  trained, dataset = load_trained(checkpoints, devices, data_dir)
  first = next(iter(trained.values()))
  bounds = first.config.evaluation.bounds
  bounds = None if bounds is None else tuple(bounds)  # JSON has lists.
  attacks = replace_bounds(attacks, bounds)
  settings = config_dict.create(
    checkpoint=tuple(str(e.directory.resolve()) for e in trained.values()),
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
  key = jax.random.key(seed)
  found = evaluate_members(
    members,
    attacks,
    images,
    labels,
    epsilon=epsilons[-1],
    epsilons=_curve(epsilons, norm, bounds, images.shape[1:]),
    key=key,
    batch_size=batch_size,
    devices=devices,
    folder=path / 'autoattack',
    progress=sys.stderr.isatty(),
    top_k=first.config.evaluation.top_k,
  )
  parts = measure_extras(
    members,
    found,
    images,
    labels,
    num_classes=dataset.num_classes,
    bounds=bounds,
    key=key,
    batch_size=batch_size or 64,
    devices=devices,
    seen={name: seen_corruptions(e.config) for name, e in trained.items()},
    corruptions=corruptions,
  )
  report = _report(trained, dataset, found, parts, labels, seed, devices)
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


def _report(
  trained: Mapping[str, Trained],
  dataset: data.Dataset,
  found: Evaluation,
  parts: Mapping[str, Mapping[str, Any]],
  labels: np.ndarray,
  seed: int,
  devices: Sequence[jax.Device],
) -> dict[str, Any]:
  """Returns the content of report.json."""
  report: dict[str, Any] = {
    'dataset': {
      'name': dataset.name,
      'num_train': len(dataset.train.labels),
      'num_test': len(labels),
      'image_shape': list(dataset.test.images.shape[1:]),
      'largest_class_share': float(np.bincount(labels).max() / len(labels)),
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
  return report


def _title(trained: Mapping[str, Trained]) -> str:
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
  cli.run(main, processes='together', keep_compiled=True)
