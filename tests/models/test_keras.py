"""Keras models of all three kinds as `Model`s: what Keras itself computes."""

import functools
import pathlib
import re
import sys
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

import advjax
from advjax.models import from_keras
from advjax.models.keras import import_keras
from advjax.models.keras_applications import without_values
from tests.models import checks

keras = import_keras()
layers = keras.layers
IMAGES = np.random.default_rng(0).uniform(size=(6, 8, 8, 3)).astype('float32')
LABELS = np.arange(6) % 3
KEY = jax.random.key(0)
KINDS = ('functional', 'sequential', 'subclassed')


def functional():
  """Two resolutions, an operation that is no layer, BatchNorm and dropout."""
  inputs = keras.Input((8, 8, 3))
  x = layers.Conv2D(4, 3, padding='same', name='first')(inputs)
  x = layers.BatchNormalization(name='first_norm')(x)
  x = early = layers.ReLU()(x)
  x = layers.Conv2D(5, 3, 2, padding='same', name='second')(x)
  x = layers.BatchNormalization(name='second_norm')(x)
  x = layers.Dropout(0.5, name='dropout')(x)
  x = x + layers.Conv2D(5, 1, 2, name='skip')(early)
  x = layers.GlobalAveragePooling2D()(x)
  return keras.Model(inputs, layers.Dense(3, name='head')(x))


def body():
  return [
    layers.Conv2D(4, 3, strides=2, name='first'),
    layers.BatchNormalization(name='first_norm'),
    layers.Dropout(0.5, name='dropout'),
    layers.Flatten(),
    layers.Dense(3, name='head'),
  ]


class Subclassed(keras.Model):
  def __init__(self):
    super().__init__()
    self.body = body()

  def call(self, images, training=None):
    for layer in self.body:
      if isinstance(layer, (layers.BatchNormalization, layers.Dropout)):
        images = layer(images, training=training)
      else:
        images = layer(images)
    return images


def make(kind):
  if kind == 'functional':
    return functional()
  if kind == 'sequential':
    return keras.Sequential([keras.Input((8, 8, 3)), *body()])
  network = Subclassed()
  network(keras.Input((8, 8, 3)))
  return network


class Pair(NamedTuple):
  network: Any  # The Keras model.
  model: Any  # The same as a `Model`.
  params: Any
  state: Any


@pytest.fixture(scope='module')
def pairs():
  made = {}
  for kind in KINDS:
    with jax.numpy_rank_promotion('allow'):
      network = without_values(functools.partial(make, kind))
    random = np.random.default_rng(1)
    for variable in network.variables:
      if variable.dtype == 'float32':  # Statistics as after training.
        variable.assign(random.uniform(0.2, 1.0, variable.shape))
    model = from_keras(network)
    shapes = jax.eval_shape(model.init, KEY, IMAGES)
    given = jax.tree.map(lambda x: np.full(x.shape, 7, x.dtype), shapes)
    made[kind] = Pair(network, model, *model.pretrained(*given))
  return made


def stateless(network, state, *, training):
  """Keras' own pass, with the seeds of a model_state, as layer -> name."""
  seeds = [
    state['dropout']['seed_generator_state'] if v.dtype == 'uint32' else v.value
    for v in network.non_trainable_variables
  ]
  weights = [variable.value for variable in network.trainable_variables]
  with jax.numpy_rank_promotion('allow'):
    logits, values = network.stateless_call(
      weights, seeds, IMAGES, training=training
    )
  found = {}
  for variable, value in zip(
    network.non_trainable_variables, values, strict=True
  ):
    is_seed = variable.name == 'seed_generator_state'
    layer = 'dropout' if is_seed else variable.path.split('/')[-2]
    found.setdefault(layer, {})[variable.name] = value
  return logits, found


@pytest.mark.parametrize('kind', KINDS)
def test_passes_are_those_of_keras(pairs, kind):
  network, model, params, state = pairs[kind]
  before = [np.array(variable.value) for variable in network.variables]

  @jax.jit
  def run(params, state):
    evaluated, same = model.apply(params, state, IMAGES, train=False)
    assert same is state
    return evaluated, model.apply(params, state, IMAGES, train=True)

  @jax.jit
  def expect(state):
    evaluated, _ = stateless(network, state, training=False)
    return evaluated, stateless(network, state, training=True)

  with jax.checking_leaks():
    found = jax.device_get(run(params, state))
  jax.tree.map(
    lambda a, b: assert_allclose(a, b, rtol=1e-5), found, expect(state)
  )
  evaluated, (logits, updated) = found
  assert evaluated.dtype == jnp.float32
  old, new = (s['first_norm']['moving_mean'] for s in (state, updated))
  assert np.abs(new - old).min() > 1e-4
  # Dropout draws new numbers in the next step.
  _, (again, _) = run(params, {**state, 'dropout': updated['dropout']})
  assert np.abs(again - logits).max() > 1e-2
  # The model itself is as it was.
  for variable, value in zip(network.variables, before, strict=True):
    assert isinstance(variable.value, jax.Array)
    assert_array_equal(variable.value, value)


