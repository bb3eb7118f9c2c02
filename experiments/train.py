"""Train one network under any objective, attack it, and write its report."""

from absl import flags

from advjax import cli
from advjax.jobs.train import train


def main() -> None:
  flag = flags.FLAGS
  train(
    flag.config,
    flag.workdir,
    cli.devices_from_flags(),
    print_model=flag.print_model,
  )


if __name__ == '__main__':
  cli.define_config_flags()
  cli.run(main, processes='together', keep_compiled=True)
