"""Explain trained networks by saliency maps of clean and adversarial images."""

from advjax import commands

if __name__ == '__main__':
  commands.run('explain')
