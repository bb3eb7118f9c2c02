"""Checkpoints of a job of several processes: one copy, by one process."""

import os
import pathlib
import socket
import subprocess
import sys

ROOT = pathlib.Path(__file__).parents[2]


def test_one_process_saves_while_the_other_does_not_call(tmp_path):
  with socket.socket() as free:
    free.bind(('127.0.0.1', 0))
    port = free.getsockname()[1]
  environment = {
    **os.environ,
    'JAX_PLATFORMS': 'cpu',
    'JAX_NUM_CPU_DEVICES': '1',
    'PYTHONPATH': str(ROOT),
  }
  processes = [
    subprocess.Popen(
      [
        sys.executable,
        'tests/training/one_of_two_processes.py',
        str(index),
        str(port),
        str(tmp_path / 'last'),
      ],
      cwd=ROOT,
      env=environment,
      stdout=subprocess.PIPE,
      stderr=subprocess.STDOUT,
      text=True,
    )
    for index in (0, 1)
  ]
  try:
    outputs = [process.communicate(timeout=120)[0] for process in processes]
  finally:
    for process in processes:
      process.kill()
      process.wait()
  for index, (process, output) in enumerate(
    zip(processes, outputs, strict=True)
  ):
    assert process.returncode == 0, output
    assert f'done {index}' in output
  names = {path.name for path in (tmp_path / 'last').iterdir()}
  assert names == {'8', '12'}
