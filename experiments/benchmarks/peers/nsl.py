"""What the venv of Neural Structured Learning holds, and its side in it."""

import pathlib

from experiments.benchmarks.peers.venv import Peer

PEER = Peer(
  name='neural-structured-learning',
  folder='nsl_venv',
  module='neural_structured_learning',
  packages=(
    'tensorflow-cpu==2.15.1',
    'numpy<2',
    'neural-structured-learning==1.4.0',
  ),
  # TensorFlow 2.15 has wheels up to 3.11, and its side is written for 3.10.
  pythons=('3.11', '3.10'),
  main=pathlib.Path(__file__).parent / 'sides' / 'nsl' / 'main.py',
)
