"""The networks of keras.applications: what Keras says, and what they cost."""

import functools
import importlib

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from numpy.testing import assert_allclose

import advjax
from advjax.devices import AXIS
from advjax.models import create_model
from advjax.models.keras import applications
from advjax.models.keras.adapter import adapt
from advjax.models.keras.backend import import_keras
from advjax.training.objectives import fgsm_at
from advjax.training.step import TrainState, make_train_step

keras = import_keras()
dtypes = importlib.import_module('keras.src.backend.common.dtypes')

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
# The first of them, on the smallest images, is for every run.
NETWORKS = [
  pytest.param(name, marks=[pytest.mark.slow] if name != 'MobileNetV2' else [])
  for name in COUNTS
]
IMAGES = np.random.default_rng(0).uniform(size=(2, 32, 32, 3)).astype('float32')

# Where preprocess_input is, and what it does to 255 images.
PREPROCESSING = {
  'mobilenet': 'tf',
  'mobilenet_v2': 'tf',
  'mobilenet_v3': 'inside',
  'densenet': 'torch',
  'nasnet': 'tf',
  'efficientnet': 'inside',
  'efficientnet_v2': 'inside',
  'convnext': 'inside',
  'resnet': 'caffe',
  'resnet_v2': 'tf',
  'vgg16': 'caffe',
  'vgg19': 'caffe',
  'xception': 'tf',
  'inception_v3': 'tf',
  'inception_resnet_v2': 'tf',
}


@pytest.fixture
def optimized():
  """Compiles well: else depthwise convolutions are as large as full ones."""
  jax.config.update('jax_disable_most_optimizations', False)
  yield
  jax.config.update('jax_disable_most_optimizations', True)


def in_closed_form(images, mode):
  if mode == 'tf':
    return 2 * images - 1
  if mode == 'torch':
    return (images - [0.485, 0.456, 0.406]) / [0.229, 0.224, 0.225]
  if mode == 'caffe':
    return 255 * images[..., ::-1] - [103.939, 116.779, 123.68]
  return 255 * images


@functools.cache
def drawn(name, dtype='float32'):
  """A network for float32 or float64, and weights as after some training."""
  if dtype == 'float32':
    model = create_model({'name': 'keras', 'architecture': name}, 4)
  else:
    network_of = functools.partial(applications.build, name, 4, dtype)
    model = adapt(
      network_of((224, 224, 3)),
      lambda shape: network_of(tuple(shape)),
      applications.preprocessing(name),
    )
  before = keras.config.floatx()
  keras.config.set_floatx(dtype)  # Of what networks take.
  try:
    shapes = jax.eval_shape(model.init, jax.random.key(0), IMAGES)
  finally:
    keras.config.set_floatx(before)
  random = np.random.default_rng(0)

  def draw(path, leaf):
    kind = path[-1].key
    if kind == 'seed_generator_state':
      return jnp.array([3, 4], 'uint32')
    if leaf.ndim > 1:
      # As He: the fan-in of a depthwise kernel is one channel's.
      fan_in = np.prod(leaf.shape[:-1])
      if 'depthwise' in str(path) or leaf.shape[-1] == 1:
        fan_in = np.prod(leaf.shape[:2])
      values = random.normal(0, (2 / fan_in) ** 0.5, leaf.shape)
    elif kind in ('gamma', 'moving_variance', 'variance'):
      values = random.uniform(0.8, 1.2, leaf.shape)
    else:
      values = random.normal(0, 0.1, leaf.shape)
    return jnp.asarray(values, leaf.dtype)

  return model, *jax.tree_util.tree_map_with_path(draw, shapes)


