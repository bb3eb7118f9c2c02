"""The loop behind the iterated attacks: steps, restarts and the best found.

A search keeps everything about a row of the batch in that row of its state.
So rows of different age can share a batch, one that is done is replaced by
another, and what a row finds depends on nothing but itself.
"""

from collections.abc import Callable
from typing import Any, NamedTuple, TypeVar

import jax
import jax.numpy as jnp

from advjax import _arguments as arguments
from advjax import losses
from advjax._arguments import Problem, combine, difference, wide
from advjax.callables import compile_per_callable
from advjax.norms import Norm, expand
from advjax.types import Array, Images, Labels, LogitsFn, LossFn, Tree

# A pytree of arrays with the batch as their leading axis.
State = Any
_State = TypeVar('_State')


class Found(NamedTuple):
  """The best that a search has found so far, inside the ball and the box."""

  images: Tree  # [B, ...], the floating leaves
  fooled: Array  # bool [B]: misclassified, or classified as the target
  score: Array  # [B]: among rows as fooled, the higher the better


class Search(NamedTuple):
  """An iterated attack with its static choices made.

  Attributes:
    start: `start(problem) -> state`; does not evaluate the network.
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
  num_forward: int = 1
  num_backward: int = 1


def iterate(
  search: Search, logits_fn: LogitsFn, problem: Problem, num_restarts: int = 1
) -> Tree:
  """All steps of all restarts: the images found, behind stop_gradient."""

  def attempt(problem: Problem, restart: Any) -> Found:
    problem = problem._replace(keys=fold(problem.keys, restart))
    zero = jnp.zeros(problem.batch, jnp.int32)
    problem, state = vary_alike(
      lambda problem, state: search.step(logits_fn, problem, state, zero),
      (problem, search.start(problem)),
    )

    def step(t: Any, state: State) -> State:
      return search.step(logits_fn, problem, state, zero + t)

    if search.num_steps == 1:
      state = step(0, state)
    else:
      state = jax.lax.fori_loop(0, search.num_steps, step, state)
    return search.found(problem, state)

  if num_restarts == 1:
    return jax.lax.stop_gradient(attempt(problem, 0).images)
  problem, nothing = vary_alike(
    lambda problem, _: attempt(problem, 0), (problem, nothing_found(problem))
  )
  # One after the other: the memory of one restart, whatever their number.
  found, _ = jax.lax.scan(
    lambda found, r: (better(attempt(problem, r), found), None),
    nothing,
    jnp.arange(num_restarts, dtype=jnp.uint32),
  )
  return jax.lax.stop_gradient(found.images)


def _run(
  logits_fn: LogitsFn,
  search: Callable[[], Search],
  problem: Problem,
  *,
  num_restarts: int,
) -> Array:
  problem = problem.per_example()
  images: Array = iterate(search(), logits_fn, problem, num_restarts)
  return images


_compiled = compile_per_callable(_run)


def attack(
  search: Callable[[], Search],
  logits_fn: LogitsFn,
  images: Images,
  labels: Labels,
  *,
  num_restarts: int = 1,
  **choices: Any,
) -> Array:
  """Runs a search on one array of images; `choices` are those of `check`.

  `search` is a `Partial` that makes it: static choices compare by value.
  """
  search()  # For its errors: it is made again inside the program.
  num_restarts = arguments.count('num_restarts', num_restarts)
  problem = arguments.check(
    logits_fn, images, labels, one_array=True, **choices
  )
  return _compiled(logits_fn, search, problem, num_restarts=num_restarts)


def advance(
  search: Search,
  logits_fn: LogitsFn,
  problem: Problem,
  state: State,
  t: Array,
  active: Array,
  count: int,
) -> tuple[State, Array]:
  """Up to `count` steps of the rows that are active and not yet done.

  `t`, int32 `[B]`, counts the steps that each row has taken; it is returned
  with the state. Rows that are not `active`, bool `[B]`, rest.
  """

  def step(_: Any, carry: tuple[State, Array]) -> tuple[State, Array]:
    state, t = carry
    moves = active & (t < search.num_steps)
    new = search.step(logits_fn, problem, state, t)
    return select(moves, new, state), t + moves.astype(t.dtype)

  problem, state, t, active = vary_alike(
    lambda problem, state, t, _: search.step(logits_fn, problem, state, t),
    (problem, state, t, active),
  )
  result: tuple[State, Array] = jax.lax.fori_loop(0, count, step, (state, t))
  return result


def vary_alike(step: Callable[..., Any], args: Any) -> Any:
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


def select(rows: Array, new: _State, old: _State) -> _State:
  """Takes the rows that are True from `new`, all others from `old`."""
  result: _State = jax.tree.map(
    lambda n, o: jnp.where(expand(rows, n), n, o), new, old
  )
  return result


def nothing_found(problem: Problem) -> Found:
  """The originals, which anything beats."""
  score = jnp.full(problem.batch, -jnp.inf, problem.dtype)
  return Found(problem.originals, jnp.zeros(problem.batch, bool), score)


def nearer(
  images: Array, fooled: Array, old: Found, problem: Problem, norm: Norm
) -> tuple[Found, Array]:
  """Takes images that fool and are nearer; also returns their distances."""
  size = norm.size(difference(images, problem.images))
  fooled = fooled & (size < jnp.inf)
  score = jnp.where(fooled, -size, -jnp.inf)
  return better(Found(images, fooled, score), old), size


def better(new: Found, old: Found) -> Found:
  """Per row: fooled before not, then the higher score, then the old one."""
  wins = (new.fooled & ~old.fooled) | (
    (new.fooled == old.fooled) & (new.score > old.score)
  )
  return select(wins, new, old)


# ------------------------------------------------------- what a step evaluates


def evaluate(
  logits_fn: LogitsFn,
  problem: Problem,
  images: Tree,
  t: Any,
  score_fn: Callable[[Problem, Any], Array],
  eot_samples: int | None = None,
  wanted: Problem | None = None,
) -> tuple[Array, tuple[Array, Array]]:
  """The sum of the scores, to differentiate; the scores, and who is fooled.

  `score_fn(problem, logits)` is `[B]`; the labels or targets of `wanted`, or
  else of the problem, say what is fooled. With `eot_samples` both see the mean
  over that many draws of a random model, which depend on a row's key, its t,
  and the sample.
  """

  def once(keys: Array | None) -> tuple[Array, Any]:
    logits = call(logits_fn, combine(images, problem.images), keys)
    if keys is None and getattr(logits, 'dtype', None) == jnp.float16:
      logits = _from_half(logits)
    return score_fn(problem, logits), logits

  if eot_samples is None:
    score, logits = once(None)
  else:
    # One after the other and recomputed for the gradient: the memory of one
    # sample, whatever their number.
    step_keys = fold(problem.keys, t)
    sample = jax.checkpoint(lambda s: once(fold(step_keys, s)))
    score, logits = jax.tree.map(
      lambda x: jnp.mean(x, axis=0),
      jax.lax.map(sample, jnp.arange(eot_samples, dtype=jnp.uint32)),
    )
  fooled = is_fooled(wanted or problem, logits) & ~jnp.isnan(score)
  # Any score, NaN as well, beats the -inf of having found nothing.
  seen = jax.lax.stop_gradient(score).astype(problem.dtype)
  lowest = jnp.finfo(seen.dtype).min
  seen = jnp.where(seen > lowest, seen, lowest)
  return jnp.sum(score), (seen, fooled)


def evaluate_with_gradient(
  logits_fn: LogitsFn, problem: Problem, images: Tree, *args: Any
) -> tuple[Tree, Array, Array]:
  """The finite gradient of `evaluate`, the scores, and who is fooled."""
  gradient_fn = jax.grad(
    lambda images: evaluate(logits_fn, problem, images, *args), has_aux=True
  )
  gradient, (score, fooled) = gradient_fn(images)
  gradient = jax.tree.map(finite, jax.lax.stop_gradient(gradient))
  return gradient, score, fooled


def finite(gradient: Array) -> Array:
  """A gradient in float32 or better, 0 where it is not finite."""
  gradient = gradient.astype(wide(gradient))
  return jnp.where(jnp.isfinite(gradient), gradient, 0)


def call(logits_fn: LogitsFn, images: Images, keys: Array | None = None) -> Any:
  """What the network returns; with keys, a random model."""
  if keys is None:
    return arguments.call(logits_fn, images)

  # Example by example: what a random model draws cannot depend on the batch.
  def one(image: Any, key: Array) -> Any:
    image = jax.tree.map(lambda x: x[None], image)
    logits = arguments.call(logits_fn, image, key)
    return jax.tree.map(lambda x: x[0], logits)

  return jax.vmap(one)(images, keys)


def call_for_logits(logits_fn: LogitsFn, images: Images) -> Array:
  """The same where the attack itself needs logits `[B, K]`."""
  logits = call(logits_fn, images)
  losses.check_logits(logits, jax.tree.leaves(images)[0].shape[0])
  return jnp.asarray(logits)


@jax.custom_vjp
def _from_half(logits: Array) -> Array:
  """float16 as float32; gradients of a row are scaled to fit into float16."""
  return logits.astype(jnp.float32)


def _to_half(_: None, gradient: Array) -> tuple[Array]:
  # Of a sure network they are smaller than any float16.
  axes = tuple(range(1, gradient.ndim))
  largest = jnp.max(jnp.abs(gradient), axes, keepdims=True, initial=0)
  scaled = gradient / jnp.where(largest > 0, largest, 1)
  return (scaled.astype(jnp.float16),)


_from_half.defvjp(lambda logits: (_from_half(logits), None), _to_half)


def attack_loss(problem: Problem, loss_fn: LossFn, logits: Any) -> Array:
  """The loss to maximise, [B]: with targets, minus the loss towards them."""
  targeted = problem.targets is not None
  loss: Any = loss_fn(logits, problem.targets if targeted else problem.labels)
  per_row = getattr(loss, 'shape', None) == (problem.batch,)
  if not per_row or not arguments.is_floating(loss):
    allowed = f'float [{problem.batch}], one loss per example'
    raise arguments.error('loss_fn(...)', loss, allowed)
  result: Array = jnp.asarray(loss, problem.dtype)
  return -result if targeted else result


def is_fooled(problem: Problem, logits: Any) -> Array:
  """Whether rows are misclassified, or as their targets; False if unknown."""
  targeted = problem.targets is not None
  wanted = problem.targets if targeted else problem.labels
  unknown = jnp.zeros(problem.batch, bool)
  if not isinstance(logits, jax.Array) or not isinstance(wanted, jax.Array):
    return unknown
  if logits.ndim == 2 and wanted.shape == logits.shape:
    wanted = jnp.argmax(wanted, axis=-1)
  elif logits.ndim != 2 or not jnp.issubdtype(wanted.dtype, jnp.integer):
    return unknown
  if wanted.ndim != 1:
    return unknown
  hit = (jnp.argmax(logits, axis=-1) == wanted.astype(int)) == targeted
  return hit & ~jnp.any(jnp.isnan(logits), axis=-1)  # NaN predicts nothing.


def fold(keys: Any, data: Any) -> Any:
  """Folds a number, or one per key ([B]), into keys [B]; None stays None."""
  if keys is None:
    return None
  axis = 0 if jnp.ndim(data) else None
  return jax.vmap(jax.random.fold_in, (0, axis))(keys, data)
