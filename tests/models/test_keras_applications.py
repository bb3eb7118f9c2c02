"""The networks of keras.applications: what Keras says."""

import functools
import importlib
import warnings

import jax
import numpy as np
import pytest
from numpy.testing import assert_allclose

from advjax.models import create_model, keras_applications
from advjax.models.keras import import_keras
from tests.models import checks

keras = import_keras()

# Parameters with a head of 1,000 classes, as published on keras.io.
COUNTS = {
  'MobileNetV2': 3_538_984,
  'DenseNet121': 8_062_504,
  'NASNetMobile': 5_326_716,
  'NASNetLarge': 88_949_818,
  'EfficientNetB2': 9_177_569,
  'EfficientNetB4': 19_466_823,
  'EfficientNetB6': 43_265_143,
}
IMAGES = np.random.default_rng(0).uniform(size=(2, 32, 32, 3)).astype('float32')

# What preprocess_input does to 255 images, and the modules where it is.
PREPROCESSING = {
  'tf': 'mobilenet mobilenet_v2 nasnet resnet_v2 xception inception_v3 '
  'inception_resnet_v2',
  'torch': 'densenet',
  'caffe': 'resnet vgg16 vgg19',
  'inside': 'mobilenet_v3 efficientnet efficientnet_v2 convnext',
}


def mobilenet_first(names):
  """MobileNetV2 is for every run, the others are slow."""
  return [
    pytest.param(name, marks=[pytest.mark.slow] * (name != 'MobileNetV2'))
    for name in names
  ]


@functools.cache
def create(architecture='MobileNetV2', classes=4, weights='random'):
  config = {'name': 'keras', 'architecture': architecture, 'weights': weights}
  return create_model(config, classes)


def build(architecture='MobileNetV2', size=32):
  return keras_applications.build(architecture, 4, 'float32', (size, size, 3))


@pytest.mark.parametrize(
  'name', mobilenet_first(['MobileNetV2', 'DenseNet121', 'NASNetMobile'])
)
def test_passes_are_those_of_keras(name):
  """The program is that of Keras' own `stateless_call`."""
  model, network = create(name), build(name)
  params, state = jax.eval_shape(model.init, jax.random.key(0), IMAGES)
  module = importlib.import_module(getattr(keras.applications, name).__module__)
  variables = network.params, network.state
  trainable, others = (
    [variable.path for variable in variables]
    for variables in (
      network.model.trainable_variables,
      network.model.non_trainable_variables,
    )
  )

  def apply(params, state, images):
    given = {}
    jax.tree.map(
      lambda variable, array: given.update({variable.path: array}),
      variables,
      (params, state),
    )
    with jax.numpy_rank_promotion('allow'):
      logits, new = network.model.stateless_call(
        [given[path] for path in trainable],
        [given[path] for path in others],
        module.preprocess_input(255 * images),
        training=True,
      )
    new = dict(zip(others, new, strict=True))
    return logits, jax.tree.map(lambda v: new[v.path], network.state)

  actual, expected = (
    jax.jit(f).lower(params, state, IMAGES).as_text()
    for f in (functools.partial(model.apply, train=True), apply)
  )
  assert actual == expected


@pytest.mark.parametrize('name', mobilenet_first(COUNTS))
def test_published_number_of_parameters(name):
  params, state = jax.eval_shape(create(name).init, jax.random.key(0), IMAGES)
  num_features = params.pop('dense')['kernel'].shape[0]
  leaves = jax.tree.leaves((params, state))
  count = sum(leaf.size for leaf in leaves if leaf.dtype != 'uint32')
  assert count + 1000 * (num_features + 1) == COUNTS[name]


def test_preprocessing_is_that_of_the_family():
  members = keras_applications.architectures()
  images = np.float64(IMAGES)
  expected = {
    'tf': 2 * images - 1,
    'torch': (images - [0.485, 0.456, 0.406]) / [0.229, 0.224, 0.225],
    'caffe': 255 * images[..., ::-1] - [103.939, 116.779, 123.68],
    'inside': 255 * images,
  }
  modes = {f: mode for mode, fs in PREPROCESSING.items() for f in fs.split()}
  for name, member in members.items():
    mode = modes.pop(member.__module__.rpartition('.')[2], None)
    if mode:  # Keras takes NumPy arrays too, for which nothing compiles.
      found = keras_applications.preprocessing(name)(IMAGES)
      assert_allclose(found, expected[mode], rtol=1e-5, atol=1e-4)
  assert not modes


