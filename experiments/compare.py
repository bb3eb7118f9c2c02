"""Train several networks side by side, attack each, and compare them."""

from absl import flags

from advjax import cli
from advjax.jobs.train import compare


def main() -> None:
  flag = flags.FLAGS
  compare(
    flag.config,
    flag.workdir,
    cli.devices_from_flags(),
    print_model=flag.print_model,
  )


if __name__ == '__main__':
  cli.define_config_flags()
  cli.run(main, processes='together', keep_compiled=True)
