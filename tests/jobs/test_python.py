"""Training from Python: objects of one's own in place of names."""

import json
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import advjax
from advjax.jobs.evaluate import evaluate
from advjax.losses import cross_entropy
from advjax.models import from_nnx
from advjax.reporting.figures import run as figures
from advjax.results import Report
from advjax.training import checkpoint, compare, load, reads, train
from tests import compiles
from tests.training import runs


class Network(nnx.Module):
  """BatchNorm and dropout: statistics, and random keys, in its state."""

  def __init__(self, rngs):
    self.norm = nnx.BatchNorm(9, rngs=rngs)
    self.dropout = nnx.Dropout(0.2, rngs=rngs)
    self.dense = nnx.Linear(9, 3, rngs=rngs)

  def __call__(self, images):
    return self.dense(self.dropout(self.norm(images.reshape(-1, 9))))


def weighted(apply, params, model_state, batch, hparams, key):
  """Cross-entropy times a number, which is logged."""
  logits, state = apply(params, model_state, batch['image'], train=True)
  loss = hparams['factor'] * cross_entropy(logits, batch['label'])
  factor = jnp.full(len(loss), hparams['factor'])
  metrics = {'loss': loss, 'factor': factor}
  return (batch['weight'] * loss).sum(), (state, metrics)


MODEL = from_nnx(Network)
DATA = runs.dataset()
# Arrays, and items as other libraries give them.
SPLITS = (
  (DATA.train.images, DATA.train.labels),
  [{'image': i, 'label': y} for i, y in zip(*DATA.test, strict=True)],
)


def own_config(**changes):
  return runs.config(
    objective={'name': 'standard'},
    hparams={'learning_rate': 0.1, 'factor': 2.0},
    num_epochs=1,
    evaluation__attacks=('fgsm',),
    evaluation__epsilons=(0.1,),
    **changes,
  )


def own(workdir, **options):
  options = {'model': MODEL, 'objective': weighted, 'dataset': SPLITS} | options
  return train(own_config(), workdir, jax.devices()[:1], **options)


@pytest.fixture(scope='module', autouse=True)
def no_pictures():
  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(figures, 'run_figures', lambda *args: {})
    yield


@pytest.fixture(scope='module')
def trained(tmp_path_factory):
  """(report, workdir) of a run with objects alone."""
  workdir = tmp_path_factory.mktemp('own') / 'run'
  return own(workdir), workdir


def test_a_run_of_own_objects_says_so_and_resumes(trained):
  report, workdir = trained
  assert isinstance(report, Report)
  member = report.members['weighted']
  assert member.num_params == 2 * 9 + 9 * 3 + 3
  assert member.training.epochs[0]['factor'] == 2
  assert report.dataset.num_train == 22 and report.dataset.num_test == 10
  config = json.loads((workdir / 'config.json').read_text())
  assert config['model'] == {'name': '<Model>'}
  assert config['objective'] == {'name': '<weighted>'}
  assert config['dataset'] == {'name': '<examples>'}
  again = own(workdir).members['weighted']
  assert again.robust_accuracy == member.robust_accuracy
  assert again.training.train_seconds == member.training.train_seconds
  with pytest.raises(ValueError, match=r"model.name: '<Model>' there"):
    own(workdir, model=None)


def test_hparams_that_an_objective_declares_are_checked(tmp_path):
  @reads('factor', 'gamma')
  def declared(*args):
    return weighted(*args)

  with pytest.raises(ValueError, match=r"gamma = None; .*'declared' reads"):
    own(tmp_path / 'new', objective=declared)
  assert not (tmp_path / 'new').exists()


def test_what_needs_the_objects_says_how_to_give_them(trained, tmp_path):
  workdir = trained[1]
  message = r"model.name = '<Model>'.* 'module:function'"
  with pytest.raises(ValueError, match=message):
    load(workdir)
  with pytest.raises(ValueError, match=r"dataset.name = '<examples>'.*give"):
    evaluate([str(workdir)], ['fgsm'], [0.1], tmp_path, jax.devices())


def test_members_may_each_have_their_own(trained, tmp_path):
  config = own_config()
  with config.unlocked():
    config.members = ('ours', 'theirs')
    config.ours = {'seed': config.get_ref('seed')}
    config.theirs = {'hparams': {'factor': None}}
  report = compare(
    config,
    tmp_path / 'run',
    jax.devices()[:1],
    model=MODEL,
    objective={'ours': weighted},
    dataset=DATA,
  )
  ours, theirs = report.members['ours'], report.members['theirs']
  assert ours.training.objective == 'weighted'
  assert theirs.training.objective == 'standard'
  assert ours.num_params == theirs.num_params == 48
  # The same as alone.
  alone = trained[0].members['weighted']
  assert ours.clean_accuracy == alone.clean_accuracy
  assert ours.training.test == alone.training.test
  saved = json.loads((tmp_path / 'run/theirs/config.json').read_text())
  assert saved['dataset'] == {'name': '<tiny>'}
  assert saved['model'] == {'name': '<Model>'}
  with pytest.raises(ValueError, match="member of objective = 'their'"):
    compare(config, tmp_path / 'new', objective={'their': weighted})


def test_a_loaded_network_is_a_function_of_its_arrays(trained):
  workdir = trained[1]
  network = load(workdir, model=MODEL)
  assert network.step == 6 and network.checkpoint == 'last'
  assert network.config.hparams.factor == 2
  assert network.params['dense']['kernel'].shape == (9, 3)
  images = np.float32(DATA.test.images) / 255
  expected, _ = MODEL.apply(
    network.params, network.model_state, images, train=False
  )
  np.testing.assert_allclose(jax.jit(network)(images), expected, atol=1e-6)
  accuracy = (network(images).argmax(-1) == DATA.test.labels).mean()
  assert accuracy == trained[0].members['weighted'].clean_accuracy.value
  # Other arrays are another network, and no other program.
  other = jax.tree.map(lambda x: x if x.dtype == 'uint32' else -x, network)
  np.testing.assert_array_equal(
    other.params['dense']['bias'], -network.params['dense']['bias']
  )
  arguments = images, DATA.test.labels, 0.1
  adversarial = advjax.fgsm(network, *arguments)
  with compiles.counted() as count:
    moved = advjax.fgsm(other, *arguments)
  assert count == [0] and (moved != adversarial).any()


def test_older_checkpoints_do_not_say_what_images_they_take(
  trained, tmp_path, monkeypatch
):
  shutil.copytree(trained[1], tmp_path / 'run')
  restore = checkpoint.restore_checkpoint

  def older(*args):
    found = restore(*args)
    del found.record['num_classes'], found.record['image_shape']
    return found

  monkeypatch.setattr('advjax.training.trained.restore_checkpoint', older)
  with pytest.raises(ValueError, match='num_classes = None in the checkpoint'):
    load(tmp_path / 'run', model=MODEL)
