"""Every job reports the same checkpoint of a run, and says which it is."""

import json

import jax
import numpy as np
import pytest

from advjax.jobs.evaluate import evaluate
from advjax.jobs.explain import explain
from advjax.jobs.train import train
from advjax.reporting.figures import run as figures
from advjax.results import ReportedCheckpoint
from advjax.training import load
from tests.experiments.comparison import printed
from tests.training import runs

# 16 images to train on, 6 held out: the first of two epochs is the best one,
# since so small steps change no prediction.
BEST, LAST = (
  ReportedCheckpoint(name=name, steps=[step])
  for name, step in (('best', 4), ('last', 8))
)


@pytest.fixture(scope='module', autouse=True)
def no_pictures():
  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(figures, 'run_figures', lambda *args: {})
    yield


@pytest.fixture(scope='module')
def run(tmp_path_factory):
  """(report, text, workdir) of a run whose best checkpoint is not its last."""
  folder = tmp_path_factory.mktemp('run')
  data = runs.dataset(shape=(6, 6, 1))
  np.savez(
    folder / 'data.npz',
    **{
      f'{name}_{field}': getattr(getattr(data, name), field)
      for name in ('train', 'test')
      for field in ('images', 'labels')
    },
  )
  config = runs.config(
    dataset={'name': 'npz', 'path': str(folder / 'data.npz')},
    num_epochs=2,
    hparams__learning_rate=1e-6,
    num_validation=6,
    report_checkpoint='best',
    evaluation__attacks=('fgsm',),
    evaluation__epsilons=(0.1,),
  )
  report, text = printed(train, config, folder / 'a', jax.devices()[:1])
  return report, text, folder / 'a'


def check(folder, text, name, expected):
  """All of it: report.json, report.html and the console."""
  saved = json.loads((folder / 'report.json').read_text())['members'][name]
  assert saved['checkpoint'] == expected.to_json()
  said = f'{expected.name}, step {expected.steps[0]}'
  assert said in text and said in (folder / 'report.html').read_text()
  return saved


@pytest.mark.parametrize(
  ('where', 'options', 'expected'),
  [
    ('', {}, BEST),
    ('', {'report_checkpoint': 'last'}, LAST),
    ('checkpoints/last', {}, LAST),
    ('checkpoints/best', {'report_checkpoint': 'last'}, BEST),
  ],
  ids=['default', 'flag', 'folder', 'both'],
)
def test_evaluate_takes_what_train_reported(
  run, tmp_path, where, options, expected
):
  trained, text, workdir = run
  assert trained.members['fgsm_at'].checkpoint == BEST
  check(workdir, text, 'fgsm_at', BEST)
  _, text = printed(
    evaluate,
    [str(workdir / where)],
    ['fgsm'],
    [0.1],
    tmp_path,
    jax.devices()[:1],
    corruptions=False,
    **options,
  )
  found = check(tmp_path, text, 'fgsm_at', expected)
  if expected == BEST:
    first = trained.members['fgsm_at'].to_json()
    attack = first['robust_accuracy']['fgsm']
    assert found['clean_accuracy'] == first['clean_accuracy']
    assert found['robust_accuracy']['fgsm']['white_box'] == attack['white_box']


def test_explain_takes_it_too(run, tmp_path):
  _, text = printed(
    explain,
    [str(run[2])],
    tmp_path,
    jax.devices()[:1],
    num_images=4,
    num_cases=1,
    methods=['saliency'],
  )
  check(tmp_path, text, 'fgsm_at', BEST)


def test_load_and_a_run_that_starts_from_another(run):
  best, last = load(run[2]), load(run[2], report_checkpoint='last')
  assert (best.checkpoint, best.step) == ('best', 4)
  assert (last.checkpoint, last.step) == ('last', 8)
  kernels = [n.params['Dense_0']['kernel'] for n in (best, last)]
  assert (kernels[0] != kernels[1]).any()
  started = runs.run(
    data=runs.dataset(shape=(6, 6, 1)), init_from=str(run[2])
  ).init_state()
  np.testing.assert_array_equal(started.params['Dense_0']['kernel'], kernels[0])


def test_what_is_not_there_is_named(run, tmp_path):
  with pytest.raises(ValueError, match=r"= 'bset'; allowed: 'best', 'last'"):
    load(run[2], report_checkpoint='bset')
  (tmp_path / 'checkpoints').mkdir()
  (tmp_path / 'checkpoints' / 'last').symlink_to(run[2] / 'checkpoints/last')
  (tmp_path / 'config.json').symlink_to(run[2] / 'config.json')
  with pytest.raises(ValueError, match=r"= 'best'; allowed: 'last'"):
    load(tmp_path)
  assert load(tmp_path, report_checkpoint='last').step == 8
