"""The program of a round: a few steps of every row that is not done."""

import functools
import logging
import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from advjax.attacks._core.arguments import Problem
from advjax.attacks._core.loop import Search, advance, select
from advjax.callables import Callee
from advjax.evaluation.logits import matmul_precision
from advjax.memory import free_memory
from advjax.types import Array

logger = logging.getLogger(__name__)

# Of the memory that is free, for one program.
_SHARE_OF_MEMORY = 0.7


class Rows(NamedTuple):
  """What a round is given row by row, `[D, B, ...]`.

  Attributes:
    images: The originals.
    labels: int32.
    targets: int32, or None.
    examples: int32, and
    numbers: uint32, which seed what a row draws.
    fresh: bool: the row starts in this round.
    age: int32: steps that the row has taken.
  """

  images: Any
  labels: Any
  targets: Any | None
  examples: Any
  numbers: Any
  fresh: Any
  age: Any


class Shared(NamedTuple):
  """What all rows have in common: radius, box (broadcasting) and key."""

  epsilon: Any
  lower: Any
  upper: Any
  key: Any


class Program(NamedTuple):
  """A compiled round.

  Attributes:
    run: `(network, state, rows, shared) -> (state, age, fooled, images)`; takes
      the memory of the state that it is given.
    state: The shapes of the state.
    bytes: The memory that it needs on a device.
  """

  run: Callable[..., Any]
  state: Any
  bytes: int

  def zeros(self) -> Any:
    """Returns a state to start from; fresh rows do not look at it."""
    return jax.tree.map(lambda x: np.zeros(x.shape, x.dtype), self.state)

  def fits(self, devices: Sequence[jax.Device]) -> bool:
    """Whether the devices have the memory, as far as anyone can tell."""
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
  """Compiles a round for arguments like these, unless that was done before.

  Args:
    search: The attack.
    devices: The devices.
    network: Images `[B, ...]` to logits `[B, K]`.
    rows: On the host.
    shared: Numbers and arrays.

  Returns:
    The program, and the seconds that it took to make.
  """
  start = time.perf_counter()
  leaves, treedef = jax.tree.flatten((network, rows, shared))
  shapes = tuple(jax.api_util.shaped_abstractify(leaf) for leaf in leaves)
  # Unlike jit's, this cache does not know of JAX's config.
  program = _compile(search, devices, treedef, shapes, matmul_precision())
  return program, time.perf_counter() - start


@functools.lru_cache(maxsize=64)
def _compile(
  search: Search,
  devices: tuple[jax.Device, ...],
  treedef: Any,
  shapes: tuple[Any, ...],
  precision: str | None,
) -> Program:
  del precision  # Set by the caller: part of the key alone.
  leaves = [jax.ShapeDtypeStruct(x.shape, x.dtype) for x in shapes]
  network, rows, shared = jax.tree.unflatten(treedef, leaves)
  one = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape[1:], x.dtype), rows)
  state = jax.tree.map(
    lambda x: jax.ShapeDtypeStruct((len(devices), *x.shape), x.dtype),
    jax.eval_shape(lambda *args: search.start(_problem(*args)), one, shared),
  )
  # Not pmap: where there are several processes it cannot be compiled ahead.
  mesh = Mesh(np.array(devices), ('device',))
  same, split = PartitionSpec(), PartitionSpec('device')

  def per_device(network: Any, state: Any, rows: Rows, shared: Shared) -> Any:
    state, rows = jax.tree.map(lambda x: x[0], (state, rows))
    out = _round(search, network, state, rows, shared)
    return jax.tree.map(lambda x: x[None], out)

  program = jax.jit(
    jax.shard_map(
      per_device,
      mesh=mesh,
      in_specs=(same, split, split, same),
      out_specs=split,
      check_vma=False,
    ),
    in_shardings=tuple(
      NamedSharding(mesh, spec) for spec in (same, split, split, same)
    ),
    donate_argnums=(1,),
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
  """Takes steps until the round is over or no row moves any more."""
  count = steps_per_round(search.num_steps)
  problem = _problem(rows, shared)
  state = select(rows.fresh, search.start(problem), state)

  def moving(age: Array, fooled: Array) -> Array:
    return (age < search.num_steps) & ~fooled

  def go_on(carry: Any) -> Array:
    i, _, age, fooled = carry
    return (i < count) & moving(age, fooled).any()

  def step(carry: Any) -> Any:
    i, state, age, fooled = carry
    moves = moving(age, fooled)
    state, age = advance(search, network, problem, state, age, moves, 1)
    fooled = fooled | (moves & search.found(problem, state).fooled)
    return i + 1, state, age, fooled

  start = 0, state, rows.age, jnp.zeros(rows.age.shape, bool)
  _, state, age, fooled = jax.lax.while_loop(go_on, step, start)
  return state, age, fooled, search.found(problem, state).images


def steps_per_round(num_steps: int) -> int:
  """Steps between two looks at what is done: few, and with little left over.

  Args:
    num_steps: Steps of a row.

  Returns:
    The number, so that rows which start together end with a round.

  Example:
    >>> [steps_per_round(n) for n in (1, 101, 100, 5000)]
    [1, 6, 5, 250]
  """
  candidates = range(max(1, num_steps // 50), num_steps // 16 + 2)
  return max(candidates, key=lambda count: (-(-num_steps % count), count))
