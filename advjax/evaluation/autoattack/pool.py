"""Runs a search over many items in batches of a fixed shape that stay full.

An item is an example with a target and a restart. A batch holds items of
different age: between two rounds of a few steps, items that are done, or whose
example is fooled already, are replaced by waiting ones. When nothing waits any
more and few items are left with many steps to go, they move to a smaller batch.
What an item finds depends on the item alone, so that neither the batches nor
the number of devices change which examples are fooled, except through rounding
in the network. Where several items fool one example, the first to do so counts,
which depends on the batches.
"""

import functools
import logging
import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from advjax._arguments import Problem
from advjax.attacks._core.loop import Search, advance, select
from advjax.callables import Callee, Structure, cache_while_alive
from advjax.devices import free_memory, replicate, shard
from advjax.evaluation.logits import matmul_precision
from advjax.types import Array

logger = logging.getLogger(__name__)

# A smaller batch is worth its compilation from so many remaining steps.
_STEPS_WORTH_COMPILING = 500
# Of the memory that is free, for one program.
_SHARE_OF_MEMORY = 0.7


class Items(NamedTuple):
  """The items to attack, in this order.

  An item draws from `fold_in(fold_in(key, first + example), number)`.
  """

  examples: np.ndarray  # int32 [M], rows of the images
  targets: np.ndarray | None  # int32 [M]
  numbers: np.ndarray  # uint32 [M]


class Shared(NamedTuple):
  """The data common to all items: radius, box (broadcasting) and key."""

  epsilon: Any
  lower: Any
  upper: Any
  key: Any


class Outcome(NamedTuple):
  """The results of the items."""

  fooled: np.ndarray  # bool [N], per example
  images: np.ndarray  # [N, ...]: adversarial, the originals elsewhere
  num_steps: int  # over all items
  seconds: float  # without compiling
  compile_seconds: float  # of programs that were not compiled before


class _Batch(NamedTuple):
  """The items at work, `[D, B]`, and their state."""

  items: np.ndarray  # -1 is an empty slot
  age: np.ndarray  # int32, steps taken
  state: Any  # on the devices, `[D, B, ...]`; None before the first round


