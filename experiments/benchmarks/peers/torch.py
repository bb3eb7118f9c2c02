"""What the venv of PyTorch, torchattacks and foolbox holds, and its side.

From PyPI, PyTorch for Linux comes with CUDA, some gigabytes. Where these are
too many, make a venv with the CPU build and name it with --torch_venv.
"""

import pathlib

from experiments.benchmarks.peers.venv import Peer

PEER = Peer(
  name='PyTorch',
  folder='torch_venv',
  module='torch, torchattacks, foolbox',
  packages=(
    'torch==2.13.0',
    'numpy>=2.0',
    'tqdm>=4.66',
    'requests>=2.32',
    'foolbox==3.3.4',
  ),
  # It asks for a version of requests from 2021.
  bare_packages=('torchattacks==3.5.1',),
  pythons=('3.14', '3.13', '3.12', '3.11', '3.10'),
  main=pathlib.Path(__file__).parent / 'sides' / 'torch' / 'main.py',
)
