"""The residual networks: published shapes, errors, an independent forward."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from advjax.models import create_model
from tests.models import tiny

PUBLISHED = {
  # Page's 6,573,120, and a bias in the dense layer.
  'resnet9': (6_573_130, 7_088_680),
  'resnet18': (11_173_962, 11_689_512),
  'resnet34': (21_282_122, 21_797_672),
  'resnet50': (23_520_842, 25_557_032),
  'preact_resnet18': (11_171_146, None),
  'wide_resnet28_10': (36_479_194, None),
  'wide_resnet34_10': (46_160_474, None),
  # Computed with the same layers, 16 x 64d has the 68,155,210 and 32 x 4d the
  # 4,775,754 parameters of other implementations.
  'resnext29': (34_426_698, None),
  'resnext50': (22_992_714, 25_028_904),
}


def _shapes(config, num_classes, size):
  model = create_model(config, num_classes)
  images = jax.ShapeDtypeStruct((2, size, size, 3), np.float32)
  params, state = jax.eval_shape(model.init, jax.random.key(0), images)
  maps = jax.eval_shape(model.features, params, state, images)
  logits = jax.eval_shape(model.head, params, state, maps)
  return model, params, state, maps, logits


def _count(params):
  return sum(leaf.size for leaf in jax.tree.leaves(params))


@pytest.mark.parametrize('name', PUBLISHED)
def test_published_networks(name):
  small, large = PUBLISHED[name]
  config = {'name': name, 'dtype': 'bfloat16'}
  model, params, state, maps, logits = _shapes(config, 10, 32)
  assert _count(params) == small
  assert {leaf.dtype for leaf in jax.tree.leaves((params, state))} == {
    np.dtype('float32')
  }
  size = 4 if 'stage_4' in params or name == 'resnet9' else 8
  assert maps.shape[1:3] == (size, size)
  assert maps.dtype == jnp.bfloat16
  assert (logits.shape, logits.dtype) == ((2, 10), np.float32)
  assert model.class_weights(params).shape == (maps.shape[-1], 10)
  assert {names[0] for names in model.stages} == set(params)
  if large is not None:
    config = {'name': name, 'stem': 'imagenet'}
    model = create_model(config, 1000)
    images = jax.ShapeDtypeStruct((1, 64, 64, 3), np.float32)
    params, _ = jax.eval_shape(model.init, jax.random.key(0), images)
    assert _count(params) == large


@pytest.mark.parametrize(
  ('size', 'stem', 'map_size'),
  [(64, 'strided', 8), (32, 'strided', 4), (32, 'cifar', 8)],
)
def test_small_resnet_is_small(size, stem, map_size):
  config = {'name': 'small_resnet', 'stem': stem}
  _, params, state, maps, logits = _shapes(config, 20, size)
  assert _count(params) == 225_204
  assert maps.shape == (2, map_size, map_size, 96)
  assert logits.shape == (2, 20)
  assert set(state['batch_stats']) == set(params) - {'head'}


def test_widths_of_small_resnet():
  config = {'name': 'small_resnet', 'widths': (4, 6, 8, 10)}
  _, params, _, maps, _ = _shapes(config, 2, 64)
  assert maps.shape == (2, 4, 4, 10)
  assert params['stage_4']['block_1']['conv_2']['kernel'].shape == (
    3,
    3,
    10,
    10,
  )


@pytest.mark.parametrize(
  ('config', 'message'),
  [
    ({'name': 'resnet19'}, "'resnet19'.*'resnet18'"),
    ({'name': 'resnet18', 'stem': 'image'}, "model.stem 'image'.*'imagenet'"),
    ({'name': 'resnet50', 'normalization': 'layer'}, "normalization 'layer'"),
    ({'name': 'small_resnet', 'dtype': 'float16'}, "dtype 'float16'.*bfloat16"),
    ({'name': 'resnext29', 'dtype': 16}, 'dtype 16'),
    ({'name': 'resnet18', 'widths': (8,)}, "field of model resnet18 'widths'"),
    ({'name': 'small_resnet', 'widths': ()}, r'model.widths = \(\)'),
    ({'name': 'small_resnet', 'widths': (8, 0)}, r'model.widths\[1\] = 0'),
    ({'name': 'small_resnet', 'widths': 8}, 'model.widths = 8.*tuple'),
  ],
)
def test_errors_name_the_field_and_what_is_allowed(config, message):
  with pytest.raises(ValueError, match=message):
    create_model(config, 10)


# ------------------------------------------------- an independent forward pass


def _conv(images, params, stride=1):
  kernel = np.asarray(params['kernel'], np.float64)
  height, width, group_width, _ = kernel.shape
  groups = images.shape[-1] // group_width
  pad = height // 2
  padded = np.pad(images, ((0, 0), (pad, pad), (pad, pad), (0, 0)))
  windows = np.lib.stride_tricks.sliding_window_view(
    padded, (height, width), (1, 2)
  )[:, ::stride, ::stride]
  outputs = [
    np.einsum('bxyihw,hwio->bxyo', channels, part)
    for channels, part in zip(
      np.split(windows, groups, axis=3),
      np.split(kernel, groups, axis=3),
      strict=True,
    )
  ]
  return np.concatenate(outputs, axis=-1)


def _norm(images, params, statistics):
  if statistics is None:
    # 4 and 6 channels: groups of 4 and of 2.
    size = {4: 4, 6: 2}[images.shape[-1]]
    grouped = images.reshape(*images.shape[:3], -1, size)
    mean = grouped.mean((1, 2, 4), keepdims=True)
    var = grouped.var((1, 2, 4), keepdims=True)
    normal = ((grouped - mean) / np.sqrt(var + 1e-5)).reshape(images.shape)
  else:
    normal = (images - statistics['mean']) / np.sqrt(statistics['var'] + 1e-5)
  return normal * params['scale'] + params['bias']


def _relu(images):
  return np.maximum(images, 0)


def _block(kind, images, params, statistics, stride):
  def norm(index, images):
    name = f'norm_{index}'
    part = statistics and statistics[name]
    return _norm(images, params[name], part)

  def conv(index, images, stride=1):
    return _conv(images, params[f'conv_{index}'], stride)

  if kind == 'pooling':
    hidden = conv(1, images)
    if stride == 2:
      batch, height, width, channels = hidden.shape
      hidden = hidden.reshape(
        batch, height // 2, 2, width // 2, 2, channels
      ).max((2, 4))
      return _relu(norm(1, hidden))
    return images + _relu(norm(2, conv(2, _relu(norm(1, hidden)))))
  if kind == 'preactivation':
    active = _relu(norm(1, images))
    hidden = conv(2, _relu(norm(2, conv(1, active, stride))))
    return hidden + (conv(0, active, stride) if 'conv_0' in params else images)
  if kind == 'basic':
    hidden = norm(2, conv(2, _relu(norm(1, conv(1, images, stride)))))
  else:
    hidden = _relu(norm(2, conv(2, _relu(norm(1, conv(1, images))), stride)))
    hidden = norm(3, conv(3, hidden))
  shortcut = images
  if 'conv_0' in params:
    shortcut = norm(0, conv(0, images, stride))
  return _relu(hidden + shortcut)


def _reference(kind, params, state, images, stem):
  """The network in NumPy, in float64."""
  statistics = state.get('batch_stats')

  def part(*path):
    found = statistics
    for name in path if statistics else ():
      found = found[name]
    return found

  shape = tiny.TINY[kind]
  hidden = (np.asarray(images, np.float64) - 0.5) / 0.25
  hidden = _conv(hidden, params['stem']['conv'], 1 if stem == 'cifar' else 2)
  if shape.activate_stem:
    hidden = _relu(_norm(hidden, params['stem']['norm'], part('stem', 'norm')))
  if stem == 'imagenet':
    padded = np.pad(
      hidden, ((0, 0), (1, 1), (1, 1), (0, 0)), constant_values=-np.inf
    )
    windows = np.lib.stride_tricks.sliding_window_view(padded, (3, 3), (1, 2))
    hidden = windows[:, ::2, ::2].max((-2, -1))
  for stage, depth, stride in zip(
    ('stage_1', 'stage_2'), shape.depths, shape.strides, strict=True
  ):
    for index in range(depth):
      name = f'block_{index + 1}'
      hidden = _block(
        kind,
        hidden,
        params[stage][name],
        part(stage, name),
        stride if index == 0 else 1,
      )
  if shape.activate_last:
    norm = params['stage_2']['norm']
    hidden = _relu(_norm(hidden, norm, part('stage_2', 'norm')))
  head = params['head']
  return hidden, hidden.mean((1, 2)) @ head['kernel'] + head['bias']


@pytest.mark.parametrize(
  ('name', 'stem', 'normalization'),
  [
    ('basic', 'imagenet', 'batch'),
    ('bottleneck', 'cifar', 'batch'),
    ('preactivation', 'cifar', 'batch'),
    ('pooling', 'cifar', 'batch'),
    ('basic', 'strided', 'group'),
  ],
)
def test_forward_pass_equals_numpy(name, stem, normalization):
  model = tiny.tiny(name, stem, normalization=normalization)
  params, state = tiny.variables(name, stem, normalization)
  # An odd size: padding is the same on all sides there too.
  size = {'imagenet': 16, 'cifar': 8 if name == 'pooling' else 9}
  images = tiny.make_images(2, size.get(stem, 9))
  maps, logits = _reference(name, params, state, images, stem)

  @jax.jit
  def run(params, state, images):
    features = model.features(params, state, images)
    return (
      features,
      model.apply(params, state, images, train=False)[0],
      model.head(params, state, features),
    )

  actual_maps, actual, from_maps = run(params, state, images)
  np.testing.assert_allclose(actual_maps, maps, rtol=1e-4, atol=1e-4)
  np.testing.assert_allclose(actual, logits, rtol=1e-4, atol=1e-4)
  np.testing.assert_allclose(from_maps, actual, rtol=1e-6, atol=1e-6)
  # Zhou et al. 2016: the mean over a class's activation map is its logit.
  activations = np.einsum(
    'bhwc,ck->bhwk', actual_maps, model.class_weights(params)
  )
  np.testing.assert_allclose(
    activations.mean((1, 2)) + params['head']['bias'], actual, atol=1e-5
  )
