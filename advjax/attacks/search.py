"""Iterative attacks as searches: every row of a batch takes its own steps.

A search keeps all that it knows of a row in that row of its state, the number
of its steps included. So rows of different age can share a batch, one that is
done makes room for another, and what a row finds depends on nothing but itself.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from advjax.attacks import inputs as inputs_lib
from advjax.attacks.inputs import Inputs
from advjax.attacks.space import Space
from advjax.callables import compile_per_callable
from advjax.norms import Norm, expand
from advjax.types import Array, LogitsFn

# A pytree of arrays with the batch as their leading axis.
State = Any


class Problem(NamedTuple):
  """What a search is given; all but the bounds have the batch in front."""

  images: Array  # [B, ...]
  labels: Array  # int [B]
  targets: Array | None  # int [B]
  epsilon: Array | None  # [B]; None: no limit
  keys: Array  # typed keys [B], those of one restart
  lower: Array  # broadcasts to images, -inf where there is no bound
  upper: Array


class Found(NamedTuple):
  """The best that a search has found so far, inside the ball and the box."""

  images: Array  # [B, ...]
  fooled: Array  # bool [B]: misclassified, or classified as the target
  score: Array  # [B]: among rows as fooled, the higher the better


class Search(NamedTuple):
  """An iterative attack with its static choices made.

  Attributes:
    start: `start(problem) -> state`; asks the network nothing.
    step: `step(logits_fn, problem, state, t) -> state`, one step of every row;
      t, int32 `[B]`, counts from 0 for each row.
    found: `found(problem, state) -> Found`.
    num_steps: Steps until a row is done.
    num_forward: Forward passes per step.
    num_backward: Backward passes per step; of FAB without targets, per step
      and class other than the label.
  """

  start: Callable[[Problem], State]
  step: Callable[[LogitsFn, Problem, State, Array], State]
  found: Callable[[Problem, State], Found]
  num_steps: int
  num_forward: int
  num_backward: int


def select(rows: Array, new: State, old: State) -> State:
  """Takes the rows that are True from `new`, all others from `old`."""
  return jax.tree.map(lambda n, o: jnp.where(expand(rows, n), n, o), new, old)


def advance(
  search: Search,
  logits_fn: LogitsFn,
  problem: Problem,
  state: State,
  t: Array,
  active: Array,
  count: int,
) -> tuple[State, Array]:
  """Takes up to `count` steps in the rows that are active and not yet done.

  Args:
    search: The attack.
    logits_fn: Images `[B, ...]` to logits `[B, K]`.
    problem: The rows.
    state: What the search knows of them.
    t: int32 `[B]`, the steps that each row has taken.
    active: bool `[B]`; other rows rest.
    count: Steps at most; static.

  Returns:
    The state, and the steps that each row has taken now.
  """

  def step(_: Any, carry: tuple[State, Array]) -> tuple[State, Array]:
    state, t = carry
    moves = active & (t < search.num_steps)
    new = search.step(logits_fn, problem, state, t)
    return select(moves, new, state), t + moves

  problem, state, t, active = _vary_alike(
    lambda problem, state, t, _: search.step(logits_fn, problem, state, t),
    (problem, state, t, active),
  )
  return jax.lax.fori_loop(0, count, step, (state, t))


def _vary_alike(step: Callable[..., Any], args: Any) -> Any:
  """Gives the arguments of a step the type that its result has in a shard_map.

  There the type of a loop's state says over which mesh axes it varies, which
  may come from the problem or from the parameters inside the model; and the
  gradient at images that vary less than the loss would be summed over the mesh.
  Only the type of the first step is used, so that nothing is computed for it.
  """
  axes = tuple(jax.sharding.get_abstract_mesh().manual_axes)
  zero = jnp.zeros(())
  if not axes or jax.typeof(zero) == jax.typeof(
    jax.lax.pcast(zero, axes, to='varying')
  ):
    return args  # Nothing is known of what varies: under pmap, for one.
  for x in jax.tree.leaves((args, step(*args))):
    if jnp.issubdtype(x.dtype, jax.dtypes.prng_key):
      x = jax.random.key_data(x)
    zero = zero + jnp.sum(jnp.zeros_like(x, zero.dtype))
  return jax.tree.map(lambda x: jnp.where(zero > 0, x, x), args)


def better(new: Found, old: Found) -> Found:
  """Per row: fooled before not, then the higher score, then the old one."""
  wins = (new.fooled & ~old.fooled) | (
    (new.fooled == old.fooled) & (new.score > old.score)
  )
  return select(wins, new, old)


def space_of(problem: Problem, norm: Norm) -> Space:
  """The perturbations around the originals of a problem."""
  epsilon = problem.epsilon
  zero = jnp.zeros(len(problem.images), problem.lower.dtype)
  return Space(
    originals=[problem.images],
    norm=norm,
    epsilon=epsilon,
    step_size=zero if epsilon is None else epsilon,
    decay=None,
    lower=[problem.lower],
    upper=[problem.upper],
    mask=None,
  )


def problem_of(inputs: Inputs) -> Problem:
  """Puts checked inputs into the form of a search."""
  images = jnp.asarray(inputs.images)
  dtype = inputs_lib.compute_dtype(images)
  epsilon = inputs.epsilon
  if epsilon is not None:
    epsilon = jnp.broadcast_to(jnp.asarray(epsilon, dtype), (len(images),))
  key = jax.random.key(0) if inputs.key is None else inputs.key
  return Problem(
    images=images,
    labels=jnp.asarray(inputs.labels),
    targets=None if inputs.targets is None else jnp.asarray(inputs.targets),
    epsilon=epsilon,
    keys=inputs_lib.example_keys(key, len(images)),
    lower=jnp.asarray(inputs.lower[0], dtype),
    upper=jnp.asarray(inputs.upper[0], dtype),
  )


def _run(
  logits_fn: LogitsFn, inputs: Inputs, *, search: Search, num_restarts: int
) -> Array:
  problem = jax.lax.stop_gradient(problem_of(inputs))
  fold = jax.vmap(jax.random.fold_in, (0, None))
  batch = len(problem.images)

  def attempt(problem: Problem, restart: Any) -> Found:
    own = problem._replace(keys=fold(problem.keys, restart))
    state, _ = advance(
      search,
      logits_fn,
      own,
      search.start(own),
      jnp.zeros(batch, jnp.int32),
      jnp.ones(batch, bool),
      search.num_steps,
    )
    return search.found(own, state)

  if num_restarts == 1:
    return jax.lax.stop_gradient(attempt(problem, 0).images)
  score = jnp.full(batch, -jnp.inf, problem.lower.dtype)
  nothing = Found(problem.images, jnp.zeros(batch, bool), score)
  problem, nothing = _vary_alike(
    lambda problem, _: attempt(problem, 0), (problem, nothing)
  )
  # One after the other: the memory of one restart, whatever their number.
  found, _ = jax.lax.scan(
    lambda found, r: (better(attempt(problem, r), found), None),
    nothing,
    jnp.arange(num_restarts, dtype=jnp.uint32),
  )
  return jax.lax.stop_gradient(found.images)


# run(logits_fn, inputs, search=, num_restarts=) -> images. A search is static
# and compared by its functions: make one for the same choices, not one a call.
run = compile_per_callable(_run, ('search', 'num_restarts'))
