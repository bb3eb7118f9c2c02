"""PyTorch's PreAct ResNet-18 and its step, against ours, where PyTorch is."""

import os
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import traverse_util

from advjax.data import Dataset, Split, to_float
from advjax.devices import replicate
from advjax.models import create_model
from advjax.models.logits import eval_logits_fn
from advjax.training.setup import create_run
from experiments.benchmarks import peers, runs
from experiments.benchmarks.accelerator.parts import pgd_config

VARIABLE = 'ADVJAX_TORCH_PYTHON'
# Two minutes of a CPU core are needed.
pytestmark = pytest.mark.skipif(
  VARIABLE not in os.environ, reason=f'{VARIABLE} names no Python with PyTorch'
)
MODEL = create_model({'name': 'preact_resnet18'}, 10)
SGD = {'momentum': 0.9, 'nesterov': True, 'weight_decay': 5e-4}
RATE, EPSILON, STEP_SIZE, NUM_STEPS = 0.1, 8 / 255, 6 / 255, 2
JOB = {
  **{'task': 'prepare', 'name': 'network', 'device': 'cpu'},
  **{'network': 'preact_resnet18', 'objective': 'pgd'},
  **{'dtype': 'float32', 'tf32': False, 'channels_last': False},
  **{'compile': False, 'epsilon': EPSILON, 'step_size': STEP_SIZE},
  **{'attack_steps': NUM_STEPS, 'attack_batch_norm': 'train'},
  **{'random_start': False, 'learning_rate': RATE, 'batch_size': 4},
  **SGD,
}


@pytest.fixture(scope='module')
def arrays():
  """All of the network by name, no scale 1 and no mean 0, and a few images."""
  rng = np.random.default_rng(0)
  images = jax.ShapeDtypeStruct((1, 32, 32, 3), np.float32)
  params, state = jax.eval_shape(MODEL.init, jax.random.key(0), images)
  # Variances are large, so that logits in evaluation mode are near 1: where a
  # softmax is 1 after rounding, the sign of the gradient is that of nothing.
  ranges = {'scale': (0.5, 1.5), 'var': (2.0, 6.0)}
  found = {}
  zeros = [
    jax.tree.map(lambda x: np.zeros(x.shape), tree)
    for tree in (params, state['batch_stats'])
  ]
  for name, leaf in runs.by_name(*zeros).items():
    kind = name.rpartition('/')[2]
    if kind in ranges:
      value = rng.uniform(*ranges[kind], leaf.shape)
    else:
      fan_in = np.prod(leaf.shape[:-1])
      size = np.sqrt(2 / fan_in) if kind == 'kernel' else 0.2
      value = size * rng.standard_normal(leaf.shape)
    found[name] = value.astype(np.float32)
  found['train_images'] = rng.integers(0, 256, (4, 32, 32, 3), np.uint8)
  found['train_labels'] = np.array([3, 0, 9, 3])
  return found


@pytest.fixture(scope='module')
def run_job(arrays):
  """Prepares a network with changes of the job; returns what does jobs."""
  python = pathlib.Path(os.environ[VARIABLE])
  with peers.started(peers.PEERS['torch'], python) as run:

    def prepared(**changes):
      run({**JOB, **changes}, arrays)
      return lambda task, arrays, **job: run(
        {'task': task, 'name': 'network', **job}, arrays
      )

    yield prepared


def variables(arrays):
  """Params and statistics as the network's nested dictionaries."""
  own = {name: jnp.asarray(x) for name, x in arrays.items() if '/' in name}
  statistics = {n: own.pop(n) for n in list(own) if n.endswith(('mean', 'var'))}
  params, batch_stats = (
    traverse_util.unflatten_dict(part, sep='/') for part in (own, statistics)
  )
  return params, {'batch_stats': batch_stats}