@pytest.mark.parametrize(
  'name', mobilenet_first(keras_applications.architectures())
)
def test_stages_are_the_resolutions_and_the_head(name):
  network = build(name, 224)
  layers = [layer for stage in network.stages for layer in stage]
  assert sorted(layers) == sorted(network.params)
  assert len(set(layers)) == len(layers)
  assert network.stages[-1] == ('dense',)
  # Five halvings; ConvNeXt makes two at once.
  assert len(network.stages) == (5 if 'ConvNeXt' in name else 6)
  # Keras numbers layers and variables over all models.
  other = build(name, 80)
  shapes, same = (
    jax.tree.map(lambda variable: variable.shape, each.params)
    for each in (network, other)
  )
  assert shapes == same
  assert list(other.params) == list(network.params)
  assert list(other.state) == list(network.state)
  assert len(other.ranks) == len(network.ranks)


def test_feature_maps_and_head():
  model = create()
  params, state = checks.draw(model, IMAGES)
  shape = jax.eval_shape(model.features, params, state, IMAGES).shape
  assert shape == (2, 1, 1, 1280)
  maps = np.random.default_rng(0).normal(size=(3, 2, 5, 1280)).astype('float32')
  logits = jax.jit(model.head)(params, state, maps)
  weights = model.class_weights(params)
  assert weights.shape == (1280, 4)
  expected = maps.mean((1, 2)) @ weights + params['dense']['bias']
  assert_allclose(logits, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
  ('fields', 'message'),
  [
    ({'architecture': 'MobileNet2'}, "did you mean 'MobileNetV2'"),
    ({'dtype': 'float16'}, "model.dtype = 'float16'"),
    ({'alpha': 0.5}, "field of model keras = 'alpha'"),
    ({'weights': 'nothing.weights.h5'}, "h5'; allowed: a file that exists"),
    ({'weights': 'imagnet'}, "allowed: 'random', 'imagenet' or a file"),
  ],
)
def test_wrong_fields(fields, message):
  with pytest.raises(ValueError, match=message):
    create_model({'name': 'keras', **fields}, 4)


def test_images_that_it_does_not_take():
  for shape, message in (
    ((16, 16, 3), 'at least 32x32'),
    ((32, 32, 1), r'allowed: \[height, width, 3\]'),
    ((32, 3), r'allowed: \[height, width, 3\]'),
  ):
    with pytest.raises(ValueError, match=message):
      jax.eval_shape(create().init, jax.random.key(0), np.zeros((1, *shape)))


@pytest.mark.slow
@pytest.mark.parametrize('name', ['MobileNetV2', 'EfficientNetB0'])
def test_imagenet_is_the_network_of_keras(name, monkeypatch, tmp_path):
  member = getattr(keras.applications, name)
  published = member(include_top=False, weights=None)
  random = np.random.default_rng(0)
  for variable in published.variables:
    if variable.name in ('gamma', 'moving_variance'):
      variable.assign(random.uniform(0.5, 1, variable.shape))
    elif variable.dtype == 'float32':
      fan_in = np.prod(variable.shape[:-1])
      scale = np.sqrt(2 / fan_in) if len(variable.shape) > 1 else 0.1
      variable.assign(random.normal(0, scale, variable.shape))
  for layer in published.layers:
    if isinstance(layer, keras.layers.Normalization):
      # What the published files hold.
      layer.adapt_mean.assign([0.485, 0.456, 0.406])
      layer.adapt_variance.assign([0.229, 0.224, 0.225])
  file = str(tmp_path / 'published.weights.h5')
  with warnings.catch_warnings():
    warnings.simplefilter('ignore', DeprecationWarning)
    published.save_weights(file)
  monkeypatch.setattr(
    'keras.src.utils.file_utils.get_file', lambda *_, **__: file
  )
  # A size for which Keras has no other weights.
  theirs = member(
    include_top=False, weights='imagenet', input_shape=(96, 96, 3)
  )
  images = random.uniform(size=(2, 96, 96, 3)).astype('float32')
  inputs = 255 * images if 'Efficient' in name else 2 * images - 1
  with jax.numpy_rank_promotion('allow'):
    expected = theirs(inputs, training=False)
  largest = np.abs(expected).max()
  assert np.std(expected) > 1e-3 * largest
  for source in ('imagenet', file):
    model = create(name, weights=source)
    shapes = jax.eval_shape(model.init, jax.random.key(0), images)
    zeros = jax.tree.map(lambda leaf: np.zeros(leaf.shape, leaf.dtype), shapes)
    maps = model.features(*model.pretrained(*zeros), images)
    assert_allclose(maps / largest, expected / largest, atol=1e-4)