def test_weights_are_a_function_of_the_key(pairs):
  _, model, params, state = pairs['sequential']

  def program():
    init = jax.jit(lambda key: model.init(key, IMAGES))
    return init.trace(jax.random.key(0)).lower()

  with jax.checking_leaks():
    lowered = program()
  init = lowered.compile()
  (drawn, statistics), (other, _) = (
    jax.device_get(init(jax.random.key(seed))) for seed in (0, 1)
  )
  keras.utils.set_random_seed(5)  # Nothing depends on it.
  assert program().as_text() == lowered.as_text()
  assert jax.tree.structure((drawn, statistics)) == jax.tree.structure(
    (params, state)
  )
  kernels = [layer for layer in drawn if 'kernel' in drawn[layer]]
  for layer in kernels:
    kernel = drawn[layer]['kernel']
    fans = [np.prod(kernel.shape[:-2]) * n for n in kernel.shape[-2:]]
    limit = np.sqrt(6 / sum(fans))  # Glorot's uniform distribution.
    assert 0.8 * limit < np.abs(kernel).max() <= limit
    assert np.abs(kernel - other[layer]['kernel']).max() > 0.1 * limit
  assert len({float(drawn[k]['kernel'].ravel()[0]) for k in kernels}) > 1
  assert_array_equal(drawn['first_norm']['gamma'], np.ones(4))
  assert_array_equal(statistics['first_norm']['moving_variance'], np.ones(4))
  assert (statistics['dropout']['seed_generator_state'] != 7).any()


def test_stages_are_cut_where_maps_become_smaller(pairs):
  assert pairs['functional'].model.stages == (
    ('first', 'first_norm'),
    ('second', 'second_norm', 'skip'),
    ('head',),
  )
  assert pairs['sequential'].model.stages == (
    ('first', 'first_norm'),
    ('head',),
  )
  assert pairs['subclassed'].model.stages == ()


def test_frozen_stages_run_as_in_evaluation(pairs):
  network, model, params, state = pairs['functional']

  @jax.jit
  def run(params, state):
    evaluated, _ = model.apply(params, state, IMAGES, train=False)
    return evaluated, [
      model.apply(params, state, IMAGES, train=True, num_frozen=number)
      for number in (1, 2)
    ]

  # Keras' own rule for BatchNorm.
  for layer in (network.get_layer('first'), network.get_layer('first_norm')):
    layer.trainable = False
  try:
    expected, values = jax.jit(
      lambda state: stateless(network, state, training=True)
    )(state)
  finally:
    network.trainable = True
  evaluated, [(logits, updated), (other, same)] = run(params, state)
  assert_allclose(logits, expected, rtol=1e-5)
  assert_array_equal(
    updated['first_norm']['moving_mean'], state['first_norm']['moving_mean']
  )
  for layer in ('second_norm', 'dropout'):
    for name, value in updated[layer].items():
      assert_allclose(value, values[layer][name], rtol=1e-5)
  # With dropout in a frozen stage, nothing is drawn.
  assert_allclose(other, evaluated, rtol=1e-5)
  jax.tree.map(assert_array_equal, same, state)
  for kind, allowed in (
    ('functional', 'from 0 to 3, the stages of functional'),
    ('subclassed', r'0, for subclassed\w* has no stages'),
  ):
    message = f'num_frozen = 4; allowed: {allowed}'
    with pytest.raises(ValueError, match=message):
      pairs[kind].model.apply({}, {}, IMAGES, train=True, num_frozen=4)


def test_features_head_gradients_and_members_of_a_sweep(pairs):
  network, model, params, state = pairs['functional']

  def logits_of(params, images):
    return model.apply(params, state, images, train=False)[0]

  def loss(params, images):
    return advjax.losses.cross_entropy(logits_of(params, images), LABELS).sum()

  @jax.jit
  def run(params):
    maps = model.features(params, state, IMAGES)
    both = jax.tree.map(lambda x: jnp.stack([x, 0.5 * x]), params)
    members = jax.vmap(logits_of, (0, None))(both, IMAGES)
    gradients = jax.grad(loss, (0, 1))(params, IMAGES)
    return maps, model.head(params, state, maps), members, gradients

  maps, logits, members, gradients = run(params)
  assert all(np.abs(g).max() > 0 for g in jax.tree.leaves(gradients))
  assert maps.shape == (6, 4, 4, 5)
  weights = model.class_weights(params)
  assert_array_equal(weights, network.get_layer('head').kernel.value)
  pooled = np.asarray(maps).mean((1, 2)) @ weights + params['head']['bias']
  assert_allclose(logits, pooled, rtol=1e-5)
  assert_allclose(members[0], logits, rtol=1e-5)
  assert pairs['sequential'].model.features is None


