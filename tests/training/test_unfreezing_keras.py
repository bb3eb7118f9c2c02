"""Fine-tuning a network of Keras stage by stage, from a local weight file."""

import logging

import jax
import pytest

from advjax.processes.signals import Interrupted
from advjax.training import loop
from advjax.training.loop import read_metrics, train
from tests.models import small_keras
from tests.training import runs


@pytest.fixture
def weight_file(tmp_path):
  """Random weights, as a user saves those of another program."""
  with small_keras.in_the_place_of():
    small_keras.save(tmp_path, runs.NUM_CLASSES)
    yield tmp_path / 'whole.weights.h5'


def moved(now, start):
  """Names of the layers of which any array changed."""
  return {
    layer
    for layer, arrays in start.items()
    if any((now[layer][name] != array).any() for name, array in arrays.items())
  }


def test_a_network_of_keras_unfreezes_stops_and_resumes(
  weight_file, tmp_path, caplog, monkeypatch
):
  run = runs.run(
    data=runs.dataset(num_train=8, shape=(8, 8, 3)),
    num_epochs=4,
    model={'name': 'keras', 'weights': str(weight_file)},
    objective={'name': 'standard'},
    optimizer__name='sgd',
    hparams={'learning_rate': 0.01},
    unfreezing=runs.UNFREEZING,
  )
  start = jax.device_get(run.init_state())
  assert run.model.stages == (
    ('first', 'first_norm'),
    ('second', 'second_norm'),
    ('dense',),
  )
  for name in ('whole', 'parts'):
    (tmp_path / name).mkdir()
  whole = train(run, tmp_path / 'whole')
  epochs = [r for r in whole.records if r['kind'] == 'epoch']
  assert [epoch['num_frozen'] for epoch in epochs] == [2, 2, 1, 1]
  # The last two stages alone left the values of the file.
  unfrozen = {'second', 'second_norm', 'dense'}
  assert moved(jax.device_get(whole.params), start.params) == unfrozen
  found = moved(jax.device_get(whole.model_state), start.model_state)
  assert found == {'second_norm', 'dropout'}

  monkeypatch.setattr(loop, '_CHUNK_SECONDS', 0.0)
  with pytest.raises(Interrupted):
    train(runs.stopped_after(run, 4), tmp_path / 'parts')
  with caplog.at_level(logging.INFO):
    resumed = train(run, tmp_path / 'parts')
  assert '1 of 3 stages are frozen' in caplog.text
  runs.assert_same(resumed.params, whole.params)
  runs.assert_same(resumed.model_state, whole.model_state)
  assert [
    record['num_frozen']
    for record in read_metrics(tmp_path / 'parts' / 'metrics.jsonl')
    if record['kind'] == 'epoch'
  ] == [2, 2, 1, 1]
