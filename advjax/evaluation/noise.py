"""Random noise of the size of an attack, which any attack should beat."""

import dataclasses
from collections.abc import Callable

import jax
import jax.numpy as jnp

from advjax import _arguments as arguments
from advjax import norms
from advjax._arguments import Problem
from advjax.norms import Norm, expand
from advjax.types import Array, LogitsFn

NOISES = ('uniform', 'gaussian', 'salt_and_pepper')


@jax.tree_util.register_dataclass  # Equal ones share programs.
@dataclasses.dataclass(frozen=True)
class Noise:
  """Random perturbations within a ball, in the form of an attack.

  They are clipped to the pixel range, and so may be smaller than epsilon:

  - 'uniform': a point drawn uniformly from the ball.
  - 'gaussian': linf: epsilon / 2 times a normal value per pixel, clipped to the
    ball; l2, l1: a Gaussian direction of length epsilon.
  - 'salt_and_pepper': linf: +epsilon or -epsilon at every pixel; l2, l1: values
    in random order are set to an end of the pixel range, the last as far as the
    ball allows.
  """

  name: str  # one of NOISES
  norm: str = 'linf'
  bounds: tuple[float, float] | None = (0.0, 1.0)

  def __call__(
    self,
    logits_fn: LogitsFn,
    images: Array,
    labels: Array,
    epsilon: Array | float,
    keys: Array,
  ) -> Array:
    """Adds the noise to `[B, ...]`; logits_fn and labels change nothing."""
    problem = arguments.check(
      logits_fn,
      images,
      labels,
      epsilon=epsilon,
      bounds=self.bounds,
      key=keys,
    ).per_example()
    draw = {
      'uniform': _uniform,
      'gaussian': _gaussian,
      'salt_and_pepper': _signs if self.norm == 'linf' else _salt_and_pepper,
    }[self.name]
    norm = norms.get(self.norm)
    return problem.perturb(draw(problem, norm), norm)


def noises(norm: str, bounds: tuple[float, float] | None) -> dict[str, Noise]:
  """Returns all noises that are possible in a norm, by name."""
  ends = bounds is not None or norm == 'linf'
  return {
    name: Noise(name, norm, bounds)
    for name in NOISES
    if ends or name != 'salt_and_pepper'
  }


def _uniform(problem: Problem, norm: Norm) -> Array:
  return problem.sample(norm, problem.keys, problem.epsilon)


def _gaussian(problem: Problem, norm: Norm) -> Array:
  draws = _draw(jax.random.normal, problem)
  radius = expand(problem.epsilon, draws).astype(draws.dtype)
  if norm is norms.linf:
    return jnp.clip(draws * radius / 2, -radius, radius)
  size = expand(norm.size(draws), draws).astype(draws.dtype)
  return draws * (radius / size)


def _signs(problem: Problem, norm: Norm) -> Array:
  del norm
  draws = _draw(jax.random.rademacher, problem)
  return draws * expand(problem.epsilon, draws).astype(draws.dtype)


def _salt_and_pepper(problem: Problem, norm: Norm) -> Array:
  power = 1 if norm is norms.l1 else 2

  def one(key: Array, radius: Array, lower: Array, upper: Array) -> Array:
    side_key, order_key = jax.random.split(key)
    salt = jax.random.bernoulli(side_key, 0.5, lower.shape)
    target = jnp.where(salt, upper, lower).ravel()
    order = jax.random.permutation(order_key, target.size)
    target = target[order]
    costs = jnp.abs(target) ** power
    left = radius.astype(costs.dtype) ** power - (jnp.cumsum(costs) - costs)
    # Values whose cost fits in the remaining norm go to the end of the range.
    part = jnp.sign(target) * jnp.maximum(left, 0) ** (1 / power)
    moved = jnp.where(left >= costs, target, part)
    return jnp.zeros_like(moved).at[order].set(moved).reshape(lower.shape)

  return jax.vmap(one)(problem.keys, problem.epsilon, *problem.slack())


def _draw(distribution: Callable[..., Array], problem: Problem) -> Array:
  """Draws images, one per key."""
  shape, dtype = problem.images.shape[1:], problem.dtype
  return jax.vmap(lambda key: distribution(key, shape, dtype))(problem.keys)
