"""Stages of residual networks, their statistics, and bfloat16."""

import functools

import jax
import numpy as np
import pytest

from advjax.models import create_model
from tests.models import tiny


@pytest.fixture(scope='module')
def trained():
  """Logits and state after a pass in training, by frozen stages."""
  model = tiny.tiny('preactivation')
  params, state = tiny.variables('preactivation')
  images = tiny.make_images()

  @jax.jit
  def passes(params, state, images):
    return model.apply(params, state, images, train=False)[0], [
      model.apply(params, state, images, train=True, num_frozen=number)
      for number in range(len(model.stages) + 1)
    ]

  return state, *passes(params, state, images)


def test_frozen_stages_keep_their_statistics(trained):
  state, _, passes = trained
  for number, (_, updated) in enumerate(passes):
    assert jax.tree.structure(updated) == jax.tree.structure(state)
    for index, stage in enumerate(tiny.STAGES):
      before = jax.tree.leaves(state['batch_stats'].get(stage))
      after = jax.tree.leaves(updated['batch_stats'].get(stage))
      for one, other in zip(before, after, strict=True):
        assert np.array_equal(one, other) == (index < number)


def test_frozen_stages_use_their_statistics(trained):
  _, evaluated, passes = trained
  # The stem has no norm, nor has the head.
  logits = [logits for logits, _ in passes]
  np.testing.assert_array_equal(logits[0], logits[1])
  assert not np.allclose(logits[1], logits[2], atol=1e-3)
  assert not np.allclose(logits[2], logits[3], atol=1e-3)
  np.testing.assert_allclose(logits[3], evaluated, rtol=1e-6, atol=1e-6)
  np.testing.assert_array_equal(logits[3], logits[4])


@pytest.mark.parametrize('number', [-1, 5, 1.0])
def test_frozen_stages_out_of_range(number):
  model = tiny.tiny('basic')
  with pytest.raises(ValueError, match=r'num_frozen.*from 0 to 4.*ResNet'):
    model.apply(
      *tiny.variables('basic'),
      tiny.make_images(),
      train=True,
      num_frozen=number,
    )


def test_a_network_without_stages_has_none_to_freeze():
  model = create_model({'name': 'mlp', 'hidden_units': (2,)}, tiny.NUM_CLASSES)
  assert model.stages == ()
  assert (model.features, model.head, model.class_weights) == (None,) * 3
  params, state = model.init(jax.random.key(0), tiny.make_images())
  with pytest.raises(ValueError, match=r'num_frozen = 1.*MLP has no stages'):
    model.apply(params, state, tiny.make_images(), train=True, num_frozen=1)
  model.apply(params, state, tiny.make_images(), train=True, num_frozen=0)


def test_statistics_over_devices_are_those_of_the_whole_batch():
  params, state = tiny.variables('bottleneck')
  images = tiny.make_images(4)
  whole = tiny.tiny('bottleneck')
  logits, expected = jax.jit(
    functools.partial(whole.apply, train=True, num_frozen=1)
  )(params, state, images)
  model = tiny.tiny('bottleneck', axis_name='data')
  actual, updated = jax.pmap(
    functools.partial(model.apply, train=True, num_frozen=1),
    axis_name='data',
    in_axes=(None, None, 0),
  )(params, state, images.reshape(2, 2, 8, 8, 3))
  np.testing.assert_allclose(actual.reshape(4, -1), logits, atol=1e-4)
  for device in range(2):
    jax.tree.map(
      lambda a, b, device=device: np.testing.assert_allclose(
        a[device], b, rtol=1e-4, atol=1e-5
      ),
      updated,
      expected,
    )


def test_group_norm_has_no_state_and_no_mode():
  model = tiny.tiny('basic', normalization='group')
  params, state = tiny.variables('basic', normalization='group')
  assert state == {}
  programs = [
    jax.make_jaxpr(functools.partial(model.apply, train=train))(
      params, state, tiny.make_images()
    )
    for train in (True, False)
  ]
  assert str(programs[0]) == str(programs[1])


def test_bfloat16_computes_nearly_the_same():
  params, state = tiny.variables('basic', 'strided')
  images = tiny.make_images()

  @jax.jit
  def run(params, state, images):
    return [
      tiny.tiny('basic', 'strided', dtype=dtype).apply(
        params, state, images, train=True
      )
      for dtype in ('float32', 'bfloat16')
    ]

  (wide, wide_state), (narrow, narrow_state) = run(params, state, images)
  assert narrow.dtype == np.float32
  assert not np.array_equal(narrow, wide)
  # 8 bits, over four layers.
  np.testing.assert_allclose(narrow, wide, atol=0.03 * np.abs(wide).max())
  for one, other in zip(
    jax.tree.leaves(narrow_state), jax.tree.leaves(wide_state), strict=True
  ):
    assert one.dtype == other.dtype == np.float32
    np.testing.assert_allclose(one, other, rtol=0.05, atol=0.02)