class Rows(NamedTuple):
  """The arguments of a round, row by row, `[D, B, ...]`."""

  images: Any  # the originals
  labels: Any  # int32
  targets: Any | None  # int32
  examples: Any  # int32, and
  numbers: Any  # uint32, which seed what a row draws
  fresh: Any  # bool: the row starts in this round
  age: Any  # int32: steps that the row has taken


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
  first: int = 0,
  progress: Callable[[int], None] = lambda _: None,
) -> Outcome:
  """Tries all items, save those whose example another item has fooled."""
  placed = replicate(network, devices)
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
    examples = items.examples[batch.items]
    rows = Rows(
      images=images[examples],
      labels=labels[examples],
      targets=None if items.targets is None else items.targets[batch.items],
      examples=first + examples,
      numbers=items.numbers[batch.items],
      fresh=fresh,
      # An empty slot counts as done.
      age=np.where(batch.items < 0, np.iinfo(np.int32).max, batch.age),
    )
    if program is None:
      program, seconds = compile_round(search, devices, placed, rows, shared)
      compile_seconds += seconds
      # Asked before the first round, of the largest batch: nothing is lost.
      if batch.state is None and size > 1 and not program.fits(devices):
        batch_size, batch = -(-size // 2), nothing
        waiting = np.arange(len(items.examples))
        continue
    state = program.zeros() if batch.state is None else batch.state
    state, age, hits, perturbed = program.run(placed, state, rows, shared)
    age = np.asarray(age)
    num_steps += int((age - rows.age)[batch.items >= 0].sum())
    batch = _Batch(batch.items, age, state)
    hits = np.asarray(hits) & (batch.items >= 0)
    if hits.any():
      found[examples[hits]] = np.asarray(perturbed)[hits]
      fooled[examples[hits]] = True
  seconds = time.perf_counter() - start - compile_seconds
  return Outcome(fooled, found, num_steps, seconds, compile_seconds)


def _next_size(
  batch: _Batch, num_waiting: int, num_steps: int, largest: int
) -> int:
  """Slots per device for the next round, in eighths of the largest; 0: done."""
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
  """Moves the items at work to a batch of another size, device by device."""
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


class Program(NamedTuple):
  """A compiled round."""

  # (network, state, rows, shared) -> (state, age, fooled, images); donates the
  # state.
  run: Callable[..., Any]
  state: Any  # shapes
  bytes: int  # memory that it needs on a device

  def zeros(self) -> Any:
    """Returns a state to start from; fresh rows do not read it."""
    return jax.tree.map(lambda x: np.zeros(x.shape, x.dtype), self.state)

  def fits(self, devices: Sequence[jax.Device]) -> bool:
    """Whether the devices have the memory, as far as known."""
    free = free_memory(devices[0], len(devices))
    if self.bytes <= _SHARE_OF_MEMORY * free:
      return True
    logger.info(
      'a batch needs %.1f GiB of the %.1f GiB free on a device; halving it',
      self.bytes / 2**30,
      free / 2**30,
    )
    return False


def compile_round(
  search: Search,
  devices: tuple[jax.Device, ...],
  network: Callee,
  rows: Rows,
  shared: Shared,
) -> tuple[Program, float]:
  """Compiles a round, or takes it from the cache; returns the seconds too."""
  start = time.perf_counter()
  leaves, treedef = jax.tree.flatten((network, rows, shared))
  shapes = tuple(jax.api_util.shaped_abstractify(leaf) for leaf in leaves)
  # Unlike jit's, this cache does not depend on JAX's config.
  key = network.structure, search, devices, treedef, shapes
  program = _compile(*key, matmul_precision())
  return program, time.perf_counter() - start


@cache_while_alive
def _compile(
  structure: Structure,
  search: Search,
  devices: tuple[jax.Device, ...],
  treedef: Any,
  shapes: tuple[Any, ...],
  precision: str | None,
) -> Program:
  del structure, precision  # Set by the caller: part of the key alone.
  leaves = [jax.ShapeDtypeStruct(x.shape, x.dtype) for x in shapes]
  network, rows, shared = jax.tree.unflatten(treedef, leaves)
  one = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape[1:], x.dtype), rows)
  state = jax.tree.map(
    lambda x: jax.ShapeDtypeStruct((len(devices), *x.shape), x.dtype),
    jax.eval_shape(lambda *args: search.start(_problem(*args)), one, shared),
  )
  program = shard(
    functools.partial(_round, search),
    devices,
    num_args=4,
    split_args=(1, 2),
    donate_args=(1,),
  )
  compiled = program.lower(network, state, rows, shared).compile()
  memory = compiled.memory_analysis()
  needed = 0
  if memory is not None:
    needed = memory.temp_size_in_bytes + memory.output_size_in_bytes
  return Program(compiled, state, needed)


def _problem(rows: Rows, shared: Shared) -> Problem:
  fold = jax.random.fold_in
  keys = jax.vmap(fold, (None, 0))(shared.key, rows.examples)
  return Problem(
    images=rows.images,
    labels=rows.labels,
    targets=rows.targets,
    epsilon=jnp.broadcast_to(shared.epsilon, rows.labels.shape),
    keys=jax.vmap(fold)(keys, rows.numbers),
    lower=shared.lower,
    upper=shared.upper,
  )


def _round(
  search: Search, network: Callee, state: Any, rows: Rows, shared: Shared
) -> tuple[Any, Array, Array, Array]:
  """Takes steps until the round is over or no row is active any more."""
  count = steps_per_round(search.num_steps)
  problem = _problem(rows, shared)
  state = select(rows.fresh, search.start(problem), state)

  def active(age: Array, fooled: Array) -> Array:
    return (age < search.num_steps) & ~fooled

  def unfinished(carry: Any) -> Array:
    i, _, age, fooled = carry
    return (i < count) & active(age, fooled).any()

  def step(carry: Any) -> Any:
    i, state, age, fooled = carry
    rows = active(age, fooled)
    state, age = advance(search, network, problem, state, age, rows, 1)
    fooled = fooled | (rows & search.found(problem, state).fooled)
    return i + 1, state, age, fooled

  start = 0, state, rows.age, jnp.zeros(rows.age.shape, bool)
  _, state, age, fooled = jax.lax.while_loop(unfinished, step, start)
  return state, age, fooled, search.found(problem, state).images


def steps_per_round(num_steps: int) -> int:
  """Steps of a round: few, so that rows that start together end with one."""
  candidates = range(max(1, num_steps // 50), num_steps // 16 + 2)
  return max(candidates, key=lambda count: (-(-num_steps % count), count))
