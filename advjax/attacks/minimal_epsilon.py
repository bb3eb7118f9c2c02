"""The smallest epsilon at which an attack succeeds, for every example."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from advjax import _arguments as arguments
from advjax._arguments import Problem
from advjax.attacks._core import loop
from advjax.attacks.success import fools
from advjax.callables import compile_per_callable
from advjax.types import Array, ArrayLike, Attack, Images, Labels, LogitsFn


class MinimalEpsilon(NamedTuple):
  """What `minimal_epsilon` returns; a pytree.

  Attributes:
    epsilon: `[B]`, the smallest radius found at which the attack succeeds: 0
      for what is misclassified from the beginning, inf where it does not
      succeed at the largest radius.
    images: What succeeded at that radius, of the shape and dtype of the images;
      the originals where epsilon is 0 or inf.
    found: bool `[B]`, whether epsilon is finite.
  """

  epsilon: Array
  images: Images
  found: Array


def minimal_epsilon(
  attack: Attack,
  logits_fn: LogitsFn,
  images: Images,
  labels: Labels,
  *,
  key: Array,
  max_epsilon: ArrayLike,
  num_bisections: int = 10,
) -> MinimalEpsilon:
  """Bisects the radius at which an attack begins to succeed, per example.

  `high` starts at max_epsilon and `low` at 0; `middle = (low + high) / 2`
  becomes high where the attack of that radius is misclassified, low where it is
  not, and the last high is returned. All examples bisect at once, each with a
  radius of its own, in num_bisections + 1 runs of the attack. The accuracy
  under the attack is then known for every radius: `mean(epsilon > radius)`.

  The keys stay the same from run to run. An attack need not succeed at every
  radius above one at which it does. What is returned then is still a radius at
  which it succeeded, one above a radius at which it failed (or 0), but perhaps
  not the smallest such; and inf always means that it failed at max_epsilon.

  Args:
    attack: `attack(logits_fn, images, labels, epsilon, keys) -> images` with
      epsilon `[B]` and keys `[B]`: any attack of fixed size, its other choices
      made. It has to keep to the bounds itself. Compiled once per object: do
      not make a new lambda for every call.
    logits_fn: images `[B, ...]` -> logits `[B, K]`, normalisation included.
    images: float `[B, ...]`, or a pytree where the attack takes one.
    labels: int `[B]`.
    key: one key, folded with the row, or `[B]` keys.
    max_epsilon: the largest radius, a scalar or `[B]`; may be traced.
    num_bisections: at least 1; static. epsilon is known to within
      `max_epsilon / 2**num_bisections`.

  Returns:
    Radii, images and whether there are any, behind stop_gradient.

  Raises:
    ValueError: if a shape, a static choice or a concrete value does not fit.

  Example:
    >>> import jax
    >>> import jax.numpy as jnp
    >>> import advjax
    >>> def attack(logits_fn, images, labels, epsilon, keys):
    ...   return advjax.fgsm(logits_fn, images, labels, epsilon)
    >>> logits_fn = lambda x: jnp.stack([x[:, 0], x[:, 1]], axis=-1)
    >>> images = jnp.array([[0.5, 0.25], [0.75, 0.25], [0.25, 0.75]])
    >>> epsilon, _, found = advjax.minimal_epsilon(
    ...   attack,
    ...   logits_fn,
    ...   images,
    ...   jnp.array([0, 0, 0]),
    ...   key=jax.random.key(0),
    ...   max_epsilon=0.2,
    ... )
    >>> epsilon.round(3)
    Array([0.125,   inf, 0.   ], dtype=float32)
    >>> found.tolist()
    [True, False, True]

    The robustness curve, at as many radii as you like:

    >>> radii = jnp.array([0.0, 0.1, 0.15])
    >>> jnp.mean(epsilon[None] > radii[:, None], axis=1).round(2)
    Array([0.67, 0.67, 0.33], dtype=float32)
  """
  if isinstance(attack, str):
    allowed = f'a function, such as advjax.parse_attack({attack!r})'
    raise arguments.error('attack', repr(attack), allowed)
  arguments.check_callable('attack', attack)
  arguments.check_given(key=key, max_epsilon=max_epsilon)
  problem = arguments.check(
    logits_fn, images, labels, key=key, integer_labels=True
  )
  limit = arguments.number(
    'max_epsilon', max_epsilon, problem.dtype, problem.batch
  )
  return _run(
    logits_fn,
    attack,
    problem._replace(epsilon=limit),
    num_bisections=arguments.count('num_bisections', num_bisections),
  )


def _bisect(
  logits_fn: LogitsFn, attack: Attack, problem: Problem, *, num_bisections: int
) -> MinimalEpsilon:
  problem = problem.per_example()
  images, limit = problem.images, problem.epsilon

  def bisect(
    _: Any, carry: tuple[Array, MinimalEpsilon]
  ) -> tuple[Array, MinimalEpsilon]:
    low, best = carry
    # What has failed at the limit continues to fail there.
    middle = (low + best.epsilon) / 2
    epsilon = jnp.where(best.found, middle, limit)
    perturbed = attack(logits_fn, images, problem.labels, epsilon, problem.keys)
    got, wanted = (
      jax.tree.map(lambda x: (jnp.shape(x), jnp.result_type(x)), tree)
      for tree in (perturbed, images)
    )
    if got != wanted:
      raise arguments.error('attack(...)', got, f'images like {wanted}')
    success = fools(logits_fn, problem._replace(images=perturbed))
    low = jnp.where(success, low, epsilon)
    # Below the smallest already there is nothing nearer: 0 stays 0.
    better = success & (epsilon < best.epsilon)
    new = MinimalEpsilon(epsilon, perturbed, success)
    return low, loop.select(better, new, best)

  clean = fools(logits_fn, problem)
  zero = jnp.zeros_like(limit)
  start = zero, MinimalEpsilon(jnp.where(clean, zero, jnp.inf), images, clean)
  start = loop.vary_alike(lambda *start: bisect(0, start), start)
  _, best = jax.lax.fori_loop(0, num_bisections + 1, bisect, start)
  return MinimalEpsilon(*jax.lax.stop_gradient(best))


_run = compile_per_callable(_bisect)
