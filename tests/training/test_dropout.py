"""Networks of one's own that draw: a mask per step and per device."""

import signal

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from flax import nnx

from advjax.devices import AXIS
from advjax.losses import cross_entropy
from advjax.models import from_linen, from_nnx
from advjax.training import loop
from advjax.training.loop import Interrupted, train
from advjax.training.setup import create_run
from tests.training import runs


class Linen(nn.Module):
  @nn.compact
  def __call__(self, images, train):
    hidden = images.reshape(images.shape[0], -1)
    norm = nn.BatchNorm(use_running_average=not train, axis_name=AXIS)
    hidden = norm(hidden) + 1.0
    hidden = nn.Dropout(0.5, deterministic=not train)(hidden)
    return nn.Dense(3)(hidden)


class NNX(nnx.Module):
  def __init__(self, rngs):
    self.dropout = nnx.Dropout(0.5, rngs=rngs)
    self.dense = nnx.Linear(9, 3, rngs=rngs)

  def __call__(self, images):
    return self.dense(self.dropout(images.reshape(-1, 9)))


MODELS = {'linen': from_linen(Linen()), 'nnx': from_nnx(NNX)}


def objective(apply, params, model_state, batch, hparams, key):
  """Shows the mask, by an image of ones, and whether devices differ in it."""
  images = batch['image']
  seen, _ = apply(params, model_state, jnp.ones_like(images), train=True)
  seen = jax.lax.stop_gradient(seen)
  spread = jax.lax.pmax(seen, AXIS) - jax.lax.pmin(seen, AXIS)
  logits, model_state = apply(params, model_state, images, train=True)
  metrics = {
    'loss': cross_entropy(logits, batch['label']),
    'mask': jax.lax.pmean(seen, AXIS).sum(-1),
    'spread': jnp.broadcast_to(spread.max(), len(images)),
  }
  return (batch['weight'] * metrics['loss']).sum(), (model_state, metrics)


@pytest.mark.parametrize('name', MODELS)
def test_masks_are_new_every_step_and_on_every_device(
  name, tmp_path, monkeypatch
):
  config = runs.config(
    objective={'name': 'standard'},
    hparams={'learning_rate': 0.0},  # Nothing but the masks changes.
    num_epochs=2,
    log_every_steps=1,
  )
  own = {'model': MODELS[name], 'objective': objective}
  run = create_run(config, runs.dataset(), jax.devices()[:2], **own)
  for folder in ('whole', 'parts'):
    (tmp_path / folder).mkdir()
  whole = train(run, tmp_path / 'whole')
  steps = [each for each in whole.records if each['kind'] == 'steps']
  assert len({each['mask'] for each in steps}) == len(steps) == 12
  assert min(each['spread'] for each in steps) > 0.01
  # Evaluation draws nothing.
  arrays = whole.params, whole.model_state, run.test_split, run.hparams
  tests = [run.evaluate(*arrays, jax.random.key(seed)) for seed in (0, 1)]
  assert tests[0] == tests[1] and tests[0]['spread'] == 0
  # What is kept is what one device alone would keep.
  state = run.init_state().model_state
  if 'rngs' in state:
    key = jax.random.wrap_key_data(state['rngs'])
    for _ in steps:
      key = jax.random.split(key)[0]
    kept = jax.random.key_data(key)
    np.testing.assert_array_equal(whole.model_state['rngs'], kept)
  else:
    kept = state['dropout']['rngs']['key']
    found = whole.model_state['dropout']['rngs']
    np.testing.assert_array_equal(found['key'], kept)
    assert found['count'] == 12

  def stopped(state, data, inputs, num_steps):
    if int(state.step) >= 6:
      signal.raise_signal(signal.SIGTERM)
    return run.train_steps(state, data, inputs, num_steps)

  monkeypatch.setattr(loop, '_CHUNK_SECONDS', 0.0)
  with pytest.raises(Interrupted):
    train(run._replace(train_steps=stopped), tmp_path / 'parts')
  resumed = train(run, tmp_path / 'parts')
  runs.assert_same(resumed.params, whole.params)
  runs.assert_same(resumed.model_state, whole.model_state)
  again = [each for each in resumed.records if each['kind'] == 'steps']
  for metric in ('mask', 'loss'):
    assert [each[metric] for each in again] == [each[metric] for each in steps]
