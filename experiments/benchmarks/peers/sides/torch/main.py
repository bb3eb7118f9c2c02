"""The side of PyTorch, torchattacks and foolbox.

It runs in a venv with these, and neither imports nor needs anything of this
project but `serve.py`. No test runs it, since PyTorch is not among this
project's dependencies.
"""

from __future__ import annotations

import os

import flags
import foolbox
import images
import torch
import torchattacks
import training
from serve import serve


def main() -> None:
  # Those that the program that started it left to it.
  torch.set_num_threads(len(os.sched_getaffinity(0)))
  serve(
    {
      'flags': flags.run_flags,
      'prepare': training.run_prepare,
      'steps': training.run_steps,
      'prepare_attack': images.run_prepare,
      'attack': images.run_attack,
    },
    f'PyTorch {torch.__version__}, torchattacks {torchattacks.__version__}, '
    f'foolbox {foolbox.__version__}',
  )


if __name__ == '__main__':
  main()
