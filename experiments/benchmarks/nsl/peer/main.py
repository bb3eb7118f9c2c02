"""The side of Neural Structured Learning in the comparison with it.

  python main.py FOLDER

runs in a venv with TensorFlow and neural-structured-learning, and neither
imports nor needs anything of this project: it reads FOLDER/job.json and
FOLDER/arrays.npz, does what the job's `task` says and writes FOLDER/out.npz.
`experiments/benchmarks/nsl` starts it. No test runs it, since TensorFlow is
not among this project's dependencies.
"""

from __future__ import annotations

import json
import os
import pathlib
import sys

os.environ.setdefault('TF_CPP_MIN_LOG_LEVEL', '3')

import absl.logging
import neural_structured_learning as nsl
import numpy as np
import tensorflow as tf
from parity import run_parity
from training import run_evaluate, run_train


def main() -> None:
  absl.logging.set_verbosity(absl.logging.ERROR)
  folder = pathlib.Path(sys.argv[1])
  job = json.loads((folder / 'job.json').read_text())
  with np.load(folder / 'arrays.npz') as file:
    arrays = dict(file)
  tasks = {'parity': run_parity, 'train': run_train, 'evaluate': run_evaluate}
  out = tasks[job['task']](job, arrays)
  out['versions'] = np.asarray(
    f'TensorFlow {tf.__version__}, neural-structured-learning {nsl.__version__}'
  )
  np.savez(folder / 'out.npz', **out)


if __name__ == '__main__':
  main()
