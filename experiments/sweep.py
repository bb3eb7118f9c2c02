"""Train a grid of configurations in few programs, attack and plot each."""

import runpy
import sys
from typing import Any

from absl import flags
from ml_collections import config_dict

from advjax import cli
from advjax.jobs.sweep import sweep
from advjax.processes.topology import find_place
from advjax.sweeps import collect_sweep, cut_shard, parse_sweep


def _rows(
  config: config_dict.ConfigDict, text: str | None, config_file: str
) -> list[dict[str, Any]]:
  """What each trial sets: by the flag, or by the config file."""
  if text is not None:
    return parse_sweep(text, config)
  path, _, variant = config_file.partition(':')
  function = runpy.run_path(path).get('sweep')
  if function is None:
    raise ValueError(
      f'--config = {path!r}; allowed: a file with a function sweep(add), as in '
      'configs/sweeps, or --sweep="hparams.epsilon=0.1,0.2;seed=0,1"'
    )
  return collect_sweep(function, variant or None)


def main() -> None:
  flag = flags.FLAGS
  config_file = cli.config_file(sys.argv)
  sweep(
    flag.config,
    _rows(flag.config, flag.sweep, config_file),
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
    'i/n: train the i-th of n shards, divided further among the processes of '
    'the command.',
  )
  cli.run(main, processes='apart', keep_compiled=True)
