"""A job's folder: its config, and whether it can be written to."""

import json
import os

import pytest
from ml_collections import config_dict

from advjax.config import default_config
from advjax.files import lock_folder
from advjax.jobs.train import compare, train
from advjax.jobs.workdir import open_workdir, prepare_workdir
from tests.test_configs import FOLDER, load


def make_config(**fields):
  config = default_config()
  config.update(fields)
  return config


def test_the_config_is_written_and_found_again(tmp_path):
  path = prepare_workdir(tmp_path / 'a' / 'b', make_config(seed=3))
  assert path == tmp_path / 'a' / 'b'
  saved = json.loads((path / 'config.json').read_text())
  assert saved['seed'] == 3
  assert saved['evaluation']['epsilons'] == [0.05, 0.1, 0.15, 0.2, 0.3]
  assert prepare_workdir(path, make_config(seed=3)) == path


def test_a_tilde_is_the_home_folder(tmp_path, monkeypatch):
  monkeypatch.setenv('HOME', str(tmp_path))
  assert prepare_workdir('~/run', make_config()) == tmp_path / 'run'


def test_the_command_that_wrote_a_folder_is_named(tmp_path):
  prepare_workdir(tmp_path, make_config())
  job = config_dict.create(checkpoint=('a',), attacks=('fgsm',), seed=0)
  with pytest.raises(ValueError, match='train there, evaluate requested'):
    prepare_workdir(tmp_path, job)


@pytest.mark.parametrize(
  ('change', 'message'),
  [
    ({'seed': 4}, r'seed: 0 there, 4 requested'),
    ({'model': {'name': 'mlp'}}, r"model.name: 'cnn' there, 'mlp' requested"),
    ({'evaluation': {'epsilons': (0.1,)}}, r'evaluation.epsilons: \[0.05, '),
    (
      {'hparams': {'beta': 6.0}},
      r"hparams.beta: 'not set' there, 6.0 requested",
    ),
  ],
)
def test_a_run_of_another_config_is_left_alone(tmp_path, change, message):
  prepare_workdir(tmp_path, make_config())
  before = (tmp_path / 'config.json').read_bytes()
  config = make_config()
  for field, value in change.items():
    config[field] = (
      {**config[field].to_dict(), **value} if isinstance(value, dict) else value
    )
  with pytest.raises(ValueError, match=message) as error:
    prepare_workdir(tmp_path, config)
  assert str(tmp_path) in str(error.value)
  assert (tmp_path / 'config.json').read_bytes() == before
  assert [path.name for path in tmp_path.iterdir()] == ['config.json']


def test_a_file_is_no_workdir(tmp_path):
  path = tmp_path / 'file'
  path.write_text('precious')
  with pytest.raises(ValueError, match=r"file' is a file; allowed: a folder"):
    prepare_workdir(path, make_config())
  with pytest.raises(ValueError, match='cannot be written to: Not a directory'):
    prepare_workdir(path / 'below', make_config())
  assert path.read_text() == 'precious'


@pytest.mark.skipif(not os.path.isdir('/proc/self'), reason='needs /proc')
def test_a_folder_where_none_can_be():
  with pytest.raises(ValueError, match=r"workdir = '/proc/run' cannot be writ"):
    prepare_workdir('/proc/run', make_config())


def test_a_config_that_is_not_json_is_left_alone(tmp_path):
  (tmp_path / 'config.json').write_text('{"seed": ')
  with pytest.raises(ValueError, match=r"config.json' is not JSON"):
    prepare_workdir(tmp_path, make_config())
  assert (tmp_path / 'config.json').read_text() == '{"seed": '


def test_a_folder_is_locked_until_the_job_ends(tmp_path):
  with open_workdir(tmp_path / 'run', make_config()) as path:
    again = open_workdir(path, make_config())
    with pytest.raises(ValueError, match='another program'), again:
      pass
  with open_workdir(path, make_config()), pytest.raises(KeyError):
    raise KeyError


@pytest.mark.parametrize(
  ('job', 'file', 'locked'),
  [
    (train, 'digits', ''),
    (compare, 'nsl_digits', ''),
    (compare, 'nsl_digits', 'adversarial'),
  ],
)
def test_no_job_starts_in_a_folder_of_another(job, file, locked, tmp_path):
  config = load(FOLDER / f'{file}.py', 'smoke')
  folder = tmp_path / locked
  folder.mkdir(exist_ok=True)
  with lock_folder(folder), pytest.raises(ValueError, match=str(folder)):
    job(config, tmp_path)
  assert not list(tmp_path.rglob('checkpoints'))
