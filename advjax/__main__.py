"""The console script: `python -m advjax` is `advjax`."""

import sys


def main() -> None:
  """Runs the command that is asked for."""
  try:
    from advjax import commands
  except ModuleNotFoundError as error:
    sys.stderr.write(f'error: {error}\n')
    sys.exit(2)
  commands.main()


if __name__ == '__main__':
  main()
