"""Training from Python: objects of one's own in place of names."""

import json
import re
import sys

import jax
import numpy as np
import pytest
from flax import nnx

import advjax
from advjax.jobs import train as jobs
from advjax.jobs.evaluate import evaluate
from advjax.losses import cross_entropy
from advjax.models import from_nnx
from advjax.reporting.figures import run as figures
from advjax.training import compare, load, objectives, reads, train, trained
from advjax.training.setup import create_run
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


def scaled(apply, params, model_state, batch, hparams, key):
  """Cross-entropy times a number."""
  logits, state = apply(params, model_state, batch['image'], train=True)
  clean = cross_entropy(logits, batch['label'])
  loss = hparams['factor'] * clean
  return (batch['weight'] * loss).sum(), (state, {'loss': loss, 'clean': clean})


def of_gamma(apply, params, model_state, batch, hparams, key):
  """Reads what it does not declare."""
  return hparams['gamma'], (model_state, {})


MODEL = from_nnx(Network)
DATA = runs.dataset()


def own_config():
  return runs.config(
    objective={'name': 'standard'},
    hparams={'learning_rate': 0.1, 'factor': 2.0},
    num_epochs=1,
    evaluation__attacks=('fgsm',),
    evaluation__epsilons=(0.1,),
  )


def own(workdir, **options):
  """Trains with objects alone: a network, an objective, arrays and items."""
  splits = tuple(DATA.train), list(zip(*DATA.test, strict=True))
  options = {'model': MODEL, 'objective': scaled, 'dataset': splits} | options
  return train(own_config(), workdir, jax.devices()[:1], **options)


@pytest.fixture(scope='module', autouse=True)
def no_pictures():
  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(figures, 'run_figures', lambda *args: {})
    yield


@pytest.fixture(scope='module')
def run(tmp_path_factory):
  """(result, workdir) of such a run."""
  workdir = tmp_path_factory.mktemp('own') / 'run'
  return own(workdir).members['scaled'], workdir


def test_a_run_of_own_objects_says_so_and_resumes(run, tmp_path, caplog):
  member, workdir = run
  assert member.num_params == 2 * 9 + 9 * 3 + 3
  (epoch,) = member.training.epochs
  assert epoch['loss'] == pytest.approx(2 * epoch['clean'])
  config = json.loads((workdir / 'config.json').read_text())
  names = [config[f]['name'] for f in ('model', 'objective', 'dataset')]
  assert names[:2] == ['<Model>', '<scaled>']
  assert re.fullmatch(r'<examples [0-9a-f]{16}>', names[2])
  with caplog.at_level('INFO', logger='advjax'):
    again = own(workdir).members['scaled']
  assert 'scaled: trained already (step 6); evaluating' in caplog.text
  assert again.robust_accuracy == member.robust_accuracy
  assert again.training.train_seconds == member.training.train_seconds
  with pytest.raises(ValueError, match=r"model.name: '<Model>' there"):
    own(workdir, model=None)
  # What an objective declares is checked.
  declared = reads('factor', 'gamma')(lambda *args: scaled(*args))
  with pytest.raises(ValueError, match=r'gamma = None; allowed: a number'):
    own(tmp_path / 'new', objective=declared)
  assert not (tmp_path / 'new').exists()


def test_what_needs_the_objects_says_how_to_give_them(run, tmp_path):
  with pytest.raises(ValueError, match=r"model.name = '<Model>'.*'module:func"):
    load(run[1])
  with pytest.raises(
    ValueError, match=r"dataset.name = '<examples \w+>'.*give it"
  ):
    evaluate([str(run[1])], ['fgsm'], [0.1], tmp_path)


def test_a_folder_is_of_one_data_set(run):
  """Other images of the same shape are another run."""
  other = runs.dataset(seed=1)
  with pytest.raises(ValueError, match=r"dataset.name: '<examples .* there"):
    own(run[1], dataset=(tuple(other.train), tuple(other.test)))


