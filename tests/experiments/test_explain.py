"""Explanations of trained runs from end to end, and what they leave."""

import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from advjax import data
from advjax.evaluation import explanations
from advjax.explain import METHODS
from advjax.files import lock_folder
from advjax.jobs import explain as job
from advjax.jobs.explain import explain
from advjax.models.adapters import from_linen
from tests.experiments.comparison import printed

NAMES = ('standard', 'pooled')
EPSILON = 0.1
GRADIENTS = METHODS[:4]


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


def pooled_model():
  module = Pooled(10)

  def method(name):
    return lambda params, state, x: module.apply(
      {'params': params, **state}, x, method=name
    )

  return from_linen(module)._replace(
    features=method('features'),
    head=method('head'),
    class_weights=lambda params: params['dense']['kernel'],
  )


@pytest.fixture(scope='module')
def explained(run, tmp_path_factory):
  """(report, text, workdir) of two networks; nobody changes it.

  One is trained and shows no feature maps, the other shows them, and says 3
  whatever it sees.
  """
  workdir = tmp_path_factory.mktemp('explained') / 'both'
  load, model = job.load_trained, pooled_model()
  rng = np.random.default_rng(0)

  def layer(*shape):
    kernel = rng.standard_normal(shape) / np.sqrt(np.prod(shape[:-1]))
    bias = np.zeros(shape[-1])
    return {'kernel': jnp.float32(kernel), 'bias': jnp.float32(bias)}

  params = {'conv': layer(3, 3, 1, 4), 'dense': layer(4, 10)}
  params['dense']['bias'] = jnp.float32(9 * np.eye(10)[3])

  def load_both(*args):
    trained, dataset = load(*args)
    first = trained['standard']
    origin = dataclasses.replace(first.origin, model=model)
    second = dataclasses.replace(
      first, params=params, model_state={}, origin=origin
    )
    return {**trained, 'pooled': second}, dataset

  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(explanations, '_MAX_PER_CLASS', 20)
    patch.setattr(job, 'load_trained', load_both)
    report, text = printed(
      explain,
      [str(run[2] / 'base')],
      workdir,
      jax.devices(),
      epsilon=EPSILON,
      classes=['3', '8'],
      num_images=40,
      num_cases=1,
    )
  path = workdir / 'report.json'
  saved = json.loads(path.read_text(), parse_constant=pytest.fail)
  assert saved == json.loads(json.dumps(report.to_json()))
  return saved, text, workdir


def test_the_report_has_every_part(explained):
  report = explained[0]
  assert report['attack']['label'] == 'FGSM at 0.1 (linf)'
  assert report['num_images'] == 40
  grad_cam, cam = report['left_out']
  assert 'grad_cam needs the feature maps' in grad_cam
  assert 'cam needs global average pooling' in cam and 'standard (mlp)' in cam
  assert tuple(report['members']) == NAMES
  trained, pooled = report['members'].values()
  assert trained['clean_accuracy'] > trained['white_box']
  assert pooled['clean_accuracy'] == pooled['white_box'] < 0.3
  assert trained['methods'] == list(GRADIENTS)
  assert pooled['methods'] == list(METHODS)
  for member in (trained, pooled):
    for method in member['methods']:
      groups = member['similarity'][method]
      counts = {name: groups[name]['num_images'] for name in groups}
      assert counts['noise'] == counts['correct'] + counts['fooled']
      assert counts['noise'] == round(40 * member['clean_accuracy'])
  for method in GRADIENTS:
    groups = trained['similarity'][method]
    assert groups['noise']['cosine'] > groups['other']['cosine']


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
  has_maps = arrays['member'] == 'pooled'
  for method in METHODS:
    assert arrays[method].dtype == np.float32
    depth = 4 if method in GRADIENTS else 3
    assert arrays[method].shape == arrays['images'].shape[:depth]
    nothing = np.isnan(arrays[method]).any((1, 2))
    assert not nothing[has_maps].any()
    assert nothing[~has_maps].all() == (method not in GRADIENTS)
  assert (arrays['grad_cam'][has_maps] >= 0).all()
  assert (arrays['cam'][has_maps] < 0).any()
  # A line for the class predicted, and where that is wrong one for the true.
  predicted = arrays['probabilities'].argmax(-1)
  of_true = arrays['explained'] == arrays['label']
  assert ((arrays['explained'] == predicted) | of_true).all()
  assert of_true.any() and (~of_true).any()


def test_no_folder_of_another_job_is_written_to(run, tmp_path):
  with lock_folder(tmp_path), pytest.raises(ValueError, match=str(tmp_path)):
    explain([run[2] / 'base'], tmp_path, jax.devices())
  assert not (tmp_path / 'report.json').exists()


def test_bad_options_are_named(run, tmp_path):
  for options, message in [
    ({'epsilon': -0.1}, 'epsilon = -0.1; allowed'),
    ({'num_images': 0}, 'num_images = 0; allowed'),
    ({'num_cases': 0}, 'num_cases = 0; allowed'),
    ({'seed': -1}, 'seed = -1; allowed'),
    ({'attack': 'fgms'}, "attack = 'fgms'"),
    ({'norm': 'l3'}, "norm = 'l3'"),
    ({'classes': ['ten']}, "classes = 'ten'"),
    (
      {'methods': ['salency']},
      r"methods = \['salency'\]; allowed: .* 'saliency'",
    ),
    ({'methods': []}, r'methods = \[\]; allowed: one or more'),
    (
      {'methods': ['saliency', 'cam']},
      r'cam needs global .*: standard \(mlp\)',
    ),
  ]:
    with pytest.raises(ValueError, match=message):
      explain(
        [str(run[2] / 'base')], tmp_path / 'new', jax.devices(), **options
      )
  assert not (tmp_path / 'new').exists()
