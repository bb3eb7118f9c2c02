"""Show FGSM where it is exact: on logistic regression, 3 against 7.

Trains the members of a config as `compare` does, then looks at their weights,
as section 5 and figure 2 of Goodfellow et al. 2014 (arXiv 1412.6572) do:
`figures/goodfellow.png`, a table, and `goodfellow` in report.json.

  ./launch.sh goodfellow --config=configs/goodfellow.py:digits \\
    --workdir=runs/goodfellow_digits
"""

import functools
import pathlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import jax
import numpy as np
from absl import flags
from ml_collections import config_dict

from advjax import cli, data
from advjax.config import member_config, seed_configs
from advjax.evaluation.linear import Measured, measure
from advjax.files import write_json
from advjax.jobs.train import compare
from advjax.models.logits import eval_logits_fn
from advjax.processes.collectives import from_main, is_main
from advjax.reporting import gallery
from advjax.reporting.linear import (
  LinearMember,
  format_table,
  linear_figure,
  merge_seeds,
)
from advjax.reporting.values import short
from advjax.training.checkpoint import load_params
from advjax.training.setup import create_run
from advjax.types import LogitsFn


def check(config: config_dict.ConfigDict) -> data.Dataset:
  """Loads the data, if they and the networks suit the demonstration.

  Args:
    config: A config with `members`.

  Returns:
    The data set.

  Raises:
    ValueError: if a network is not linear, or the data have other than two
      classes or one channel; naming the field.
  """
  for name in config.get('members') or ():
    network = member_config(config, name).model.name
    if network != 'logistic_regression':
      raise ValueError(
        f"model.name = {network!r} (of {name}); allowed: 'logistic_regression',"
        ' the network whose weights the demonstration shows'
      )
  dataset = data.load(config.dataset)
  if dataset.num_classes != 2:
    raise ValueError(
      f'dataset.classes = {config.dataset.classes}: {dataset.name} has '
      f'{dataset.num_classes} classes then; allowed: two labels, such as (3, 7)'
    )
  if dataset.test.images.shape[-1] != 1:
    raise ValueError(
      f'dataset.name = {config.dataset.name!r}: images of shape '
      f'{dataset.test.images.shape[1:]}; allowed: one channel'
    )
  return dataset


def demonstrate(
  config: config_dict.ConfigDict,
  workdir: str | pathlib.Path,
  devices: Sequence[jax.Device],
  *,
  print_model: bool = False,
) -> dict[str, Any]:
  """Trains and compares the config's members, then shows their weights.

  Args:
    config: A config with `members` (configs/goodfellow.py).
    workdir: The folder to write to.
    devices: The devices.
    print_model: Whether to print each network's layers first.

  Returns:
    The content of report.json; `goodfellow` has the epsilon, the names of the
    classes and, for each member, what `merge_seeds` returns.

  Raises:
    ValueError: for anything wrong in the config, before anything is written.
  """
  dataset = check(config)
  report = compare(config, workdir, devices, print_model=print_model).to_json()
  workdir = pathlib.Path(workdir).expanduser()
  images = np.asarray(data.to_float(dataset.test.images))
  labels, epsilon = dataset.test.labels, config.evaluation.epsilon
  measured = {
    name: [
      measure(network, images, labels, epsilon, devices)
      for network in read_networks(config, name, workdir, dataset, devices)
    ]
    for name in config.members
  }
  entries = {
    name: merge_seeds([each.entry for each in found], len(labels))
    for name, found in measured.items()
  }
  report['goodfellow'] = {
    'epsilon': epsilon,
    'classes': list(dataset.class_names),
    'members': entries,
  }
  if not is_main():
    return report
  write_json(workdir / 'report.json', report)
  picture = draw_picture(
    {name: found[0] for name, found in measured.items()},
    images,
    labels,
    epsilon,
    dataset.class_names,
  )
  (path,) = gallery.save_figures([picture], workdir / 'figures')
  first, second = dataset.class_names
  print(
    f'\nlogistic regression, {first} against {second}: wrong of '
    f'{len(labels):,} test images, FGSM at epsilon {short(epsilon)}\n'
    f'{format_table(entries)}\n\npicture: {path}'
  )
  return report


def read_networks(
  config: config_dict.ConfigDict,
  name: str,
  workdir: pathlib.Path,
  dataset: data.Dataset,
  devices: Sequence[jax.Device],
) -> Iterator[LogitsFn]:
  """Yields a member's network of each seed, as `compare` left them."""
  for seed, seed_config in seed_configs(config).items():
    member = member_config(seed_config, name)
    training = create_run(member, dataset, devices)
    folder = workdir / name / (f'seed_{seed}' if config.seeds else '')
    path = folder / 'checkpoints' / member.report_checkpoint
    fresh = training.init_state()
    state = from_main(functools.partial(load_params, path, fresh))
    yield eval_logits_fn(
      training.model,
      state.evaluation_params,
      state.model_state,
      training.config.evaluation.matmul_precision,
    )


def draw_picture(
  measured: Mapping[str, Measured],
  images: np.ndarray,
  labels: np.ndarray,
  epsilon: float,
  class_names: Sequence[str],
) -> gallery.Picture:
  """Returns the picture of all members, of the first seed."""
  figure = linear_figure(
    {
      name: LinearMember(
        found.function.weights[..., 0],
        found.perturbed[..., 0],
        found.predictions,
        found.perturbed_predictions,
      )
      for name, found in measured.items()
    },
    images[..., 0],
    labels,
    epsilon,
    class_names,
  )
  return gallery.draw(
    'goodfellow',
    'The weights, their sign, and what it does',
    f'Each network is linear, so that FGSM is the sign of its weights for '
    f'every image: added to {class_names[1]}, taken from {class_names[0]}. No '
    'other perturbation of this size does more harm. Below each image stands '
    'what the network says, red where it is wrong.',
    figure,
  )


def main() -> None:
  flag = flags.FLAGS
  demonstrate(
    flag.config,
    flag.workdir,
    cli.devices_from_flags(),
    print_model=flag.print_model,
  )


if __name__ == '__main__':
  cli.define_config_flags()
  cli.run(main, processes='together', keep_compiled=True)