def our_step(arrays, batch, attack_batch_norm):
  """All parameters and statistics by name after a step of ours on a batch."""
  config = pgd_config({'name': 'preact_resnet18'}, NUM_STEPS, 4)
  config.model.dtype, config.hparams.step_size = 'float32', STEP_SIZE
  options = {'random_start': False, 'attack_batch_norm': attack_batch_norm}
  config.objective = {**config.objective, **options}
  split = Split(batch['images'], batch['labels'].astype(np.int32))
  dataset = Dataset('noise', split, split, 10, tuple('0123456789'))
  training = create_run(config, dataset, jax.devices()[:1])
  params, model_state = variables(arrays)
  start = training.init_state()._replace(params=params, model_state=model_state)
  given = runs.step_arguments(training, 1, replicate(start, training.devices))
  after, _ = training.train_steps.func(*given)
  return runs.by_name(after.params, after.model_state['batch_stats'])


def distance(found, expected):
  """Of two arrays, in units of the norm of the second."""
  return np.linalg.norm(found - expected) / np.linalg.norm(expected)


def test_logits_agree(run_job, arrays):
  images = to_float(arrays['train_images'])
  network = eval_logits_fn(MODEL, *variables(arrays))
  expected = jax.jit(network)(images)
  for channels_last in (False, True):
    run = run_job(channels_last=channels_last)
    found = run('logits', {'images': images})['logits']
    assert found.dtype == np.float32
    assert distance(found, expected) < 1e-4


def largest_gap(found, expected, before, batch_size):
  """Of the changes of an array, in units of the norm of ours."""
  gaps = []
  for name, value in expected.items():
    change = value - before[name]
    assert np.any(change)
    moved = found[name] - before[name]
    if name.endswith('/var'):
      # PyTorch's running variance is of n - 1, n numbers in a channel.
      stage = int(name.split('/')[0].removeprefix('stage_'))
      size = 2 ** (6 - stage)
      if stage > 1 and name.endswith('block_1/norm_1/var'):
        size *= 2
      count = batch_size * size**2
      moved = (moved + 0.1 * before[name]) * (count - 1) / count
      moved -= 0.1 * before[name]
    gaps.append(distance(moved, change))
  return max(gaps)


@pytest.mark.parametrize('attack_batch_norm', ['train', 'eval'])
def test_a_step_is_ours(run_job, arrays, attack_batch_norm):
  rng = np.random.default_rng(1)
  gaps = []
  for _ in range(3):
    batch = {
      'images': rng.integers(0, 256, (4, 32, 32, 3), np.uint8),
      'labels': rng.integers(0, 10, 4),
    }
    # Prepared again: every batch is the first.
    run = run_job(attack_batch_norm=attack_batch_norm)
    found = run('update', batch)
    found.pop('versions')
    expected = our_step(arrays, batch, attack_batch_norm)
    assert found.keys() == expected.keys()
    gaps.append(largest_gap(found, expected, arrays, 4))
  # Rounding takes one of two million inputs of ReLUs to the other side of 0
  # now and then; the gradient then differs by percents, and so do the signs
  # of the next. So the best batch counts: no wrong step is right on any.
  # Without, the gaps are near 1e-5: some changes are small beside the weights.
  assert min(gaps) < 1e-3, gaps


def test_attacks_and_their_steps_leave_the_statistics_alone(run_job, arrays):
  run = run_job(attack_steps=3, learning_rate=0.0)
  images = to_float(arrays['train_images'])
  job = {'num_steps': 2, 'epsilon': 0.1, 'step_size': 0.06, 'rounds': 2}
  before = run('logits', {'images': images})['logits']
  batch = {'images': images, 'labels': arrays['train_labels']}
  found = run('pgd', batch, **job)
  assert found['seconds'].shape == (2,)
  moved = found['adversarial'] - images
  assert 0.05 < np.abs(moved).max() < 0.1 + 1e-6
  assert found['adversarial'].min() >= 0 and found['adversarial'].max() <= 1
  after = run('logits', {'images': images})['logits']
  np.testing.assert_array_equal(before, after)
  assert run('steps', {}, num_steps=1)['seconds'] > 0
