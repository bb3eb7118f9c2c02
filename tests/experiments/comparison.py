"""A comparison of seconds, which the tests of the experiments start from."""

import contextlib
import io

from tests.test_configs import FOLDER, load


def smoke_config(file='nsl_digits', variant='smoke'):
  """A smoke variant, with a network that compiles in no time."""
  config = load(FOLDER / f'{file}.py', variant)
  config.model = {'name': 'mlp', 'hidden_units': (16,)}
  config.evaluation.attacks = ('fgsm', 'bim-2')
  return config


def printed(function, *args, **kwargs):
  """Returns what a function returns, and what it prints."""
  with contextlib.redirect_stdout(io.StringIO()) as out:
    result = function(*args, **kwargs)
  return result, out.getvalue()