@pytest.mark.parametrize('name', NETWORKS)
def test_logits_and_statistics_are_those_of_keras(name):
  model, params, state = drawn(name)
  # A network of Keras' own, built apart from ours.
  member = getattr(keras.applications, name)
  made = applications._without_values(
    lambda: applications._with_head(member, 4, (32, 32, 3))
  )
  arrays = by_path(made, params, state)
  module = importlib.import_module(
    f'keras.applications.{member.__module__.split(".")[-1]}'
  )
  with jax.numpy_rank_promotion('allow'):
    inputs = module.preprocess_input(255 * jnp.asarray(IMAGES))

  def theirs(training):
    with jax.numpy_rank_promotion('allow'):
      for layer in made.layers:
        if hasattr(layer, 'adapt_mean'):
          layer.adapt_mean.assign(arrays[layer.adapt_mean.path])
          layer.adapt_variance.assign(arrays[layer.adapt_variance.path])
          layer.finalize_state()
      return made.stateless_call(
        [arrays[v.path] for v in made.trainable_variables],
        [arrays[v.path] for v in made.non_trainable_variables],
        inputs,
        training=training,
      )

  # Without jit, which may round otherwise: a deep network in training mode, on
  # two images, makes much of that.
  for train in (False, True):
    logits, updated = model.apply(params, state, IMAGES, train=train)
    expected, values = theirs(train)
    assert np.ptp(expected) > 1e-3 * np.abs(expected).max()
    assert_allclose(logits, expected, rtol=1e-5)
    new = by_path(made, params, updated)
    for variable, value in zip(
      made.non_trainable_variables, values, strict=True
    ):
      assert_allclose(new[variable.path], value, rtol=1e-5)
    if not train:
      assert updated is state


def by_path(model, params, state):
  """Arrays by the paths of the variables of another build of a network."""
  names = list(dict.fromkeys([*params, *state]))
  network = applications.take_apart(model, renumber=True)
  assert set(names) == {*network.params, *network.state}
  arrays = {}
  for part, variables in ((params, network.params), (state, network.state)):
    for layer, named in variables.items():
      for key, variable in named.items():
        arrays[variable.path] = part[layer][key]
  return arrays


@pytest.mark.parametrize('name', NETWORKS)
def test_published_number_of_parameters(name):
  model = create_model({'name': 'keras', 'architecture': name}, 1000)
  shapes = jax.eval_shape(
    model.init, jax.random.key(0), np.zeros((1, 224, 224, 3), 'float32')
  )
  leaves = [x for x in jax.tree.leaves(shapes) if x.dtype != 'uint32']
  assert sum(leaf.size for leaf in leaves) == COUNTS[name]


