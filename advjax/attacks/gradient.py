"""Gradient attacks of a fixed number of steps: FGSM, BIM, PGD and momentum.

All four are pure functions of a callable that maps images to logits, work under
jit, vmap, grad, scan, pmap and shard_map, and bring their own jit besides: a
bare call in a Python loop over epsilons compiles once.

Trap: a plain function (or functools.partial, or a stateful object) is compiled
once, with the arrays that it holds at that moment. Where those change later,
attack `jax.tree_util.Partial(apply, params)` instead: its arrays are traced.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from advjax import _arguments as arguments
from advjax import norms
from advjax._arguments import Problem
from advjax.attacks._core import loop
from advjax.attacks._core.loop import Found, Search
from advjax.callables import compile_per_callable
from advjax.losses import cross_entropy
from advjax.norms import Norm, expand
from advjax.types import (
  Array,
  ArrayLike,
  Bounds,
  Images,
  Labels,
  LogitsFn,
  LossFn,
  Tree,
)

# The step size where none is given, as a multiple of epsilon / num_steps.
STEP_SHARES = {'fgsm': 1.0, 'bim': 2.0, 'mifgsm': 1.0, 'pgd': 2.5}


def fgsm(
  logits_fn: LogitsFn,
  images: Images,
  labels: Labels,
  epsilon: ArrayLike,
  *,
  norm: str | Norm = 'linf',
  loss_fn: LossFn = cross_entropy,
  bounds: Bounds = (0.0, 1.0),
  targets: Labels | None = None,
  mask: Any = None,
) -> Images:
  """Fast gradient sign method: one step to the boundary of the ball.

  `x_adv = clip(x + epsilon * sign(grad_x loss(logits_fn(x), y)))`, and with
  another norm its steepest direction in place of the sign. The same as `bim`
  of one step of size epsilon without a key, bit for bit.

  Goodfellow et al. 2014, arXiv 1412.6572.

  Args:
    logits_fn: images `[B, ...]` -> logits `[B, K]`, normalisation included.
    images: float `[B, ...]` inside bounds, or a pytree of such arrays, which
      share one ball; leaves that are not floating stay as they are.
    labels: int `[B]` or float `[B, K]`; what loss_fn takes.
    epsilon: radius in units of the images: a scalar or `[B]`; may be traced.
    norm: 'linf', 'l2', 'l1', another name of `norms.get`, or a `norms.Norm`.
    loss_fn: `(logits, labels) -> [B]`, ascended.
    bounds: `(lower, upper)` of the images; either may be None, a number, an
      array that broadcasts or a pytree prefix of images. None: no clip.
    targets: like labels; the attack descends towards them instead.
    mask: values in [0, 1] that broadcast to the images; multiplies the gradient
      before the direction is taken. What has mask 0 never moves.

  Returns:
    Adversarial images of the same shape and dtype, within bounds and within
    epsilon of images, behind stop_gradient.

  Raises:
    ValueError: if a shape, a static choice or a concrete value does not fit.

  Example:
    >>> import jax.numpy as jnp
    >>> import advjax
    >>> logits_fn = lambda x: jnp.stack([x[:, 0], x[:, 1]], axis=-1)
    >>> images = jnp.array([[0.5, 0.25]])
    >>> advjax.fgsm(logits_fn, images, jnp.array([0]), 0.125)
    Array([[0.375, 0.375]], dtype=float32)
  """
  arguments.check_given(epsilon=epsilon)
  given = 'fgsm', logits_fn, images, labels, epsilon, None
  return _ascend(*given, 1, None, norm, loss_fn, bounds, targets, mask)


def bim(
  logits_fn: LogitsFn,
  images: Images,
  labels: Labels,
  epsilon: ArrayLike | None,
  step_size: ArrayLike | None = None,
  *,
  num_steps: int = 20,
  key: Array | None = None,
  norm: str | Norm = 'linf',
  loss_fn: LossFn = cross_entropy,
  bounds: Bounds = (0.0, 1.0),
  targets: Labels | None = None,
  mask: Any = None,
) -> Images:
  """Basic iterative method: small steps, each projected; the last iterate.

  `x_{k+1} = clip(x_0 + project(x_k - x_0 + step_size * direction(g_k)))`, where
  g_k is the gradient of the loss at x_k, direction the sign (in another norm
  that of steepest ascent) and project leads into the ball of radius epsilon.

  Kurakin et al. 2016, arXiv 1607.02533.

  Args:
    logits_fn: images `[B, ...]` -> logits `[B, K]`, normalisation included.
    images: float `[B, ...]` inside bounds, or a pytree; see `fgsm`.
    labels: int `[B]` or float `[B, K]`; what loss_fn takes.
    epsilon: radius of the ball, a scalar or `[B]`; None: no projection. May be
      traced, as step_size.
    step_size: length of each step, a scalar or `[B]`; None: 2 * epsilon /
      num_steps, so that the steps can cross the ball.
    num_steps: number of steps, at least 1; static. 20 is the paper's number for
      epsilon = 16/255, of steps of 1/255.
    key: None starts at the images. A key starts at a uniform draw from the ball
      (of radius step_size if epsilon is None): one key, folded with the row, or
      `[B]` keys.
    norm: 'linf', 'l2', 'l1', another name of `norms.get`, or a `norms.Norm`.
    loss_fn: `(logits, labels) -> [B]`, ascended.
    bounds: `(lower, upper)` of the images or None; see `fgsm`.
    targets: like labels; the attack descends towards them instead.
    mask: values in [0, 1] that multiply the gradient; see `fgsm`.

  Returns:
    Adversarial images of the same shape and dtype, within bounds and within
    epsilon of images, behind stop_gradient.

  Raises:
    ValueError: if a shape, a static choice or a concrete value does not fit.

  Example:
    >>> import jax.numpy as jnp
    >>> import advjax
    >>> logits_fn = lambda x: jnp.stack([x[:, 0], x[:, 1]], axis=-1)
    >>> images, labels = jnp.array([[0.5, 0.25]]), jnp.array([0])
    >>> advjax.bim(logits_fn, images, labels, 0.125, 0.0625, num_steps=4)
    Array([[0.375, 0.375]], dtype=float32)
  """
  given = 'bim', logits_fn, images, labels, epsilon, step_size
  return _ascend(*given, num_steps, key, norm, loss_fn, bounds, targets, mask)


def pgd(
  logits_fn: LogitsFn,
  images: Images,
  labels: Labels,
  epsilon: ArrayLike | None,
  step_size: ArrayLike | None = None,
  *,
  num_steps: int = 40,
  key: Array,
  num_restarts: int = 1,
  eot_samples: int | None = None,
  norm: str | Norm = 'linf',
  loss_fn: LossFn = cross_entropy,
  bounds: Bounds = (0.0, 1.0),
  targets: Labels | None = None,
  mask: Any = None,
) -> Images:
  """Projected gradient descent from random starts; the best iterate.

  The steps of `bim`, from uniform draws in the ball. Of all iterates of all
  restarts, the starts and the last ones included, it returns per example a
  misclassified one before a correct one (with targets: the target class before
  another), then the one of highest loss, then the earliest. Where no class can
  be read from the labels, the loss alone decides.

  The l1 direction is SLIDE's: the top 5 % of the coordinates, evenly. That of
  'nsl_l1' is the largest coordinate alone.

  Madry et al. 2017, arXiv 1706.06083; Tramer and Boneh 2019, arXiv 1904.13000;
  Athalye et al. 2017, arXiv 1707.07397 (expectation over transformation).

  Args:
    logits_fn: images `[B, ...]` -> logits `[B, K]`, normalisation included.
    images: float `[B, ...]` inside bounds, or a pytree; see `fgsm`.
    labels: int `[B]` or float `[B, K]`; what loss_fn takes.
    epsilon: radius of the ball, a scalar or `[B]`; None: no projection. May be
      traced, as step_size.
    step_size: length of each step, a scalar or `[B]`; None: 2.5 * epsilon /
      num_steps, which reaches the boundary from any start and leaves steps to
      move along it (Madry et al.).
    num_steps: number of steps, at least 1; static. 40 is that of Madry et al.
      on MNIST.
    key: one key, folded with the row, or `[B]` keys. Restart r folds in r, so
      that n restarts contain 1.
    num_restarts: number of random starts; static.
    eot_samples: for a random model, which is then called as
      `logits_fn(images, key)` with one example and one key: the number of draws
      per step over which losses, logits and gradients are averaged; static.
    norm: 'linf', 'l2', 'l1', another name of `norms.get`, or a `norms.Norm`.
    loss_fn: `(logits, labels) -> [B]`, ascended.
    bounds: `(lower, upper)` of the images or None; see `fgsm`.
    targets: like labels; the attack descends towards them instead.
    mask: values in [0, 1] that multiply the gradient; see `fgsm`.

  Returns:
    Adversarial images of the same shape and dtype, within bounds and within
    epsilon of images, behind stop_gradient.

  Raises:
    ValueError: if a shape, a static choice or a concrete value does not fit.

  Example:
    >>> import jax
    >>> import jax.numpy as jnp
    >>> import advjax
    >>> logits_fn = lambda x: jnp.stack([x[:, 0], x[:, 1]], axis=-1)
    >>> images, labels = jnp.array([[0.5, 0.25]]), jnp.array([0])
    >>> key = jax.random.key(0)
    >>> advjax.pgd(
    ...   logits_fn, images, labels, 0.125, 0.0625, num_steps=4, key=key
    ... )
    Array([[0.375, 0.375]], dtype=float32)
  """
  arguments.check_given(key=key)
  given = 'pgd', logits_fn, images, labels, epsilon, step_size
  return _ascend(
    *given,
    num_steps,
    key,
    norm,
    loss_fn,
    bounds,
    targets,
    mask,
    num_restarts=num_restarts,
    eot_samples=eot_samples,
    keep_best=True,
  )


def mifgsm(
  logits_fn: LogitsFn,
  images: Images,
  labels: Labels,
  epsilon: ArrayLike | None,
  step_size: ArrayLike | None = None,
  *,
  num_steps: int = 10,
  decay: ArrayLike = 1.0,
  key: Array | None = None,
  norm: str | Norm = 'linf',
  loss_fn: LossFn = cross_entropy,
  bounds: Bounds = (0.0, 1.0),
  targets: Labels | None = None,
  mask: Any = None,
) -> Images:
  """Momentum iterative method: `bim` along accumulated gradients.

  `v_{k+1} = decay * v_k + g_k / |g_k|_1`, and the step goes in the direction of
  v_{k+1}. Meant for perturbations that transfer to other models.

  Dong et al. 2017, arXiv 1710.06081.

  Args:
    logits_fn: images `[B, ...]` -> logits `[B, K]`, normalisation included.
    images: float `[B, ...]` inside bounds, or a pytree; see `fgsm`.
    labels: int `[B]` or float `[B, K]`; what loss_fn takes.
    epsilon: radius of the ball, a scalar or `[B]`; None: no projection. May be
      traced, as step_size and decay.
    step_size: length of each step, a scalar or `[B]`; None: epsilon /
      num_steps, as in the paper.
    num_steps: number of steps, at least 1; static. 10 is the paper's.
    decay: weight of the past; 0 is `bim`. A scalar.
    key: None starts at the images, a key at a draw from the ball; see `bim`.
    norm: 'linf', 'l2', 'l1', another name of `norms.get`, or a `norms.Norm`.
    loss_fn: `(logits, labels) -> [B]`, ascended.
    bounds: `(lower, upper)` of the images or None; see `fgsm`.
    targets: like labels; the attack descends towards them instead.
    mask: values in [0, 1] that multiply the gradient; see `fgsm`.

  Returns:
    Adversarial images of the same shape and dtype, within bounds and within
    epsilon of images, behind stop_gradient.

  Raises:
    ValueError: if a shape, a static choice or a concrete value does not fit.

  Example:
    >>> import jax.numpy as jnp
    >>> import advjax
    >>> logits_fn = lambda x: jnp.stack([x[:, 0], x[:, 1]], axis=-1)
    >>> images, labels = jnp.array([[0.5, 0.25]]), jnp.array([0])
    >>> advjax.mifgsm(logits_fn, images, labels, 0.125, 0.0625, num_steps=4)
    Array([[0.375, 0.375]], dtype=float32)
  """
  if decay is None:
    raise arguments.error('decay', None, 'a number >= 0')
  given = 'mifgsm', logits_fn, images, labels, epsilon, step_size
  options = norm, loss_fn, bounds, targets, mask
  return _ascend(*given, num_steps, key, *options, decay=decay)


def _ascend(
  name: str,
  logits_fn: LogitsFn,
  images: Images,
  labels: Labels,
  epsilon: Any,
  step_size: Any,
  num_steps: int,
  key: Any,
  norm: str | Norm,
  loss_fn: LossFn,
  bounds: Bounds,
  targets: Labels | None,
  mask: Any,
  *,
  decay: Any = None,
  num_restarts: int = 1,
  eot_samples: int | None = None,
  keep_best: bool = False,
) -> Images:
  """Checks the arguments and runs the compiled ascent."""
  if eot_samples is not None:
    eot_samples = arguments.count('eot_samples', eot_samples)
  problem = arguments.check(
    logits_fn,
    images,
    labels,
    epsilon=epsilon,
    bounds=bounds,
    targets=targets,
    mask=mask,
    key=key,
    loss_fn=loss_fn,
    eot_samples=eot_samples,
  )
  if decay is not None:
    decay = arguments.number('decay', decay, problem.dtype)
  num_steps = arguments.count('num_steps', num_steps)
  if step_size is None:
    if epsilon is None:
      raise arguments.error('step_size', None, 'a number where epsilon is None')
    # On the host where it can be: a product of JAX arrays would compile.
    radius = np.asarray(epsilon) if arguments.is_concrete(epsilon) else epsilon
    step_size = radius * (STEP_SHARES[name] / num_steps)
  perturbed = _compiled(
    logits_fn,
    loss_fn,
    problem,
    arguments.number('step_size', step_size, problem.dtype, problem.batch),
    decay,
    norm=norms.get(norm),
    num_steps=num_steps,
    num_restarts=arguments.count('num_restarts', num_restarts),
    eot_samples=eot_samples,
    keep_best=keep_best,
  )
  return arguments.combine(perturbed, problem.images)


def _ascent(
  logits_fn: LogitsFn,
  loss_fn: LossFn,
  problem: Problem,
  step_size: Array,
  decay: Array | None,
  *,
  num_restarts: int,
  **static: Any,
) -> Tree:
  traced = jax.lax.stop_gradient((step_size, decay))
  search = make_ascent(logits_fn, loss_fn, *traced, **static)
  return loop.iterate(search, logits_fn, problem.per_example(), num_restarts)


_compiled = compile_per_callable(_ascent)


class _State(NamedTuple):
  """The iterate of the ascent, and the best one so far."""

  delta: Tree
  velocity: Tree | None
  # Of the images before the last step, [B]. Under shard_map the state has to
  # vary over the mesh as the loss does.
  score: Array
  best: Found | None


def make_ascent(
  logits_fn: LogitsFn,
  loss_fn: LossFn,
  step_size: Any,
  decay: Any = None,
  *,
  norm: Norm,
  num_steps: int,
  eot_samples: int | None = None,
  keep_best: bool = False,
) -> Search:
  """Steps along the gradient; finds the last iterate, or the best one."""

  def score_fn(problem: Problem, logits: Any) -> Array:
    return loop.attack_loss(problem, loss_fn, logits)

  def length(problem: Problem) -> Array:
    return arguments.per_example(step_size, problem.dtype, problem.batch)

  def start(problem: Problem) -> _State:
    delta = problem.zeros()
    if problem.keys is not None:
      radius = problem.epsilon
      delta = problem.sample(
        norm,
        loop.fold(problem.keys, 0),
        length(problem) if radius is None else radius,
      )
    nothing = loop.nothing_found(problem)
    return _State(
      delta,
      None if decay is None else problem.zeros(),
      nothing.score,
      nothing if keep_best else None,
    )

  def step(
    logits_fn: LogitsFn, problem: Problem, state: _State, t: Array
  ) -> _State:
    images = problem.perturb(state.delta, norm)
    gradient, score, fooled = loop.evaluate_with_gradient(
      logits_fn, problem, images, t + 1, score_fn, eot_samples
    )
    best = state.best
    if best is not None:
      best = loop.better(Found(images, fooled, score), best)

    if problem.mask is not None:
      gradient = jax.tree.map(jnp.multiply, gradient, problem.mask)
    velocity = state.velocity
    if velocity is not None:
      velocity = gradient = jax.tree.map(
        lambda v, g: jnp.asarray(decay, v.dtype) * v + g,
        velocity,
        norms.unit_l1(gradient),  # One norm over all leaves.
      )
    direction = norm.direction(gradient, *problem.slack(state.delta))
    delta = jax.tree.map(
      lambda d, u: d + expand(length(problem), d).astype(d.dtype) * u,
      state.delta,
      direction,
    )
    lower, upper = problem.slack()
    if problem.epsilon is None:
      delta = jax.tree.map(jnp.clip, delta, lower, upper)
    else:
      delta = norm.project(delta, problem.epsilon, lower, upper)
    return _State(delta, velocity, score, best)

  def found(problem: Problem, state: _State) -> Found:
    images = problem.perturb(state.delta, norm)
    if state.best is None:
      return Found(images, state.score > jnp.inf, state.score)
    _, (score, fooled) = loop.evaluate(
      logits_fn, problem, images, num_steps + 1, score_fn, eot_samples
    )
    return loop.better(Found(images, fooled, score), state.best)

  return Search(start, step, found, num_steps)
