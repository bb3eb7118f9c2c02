"""Measure our convolution and pool against Flax's, in a bare training loop.

  python -m experiments.benchmarks.layers

Milliseconds per step of Adam at batch 32 inside `lax.scan`, plain and with
NSL's adversarial regularization, and milliseconds of a 20-step BIM at batch
128. Only the layers of advjax are used, so that differences are due to them;
`./launch.sh benchmark` measures the real training loop and attacks.
"""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
from absl import flags
from flax import linen as nn
from jax import Array, lax

from advjax import cli
from advjax.config import check_range
from advjax.models import create_model, from_linen
from experiments.benchmarks import harness
from experiments.benchmarks.harness import OURS, Side, TimedRun, timed

ApplyFn = Callable[[Any, Array], Array]


class PlainCNN(nn.Module):
  """NSL's network with Flax's own layers; the same params fit it."""

  num_classes: int = 10

  @nn.compact
  def __call__(self, images: Array, *, train: bool = False) -> Array:
    del train
    hidden = images
    for index, filters in enumerate((32, 64, 64)):
      if index:
        hidden = nn.max_pool(hidden, (2, 2), (2, 2))
      hidden = nn.relu(nn.Conv(filters, (3, 3), padding='VALID')(hidden))
    hidden = nn.relu(nn.Dense(64)(hidden.reshape(hidden.shape[0], -1)))
    return nn.Dense(self.num_classes)(hidden)


def cross_entropy(logits: Array, labels: Array) -> Array:
  """The mean loss; one-hot, since a gather's gradient escapes XLA's CSE."""
  return -jnp.mean(
    jnp.sum(jax.nn.log_softmax(logits) * jax.nn.one_hot(labels, 10), -1)
  )


def train_loop(apply: ApplyFn, multiplier: float) -> Callable[..., Any]:
  """Adam over batches `[S, B, ...]`; multiplier 0 omits NSL's term."""
  optimizer = optax.adam(1e-3)

  def loss_fn(params: Any, images: Array, labels: Array) -> Array:
    def clean(images: Array) -> Array:
      return cross_entropy(apply(params, images), labels)

    if not multiplier:
      return clean(images)
    direction = jnp.sign(lax.stop_gradient(jax.grad(clean)(images)))
    return clean(images) + multiplier * clean(images + 0.2 * direction)

  def step(carry: Any, batch: tuple[Array, Array]) -> tuple[Any, Array]:
    params, opt_state = carry
    loss, gradient = jax.value_and_grad(loss_fn)(params, *batch)
    updates, opt_state = optimizer.update(gradient, opt_state)
    return (optax.apply_updates(params, updates), opt_state), loss

  @jax.jit
  def run(params: Any, images: Array, labels: Array) -> Any:
    return lax.scan(step, (params, optimizer.init(params)), (images, labels))

  return run


def bim(apply: ApplyFn) -> Callable[..., Array]:
  """20 steps of 0.01 in the ball of 0.1."""

  @jax.jit
  def run(params: Any, images: Array, labels: Array) -> Array:
    def step(_: int, attacked: Array) -> Array:
      gradient = jax.grad(lambda x: cross_entropy(apply(params, x), labels))(
        attacked
      )
      attacked = attacked + 0.01 * jnp.sign(gradient)
      attacked = images + jnp.clip(attacked - images, -0.1, 0.1)
      return jnp.clip(attacked, 0, 1)

    return lax.fori_loop(0, 20, step, images)

  return run


def measure(steps: int, batch_size: int, rounds: int) -> list[dict[str, Any]]:
  """Returns a row per loop and kind of layers; attacks take four batches."""
  key = jax.random.key(0)
  images = jax.random.uniform(key, (steps, batch_size, 28, 28, 1))
  labels = jax.random.randint(key, (steps, batch_size), 0, 10)
  batch = jnp.concatenate([images[0]] * 4), jnp.concatenate([labels[0]] * 4)
  models = {
    OURS: create_model({'name': 'cnn'}, 10),
    'flax': from_linen(PlainCNN()),
  }
  params, _ = models[OURS].init(key, images[0, :1])

  def apply(layers: str, params: Any, images: Array) -> Array:
    return models[layers].apply(params, {}, images, train=False)[0]

  def run_of(loop: Callable[..., Any], data: Any, divisor: int) -> TimedRun:
    return lambda: timed(lambda: loop(params, *data))[1] / divisor

  rows = []
  train = images, labels
  for case, make_loop, data, divisor in (
    ('standard, per step', lambda f: train_loop(f, 0.0), train, steps),
    ('NSL, per step', lambda f: train_loop(f, 0.2), train, steps),
    ('BIM-20', bim, batch, 1),
  ):
    sides: dict[str, Side] = {}
    for name in models:
      loop = make_loop(functools.partial(apply, name))
      sides[name] = functools.partial(run_of, loop, data, divisor)
    num_images = len(batch[1]) if divisor == 1 else batch_size
    times = harness.in_turns(sides, rounds)
    rows += harness.compare(times, num_images, case=case)
  return rows


def table(rows: list[dict[str, Any]]) -> str:
  """Returns the rows as a table; a busy machine disturbs the best least."""
  return harness.table(
    rows,
    ('', 'case', ''),
    *harness.SIDE_COLUMNS,
    ('best ms', lambda row: 1e3 * min(row['rounds']), '.2f'),
  )


def main() -> None:
  flag = flags.FLAGS
  for field in ('rounds', 'steps', 'batch_size'):
    check_range(field, getattr(flag, field), 1, integer=True)
  cli.devices_from_flags()
  print(table(measure(flag.steps, flag.batch_size, flag.rounds)))


if __name__ == '__main__':
  flags.DEFINE_integer('rounds', 9, 'Rounds of which the median is.')
  flags.DEFINE_integer('steps', 20, 'Train steps in a round.')
  flags.DEFINE_integer('batch_size', 32, 'Images of a step.')
  cli.run(main)
