"""The side of Neural Structured Learning, and of Keras on TensorFlow.

It runs in a venv with TensorFlow and neural-structured-learning, and neither
imports nor needs anything of this project but `serve.py`. No test runs it,
since TensorFlow is not among this project's dependencies.
"""

from __future__ import annotations

import os

os.environ.setdefault('TF_CPP_MIN_LOG_LEVEL', '3')

import absl.logging
import neural_structured_learning as nsl
import tensorflow as tf
from parity import run_parity
from serve import serve
from steps import run_prepare, run_steps
from training import run_evaluate, run_train


def main() -> None:
  absl.logging.set_verbosity(absl.logging.ERROR)
  serve(
    {
      'parity': run_parity,
      'train': run_train,
      'evaluate': run_evaluate,
      'prepare': run_prepare,
      'steps': run_steps,
    },
    f'TensorFlow {tf.__version__}, neural-structured-learning '
    f'{nsl.__version__}',
  )


if __name__ == '__main__':
  main()
