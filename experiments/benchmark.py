"""Measure training steps and attacks, compared with plain nn.Conv.

  ./launch.sh benchmark --workdir=runs/benchmark

Every number is the median over rounds in which both kinds of layers alternate,
so that a noisy machine affects both equally; compare ratios, not times. Other
libraries are compared by `python -m experiments.benchmarks`.
"""

from absl import flags

from advjax import cli
from advjax.config import check_range
from experiments.benchmarks import harness, objectives


def main() -> None:
  flag = flags.FLAGS
  names = harness.chosen('objectives', objectives.OBJECTIVES)
  for name in flag.attacks:
    objectives.check_attack(name)
  sizes = {
    name: getattr(flag, name)
    for name in ('batch_size', 'attack_batch_size', 'steps', 'rounds')
  }
  for name, value in sizes.items():
    check_range(name, value, 1, integer=True)
  devices = cli.devices_from_flags()
  workdir = harness.make_workdir()
  result = objectives.measure(names, flag.attacks, devices, **sizes)
  print(f'\n{objectives.table(result)}')
  print(f'peak memory of the process: {result["peak_host_mib"]:.0f} MiB')
  harness.save(workdir / objectives.FILE, result, devices)


if __name__ == '__main__':
  harness.define_flags(rounds=7)
  flags.DEFINE_integer('batch_size', 32, 'Images per training step.')
  flags.DEFINE_integer('attack_batch_size', 128, 'Images per attack.')
  flags.DEFINE_integer('steps', 20, 'Training steps per round.')
  flags.DEFINE_list(
    'objectives', list(objectives.OBJECTIVES), 'Objectives to measure.'
  )
  flags.DEFINE_list(
    'attacks', ['fgsm', 'bim-20', 'mifgsm-10', 'pgd-40'], 'Attacks to measure.'
  )
  cli.run(main)