@pytest.mark.parametrize('family', PREPROCESSING)
def test_preprocessing_is_that_of_the_family(family):
  module = importlib.import_module(f'keras.applications.{family}')
  member = next(
    name
    for name, member in applications.architectures().items()
    if member.__module__.endswith(f'.{family}')
  )
  preprocess = jax.jit(applications.preprocessing(member))
  with jax.numpy_rank_promotion('allow'):  # As `apply` does.
    found = preprocess(IMAGES)
  assert_allclose(
    found, module.preprocess_input(255 * IMAGES), rtol=1e-5, atol=1e-4
  )
  expected = in_closed_form(np.float64(IMAGES), PREPROCESSING[family])
  assert_allclose(found, expected, rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize(
  'name',
  [
    pytest.param(name, marks=[pytest.mark.slow] * (name != 'MobileNetV2'))
    for name in applications.architectures()
  ],
)
def test_stages_are_the_resolutions_and_the_head(name):
  builds = []
  for _ in range(2):  # Keras numbers layers over all models.
    applications.build.cache_clear()
    network = applications.build(name, 4, 'float32', (224, 224, 3))
    builds.append((list(network.params), list(network.state), network.stages))
  assert builds[0] == builds[1]
  names = [layer for stage in network.stages for layer in stage]
  assert sorted(names) == sorted(network.params)
  assert len(set(names)) == len(names)
  assert network.stages[-1] == ('dense',)
  # Five halvings; ConvNeXt makes two at once.
  assert len(network.stages) == (5 if 'ConvNeXt' in name else 6)
  small = applications.build(name, 4, 'float32', (80, 80, 3))
  assert list(small.params) == list(network.params)
  assert len(small.ranks) == len(network.ranks)
  applications.build.cache_clear()


@pytest.mark.slow
@pytest.mark.parametrize('name', COUNTS)
def test_gradient_of_an_image(name, monkeypatch, optimized):
  if name == 'EfficientNetB6':
    pytest.skip('XLA asks for 27 GB at once to compute it in float64 on a CPU')
  # On JAX Keras takes float32 for float64, in BatchNorm for one.
  monkeypatch.setitem(dtypes.BIT64_TO_BIT32_DTYPE, 'float64', 'float64')
  with jax.enable_x64(True):
    model, params, state = drawn(name, 'float64')
    random = np.random.default_rng(1)
    images = jnp.asarray(np.float64(IMAGES[:1]))
    direction = jnp.asarray(random.normal(size=images.shape))
    weights = jnp.asarray(random.normal(size=(1, 4)))

    @jax.jit
    @jax.value_and_grad
    def score(images):
      logits, _ = model.apply(params, state, images, train=False)
      return (weights * logits).sum()

    _, gradient = score(images)
    assert gradient.dtype == jnp.float64
    slope = float((gradient * direction).sum())
    h = 1e-7
    above, below = (score(images + s * direction)[0] for s in (h, -h))
    assert_allclose((above - below) / (2 * h), slope, rtol=1e-4)
    assert abs(slope) > 1e-6 * abs(float(above))


@pytest.mark.slow
@pytest.mark.parametrize('name', COUNTS)
def test_adversarial_step_and_attack(name, optimized):
  # New weights of a deep network make logits of 1e-12: too little to compare.
  # Maps of one pixel of two images make gradients of 1e5 in training mode.
  model, params, model_state = drawn(name)
  images = jax.random.uniform(jax.random.key(0), (4, 64, 64, 3))
  labels = jnp.arange(4)
  optimizer = optax.identity()
  state = TrainState(jnp.int32(0), params, model_state, (), None)
  step = make_train_step(
    model.apply, fgsm_at(), optimizer, optax.constant_schedule(1.0)
  )
  hparams = {'learning_rate': 1e-5, 'epsilon': 8 / 255, 'step_size': 10 / 255}
  batch = {'image': images, 'label': labels, 'weight': jnp.full(4, 0.25)}
  keys = jax.random.split(jax.random.key(1), 4)
  run = jax.pmap(
    lambda state: step(state, batch, jnp.ones(4), hparams, keys),
    axis_name=AXIS,
    devices=jax.devices()[:1],
  )
  new, metrics = run(jax.tree.map(lambda leaf: leaf[None], state))
  new = jax.tree.map(lambda leaf: np.asarray(leaf[0]), new)
  assert np.isfinite(metrics['loss']).all()
  for layer, named in params.items():
    for key, before in named.items():
      assert np.isfinite(new.params[layer][key]).all()
      assert key != 'kernel' or (new.params[layer][key] != before).any()
  for layer, named in model_state.items():
    for key in named.keys() & {'moving_mean', 'moving_variance'}:
      assert np.isfinite(new.model_state[layer][key]).all()
      assert (new.model_state[layer][key] != named[key]).any()

  @jax.jit
  def logits_fn(images):
    return model.apply(new.params, new.model_state, images, train=False)[0]

  # So little that a network of chance is as good as linear.
  attacked = advjax.fgsm(logits_fn, images, labels, 2e-4)
  moved = np.abs(attacked - images)
  assert moved.max() <= 2.1e-4
  assert (moved > 0).mean() > 0.5
  before, after = (
    advjax.losses.cross_entropy(logits_fn(x), labels)
    for x in (images, attacked)
  )
  assert (after > before).all()


def test_feature_maps_and_head():
  model, params, state = drawn('MobileNetV2')
  apply = functools.partial(model.apply, train=False)
  shapes = jax.eval_shape(
    model.features, params, state, np.zeros((2, 64, 64, 3))
  )
  assert shapes.shape == (2, 2, 2, 1280)
  maps = np.random.default_rng(0).normal(size=(3, 2, 5, 1280)).astype('float32')
  logits = model.head(params, state, maps)
  weights = model.class_weights(params)
  assert weights.shape == (1280, 4)
  bias = np.asarray(params['dense']['bias'])
  expected = maps.mean((1, 2)) @ np.asarray(weights) + bias
  assert_allclose(logits, expected, rtol=1e-4, atol=1e-5)
  assert jax.eval_shape(apply, params, state, IMAGES)[0].shape == (2, 4)


def test_bfloat16_is_for_computing_alone():
  model = create_model({'name': 'keras', 'dtype': 'bfloat16'}, 4)
  params, state = jax.eval_shape(model.init, jax.random.key(0), IMAGES)
  assert {leaf.dtype for leaf in jax.tree.leaves((params, state))} == {
    jnp.dtype('float32')
  }
  logits, updated = jax.eval_shape(
    functools.partial(model.apply, train=True), params, state, IMAGES
  )
  assert logits.dtype == jnp.float32
  assert jax.tree.map(lambda x: x.dtype, updated) == jax.tree.map(
    lambda x: x.dtype, state
  )
  maps = jax.eval_shape(model.features, params, state, IMAGES)
  assert maps.dtype == jnp.bfloat16
  assert keras.config.dtype_policy().name == 'float32'
