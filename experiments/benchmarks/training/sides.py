"""What takes turns: our training steps, Keras', NSL's and PyTorch's."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import numpy as np
from flax import traverse_util
from ml_collections import config_dict

from advjax import data
from advjax.config import default_config
from advjax.devices import replicate
from advjax.training.setup import Run, create_run, device_inputs
from advjax.variants import set_variant
from experiments.benchmarks.peers.process import RunJob
from experiments.benchmarks.turns import timed

OBJECTIVES = ('standard', 'nsl', 'pgd')
_VARIANTS = {'standard': 'standard', 'nsl': 'nsl', 'pgd': 'pgd_at'}
# NSL's tutorial, and Madry et al. 2017 with their seven steps on CIFAR-10.
EPSILON = 0.1
NSL_STEP_SIZE = 0.2
ATTACK_STEPS = 7

# Takes the steps of a round, and returns the seconds of one.
Steps = Callable[[], float]

# By objective, the variants of each library: a name for the table, and what
# its side has to be told. torch.compile is left out by --nocompiled.
KERAS = {
  'standard': {
    'Keras': {'steps_per_execution': 1},
    'Keras, 32 steps per execution': {'steps_per_execution': 32},
  },
  'nsl': {'NSL': {'steps_per_execution': 1}},
  'pgd': {},
}
TORCH: dict[str, dict[str, dict[str, Any]]] = {
  'standard': {'PyTorch': {}, 'PyTorch, compiled': {'compile': True}},
  'nsl': {'PyTorch, written out': {}},
  'pgd': {
    'PyTorch, torchattacks': {'attack': 'torchattacks'},
    'PyTorch, written out': {},
    'PyTorch, written out, compiled': {'compile': True},
  },
}


def our_config(objective: str, batch_size: int) -> config_dict.ConfigDict:
  """Returns the config of a run, as `train` takes it."""
  config = set_variant(
    default_config(),
    _VARIANTS[objective],
    epsilon=EPSILON,
    nsl_step_size=NSL_STEP_SIZE,
  )
  config.batch_size = batch_size
  config.num_validation = 0
  config.report_checkpoint = 'last'
  return config


def our_training(
  objective: str,
  batch_size: int,
  dataset: data.Dataset,
  devices: Sequence[jax.Device],
) -> Run:
  """Returns a run, ready to go."""
  return create_run(our_config(objective, batch_size), dataset, devices)


def our_steps(training: Run, num_steps: int) -> Steps:
  """Returns what takes steps of ours, with the program that `train` runs.

  Args:
    training: From `our_training`.
    num_steps: Steps of a round, fewer than an epoch has.

  Returns:
    `() -> seconds per step`.
  """
  arguments = device_inputs(training)
  # A copy: the program takes the arrays that it is given for its own.
  state = [replicate(training.init_state(), training.devices)]

  def take(count: int) -> float:
    def steps() -> Any:
      state[0], history = training.train_steps(
        state[0], *arguments, np.int32(count)
      )
      return state[0], history

    return timed(steps)[1]

  def run() -> float:
    # The images are permuted where a call begins, which in training is once
    # per epoch: it is left out, as the beginnings of the other sides are.
    beginning = take(1)
    return (take(num_steps + 1) - beginning) / num_steps

  return run


def peer_arrays(training: Run) -> dict[str, np.ndarray]:
  """Returns our first weights by the names of Flax, and the images."""
  params = training.init_state().params
  weights = traverse_util.flatten_dict(params, sep='/')
  return {
    **{name: np.asarray(value) for name, value in weights.items()},
    'train_images': training.train_split.images,
    'train_labels': training.train_split.labels,
  }


def their_steps(
  run_job: RunJob,
  name: str,
  options: Mapping[str, Any],
  objective: str,
  batch_size: int,
  num_steps: int,
  arrays: Mapping[str, np.ndarray],
) -> Steps:
  """Prepares a side and returns what takes steps there.

  Args:
    run_job: From `peers.process.started`.
    name: Of the variant.
    options: Its own.
    objective: One of OBJECTIVES.
    batch_size: Images of a step.
    num_steps: Steps of a round.
    arrays: From `peer_arrays`.

  Returns:
    `() -> seconds per step`.
  """
  job: dict[str, Any] = {
    'name': f'{name}/{objective}/{batch_size}',
    'objective': objective,
    'batch_size': batch_size,
    'num_steps': num_steps,
    'multiplier': 0.2,
    'step_size': NSL_STEP_SIZE,
    'norm': 'infinity',
    'compile': False,
    'attack': '',
    **options,
  }
  if objective == 'pgd':
    job |= {
      'epsilon': EPSILON,
      'step_size': 2.5 * EPSILON / ATTACK_STEPS,
      'attack_steps': ATTACK_STEPS,
    }
  run_job(job | {'task': 'prepare'}, arrays)

  def run() -> float:
    return float(run_job(job | {'task': 'steps'}, {})['seconds'])

  return run
