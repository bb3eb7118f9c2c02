"""Every job reports the same checkpoint of a run, and says which it is."""

import json

import jax
import numpy as np
import pytest

import advjax
from advjax import data
from advjax.jobs.evaluate import evaluate
from advjax.jobs.explain import explain
from advjax.reporting.figures import run as figures
from advjax.training import load, train
from advjax.training.trained import load_trained
from tests import compiles
from tests.experiments.comparison import printed
from tests.training import runs

DATA = runs.dataset(shape=(6, 6, 1))
# 16 images to train on, 6 held out: the first of two epochs is the best one,
# since so small steps change no prediction.
BEST, LAST = {'name': 'best', 'steps': [4]}, {'name': 'last', 'steps': [8]}


@pytest.fixture(scope='module', autouse=True)
def no_pictures():
  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(figures, 'run_figures', lambda *args: {})
    yield


@pytest.fixture(scope='module')
def run(tmp_path_factory):
  """The folder of a run whose best checkpoint is not its last."""
  folder = tmp_path_factory.mktemp('run')
  arrays = zip(('train_images', 'train_labels'), DATA.train, strict=True)
  others = zip(('test_images', 'test_labels'), DATA.test, strict=True)
  np.savez(folder / 'data.npz', **dict([*arrays, *others]))
  config = runs.config(
    dataset={'name': 'npz', 'path': str(folder / 'data.npz')},
    num_epochs=2,
    hparams__learning_rate=1e-6,
    num_validation=6,
    report_checkpoint='best',
    evaluation__attacks=('fgsm',),
    evaluation__epsilons=(0.1,),
  )
  _, text = printed(train, config, folder / 'a', jax.devices()[:1])
  check(folder / 'a', text, BEST)
  return folder / 'a'


def check(folder, text, expected):
  """Looks at report.json, report.html and the console."""
  saved = json.loads((folder / 'report.json').read_text())['members']['fgsm_at']
  assert saved['checkpoint'] == expected
  said = f'{expected["name"]}, step {expected["steps"][0]}'
  for shown in (text, (folder / 'report.html').read_text()):
    assert f'fgsm_at ({said})' in shown  # In the sentences.
  return saved


@pytest.mark.parametrize(
  ('where', 'chosen', 'expected'),
  [
    ('', None, BEST),
    ('', 'last', LAST),
    ('checkpoints/last', None, LAST),
    ('checkpoints/best', 'best', BEST),
  ],
)
def test_evaluate_takes_what_train_reported(
  run, tmp_path, where, chosen, expected
):
  arguments = [str(run / where)], ['fgsm'], [0.1], tmp_path, jax.devices()[:1]
  options = {'corruptions': False, 'report_checkpoint': chosen}
  _, text = printed(evaluate, *arguments, **options)
  found = check(tmp_path, text, expected)
  if expected == BEST:
    trained = json.loads((run / 'report.json').read_text())['members'][
      'fgsm_at'
    ]
    assert found['clean_accuracy'] == trained['clean_accuracy']
    attacks = [each['robust_accuracy']['fgsm'] for each in (found, trained)]
    assert attacks[0]['white_box'] == attacks[1]['white_box']


def test_a_folder_is_of_one_checkpoint(run):
  with pytest.raises(ValueError, match=r"report_checkpoint = 'last' of"):
    load(run / 'checkpoints' / 'best', report_checkpoint='last')
  with pytest.raises(ValueError, match=rf'holds the runs {run.name}$'):
    load(run.parent)


def test_a_network_that_is_loaded_twice_compiles_once(run):
  first, second = load(run), load(run, report_checkpoint='last')
  both = jax.tree.map(lambda *leaves: np.stack(leaves), first, second)
  assert both.params['Dense_0']['kernel'].shape[0] == 2
  images = data.to_float(DATA.test.images[:2])
  labels = DATA.test.labels[:2]
  advjax.bim(first, images, labels, 0.1, num_steps=2)
  with compiles.counted() as count:
    advjax.bim(second, images, labels, 0.1, num_steps=2)
  assert count == [0]


def test_both_checkpoints_of_a_run_are_named_by_it(run):
  folders = [str(run / 'checkpoints' / name) for name in ('best', 'last')]
  trained, _ = load_trained(folders)
  assert {name: each.step for name, each in trained.items()} == {
    **{'fgsm_at_best': 4, 'fgsm_at_last': 8},
  }


def test_explain_takes_it_too(run, tmp_path):
  options = {'num_images': 4, 'num_cases': 1, 'methods': ['saliency']}
  arguments = [str(run)], tmp_path, jax.devices()[:1]
  check(tmp_path, printed(explain, *arguments, **options)[1], BEST)


def test_load_and_a_run_that_starts_from_another(run):
  best, last = load(run), load(run, report_checkpoint='last')
  assert (best.checkpoint, best.step) == ('best', 4)
  assert (last.checkpoint, last.step) == ('last', 8)
  kernels = [n.params['Dense_0']['kernel'] for n in (best, last)]
  assert (kernels[0] != kernels[1]).any()
  started = runs.run(data=DATA, init_from=str(run)).init_state().params
  np.testing.assert_array_equal(started['Dense_0']['kernel'], kernels[0])


def test_what_is_not_there_is_named(run, tmp_path):
  with pytest.raises(ValueError, match=r"= 'bset'; allowed: 'best', 'last'"):
    load(run, report_checkpoint='bset')
  (tmp_path / 'checkpoints').mkdir()
  for name in ('config.json', 'checkpoints/last'):
    (tmp_path / name).symlink_to(run / name)
  with pytest.raises(ValueError, match=r"= 'best'; allowed: 'last'"):
    load(tmp_path)
  assert load(tmp_path, report_checkpoint='last').step == 8
  (tmp_path / 'config.json').unlink()
  (tmp_path / 'config.json').write_text('{"seed": "x"}')
  with pytest.raises(ValueError, match=r"config.json': seed = 'x'; allowed"):
    load(tmp_path)
