"""One comparison, trained once for all tests that look at a trained run."""

import jax
import pytest

from experiments.compare import compare
from tests.experiments.comparison import printed, smoke_config


@pytest.fixture(scope='session')
def run(tmp_path_factory):
  """(report, text, workdir) of the comparison; nobody writes into it."""
  workdir = tmp_path_factory.mktemp('compare') / 'new' / 'run'
  report, text = printed(
    compare, smoke_config(), workdir, jax.devices(), print_model=True
  )
  return report, text, workdir
