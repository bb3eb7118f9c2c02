"""Measure our convolution and pool against Flax's, in a bare training loop.

  python experiments/benchmarks/layers.py

Milliseconds per step of Adam at batch 32 inside `lax.scan`, plain and with
NSL's adversarial regularization, and images per second of a 20-step BIM at
batch 128. Both variants take turns in one process; medians, and the fastest
round, which a busy machine disturbs least. Nothing of advjax but the layers
is used, so that a change here is a change of theirs;
`experiments/benchmark.py` measures the real training loop and attacks.
"""

import functools
import statistics
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
from absl import app, flags
from flax import linen as nn
from jax import Array, lax

from advjax.models import create_model, from_linen

_ROUNDS = flags.DEFINE_integer('rounds', 9, 'Rounds of which the median is.')
_STEPS = flags.DEFINE_integer('steps', 20, 'Train steps in a round.')

ApplyFn = Callable[[Any, Array], Array]


class PlainCNN(nn.Module):
  """NSL's network with Flax's own layers; the same params fit it."""

  @nn.compact
  def __call__(self, images: Array, *, train: bool = False) -> Array:
    del train
    hidden = images
    for index, filters in enumerate((32, 64, 64)):
      if index:
        hidden = nn.max_pool(hidden, (2, 2), (2, 2))
      hidden = nn.relu(nn.Conv(filters, (3, 3), padding='VALID')(hidden))
    hidden = nn.relu(nn.Dense(64)(hidden.reshape(hidden.shape[0], -1)))
    return nn.Dense(10)(hidden)


def cross_entropy(logits: Array, labels: Array) -> Array:
  """The mean loss; one-hot, since a gather's gradient escapes XLA's CSE."""
  return -jnp.mean(
    jnp.sum(jax.nn.log_softmax(logits) * jax.nn.one_hot(labels, 10), -1)
  )


def train_loop(apply: ApplyFn, multiplier: float) -> Callable[..., Any]:
  """Adam over batches `[S, B, ...]`; multiplier 0 leaves NSL's term out."""
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


def main(argv: list[str]) -> None:
  """Prints the table."""
  del argv
  steps, key = _STEPS.value, jax.random.key(0)
  images = jax.random.uniform(key, (steps, 32, 28, 28, 1))
  labels = jax.random.randint(key, (steps, 32), 0, 10)
  batch = jnp.concatenate([images[0]] * 4), jnp.concatenate([labels[0]] * 4)
  models = {
    'advjax': create_model({'name': 'cnn'}, 10),
    'flax': from_linen(PlainCNN()),
  }
  params, _ = models['advjax'].init(key, images[0, :1])
  runs: dict[tuple[str, str], Callable[[], Any]] = {}
  for name, model in models.items():

    def apply(params: Any, images: Array, model: Any = model) -> Array:
      return model.apply(params, {}, images, train=False)[0]

    for title, loop, data in (
      ('standard, ms per step', train_loop(apply, 0), (images, labels)),
      ('NSL, ms per step', train_loop(apply, 0.2), (images, labels)),
      ('BIM-20, images/s', bim(apply), batch),
    ):
      runs[title, name] = functools.partial(loop, params, *data)
  seconds: dict[tuple[str, str], list[float]] = {row: [] for row in runs}
  for round_index in range(_ROUNDS.value + 1):
    for row, run in runs.items():
      start = time.perf_counter()
      jax.block_until_ready(run())
      if round_index:  # The first compiles.
        seconds[row].append(time.perf_counter() - start)
  print(f'{"":24}{"":10}{"median":>10}{"best":>10}')
  for (title, name), times in seconds.items():
    numbers = [
      128 / number if 'images' in title else 1e3 * number / steps
      for number in (statistics.median(times), min(times))
    ]
    print(f'{title:24}{name:10}{numbers[0]:10.1f}{numbers[1]:10.1f}')


if __name__ == '__main__':
  app.run(main)
