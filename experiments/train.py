"""Train one network under any objective, attack it, and write its report."""

from advjax import commands

if __name__ == '__main__':
  commands.run('train')
