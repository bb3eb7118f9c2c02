"""Measure training steps and attacks, against plain nn.Conv in the same run.

  ./launch.sh benchmark --workdir=runs/benchmark

Every number is the median over rounds in which both kinds of layers take turns,
so that a noisy machine disturbs them alike; compare ratios, not times. Other
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
  flags.DEFINE_integer('batch_size', 32, 'Images of a train step.')
  flags.DEFINE_integer('attack_batch_size', 128, 'Images of an attack.')
  flags.DEFINE_integer('steps', 20, 'Train steps in a round.')
  flags.DEFINE_list('objectives', list(objectives.OBJECTIVES), 'Which.')
  flags.DEFINE_list(
    'attacks', ['fgsm', 'bim-20', 'mifgsm-10', 'pgd-40'], 'Which.'
  )
  cli.run(main)
