"""Runs a search over many items in batches of a fixed shape that stay full.

An item is an example with a target and a restart. A batch holds items of
different age: those that are done, or whose example is fooled already, make
room for the next ones between two rounds of a few steps. When nothing waits any
more and few items are left with many steps to go, they move to a smaller batch.
What an item finds depends on the item alone, so that no choice made here, nor
the number of devices, changes which examples are fooled, but for the rounding
of the network. Where several items fool one example, the first to do so counts,
which is a matter of the batch.
"""

import time
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np

from advjax.attacks._core.loop import Search
from advjax.callables import Callee
from advjax.evaluation.autoattack.rounds import (
  Program,
  Rows,
  Shared,
  compile_round,
)

# A smaller batch is worth its compilation from so many steps to go on.
_STEPS_WORTH_COMPILING = 500


class Items(NamedTuple):
  """What is to be tried, in this order.

  Attributes:
    examples: int32 `[M]`, rows of the images.
    targets: int32 `[M]`, or None.
    numbers: uint32 `[M]`: an item draws from
      `fold_in(fold_in(key, example), number)`.
  """

  examples: np.ndarray
  targets: np.ndarray | None
  numbers: np.ndarray


class Outcome(NamedTuple):
  """What came of the items.

  Attributes:
    fooled: bool `[N]`, per example.
    images: `[N, ...]`: what fooled the network, the originals elsewhere.
    num_steps: Steps taken, over all items.
    seconds: Without compiling.
    compile_seconds: Of all programs that were not compiled before.
  """

  fooled: np.ndarray
  images: np.ndarray
  num_steps: int
  seconds: float
  compile_seconds: float


class _Batch(NamedTuple):
  """The items at work, `[D, B]`, and what is known of them."""

  items: np.ndarray  # -1 is an empty slot
  age: np.ndarray  # int32, steps taken
  state: Any  # on the devices, `[D, B, ...]`; None before the first round


def run_items(
  search: Search,
  network: Callee,
  images: np.ndarray,
  labels: np.ndarray,
  items: Items,
  shared: Shared,
  *,
  batch_size: int,
  devices: tuple[jax.Device, ...],
  progress: Callable[[int], None] = lambda _: None,
) -> Outcome:
  """Tries all items, save those whose example another item has fooled.

  Args:
    search: The attack.
    network: Images `[B, ...]` to logits `[B, K]`.
    images: `[N, ...]`.
    labels: int32 `[N]`.
    items: What to try.
    shared: What they share.
    batch_size: Items per device at most; halved until memory suffices.
    devices: Those of this process.
    progress: Called before each round, and at the end, with the number of items
      that are left.

  Returns:
    The outcome.
  """
  fooled, found = np.zeros(len(images), bool), images.copy()
  num_steps, compile_seconds = 0, 0.0
  start = time.perf_counter()
  waiting = np.arange(len(items.examples))
  empty = np.full((len(devices), 0), -1)
  batch = nothing = _Batch(empty, empty.astype(np.int32), None)
  program: Program | None = None
  while True:
    waiting = waiting[~fooled[items.examples[waiting]]]
    over = fooled[items.examples[batch.items]] | (batch.age >= search.num_steps)
    batch = batch._replace(items=np.where(over, -1, batch.items))
    progress(len(waiting) + int((batch.items >= 0).sum()))
    size = _next_size(batch, len(waiting), search.num_steps, batch_size)
    if size == 0:
      break
    if size != batch.items.shape[1]:
      batch, program = _resize(batch, size), None
    batch, fresh, waiting = _fill(batch, waiting)
    rows = _rows(images, labels, items, batch, fresh)
    if program is None:
      program, seconds = compile_round(search, devices, network, rows, shared)
      compile_seconds += seconds
      # Asked before the first round, of the largest batch: nothing is lost.
      if batch.state is None and size > 1 and not program.fits(devices):
        batch_size, batch = -(-size // 2), nothing
        waiting = np.arange(len(items.examples))
        continue
    state = program.zeros() if batch.state is None else batch.state
    state, age, hits, perturbed = program.run(network, state, rows, shared)
    age = np.asarray(age)
    num_steps += int((age - rows.age)[batch.items >= 0].sum())
    batch = _Batch(batch.items, age, state)
    hits = np.asarray(hits) & (batch.items >= 0)
    if hits.any():
      examples = items.examples[batch.items[hits]]
      found[examples] = np.asarray(perturbed)[hits]
      fooled[examples] = True
  seconds = time.perf_counter() - start - compile_seconds
  return Outcome(fooled, found, num_steps, seconds, compile_seconds)


def _next_size(
  batch: _Batch, num_waiting: int, num_steps: int, largest: int
) -> int:
  """Slots per device for the next round; 0 when all is done.

  Sizes are eighths of the largest, so that there are few programs whatever the
  number of items.
  """
  num_devices, size = batch.items.shape
  live = batch.items >= 0
  wanted = -(-(int(live.sum()) + num_waiting) // num_devices)
  unit = -(-largest // 8)
  fitting = min(largest, -(-wanted // unit) * unit)
  if wanted == 0 or not size:
    return fitting
  steps_left = num_steps
  if not num_waiting:
    steps_left -= batch.age[live].min()
  shrinks = 4 * fitting <= 3 * size and steps_left >= _STEPS_WORTH_COMPILING
  return fitting if shrinks else size


def _resize(batch: _Batch, size: int) -> _Batch:
  """Moves the items at work to a batch of another size, devices in turn."""
  num_devices = len(batch.items)
  live = np.argwhere(batch.items >= 0)
  # Slot s of device d is row s * D + d of all.
  places = np.arange(len(live))
  to = places % num_devices, places // num_devices

  def move(values: np.ndarray, missing: Any) -> np.ndarray:
    values = np.asarray(values)
    moved = np.full(
      (num_devices, size, *values.shape[2:]), missing, values.dtype
    )
    moved[to] = values[tuple(live.T)]
    return moved

  state = batch.state
  if state is not None:
    state = jax.tree.map(lambda values: move(values, 0), state)
  return _Batch(move(batch.items, -1), move(batch.age, 0), state)


def _fill(
  batch: _Batch, waiting: np.ndarray
) -> tuple[_Batch, np.ndarray, np.ndarray]:
  """Puts items that wait into empty slots, devices in turn."""
  free = np.argwhere(batch.items.T < 0)[: len(waiting), ::-1]
  slots = tuple(free.T)
  fresh = np.zeros(batch.items.shape, bool)
  fresh[slots] = True
  items = batch.items.copy()
  items[slots] = waiting[: len(free)]
  age = np.where(fresh, 0, batch.age)
  return batch._replace(items=items, age=age), fresh, waiting[len(free) :]


def _rows(
  images: np.ndarray,
  labels: np.ndarray,
  items: Items,
  batch: _Batch,
  fresh: np.ndarray,
) -> Rows:
  examples = items.examples[batch.items]
  return Rows(
    images=images[examples],
    labels=labels[examples],
    targets=None if items.targets is None else items.targets[batch.items],
    examples=examples,
    numbers=items.numbers[batch.items],
    fresh=fresh,
    # An empty slot rests as one that is done.
    age=np.where(batch.items < 0, np.iinfo(np.int32).max, batch.age),
  )
