"""Explanations of trained runs from end to end, and what they leave."""

import json
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from advjax import data
from advjax.models.adapters import from_linen
from advjax.reporting.explained import ask
from experiments.explain import explain
from tests.experiments.comparison import printed
from tests.reporting.pages import Page

NAMES = ('standard', 'adversarial_regularization')
EPSILON = 0.1
GRADIENTS = ('saliency', 'guided_backprop', 'integrated_gradients')


@pytest.fixture(scope='module')
def explained(run, tmp_path_factory):
  """(report, text, workdir) of both networks; nobody changes it."""
  workdir = tmp_path_factory.mktemp('explained') / 'both'
  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(ask, '_MAX_PER_CLASS', 20)
    found = printed(
      explain,
      [str(run[2] / folder) for folder in ('base', 'adversarial')],
      workdir,
      jax.devices(),
      epsilon=EPSILON,
      classes=['3', '8'],
      num_images=40,
      num_cases=1,
      methods=GRADIENTS,
    )
  return *found, workdir


def test_the_report_has_every_part(explained):
  report, _, workdir = explained
  saved = json.loads(
    (workdir / 'report.json').read_text(), parse_constant=pytest.fail
  )
  assert saved == json.loads(json.dumps(report))
  assert report['attack']['label'] == 'FGSM at 0.1 (linf)'
  assert (report['num_images'], report['left_out']) == (40, [])
  assert tuple(report['members']) == tuple(report['config']) == NAMES
  for member in report['members'].values():
    assert member['clean_accuracy'] > member['white_box']
    assert member['methods'] == list(GRADIENTS)
    for method in GRADIENTS:
      groups = member['similarity'][method]
      counts = {name: groups[name]['num_images'] for name in groups}
      assert counts['noise'] == counts['stood'] + counts['fooled']
      assert counts['noise'] == round(40 * member['clean_accuracy'])
      assert groups['noise']['cosine'] > groups['other']['cosine']


def test_cases_are_of_their_kinds_and_classes(explained):
  report, _, _ = explained
  labels = data.load({'name': 'digits'}).test.labels
  for name, member in report['members'].items():
    assert {case['kind'] for case in member['cases']} >= {'fooled'}
    for case in member['cases']:
      label = case['class']['label']
      assert label == labels[case['index']] and label in (3, 8)
      assert case['class'] == {'label': label, 'id': '', 'name': str(label)}
      assert case['name'] == f'{name}_{case["kind"]}_{case["index"]}'
      first = {}
      for version, entries in case['predictions'].items():
        shares = [entry['probability'] for entry in entries]
        assert len(shares) == 5 and shares == sorted(shares, reverse=True)
        first[version] = entries[0]['label'] == label
      assert (
        first
        == {
          'right': {'clean': True, 'adversarial': True},
          'wrong': {'clean': False, 'adversarial': first['adversarial']},
          'fooled': {'clean': True, 'adversarial': False},
        }[case['kind']]
      )


def test_the_arrays_say_what_the_report_says(explained):
  report, _, workdir = explained
  with np.load(workdir / 'explanations.npz') as file:
    arrays = dict(file)
  test = data.load({'name': 'digits'}).test
  clean = arrays['version'] == 'clean'
  originals = data.to_float(test.images[arrays['index']])
  np.testing.assert_array_equal(arrays['images'][clean], originals[clean])
  moved = np.abs(arrays['images'] - originals).max((1, 2, 3))
  assert moved[~clean] == pytest.approx(EPSILON, abs=1e-6)
  assert set(arrays['index']) == {
    case['index']
    for member in report['members'].values()
    for case in member['cases']
  }
  for method in GRADIENTS:
    assert arrays[method].dtype == np.float32
    assert arrays[method].shape == arrays['images'].shape
    assert np.isfinite(arrays[method]).all()
  # A line for the class predicted, and where that is wrong one for the true.
  predicted = arrays['probabilities'].argmax(-1)
  of_true = arrays['explained'] == arrays['label']
  assert ((arrays['explained'] == predicted) | of_true).all()
  assert of_true.any() and (~of_true).any()


