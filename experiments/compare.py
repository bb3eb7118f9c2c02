"""Train several networks side by side, attack each, and compare them."""

from advjax import commands

if __name__ == '__main__':
  commands.run('compare')
