"""Batches that stay full: every item gets its steps, and no other's."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from advjax.attacks._core.loop import Found, Search
from advjax.callables import Callee
from advjax.evaluation.autoattack import pool
from advjax.evaluation.autoattack.pool import Items, Shared, run_items
from tests import compiles

NUM_STEPS = 20
RNG = np.random.default_rng(0)
IMAGES = RNG.uniform(size=(30, 2)).astype(np.float32)
LABELS = RNG.integers(0, 3, 30).astype(np.int32)
SHARED = Shared(
  np.float32(0.5), np.float32(-9), np.float32(9), jax.random.key(3)
)
NETWORK = Callee.of(lambda images: images @ jnp.ones((2, 3)))
# Each example with three targets, and a restart of each.
ITEMS = Items(
  np.tile(np.arange(30, dtype=np.int32), 6),
  np.tile(np.repeat(np.arange(3, dtype=np.int32), 30), 2),
  np.repeat(np.arange(6, dtype=np.uint32), 30),
)


def limit(target, label):
  return 0.5 * NUM_STEPS + (0.3 + 0.1 * (target + label)) * NUM_STEPS**0.5


def start(problem):
  return {'at': problem.images, 'draws': jnp.zeros(len(problem.images))}


def step(logits_fn, problem, state, t):
  keys = jax.vmap(jax.random.fold_in)(problem.keys, t)
  draw = jax.vmap(jax.random.uniform)(keys)
  pull = 0.01 * logits_fn(state['at'])[:, 0] + problem.epsilon
  moved = state['at'] + (draw * pull)[:, None]
  return {'at': moved, 'draws': state['draws'] + draw}


def found(problem, state):
  fooled = state['draws'] > limit(problem.targets, problem.labels)
  return Found(state['at'], fooled, state['draws'])


# Walks at random; an item is fooled when it gets far enough for it.
SEARCH = Search(start, step, found, NUM_STEPS, 2, 1)


@jax.jit
def draws_of(examples, numbers):
  """What items draw, `[N, NUM_STEPS]`: a function of their keys and steps."""

  def draw(example, number, t):
    key = jax.random.fold_in(SHARED.key, example)
    key = jax.random.fold_in(jax.random.fold_in(key, number), t)
    return jax.random.uniform(key)

  of_steps = jax.vmap(draw, (None, None, 0))
  return jax.vmap(of_steps, (0, 0, None))(
    examples, numbers, np.arange(NUM_STEPS)
  )


def alone(item, draws):
  """What an item finds by itself: (steps until fooled, images) or None."""
  example = ITEMS.examples[item]
  at, target, label = IMAGES[example], ITEMS.targets[item], LABELS[example]
  for t, draw in enumerate(draws):
    at = at + draw * (0.01 * at.sum() + 0.5)
    if draws[: t + 1].sum() > limit(target, label):
      return t + 1, at
  return None


@pytest.fixture(scope='module')
def expected():
  draws = np.float64(draws_of(ITEMS.examples, ITEMS.numbers))
  return [alone(item, values) for item, values in enumerate(draws)]


def run(batch_size, num_devices=1, items=ITEMS, **options):
  return run_items(
    SEARCH,
    NETWORK,
    IMAGES,
    LABELS,
    items,
    SHARED,
    batch_size=batch_size,
    devices=tuple(jax.devices()[:num_devices]),
    **options,
  )


@pytest.mark.parametrize(('batch_size', 'num_devices'), [(14, 1), (4, 2)])
def test_an_example_is_fooled_if_one_of_its_items_is(
  expected, batch_size, num_devices
):
  left = []
  result = run(batch_size, num_devices, progress=left.append)
  hits = [
    [expected[i] for i in np.flatnonzero(ITEMS.examples == example)]
    for example in range(30)
  ]
  fooled = np.array([any(each) for each in hits])
  assert 5 < fooled.sum() < 25
  np.testing.assert_array_equal(result.fooled, fooled)
  for example in np.flatnonzero(fooled):
    distances = [
      np.abs(hit[1] - result.images[example]).max()
      for hit in hits[example]
      if hit
    ]
    assert min(distances) < 1e-4
  np.testing.assert_array_equal(result.images[~fooled], IMAGES[~fooled])
  assert left == sorted(left, reverse=True)
  assert (left[0], left[-1]) == (len(ITEMS.examples), 0)
  # All the steps of those that remain robust; at least those of the first hit.
  least = 6 * NUM_STEPS * (~fooled).sum() + sum(
    min(hit[0] for hit in each if hit) for each in hits if any(each)
  )
  assert least <= result.num_steps < 6 * NUM_STEPS * 30


def test_steps_are_counted_until_an_item_is_fooled(expected):
  """One item per example: no other item can end it earlier."""
  items = Items(*(values[:30] for values in ITEMS))
  steps = sum(hit[0] if hit else NUM_STEPS for hit in expected[:30])
  assert run(7, items=items).num_steps == steps
  # Other items of the same shapes compile nothing.
  with compiles.counted() as count:
    run(7)
  assert count == [0]


@pytest.mark.accelerator
def test_batches_are_halved_until_memory_suffices(monkeypatch, expected):
  sizes, needed = [], []
  compile_round = pool.compile_round

  def watch(*args):
    program, seconds = compile_round(*args)
    sizes.append(args[3].labels.shape[1])
    needed.append(program.bytes)
    return program, seconds

  monkeypatch.setattr(pool, 'compile_round', watch)
  # Of it 0.7 are for the program: not enough for the first.
  monkeypatch.setattr(
    pool, 'free_memory', lambda device, num_sharing: needed[0] / 0.71
  )
  result = run(14)
  assert sizes == [14, 7]
  np.testing.assert_array_equal(
    result.fooled,
    [
      any(expected[i] for i in np.flatnonzero(ITEMS.examples == example))
      for example in range(30)
    ],
  )
