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


def mean_loss(apply: ApplyFn, params: Any, images: Array, y: Array) -> Array:
  """The mean loss; one-hot, since a gather's gradient escapes XLA's CSE."""
  log_probs = jax.nn.log_softmax(apply(params, images))
  return -(log_probs * jax.nn.one_hot(y, 10)).sum(-1).mean()


def train_loop(multiplier: float, apply: ApplyFn) -> Callable[..., Any]:
  """Adam over batches `[S, B, ...]`; multiplier 0 omits NSL's term."""
  optimizer = optax.adam(1e-3)

  def loss_fn(params: Any, images: Array, labels: Array) -> Array:
    clean = functools.partial(mean_loss, apply, params, y=labels)
    if not multiplier:
      return clean(images)
    direction = jnp.sign(lax.stop_gradient(jax.grad(clean)(images)))
    return clean(images) + multiplier * clean(images + 0.2 * direction)

  def step(carry: Any, batch: tuple[Array, Array]) -> tuple[Any, Array]:
    params, opt_state = carry
    loss, gradient = jax.value_and_grad(loss_fn)(params, *batch)
    updates, opt_state = optimizer.update(gradient, opt_state)
    return (optax.apply_updates(params, updates), opt_state), loss

  return jax.jit(
    lambda params, *data: lax.scan(step, (params, optimizer.init(params)), data)
  )


def bim(apply: ApplyFn) -> Callable[..., Array]:
  """20 steps of 0.01 in the ball of 0.1."""

  @jax.jit
  def run(params: Any, images: Array, labels: Array) -> Array:
    gradient = jax.grad(functools.partial(mean_loss, apply, params, y=labels))

    def step(_: int, attacked: Array) -> Array:
      attacked = attacked + 0.01 * jnp.sign(gradient(attacked))
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

  def side(make_loop: Any, name: str, data: Any, divisor: int) -> TimedRun:
    loop = make_loop(functools.partial(apply, name))
    return lambda: timed(lambda: loop(params, *data))[1] / divisor

  standard, nsl = (functools.partial(train_loop, m) for m in (0.0, 0.2))
  train = (images, labels), steps, batch_size
  rows = []
  for case, make_loop, (data, divisor, num_images) in (
    ('standard, per step', standard, train),
    ('NSL, per step', nsl, train),
    ('BIM-20', bim, (batch, 1, 4 * batch_size)),
  ):
    sides: dict[str, Side] = {
      name: functools.partial(side, make_loop, name, data, divisor)
      for name in models
    }
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
  harness.check_counts('rounds', 'steps', 'batch_size')
  cli.devices_from_flags()
  print(table(measure(flag.steps, flag.batch_size, flag.rounds)))


if __name__ == '__main__':
  flags.DEFINE_integer('rounds', 9, 'Rounds of which the median is.')
  flags.DEFINE_integer('steps', 20, 'Train steps in a round.')
  flags.DEFINE_integer('batch_size', 32, 'Images of a step.')
  cli.run(main)