def test_statistics_of_a_normalization_are_state():
  data = np.random.default_rng(2).normal(3, 2, (50, 5)).astype('float32')
  normalization = layers.Normalization()
  network = without_values(
    lambda: keras.Sequential(
      [keras.Input((5,)), normalization, layers.Dense(3)]
    )
  )
  normalization.adapt_mean.assign(data.mean(0))
  model = from_keras(network)
  params, state = checks.draw(model, data)
  logits = jax.jit(lambda p, s: model.apply(p, s, data, train=False)[0])
  layer = normalization.name
  state[layer]['mean'] = np.full(5, 1, 'float32')
  state[layer]['variance'] = np.full(5, 4, 'float32')
  (dense,) = params.values()
  expected = (data - 1) / 2 @ dense['kernel'] + dense['bias']
  assert_allclose(logits(params, state), expected, rtol=1e-4, atol=1e-6)
  # And those of the layer are there.
  assert_array_equal(normalization.adapt_mean, data.mean(0))


def test_models_inside_models():
  inner = without_values(functional)
  inner = keras.Model(
    inner.inputs, inner.get_layer('dropout').output, name='base'
  )
  top = layers.Dense(3, name='top')
  network = keras.Sequential(
    [keras.Input((8, 8, 3)), inner, layers.GlobalAveragePooling2D(), top]
  )
  model = from_keras(network)
  params, state = checks.draw(model, IMAGES)
  assert model.stages == (('base',), ('top',))
  assert 'first/kernel' in params['base']
  assert 'first_norm/moving_mean' in state['base']
  params, state = model.pretrained(params, state)
  logits = jax.jit(lambda p: model.apply(p, state, IMAGES, train=False)[0])
  with jax.numpy_rank_promotion('allow'):
    expected = jax.jit(network)(IMAGES)
  assert_allclose(logits(params), expected, rtol=1e-5)


def test_what_is_not_trainable_is_state():
  network = without_values(functional)
  network.get_layer('first').trainable = False
  model = from_keras(network)
  params, state = jax.eval_shape(model.init, KEY, IMAGES)
  assert 'first' not in params
  assert set(state['first']) == {'kernel', 'bias'}
  assert sorted(name for stage in model.stages for name in stage) == sorted(
    params
  )


def test_models_that_are_no_classifiers():
  with pytest.raises(ValueError, match=r'allowed: a keras\.Model'):
    from_keras(lambda images: images)
  with pytest.raises(ValueError, match='no weights yet: call it on a batch'):
    from_keras(keras.Sequential([layers.Dense(3)]))
  inputs = keras.Input((4,))
  softmax = layers.Dense(3, 'softmax', name='said')(inputs)
  with pytest.raises(ValueError, match="'said' returns probabilities"):
    from_keras(keras.Model(inputs, softmax))

  class Own(keras.Model):
    def build(self, shape):
      self.own = self.add_weight(shape=(3,), name='own')

    def call(self, images):
      return images + self.own

  own = Own()
  own.build((1, 3))
  with pytest.raises(ValueError, match=r'own.* belongs to no layer'):
    from_keras(own).init(KEY, np.zeros((1, 3)))


def test_keras_is_optional(monkeypatch):
  for file in pathlib.Path(advjax.__file__).parent.rglob('*.py'):
    assert not re.search('^(import|from) keras', file.read_text(), re.MULTILINE)
  monkeypatch.setitem(sys.modules, 'keras', None)
  with pytest.raises(ImportError, match=r"pip install 'advjax\[pretrained\]'"):
    import_keras()


def test_another_backend_is_an_error(monkeypatch):
  monkeypatch.setattr(keras.backend, 'backend', lambda: 'torch')
  with pytest.raises(ValueError, match="'torch'; allowed: 'jax', set before"):
    import_keras()
  monkeypatch.undo()
  monkeypatch.setattr(
    keras.config, 'image_data_format', lambda: 'channels_first'
  )
  with pytest.raises(ValueError, match="allowed: 'channels_last'"):
    import_keras()
