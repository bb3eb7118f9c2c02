"""One comparison, trained once for all tests that look at a trained run."""

import jax
import pytest

from advjax.jobs import evaluate as evaluation
from advjax.jobs.train import compare
from advjax.reporting.figures import charts
from advjax.reporting.figures import run as figures
from tests.experiments.comparison import printed, smoke_config


@pytest.fixture(scope='module', autouse=True)
def coarse_pictures():
  """Of few dots: tests look at what is drawn, and at no pixel."""
  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(charts, '_DPI', 40)
    yield


@pytest.fixture(scope='session')
def run(tmp_path_factory):
  """(report, text, workdir) of the comparison; nobody changes it."""
  workdir = tmp_path_factory.mktemp('compare') / 'new' / 'run'
  report, text = printed(
    compare, smoke_config(), workdir, jax.devices(), print_model=True
  )
  return report.to_json(), text, workdir


@pytest.fixture
def no_pictures(monkeypatch):
  """Drawing takes seconds, and is no part of what a test is about."""
  monkeypatch.setattr(figures, 'run_figures', lambda *args: {})


class Planned(Exception):
  """Raised where the attacks would begin."""


@pytest.fixture
def planned(monkeypatch, tmp_path):
  """Calls `evaluate`; returns the networks, images and labels to attack."""

  def stop(models, attacks, images, labels, **options):
    raise Planned(models, images, labels)

  monkeypatch.setattr(evaluation, 'evaluate_models', stop)

  def call(*checkpoints, **options):
    with pytest.raises(Planned) as caught:
      evaluation.evaluate(
        [str(path) for path in checkpoints],
        ['fgsm'],
        [0.1],
        tmp_path / 'new',
        jax.devices(),
        **options,
      )
    return caught.value.args

  return call