@pytest.mark.parametrize(
  ('given', 'message'),
  [
    # What its factory declares is checked, and a factory is not called.
    (
      {'objective': objectives.trades(num_steps=1)},
      'factor = 2.0 is not',
    ),
    ({'objective': lambda *, norm: scaled}, r'<lambda>: .*; allowed: objectiv'),
    (
      {'objective': of_gamma},
      "hparams.gamma = None; .* objective 'of_gamma' rea",
    ),
    (
      {'objective': lambda *args: 1.0},
      r'<lambda> returns \(\), as',
    ),
    (
      {'dataset': DATA._replace(test=DATA.train._replace(labels=[0]))},
      r'test_labels = int64 \[1\]; allowed',
    ),
    ({'dataset': {'train': DATA.train}}, 'dataset = dict; allowed: a Dataset'),
    ({'model': nnx.Linear}, 'model = .*; allowed: a Model, such as from_linen'),
  ],
)
def test_wrong_objects_are_named_before_anything_is_written(
  tmp_path, given, message
):
  with pytest.raises(ValueError, match=message):
    own(tmp_path / 'run', **given)
  assert not (tmp_path / 'run').exists()


OWN = """
import jax.numpy as jnp
from advjax.models.cnn import MLP
from advjax.training import reads
from advjax.training.objectives import standard

@reads(share=1)
def plain(*, slope=1.0, norm='L2'):
  return standard()

def network(num_classes, width=3, activation=jnp.tanh, dtype=jnp.float32):
  return MLP(num_classes, (width,))

def attack(logits_fn, images, labels, epsilon, key, *, norm, bounds):
  return images

def wrong_attack(logits_fn, images):
  return images

def half(logits_fn, images, labels, epsilon, key, *, norm, bounds):
  return images[:1]

def flat(key, image):
  return image.reshape(-1)
"""


@pytest.fixture
def module(tmp_path, monkeypatch):
  """A module of the user's own, its file, imported under a name of its own."""
  name = f'own_{tmp_path.name}'
  (tmp_path / f'{name}.py').write_text(OWN)
  monkeypatch.syspath_prepend(tmp_path)
  yield name, tmp_path / f'{name}.py'
  sys.modules.pop(name, None)


@pytest.mark.parametrize(
  ('field', 'function', 'error'),
  [
    ('evaluation__attacks', 'wrong_attack', TypeError),
    ('evaluation__attacks', 'half', ValueError),
    ('augmentation__custom', 'flat', ValueError),
  ],
)
def test_own_functions_are_traced_before_anything_is_written(
  module, tmp_path, field, function, error
):
  config = runs.config(**{field: (f'{module[0]}:{function}',)})
  with pytest.raises(error, match=function):
    train(config, tmp_path / 'run', jax.devices()[:1], dataset=DATA)
  assert not (tmp_path / 'run').exists()


def test_a_run_keeps_what_its_functions_were(module, tmp_path, caplog):
  name, file = module
  config = runs.config(
    objective={'name': f'{name}:plain'},
    model={'name': f'{name}:network'},
    hparams={'learning_rate': 0.1},
    num_epochs=1,
    evaluation__attacks=(f'{name}:attack',),
    evaluation__epsilons=(0.1,),
  )
  train(config, tmp_path / 'run', jax.devices()[:1], dataset=DATA)
  saved = json.loads((tmp_path / 'run' / 'config.json').read_text())
  options = {'slope': 1.0, 'norm': 'L2'}
  assert saved['objective'] == {'name': f'{name}:plain', **options}
  assert saved['model'] == {'name': f'{name}:network', 'width': 3}
  # Read back, it is a config again.
  again = load(tmp_path / 'run').config
  assert again.evaluation.bounds == config.evaluation.bounds == (0.0, 1.0)
  assert 'changed after training' not in caplog.text
  file.write_text(f'{OWN}# And more.')
  load(tmp_path / 'run')
  assert f'{name} changed after training began' in caplog.text


@pytest.mark.parametrize(
  ('changes', 'messages'),
  [
    ({}, []),
    (
      {'hparams__epsilon': 16 / 255},
      [
        'trained at epsilon 16/255, evaluated at 0.1 (evaluation.epsilon, '
        'linf)',
        'trained at epsilon 16/255, monitored at 0.1 (monitor.epsilon, linf)',
      ],
    ),
    (
      {'objective__norm': 'l2', 'monitor__epsilon': 0.2},
      [
        'trained at epsilon 0.1 (l2), evaluated at 0.1 (evaluation.epsilon, '
        'linf)',
        'trained at epsilon 0.1 (l2), monitored at 0.2 (monitor.epsilon, linf)',
      ],
    ),
  ],
)
def test_another_ball_than_that_of_training_is_said(changes, messages):
  config = runs.config(**changes)
  found = create_run(config, DATA, jax.devices()[:1])
  assert jobs._epsilon_warnings(found) == messages


