"""Attack trained networks with attacks given by flags, and report."""

from advjax import commands

if __name__ == '__main__':
  commands.run('evaluate')