def test_the_page_shows_every_case(explained):
  report, text, workdir = explained
  page = Page((workdir / 'report.html').read_text())
  names = {path.stem for path in (workdir / 'figures').glob('*.png')}
  cases = [c for m in report['members'].values() for c in m['cases']]
  assert names >= {'similarity', 'activation_maximization'}
  assert names >= {case['name'] for case in cases}
  assert len(page.all('img')) == len(names)
  for image in page.all('img'):
    assert image['src'].startswith('data:image/png;base64,')
  for name in NAMES:
    assert f'Images, seen by {name}' in page.text
    assert re.search(rf'{name} is right on .* % of 40 test images', text)
  assert 'cosine' in text and 'report.html' in text


class Pooled(nn.Module):
  """Feature maps, global average pooling, one dense layer."""

  num_classes: int

  def setup(self):
    self.conv = nn.Conv(4, (3, 3), strides=4)
    self.dense = nn.Dense(self.num_classes)

  def __call__(self, images, *, train=False):
    del train
    return self.head(self.features(images))

  def features(self, images):
    return nn.relu(self.conv(images))

  def head(self, maps):
    return self.dense(maps.mean((1, 2)))


def pooled(num_classes, axis):
  del axis
  module = Pooled(num_classes)

  def method(name):
    return lambda params, state, x: module.apply(
      {'params': params, **state}, x, method=name
    )

  return from_linen(module)._replace(
    features=method('features'),
    head=method('head'),
    class_weights=lambda params: params['dense']['kernel'],
  )


def test_cams_of_a_network_that_has_them(run, tmp_path, monkeypatch):
  """Untrained: a run's parameters are replaced as they are loaded."""
  from experiments import explain as program

  load = program.load_trained
  model = pooled(10, None)
  params, state = model.init(jax.random.key(0), jnp.zeros((1, 28, 28, 1)))

  def load_pooled(*args):
    trained, dataset = load(*args)
    only = trained['standard']._replace(
      model=model, params=params, model_state=state
    )
    return {'pooled': only}, dataset

  monkeypatch.setattr(program, 'load_trained', load_pooled)
  monkeypatch.setattr(ask, '_MAX_PER_CLASS', 20)
  report, _ = printed(
    explain,
    [str(run[2] / 'base')],
    tmp_path / 'new',
    jax.devices(),
    epsilon=EPSILON,
    num_images=20,
    num_cases=1,
    methods=['cam', 'grad_cam'],
  )
  assert report['members']['pooled']['methods'] == ['cam', 'grad_cam']
  with np.load(tmp_path / 'new' / 'explanations.npz') as file:
    cam, grad_cam = file['cam'], file['grad_cam']
  assert cam.shape[1:] == grad_cam.shape[1:] == (28, 28)
  assert (cam < 0).any() and (cam > 0).any()
  assert (grad_cam >= 0).all() and (grad_cam > 0).any()


@pytest.mark.parametrize(
  ('options', 'message'),
  [
    ({'epsilon': -0.1}, 'epsilon = -0.1; allowed'),
    ({'num_images': 0}, 'num_images = 0; allowed'),
    ({'num_cases': 0}, 'num_cases = 0; allowed'),
    ({'seed': -1}, 'seed = -1; allowed'),
    ({'attack': 'fgms'}, "unknown attack 'fgms'"),
    ({'norm': 'l3'}, "norm = 'l3'"),
    ({'classes': ['ten']}, "unknown class 'ten'"),
    ({'classes': ['3', '3']}, 'one class or more, each once'),
    ({'methods': ['salency']}, "unknown method 'salency'; allowed: saliency"),
    ({'methods': []}, r'methods = \[\]; allowed: one or more'),
    (
      {'methods': ['cam']},
      r'cam needs global average pooling .*: standard \(mlp\) has no such head',
    ),
    (
      {'methods': ['saliency', 'grad_cam']},
      r'grad_cam needs the feature maps .*standard \(mlp\) does not expose',
    ),
  ],
)
def test_bad_options_are_named(run, tmp_path, options, message):
  with pytest.raises(ValueError, match=message):
    explain([str(run[2] / 'base')], tmp_path / 'new', jax.devices(), **options)
  assert not (tmp_path / 'new').exists()


def test_nothing_is_written_into_a_run(run):
  workdir = run[2] / 'base'
  before = (workdir / 'config.json').read_bytes()
  with pytest.raises(ValueError, match='holds a run of another config'):
    explain([str(workdir)], workdir, jax.devices())
  assert (workdir / 'config.json').read_bytes() == before
