"""What the venv of PyTorch alone holds, for a residual network, and its side.

Any Python with PyTorch and NumPy will do in its place. The folder is that of
`peers/torch.py`, whose venv has both.
"""

import pathlib

from experiments.benchmarks.peers.venv import Peer

PEER = Peer(
  name='PyTorch',
  folder='torch_venv',
  module='torch',
  packages=('torch==2.13.0', 'numpy>=2.0'),
  pythons=('3.14', '3.13', '3.12', '3.11', '3.10'),
  main=pathlib.Path(__file__).parent / 'sides' / 'torch_residual' / 'main.py',
)
