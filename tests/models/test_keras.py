"""Keras models of all three kinds behind the seam: what Keras itself says."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from numpy.testing import assert_allclose, assert_array_equal

import advjax
from advjax.models import from_keras
from advjax.models.keras.backend import import_keras
from advjax.training.step import create_state

keras = import_keras()
IMAGES = np.random.default_rng(0).uniform(size=(6, 8, 8, 3)).astype('float32')
LABELS = np.arange(6) % 3
KINDS = ('functional', 'sequential', 'subclassed')


def functional(classes=3):
  """Two resolutions, an operation that is no layer, BatchNorm and dropout."""
  layers = keras.layers
  inputs = keras.Input((8, 8, 3))
  x = layers.Conv2D(4, 3, padding='same', name='first')(inputs)
  x = layers.BatchNormalization(name='first_norm')(x)
  x = early = layers.ReLU()(x)
  x = layers.Conv2D(5, 3, 2, padding='same', name='second')(x)
  x = layers.BatchNormalization(name='second_norm')(x)
  x = layers.Dropout(0.5, name='dropout')(x)
  x = x + layers.Conv2D(5, 1, 2, name='skip')(early)
  x = layers.GlobalAveragePooling2D()(x)
  return keras.Model(inputs, layers.Dense(classes, name='head')(x))


def body():
  layers = keras.layers
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
      if isinstance(
        layer, (keras.layers.BatchNormalization, keras.layers.Dropout)
      ):
        images = layer(images, training=training)
      else:
        images = layer(images)
    return images


def make(kind):
  with jax.numpy_rank_promotion('allow'):
    if kind == 'functional':
      return functional()
    if kind == 'sequential':
      return keras.Sequential([keras.Input((8, 8, 3)), *body()])
    network = Subclassed()
    network(IMAGES[:1])
    return network


@pytest.fixture(scope='module')
def pairs():
  """Of each kind the Keras model, and the same behind the seam."""
  made = {}
  for kind in KINDS:
    network = make(kind)
    random = np.random.default_rng(1)
    for variable in network.variables:
      if variable.dtype == 'float32':  # Statistics as after training.
        variable.assign(random.uniform(0.2, 1.0, variable.shape))
    model = from_keras(network)
    arrays = model.pretrained(*model.init(jax.random.key(0), IMAGES))
    made[kind] = network, model, *jax.tree.map(jnp.asarray, arrays)
  return made


def by_path(network, values):
  """Keras' non-trainable variables as layer -> name -> value."""
  found = {}
  for variable, value in zip(
    network.non_trainable_variables, values, strict=True
  ):
    is_seed = variable.name == 'seed_generator_state'
    layer = 'dropout' if is_seed else variable.path.split('/')[-2]
    found.setdefault(layer, {})[variable.name] = value
  return found


def stateless(network, state, *, training):
  """Keras' own pass, with the seeds of a model_state."""
  seeds = [
    state['dropout']['seed_generator_state'] if v.dtype == 'uint32' else v.value
    for v in network.non_trainable_variables
  ]
  weights = [variable.value for variable in network.trainable_variables]
  with jax.numpy_rank_promotion('allow'):
    return network.stateless_call(weights, seeds, IMAGES, training=training)


@pytest.mark.parametrize('kind', KINDS)
def test_evaluation_is_that_of_keras(pairs, kind):
  network, model, params, state = pairs[kind]
  logits, same = model.apply(params, state, IMAGES, train=False)
  with jax.numpy_rank_promotion('allow'):
    assert_allclose(logits, network(IMAGES, training=False), rtol=1e-6)
  assert same is state
  assert logits.dtype == jnp.float32


@pytest.mark.parametrize('kind', KINDS)
def test_training_is_that_of_keras(pairs, kind):
  network, model, params, state = pairs[kind]
  logits, updated = model.apply(params, state, IMAGES, train=True)
  expected, values = stateless(network, state, training=True)
  assert_allclose(logits, expected, rtol=1e-6)
  jax.tree.map(assert_array_equal, updated, by_path(network, values))
  assert jax.tree.structure(updated) == jax.tree.structure(state)
  moved = (
    updated['first_norm']['moving_mean'] - state['first_norm']['moving_mean']
  )
  assert np.abs(moved).min() > 1e-4
  # And dropout draws anew in the next step.
  again, _ = model.apply(params, updated, IMAGES, train=True)
  assert np.abs(again - logits).max() > 1e-2