def test_one_class_is_refused(tmp_path):
  one = DATA._replace(
    num_classes=1,
    class_names=DATA.class_names[:1],
    train=DATA.train._replace(labels=0 * DATA.train.labels),
    test=DATA.test._replace(labels=0 * DATA.test.labels),
  )
  with pytest.raises(ValueError, match='has one class; allowed: two'):
    train(own_config(), tmp_path / 'run', model=MODEL, dataset=one)
  assert not (tmp_path / 'run').exists()


@pytest.mark.parametrize(
  ('changes', 'message'),
  [
    ({'hparams__epsilon': 1.0}, r'hparams\.epsilon = 1 .*number below 1,'),
    ({'objective__norm': 'l2', 'hparams__epsilon': 3.0}, r'number below 3,'),
    (
      {'evaluation__norm': 'l1', 'evaluation__epsilon': 9.0},
      r'evaluation\.epsilon = 9 .*number below 9,',
    ),
    (
      {'evaluation__bounds': (-1.0, 1.0), 'monitor__epsilon': 2.0},
      r'monitor\.epsilon = 2 .*number below 2,',
    ),
  ],
)
def test_a_ball_that_holds_all_images_is_refused(changes, message):
  """Images of 3 x 3 x 1; a little less is taken."""
  with pytest.raises(ValueError, match=message):
    create_run(runs.config(**changes), DATA, jax.devices()[:1])
  less = {
    k: v * 0.999 if isinstance(v, float) else v for k, v in changes.items()
  }
  create_run(runs.config(**less), DATA, jax.devices()[:1])


def test_without_bounds_a_large_ball_is_said(caplog):
  wide = {'evaluation__bounds': None, 'evaluation__epsilon': 8.0}
  for _ in range(2):
    create_run(runs.config(**wide), DATA, jax.devices()[:1])
  (line,) = [text for text in caplog.messages if 'evaluation.epsilon' in text]
  assert '8/255?' in line and 'bounds = None' in line


def test_members_may_each_have_their_own(run, tmp_path):
  config = own_config()
  with config.unlocked():
    config.members = ('ours', 'theirs')
    config.ours = {'seed': config.get_ref('seed')}
    config.theirs = {'hparams': {'factor': None}}
  given = {'model': MODEL, 'objective': {'ours': scaled}, 'dataset': DATA}
  report = compare(config, tmp_path / 'run', jax.devices()[:1], **given)
  ours, theirs = report.members['ours'], report.members['theirs']
  assert ours.training.objective == 'scaled'
  assert theirs.training.objective == 'standard'
  assert ours.num_params == theirs.num_params == run[0].num_params
  # The same as alone.
  assert ours.clean_accuracy == run[0].clean_accuracy
  assert ours.training.test == run[0].training.test
  with pytest.raises(ValueError, match="member of objective = 'their'"):
    compare(config, tmp_path / 'new', objective={'their': scaled})


def test_a_loaded_network_is_a_function_of_its_arrays(run, monkeypatch):
  network = load(run[1], model=MODEL)
  assert network.config.hparams.factor == 2
  images, labels = np.float32(DATA.test.images) / 255, DATA.test.labels
  arrays = network.params, network.model_state
  expected, _ = MODEL.apply(*arrays, images, train=False)
  np.testing.assert_allclose(jax.jit(network)(images), expected, atol=1e-6)
  accuracy = (network(images).argmax(-1) == labels).mean()
  assert accuracy == run[0].clean_accuracy.value
  # Other arrays are another network, and no other program.
  other = jax.tree.map(lambda x: x if x.dtype == 'uint32' else -x, network)
  bias = network.params['dense']['bias']
  np.testing.assert_array_equal(other.params['dense']['bias'], -bias)
  adversarial = advjax.fgsm(network, images, labels, 0.1)
  with compiles.counted() as count:
    moved = advjax.fgsm(other, images, labels, 0.1)
  assert count == [0] and (moved != adversarial).any()
  # Checkpoints of older versions do not say which images they take.
  restore = trained.restore_checkpoint
  monkeypatch.setattr(
    trained, 'restore_checkpoint', lambda p: restore(p)._replace(record={})
  )
  with pytest.raises(ValueError, match='num_classes = None in the checkpoint'):
    load(run[1], model=MODEL)
