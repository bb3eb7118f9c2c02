"""Train one network under any objective, attack it, and write its report."""

import pathlib
from collections.abc import Sequence
from typing import Any

import jax
from absl import flags
from ml_collections import config_dict

from advjax import cli
from advjax.config import seed_configs
from experiments.compare import run_members


def train_and_evaluate(
  config: config_dict.ConfigDict,
  workdir: str | pathlib.Path,
  devices: Sequence[jax.Device],
  *,
  print_model: bool = False,
) -> dict[str, Any]:
  """Trains the config's network, or goes on training it, and attacks it.

  Args:
    config: A training config (`advjax.config.default_config`).
    workdir: The folder to write to.
    devices: The devices.
    print_model: Whether to print the network's layers first.

  Returns:
    The content of report.json.

  Raises:
    ValueError: for anything wrong in the config, before anything is written.
  """
  if 'members' in config:
    raise ValueError(
      f'the config has members, {", ".join(config.members)}: it belongs to '
      "'compare'; train takes a config of one network, such as "
      'configs/digits.py'
    )
  name = config.objective.name
  workdir = pathlib.Path(workdir)
  return run_members(
    {name: list(seed_configs(config).values())},
    {name: workdir},
    config,
    workdir,
    devices,
    title=f'{config.model.name} trained by {name}',
    print_model=print_model,
  )


def main() -> None:
  flag = flags.FLAGS
  train_and_evaluate(
    flag.config,
    flag.workdir,
    cli.devices_from_flags(),
    print_model=flag.print_model,
  )


if __name__ == '__main__':
  cli.define_config_flags()
  cli.run(main, processes='together', keep_compiled=True)
