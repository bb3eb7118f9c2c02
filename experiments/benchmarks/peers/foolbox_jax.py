"""What the venv of foolbox on JAX holds, and its side in it."""

import pathlib

import jax

from experiments.benchmarks.peers.venv import Peer

PEER = Peer(
  name='foolbox on JAX',
  folder='foolbox_jax_venv',
  module='foolbox, jax',
  # The jax that we run on.
  packages=(f'jax[cpu]=={jax.__version__}', 'foolbox==3.3.4'),
  pythons=('3.14', '3.13', '3.12', '3.11'),
  main=pathlib.Path(__file__).parent / 'sides' / 'foolbox_jax' / 'main.py',
)
