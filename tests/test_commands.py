"""The console script: which commands there are, and what each is given."""

import os
import pathlib
import subprocess
import sys

import pytest

from advjax import commands

ROOT = pathlib.Path(__file__).parents[1]


def call(monkeypatch, *arguments):
  """Calls the console script; returns its exit code."""
  monkeypatch.setattr('sys.argv', ['advjax', *arguments])
  monkeypatch.setattr('sys.orig_argv', ['python', '-P', *sys.argv])
  try:
    commands.main()
  except SystemExit as end:
    return end.code
  return 0


def test_help_lists_the_commands_as_launch_does(monkeypatch, capsys):
  assert call(monkeypatch, '--help') == 0
  lines = capsys.readouterr().out.splitlines()
  for name in ('train', 'compare', 'evaluate', 'sweep', 'explain'):
    file = ROOT / 'experiments' / f'{name}.py'
    summary = file.read_text().splitlines()[0].strip('"')
    assert f'  {name:<10} {summary}' in lines


@pytest.mark.parametrize(
  ('arguments', 'said'),
  [
    (['trian', '--workdir=x'], "command = 'trian'; allowed: 'compare', "),
    (['trian'], "(did you mean 'train'?)"),
    (['goodfellow'], "command = 'goodfellow'; allowed: "),
    (['train', '--processes=0'], '--processes = 0; allowed: an integer >= 1'),
    (['--processes'], '--processes = ; allowed: an integer >= 1'),
    (['--processes=', '--help'], '--processes = ; allowed: an integer >= 1'),
    (['train', '--processes', '2'], '--processes = ; allowed: an integer >= 1'),
  ],
)
def test_bad_commands(monkeypatch, capsys, arguments, said):
  assert call(monkeypatch, *arguments) == 2
  output, errors = capsys.readouterr()
  assert output == '' and errors.count('\n') == 1
  assert errors.startswith('error: ') and said in errors


def test_several_processes_run_the_same_command(monkeypatch):
  monkeypatch.setattr(commands, 'launch', lambda *given: given)
  arguments = ['--processes=3', 'train', '--config=a b.py']
  command = [sys.executable, '-P', 'advjax', 'train', '--config=a b.py']
  assert call(monkeypatch, *arguments) == (3, command)


def test_launch_shows_the_same_help(tmp_path):
  text, same = (
    subprocess.run(
      [sys.executable, '-P', '-m', *words, '--help'],
      cwd=tmp_path,
      env=os.environ | {'PYTHONPATH': str(ROOT)},
      check=True,
      capture_output=True,
      text=True,
      timeout=60,
    ).stdout
    for words in (['advjax', 'explain'], ['experiments.explain'])
  )
  assert text == same
  assert text.startswith('Explain trained networks')
  # What is its own, and what commands share.
  for name in ('classes', 'checkpoint', 'workdir', 'platform'):
    assert f'  --{name}: ' in text