@pytest.mark.parametrize('kind', ['functional', 'subclassed'])
def test_no_pass_touches_the_model(pairs, kind):
  network, model, params, state = pairs[kind]
  before = [np.array(variable.value) for variable in network.variables]

  def loss(params, images):
    logits, updated = model.apply(params, state, images, train=True)
    return advjax.losses.cross_entropy(logits, LABELS).sum(), updated

  with jax.checking_leaks():
    gradients, _ = jax.jit(jax.grad(loss, (0, 1), has_aux=True))(params, IMAGES)
  assert all(np.abs(g).max() > 0 for g in jax.tree.leaves(gradients))
  for variable, value in zip(network.variables, before, strict=True):
    assert isinstance(variable.value, jax.Array)
    assert_array_equal(variable.value, value)


@pytest.mark.parametrize('kind', ['functional', 'subclassed'])
def test_weights_are_a_function_of_the_key(pairs, kind):
  _, model, params, state = pairs[kind]
  with jax.checking_leaks():
    shapes = jax.eval_shape(model.init, jax.random.key(0), IMAGES)
  keras.utils.set_random_seed(5)  # Nothing hangs on it.
  drawn, statistics = jax.jit(model.init)(jax.random.key(0), IMAGES)
  same = model.init(jax.random.key(0), IMAGES)
  other, other_state = model.init(jax.random.key(1), IMAGES)
  jax.tree.map(assert_array_equal, (drawn, statistics), same)
  assert jax.tree.structure(shapes) == jax.tree.structure((params, state))
  kernels = [layer for layer in drawn if 'kernel' in drawn[layer]]
  for layer in kernels:
    kernel = drawn[layer]['kernel']
    fan_in, fan_out = (
      np.prod(kernel.shape[:-2]) * n for n in kernel.shape[-2:]
    )
    limit = np.sqrt(6 / (fan_in + fan_out))  # Glorot's uniform distribution.
    assert 0.8 * limit < np.abs(kernel).max() <= limit
    assert np.abs(kernel - other[layer]['kernel']).max() > 0.1 * limit
  assert (
    len({float(drawn[layer]['kernel'].ravel()[0]) for layer in kernels}) > 1
  )
  assert_array_equal(drawn['first_norm']['gamma'], np.ones(4))
  assert_array_equal(statistics['first_norm']['moving_variance'], np.ones(4))
  seeds = statistics['dropout']['seed_generator_state']
  assert (seeds != other_state['dropout']['seed_generator_state']).any()


def test_training_starts_from_the_weights_of_the_model(pairs):
  network, model, *_ = pairs['functional']
  state = create_state(model, optax.sgd(0.1), IMAGES[:1], jax.random.key(3))
  weights = {v.path: v.value for v in network.variables if v.dtype != 'uint32'}
  for path, value in weights.items():
    layer, name = path.split('/')
    trained = (
      {**state.params, **state.model_state}[layer]
      | (state.model_state.get(layer, {}))
      | state.params.get(layer, {})
    )
    assert_array_equal(trained[name], value)
  drawn = model.init(jax.random.key(3), IMAGES)[1]
  jax.tree.map(
    assert_array_equal, state.model_state['dropout'], drawn['dropout']
  )


def test_stages_are_cut_where_maps_become_smaller(pairs):
  assert pairs['functional'][1].stages == (
    ('first', 'first_norm'),
    ('second', 'second_norm', 'skip'),
    ('head',),
  )
  assert pairs['sequential'][1].stages == (('first', 'first_norm'), ('head',))
  assert pairs['subclassed'][1].stages == ()


def test_frozen_stages_run_as_in_evaluation(pairs):
  network, model, params, state = pairs['functional']
  logits, updated = model.apply(params, state, IMAGES, train=True, num_frozen=1)
  # Keras' own rule for BatchNorm.
  for layer in (network.get_layer('first'), network.get_layer('first_norm')):
    layer.trainable = False
  try:
    expected, values = stateless(network, state, training=True)
    paths = by_path(network, values)
  finally:
    network.trainable = True
  assert_allclose(logits, expected, rtol=1e-6)
  assert_array_equal(
    updated['first_norm']['moving_mean'], state['first_norm']['moving_mean']
  )
  assert_array_equal(
    updated['second_norm']['moving_mean'], paths['second_norm']['moving_mean']
  )
  jax.tree.map(assert_array_equal, updated['dropout'], paths['dropout'])
  # With dropout in a frozen stage, nothing is drawn.
  in_evaluation, _ = model.apply(params, state, IMAGES, train=False)
  for num_frozen in (2, 3):
    logits, updated = model.apply(
      params, state, IMAGES, train=True, num_frozen=num_frozen
    )
    assert_allclose(logits, in_evaluation, rtol=1e-6)
    jax.tree.map(assert_array_equal, updated, state)


