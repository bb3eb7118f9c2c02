"""Train a grid of configurations in few programs, attack and plot each."""

from advjax import commands

if __name__ == '__main__':
  commands.run('sweep')
