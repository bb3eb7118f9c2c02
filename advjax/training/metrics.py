"""Means of an objective's metrics over a whole split."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import numpy as np

from advjax.data import Split, to_float
from advjax.devices import AXIS
from advjax.processes.collectives import own_ranks
from advjax.training.objectives import Objective
from advjax.training.step import reduce_metrics
from advjax.types import Array


def make_evaluate_metrics(
  apply: Callable,
  objective: Objective,
  devices: Sequence[jax.Device],
  *,
  batch_size: int,
  matmul_precision: str = 'highest',
) -> Callable[..., dict[str, float]]:
  """Builds a function that averages an objective's metrics over a split.

  The network runs in evaluation mode; the last batch is padded and masked.

  Args:
    apply: A `Model`'s apply.
    objective: Whose metrics are wanted.
    devices: The devices, those of other processes too.
    batch_size: Rows per device and call.
    matmul_precision: A name of `jax.default_matmul_precision`.

  Returns:
    `evaluate(params, model_state, split, hparams, key) -> metrics`, floats.

  Example:
    >>> import jax.numpy as jnp
    >>> from advjax.training.objectives import standard
    >>> evaluate = make_evaluate_metrics(
    ...   lambda params, state, images, train: (images @ params, state),
    ...   standard(),
    ...   jax.devices()[:1],
    ...   batch_size=8,
    ... )
    >>> split = Split(np.ones((3, 4), np.float32), np.zeros(3, np.int32))
    >>> metrics = evaluate(jnp.zeros((4, 2)), {}, split, {}, jax.random.key(0))
    >>> round(metrics['clean_loss'], 4)
    0.6931
  """

  def apply_eval(
    params: Any, model_state: Any, images: Array, *, train: bool
  ) -> tuple[Array, Any]:
    del train
    with jax.default_matmul_precision(matmul_precision):
      return apply(params, model_state, images, train=False)

  def per_device(
    batch: Mapping[str, Array],
    mask: Array,
    params: Any,
    model_state: Any,
    hparams: Mapping[str, Array],
    key: Array,
  ) -> dict[str, Array]:
    keys = jax.vmap(jax.random.fold_in, (None, 0))(key, batch['index'])
    batch = {
      'image': to_float(batch['image']),
      'label': batch['label'],
      'weight': mask / jax.lax.psum(mask.sum(), AXIS),
    }
    _, (_, metrics) = objective(
      apply_eval, params, model_state, batch, hparams, keys
    )
    return reduce_metrics(metrics, mask)

  mapped = jax.pmap(
    per_device,
    axis_name=AXIS,
    # Written out for the batch: with plain axes alone, and by chance as many
    # arrays as arguments, pmap of jax 0.10 gives the axes to the wrong ones.
    in_axes=({'image': 0, 'label': 0, 'index': 0}, 0, *[None] * 4),
    out_axes=None,
    devices=list(devices),
  )

  def evaluate(
    params: Any,
    model_state: Any,
    split: Split,
    hparams: Mapping[str, float],
    key: Array,
  ) -> dict[str, float]:
    num_examples = len(split.labels)
    own = own_ranks(devices)
    shape = (len(devices), min(batch_size, -(-num_examples // len(devices))))
    rows = shape[0] * shape[1]
    totals: dict[str, float] = {}
    for start in range(0, num_examples, rows):
      order = start + np.arange(rows).reshape(shape)
      index = order % num_examples
      mask = (order < num_examples).astype(np.float32)
      batch = {
        'image': split.images[index[own]],
        'label': split.labels[index[own]],
        'index': index[own].astype(np.int32),
      }
      means = mapped(batch, mask[own], params, model_state, hparams, key)
      for name, mean in means.items():
        total = totals.get(name, 0.0) + float(mean) * float(mask.sum())
        totals[name] = total
    return {name: total / num_examples for name, total in totals.items()}

  return evaluate
