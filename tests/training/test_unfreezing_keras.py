"""Fine-tuning a network of Keras stage by stage, from a local weight file."""

import logging
import warnings

import jax
import numpy as np
import pytest

from advjax.data import Dataset, Split
from advjax.models.keras import import_keras
from advjax.processes.signals import Interrupted
from advjax.training import loop
from advjax.training.loop import read_metrics, train
from tests.training import runs

NUM_CLASSES = 4
NUM_STAGES = 6
STEPS_PER_EPOCH = 2


def noise():
  """Noise in four colours, `[N, 32, 32, 3]`."""
  random = np.random.default_rng(0)

  def split(count):
    labels = np.arange(count, dtype=np.int32) % NUM_CLASSES
    images = random.integers(0, 150, (count, 32, 32, 3), np.uint8)
    for channel in range(3):
      images[labels == channel, :, :, channel] += 80
    return Split(images, labels)

  return Dataset('noise', split(8), split(8), NUM_CLASSES, tuple('abcd'))


@pytest.fixture(scope='module')
def weight_file(tmp_path_factory):
  """Weights of chance, as a user saves those of another program."""
  model = import_keras().applications.MobileNetV2(
    (32, 32, 3),
    weights=None,
    classes=NUM_CLASSES,
    classifier_activation=None,
  )
  random = np.random.default_rng(0)
  for variable in model.variables:
    if variable.name in ('gamma', 'moving_variance'):
      variable.assign(random.uniform(0.5, 1, variable.shape))
    elif variable.dtype == 'float32' and len(variable.shape) > 1:
      scale = np.sqrt(2 / np.prod(variable.shape[:-1]))
      variable.assign(random.normal(0, scale, variable.shape))
  path = tmp_path_factory.mktemp('weights') / 'chance.weights.h5'
  with warnings.catch_warnings():
    # Of NumPy's about how Keras saves.
    warnings.simplefilter('ignore', DeprecationWarning)
    model.save_weights(path)
  return path


def moved(now, start):
  """Names of the layers of which any array changed."""
  return {
    layer
    for layer in start
    if any(
      (np.asarray(new) != np.asarray(old)).any()
      for new, old in zip(
        jax.tree.leaves(now[layer]), jax.tree.leaves(start[layer]), strict=True
      )
    )
  }


@pytest.mark.slow
def test_mobilenet_unfreezes_stops_and_resumes(
  weight_file, tmp_path, caplog, monkeypatch
):
  run = runs.run(
    data=noise(),
    num_epochs=4,
    model={
      'name': 'keras',
      'architecture': 'MobileNetV2',
      'weights': str(weight_file),
    },
    objective={'name': 'standard'},
    optimizer__name='sgd',
    hparams={'learning_rate': 0.01},
    unfreezing=runs.UNFREEZING,
  )
  start = run.init_state()
  stages = run.model.stages
  assert len(stages) == NUM_STAGES
  for name in ('whole', 'parts'):
    (tmp_path / name).mkdir()
  whole = train(run, tmp_path / 'whole')
  epochs = [r for r in whole.records if r['kind'] == 'epoch']
  assert [epoch['num_frozen'] for epoch in epochs] == [5, 5, 4, 4]
  # The last two stages alone left the values of the file.
  unfrozen = {name for stage in stages[4:] for name in stage}
  assert moved(whole.params, start.params) == unfrozen & start.params.keys()
  assert moved(whole.model_state, start.model_state)

  monkeypatch.setattr(loop, '_CHUNK_SECONDS', 0.0)
  with pytest.raises(Interrupted):
    train(runs.stopped_after(run, 2 * STEPS_PER_EPOCH), tmp_path / 'parts')
  with caplog.at_level(logging.INFO):
    resumed = train(run, tmp_path / 'parts')
  assert '4 of 6 stages are frozen' in caplog.text
  runs.assert_same(resumed.params, whole.params)
  runs.assert_same(resumed.model_state, whole.model_state)
  assert [
    record['num_frozen']
    for record in read_metrics(tmp_path / 'parts' / 'metrics.jsonl')
    if record['kind'] == 'epoch'
  ] == [5, 5, 4, 4]