@pytest.mark.parametrize(
  ('kind', 'num_frozen', 'allowed'),
  [
    ('functional', 4, 'from 0 to 3, the stages of functional'),
    ('functional', -1, 'from 0 to 3, the stages of functional'),
    ('subclassed', 1, r'0, for subclassed\w* has no stages'),
  ],
)
def test_stages_that_there_are_not(pairs, kind, num_frozen, allowed):
  _, model, params, state = pairs[kind]
  message = rf'num_frozen = {num_frozen}; allowed: {allowed}'
  with pytest.raises(ValueError, match=message):
    model.apply(params, state, IMAGES, train=True, num_frozen=num_frozen)


def test_head_of_the_features_are_the_logits(pairs):
  network, model, params, state = pairs['functional']
  maps = model.features(params, state, IMAGES)
  assert maps.shape == (6, 4, 4, 5)
  logits, _ = model.apply(params, state, IMAGES, train=False)
  assert_allclose(model.head(params, state, maps), logits, rtol=1e-6)
  weights = model.class_weights(params)
  assert_array_equal(weights, network.get_layer('head').kernel.value)
  bias = np.asarray(params['head']['bias'])
  pooled = np.asarray(maps).mean((1, 2)) @ np.asarray(weights) + bias
  assert_allclose(logits, pooled, rtol=1e-5)
  assert pairs['sequential'][1].features is None


def test_devices_and_members_of_a_sweep(pairs):
  _, model, params, state = pairs['functional']
  expected, _ = model.apply(params, state, IMAGES, train=False)

  def logits(params, images):
    return model.apply(params, state, images, train=False)[0]

  halves = jnp.stack([IMAGES[:3], IMAGES[3:]])
  mapped = jax.pmap(logits, in_axes=(None, 0))(params, halves)
  assert_allclose(mapped.reshape(6, 3), expected, rtol=1e-5)
  both = jax.tree.map(lambda x: jnp.stack([x, 0.5 * x]), params)
  assert_allclose(
    jax.vmap(logits, (0, None))(both, IMAGES)[0], expected, rtol=1e-5
  )


def test_statistics_of_a_normalization_are_state():
  data = np.random.default_rng(2).normal(3, 2, (50, 5)).astype('float32')
  normalization = keras.layers.Normalization()
  with jax.numpy_rank_promotion('allow'):
    normalization.adapt(data)
  network = keras.Sequential(
    [keras.Input((5,)), normalization, keras.layers.Dense(3)]
  )
  model = from_keras(network)
  params, state = model.pretrained(*model.init(jax.random.key(0), data))
  logits = jax.jit(lambda p, s: model.apply(p, s, data, train=False)[0])
  layer = normalization.name
  state[layer]['mean'] = np.zeros(5, 'float32')
  state[layer]['variance'] = np.ones(5, 'float32')
  (dense,) = params.values()
  assert_allclose(
    logits(params, state), data @ dense['kernel'] + dense['bias'], rtol=1e-4
  )
  with jax.numpy_rank_promotion('allow'):  # And those of the layer are there.
    assert_allclose(normalization(data).mean(0), np.zeros(5), atol=1e-5)


def test_models_inside_models():
  inner = functional()
  inner = keras.Model(
    inner.inputs, inner.get_layer('dropout').output, name='base'
  )
  network = keras.Sequential(
    [
      keras.Input((8, 8, 3)),
      inner,
      keras.layers.GlobalAveragePooling2D(),
      keras.layers.Dense(3, name='top'),
    ]
  )
  model = from_keras(network)
  params, state = jax.jit(model.init)(jax.random.key(0), IMAGES)
  assert model.stages == (('base',), ('top',))
  assert 'first/kernel' in params['base']
  assert 'first_norm/moving_mean' in state['base']
  other, _ = model.init(jax.random.key(1), IMAGES)
  assert (params['base']['first/kernel'] != other['base']['first/kernel']).all()
  params, state = model.pretrained(params, state)
  logits, _ = model.apply(params, state, IMAGES, train=False)
  with jax.numpy_rank_promotion('allow'):
    assert_allclose(logits, network(IMAGES), rtol=1e-5)


def test_what_is_not_trainable_is_state():
  network = functional()
  network.get_layer('first').trainable = False
  model = from_keras(network)
  params, state = model.init(jax.random.key(0), IMAGES)
  assert 'first' not in params
  assert set(state['first']) == {'kernel', 'bias'}
  assert sorted(name for stage in model.stages for name in stage) == sorted(
    params
  )
