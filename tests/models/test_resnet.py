"""The residual networks: sizes, an independent forward pass, gradients, stages.

Most are networks of two narrow stages.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from advjax.models import create_model, from_linen, resnet
from tests.models import checks

NUM_CLASSES = 5
_narrow = functools.partial(
  resnet.Architecture,
  depths=(1, 1),
  widths=(4, 6),
  strides=(1, 2),
  stem_width=4,
)
TINY = {
  'basic': _narrow(resnet.BasicBlock),
  'bottleneck': _narrow(
    functools.partial(resnet.Bottleneck, groups=2, group_width=32)
  ),
  'preactivation': _narrow(
    resnet.PreActivationBlock, activate_stem=False, activate_last=True
  ),
  'pooling': _narrow(resnet.PoolingBlock, depths=(2, 1), strides=(2, 2)),
}
STAGES = ('stem', 'stage_1', 'stage_2', 'head')

# With the stem for large images, of 1,000 classes; else of 10.
PUBLISHED = [
  # Page's 6,573,120, and a bias in the dense layer.
  ('resnet9', 'cifar', 6_573_130),
  ('resnet18', 'cifar', 11_173_962),
  ('resnet18', 'imagenet', 11_689_512),
  ('resnet34', 'imagenet', 21_797_672),
  ('resnet50', 'imagenet', 25_557_032),
  ('preact_resnet18', 'cifar', 11_171_146),
  ('wide_resnet28_10', 'cifar', 36_479_194),
  ('wide_resnet34_10', 'cifar', 46_160_474),
  # Computed with the same layers, 16 x 64d has the 68,155,210 and 32 x 4d the
  # 4,775,754 parameters of other implementations.
  ('resnext29', 'cifar', 34_426_698),
  ('resnext50', 'imagenet', 25_028_904),
]


def tiny(name, stem='cifar', **style):
  return from_linen(
    resnet.ResNet(NUM_CLASSES, TINY[name], stem, resnet.Style(**style))
  )


def make_images(batch=4, size=8):
  random = np.random.default_rng(0)
  return random.uniform(size=(batch, size, size, 3)).astype(np.float32)


@functools.cache
def variables(name, stem='cifar', normalization='batch'):
  """Params and statistics of a tiny network."""
  model = tiny(name, stem, normalization=normalization)
  return checks.draw(model, make_images())


def _shapes(config, num_classes, size):
  model = create_model(config, num_classes)
  images = jax.ShapeDtypeStruct((2, size, size, 3), np.float32)
  params, state = jax.eval_shape(model.init, jax.random.key(0), images)
  maps = jax.eval_shape(model.features, params, state, images)
  logits = jax.eval_shape(model.head, params, state, maps)
  return model, params, state, maps, logits


def _count(params):
  return sum(leaf.size for leaf in jax.tree.leaves(params))


@pytest.mark.parametrize(('name', 'stem', 'count'), PUBLISHED)
def test_parameters_of_published_networks(name, stem, count):
  num_classes = 1000 if stem == 'imagenet' else 10
  model = create_model({'name': name, 'stem': stem}, num_classes)
  images = jax.ShapeDtypeStruct((2, 32, 32, 3), np.float32)
  params, _ = jax.eval_shape(model.init, jax.random.key(0), images)
  assert _count(params) == count
  assert {names[0] for names in model.stages} == set(params)


@pytest.mark.parametrize('name', ['resnet9', 'resnet18'])
def test_maps_and_logits_of_published_networks(name):
  config = {'name': name, 'dtype': 'bfloat16'}
  model, params, state, maps, logits = _shapes(config, 10, 32)
  leaves = jax.tree.leaves((params, state))
  assert all(leaf.dtype == np.float32 for leaf in leaves)
  assert maps.shape[1:3] == (4, 4)
  assert maps.dtype == jnp.bfloat16
  assert (logits.shape, logits.dtype) == ((2, 10), np.float32)
  assert model.class_weights(params).shape == (maps.shape[-1], 10)


@pytest.mark.parametrize(
  ('size', 'stem', 'map_size'),
  [(64, 'strided', 8), (32, 'cifar', 8)],
)
def test_small_resnet_is_small(size, stem, map_size):
  config = {'name': 'small_resnet', 'stem': stem}
  _, params, state, maps, logits = _shapes(config, 20, size)
  assert _count(params) == 225_204
  assert maps.shape == (2, map_size, map_size, 96)
  assert logits.shape == (2, 20)
  assert set(state['batch_stats']) == set(params) - {'head'}
  config = {'name': 'small_resnet', 'widths': (4, 6), 'stem': stem}
  assert _shapes(config, 2, size)[3].shape == (2, 2 * map_size, 2 * map_size, 6)


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

  shape = TINY[kind]
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
    ('basic', 'imagenet', 'group'),
    ('bottleneck', 'strided', 'batch'),
    ('preactivation', 'cifar', 'batch'),
    ('pooling', 'cifar', 'batch'),
  ],
)
def test_forward_pass_equals_numpy(name, stem, normalization):
  model = tiny(name, stem, normalization=normalization)
  params, state = variables(name, stem, normalization)
  # An odd size: padding is the same on all sides there too.
  size = {'imagenet': 16, 'cifar': 8 if name == 'pooling' else 9}
  images = make_images(2, size.get(stem, 9))
  maps, logits = _reference(name, params, state, images, stem)

  @jax.jit
  def run(params, state, images):
    features = model.features(params, state, images)
    return features, model.head(params, state, features)

  actual_maps, actual = run(params, state, images)
  np.testing.assert_allclose(actual_maps, maps, rtol=1e-4, atol=1e-4)
  np.testing.assert_allclose(actual, logits, rtol=1e-4, atol=1e-4)
  # Zhou et al. 2016: the mean over a class's activation map is its logit.
  activations = np.einsum(
    'bhwc,ck->bhwk', actual_maps, model.class_weights(params)
  )
  np.testing.assert_allclose(
    activations.mean((1, 2)) + params['head']['bias'], actual, atol=1e-5
  )


# --------------------------------------------------- stages, modes, precision


def test_frozen_stages_run_as_in_evaluation():
  model = tiny('preactivation')
  params, state = variables('preactivation')

  @jax.jit
  def run(params, state, images):
    evaluated, _ = model.apply(params, state, images, train=False)
    return evaluated, [
      model.apply(params, state, images, train=True, num_frozen=number)
      for number in (1, 3)
    ]

  evaluated, passes = run(params, state, make_images())
  assert not np.allclose(passes[0][0], evaluated, atol=1e-3)
  # The head, which is left, has no norm.
  np.testing.assert_allclose(passes[1][0], evaluated, rtol=1e-5, atol=1e-5)
  for number, (_, updated) in zip((1, 3), passes, strict=True):
    assert jax.tree.structure(updated) == jax.tree.structure(state)
    for index, stage in enumerate(STAGES):
      before = jax.tree.leaves(state['batch_stats'].get(stage))
      after = jax.tree.leaves(updated['batch_stats'].get(stage))
      for one, other in zip(before, after, strict=True):
        assert np.array_equal(one, other) == (index < number)


def test_stages_that_there_are_not():
  for number in (-1, 5, 1.0):
    with pytest.raises(ValueError, match=r'num_frozen.*from 0 to 4.*ResNet'):
      tiny('basic').apply({}, {}, make_images(), train=True, num_frozen=number)
  model = create_model({'name': 'mlp'}, NUM_CLASSES)
  assert model.stages == ()
  assert (model.features, model.head, model.class_weights) == (None,) * 3
  with pytest.raises(ValueError, match=r'num_frozen = 1.*MLP has no stages'):
    model.apply({}, {}, make_images(), train=True, num_frozen=1)


def test_group_norm_has_no_state_and_no_mode():
  model = tiny('basic', normalization='group')
  params, state = variables('basic', normalization='group')
  assert state == {}
  programs = [
    jax.make_jaxpr(functools.partial(model.apply, train=train))(
      params, state, make_images()
    )
    for train in (True, False)
  ]
  assert str(programs[0]) == str(programs[1])


def test_bfloat16_and_batches_in_parts_compute_nearly_the_same():
  config = {'name': 'small_resnet', 'widths': (4,)}
  model, narrow = (
    create_model({**config, 'dtype': dtype}, NUM_CLASSES)
    for dtype in ('float32', 'bfloat16')
  )
  in_parts = create_model(config, NUM_CLASSES, axis_name='parts')
  images = make_images()
  params, state = checks.draw(model, images)

  @jax.jit
  def run(params, state, images):
    def part(images):
      return in_parts.apply(params, state, images, train=True)

    halves = images.reshape(2, -1, *images.shape[1:])
    return (
      model.apply(params, state, images, train=True),
      narrow.apply(params, state, images, train=True),
      jax.vmap(part, axis_name='parts')(halves),
    )

  (wide, wide_state), (narrow, narrow_state), parts = run(params, state, images)
  # BatchNorm averages over all parts.
  np.testing.assert_allclose(parts[0].reshape(wide.shape), wide, rtol=1e-4)
  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(a, np.stack([b, b]), rtol=1e-4),
    parts[1],
    wide_state,
  )
  assert narrow.dtype == np.float32
  assert not np.array_equal(narrow, wide)
  # 8 bits, over four layers.
  np.testing.assert_allclose(narrow, wide, atol=0.03 * np.abs(wide).max())
  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(a, b, rtol=0.05, atol=0.02),
    narrow_state,
    wide_state,
  )
  assert all(s.dtype == np.float32 for s in jax.tree.leaves(narrow_state))
