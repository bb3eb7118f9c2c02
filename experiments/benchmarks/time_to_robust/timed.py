"""A network trained without a look at it, and what that took."""

import time
from typing import Any, NamedTuple

import jax
import numpy as np
from ml_collections import config_dict

from advjax.devices import replicate
from advjax.models import create_model
from advjax.models.logits import eval_logits_fn
from advjax.training.loop import Diverged
from advjax.training.setup import Run, device_inputs
from advjax.types import LogitsFn


class Trained(NamedTuple):
  """A network, and what it took.

  Attributes:
    params: Its parameters, on the host.
    model_state: Its BatchNorm statistics, likewise.
    costs: `compile_seconds` (next to nothing where another run has compiled
      the same program), `upload_seconds`, `train_seconds`, `step_milliseconds`,
      `images_per_second` and `peak_mib` (of the first device up to here, None
      where it does not say).
  """

  params: Any
  model_state: Any
  costs: dict[str, Any]


def check_trainable(config: config_dict.ConfigDict) -> None:
  """Raises a ValueError for what cannot be timed from first to last step.

  Args:
    config: A training config.

  Raises:
    ValueError: naming the field.

  Example:
    >>> from advjax.config import default_config
    >>> check_trainable(default_config())
  """
  if 'members' in config:
    raise ValueError('the config has members; allowed: one of a single network')
  for field, value, allowed in (
    ('report_checkpoint', config.report_checkpoint, 'last'),
    ('unfreezing.name', config.unfreezing.name, 'none'),
    ('init_from', config.init_from, ''),
  ):
    if value != allowed:
      raise ValueError(
        f'{field} = {value!r}; allowed: {allowed!r}, for all of the training '
        'is timed and the last state counts'
      )


def train_timed(training: Run) -> Trained:
  """Trains a network without looking at it, and times that.

  Args:
    training: From `create_run`.

  Returns:
    The network and its costs.

  Raises:
    Diverged: if a loss was not finite.
  """
  plan, config = training.plan, training.config
  start = time.perf_counter()
  arguments = jax.block_until_ready(device_inputs(training))
  uploaded = time.perf_counter()
  state = replicate(training.init_state(), training.devices)
  # Also loads the program, and draws memory.
  jax.block_until_ready(training.train_steps(state, *arguments, np.int32(1)))
  compiled = time.perf_counter()
  state = jax.block_until_ready(
    replicate(training.init_state(), training.devices)
  )
  losses = []
  count = np.int32(plan.steps_per_epoch)
  start_steps = time.perf_counter()
  for _ in range(config.num_epochs):
    state, history = training.train_steps(state, *arguments, count)
    losses.append(history['loss'])
  jax.block_until_ready(state)
  seconds = time.perf_counter() - start_steps
  bad = np.flatnonzero(~np.isfinite(np.concatenate(losses)))
  if bad.size:
    raise Diverged(f'seed {config.seed}: no finite loss at step {bad[0] + 1}')
  num_steps = config.num_epochs * plan.steps_per_epoch
  stats = training.devices[0].memory_stats() or {}
  peak = stats.get('peak_bytes_in_use')
  return Trained(
    params=jax.tree.map(np.asarray, state.evaluation_params),
    model_state=jax.tree.map(np.asarray, state.model_state),
    costs={
      'compile_seconds': compiled - uploaded,
      'upload_seconds': uploaded - start,
      'train_seconds': seconds,
      'step_milliseconds': 1e3 * seconds / num_steps,
      'images_per_second': config.num_epochs * plan.num_examples / seconds,
      'peak_mib': peak and peak / 2**20,
    },
  )


def float32_network(training: Run, trained: Trained) -> LogitsFn:
  """Returns the network in evaluation mode, computed in float32.

  Args:
    training: What it was trained by.
    trained: From `train_timed`.

  Returns:
    A function from images to logits.
  """
  fields = training.config.model.to_dict()
  if 'dtype' in fields:
    fields['dtype'] = 'float32'
  model = create_model(fields, training.num_classes)
  return eval_logits_fn(model, trained.params, trained.model_state)
