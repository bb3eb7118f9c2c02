"""Guided backpropagation, by rewriting the jaxpr of a function.

Every ReLU that is a maximum with 0 is replaced where it stands by one whose
backward pass drops negative gradients as well; everything around it, loops,
branches and calls, stays as it is.
"""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend.core import ClosedJaxpr, Jaxpr, JaxprEqn, Literal, jaxpr_as_fun

from advjax.callables import compile_per_callable
from advjax.explain import inputs
from advjax.types import Array, LogitsFn

# What makes zeros of zeros, so that `jnp.maximum(x, jnp.zeros_like(x))` and
# `jnp.clip(x, 0, 6)` are seen to be ReLUs.
_KEEP_ZERO = frozenset(
  {'broadcast_in_dim', 'convert_element_type', 'copy', 'reshape', 'squeeze'}
)
# Calls whose derivative is a rule of its own, which knows the ReLU inside.
_OWN_RULE = frozenset({'custom_jvp_call', 'custom_vjp_call'})


def guided_backprop(logits_fn: LogitsFn, images: Array, labels: Array) -> Array:
  """The gradient of a class's logit, with guided ReLUs on the way back.

  Where `y = max(x, 0)`, the gradient `g` becomes `(x > 0) * max(g, 0)`: only
  what speaks for a unit that is on goes on towards the image.

  The function is traced, and the ReLUs are found in its jaxpr: jax.nn.relu and
  relu6, jnp.maximum with 0 and jnp.clip from 0, also inside jit, scan, while,
  cond, remat and custom derivatives. Not found are those made by comparisons,
  `jnp.where(x > 0, x, 0)`. The variance of a normalisation, cut off at 0, is
  left alone.

  Springenberg et al. 2014, arXiv 1412.6806.

  Args:
    logits_fn: Images `[B, H, W, C]` to logits `[B, K]`.
    images: Floating `[B, H, W, C]`.
    labels: The classes to explain, int `[B]`.

  Returns:
    `[B, H, W, C]`, in the dtype of the images.

  Raises:
    ValueError: if an argument is not as above, or there is no ReLU.

  Example:
    >>> def logits_fn(images):
    ...   hidden = jax.nn.relu(images.reshape(-1, 2))
    ...   return hidden @ jnp.array([[2.0], [-1.0]])
    >>> images = jnp.ones((1, 1, 2, 1))
    >>> guided_backprop(logits_fn, images, jnp.array([0]))[0, 0, :, 0]
    Array([2., 0.], dtype=float32)
  """
  images, labels = inputs.check(logits_fn, images, labels)
  return _guided_backprop(logits_fn, images, labels)


def guide(function: Callable[[Array], Array], x: Array) -> Callable:
  """Replaces the ReLUs of a function of one array by guided ones.

  Args:
    function: Any JAX function of one array that returns one array.
    x: An example of what it is called with: shape and dtype count.

  Returns:
    A function of the same values and of guided derivatives.

  Raises:
    ValueError: if it has no ReLU.

  Example:
    >>> guided = guide(lambda x: -jax.nn.relu(x), jnp.ones(()))
    >>> jax.grad(guided)(1.0)
    Array(0., dtype=float32)
  """
  closed = jax.make_jaxpr(function)(x)
  rewritten, _, count = _rewrite(closed.jaxpr, [False])
  if not count:
    raise ValueError(
      'logits_fn has no ReLU, and guided backpropagation is about ReLUs; '
      'allowed: functions with jax.nn.relu, relu6 or max(x, 0)'
    )
  run = jaxpr_as_fun(ClosedJaxpr(rewritten, closed.consts))
  return lambda x: run(x)[0]


def has_relu(function: Callable[[Array], Array], x: Array) -> bool:
  """Whether `guided_backprop` would find a ReLU in a function of one array.

  Args:
    function: Any JAX function of one array.
    x: An example of what it is called with, or its shape and dtype.

  Returns:
    Whether there is one.

  Example:
    >>> has_relu(jnp.tanh, jnp.ones(())), has_relu(jax.nn.relu, jnp.ones(()))
    (False, True)
  """
  return _rewrite(jax.make_jaxpr(function)(x).jaxpr, [False])[2] > 0


def _run(logits_fn: LogitsFn, images: Array, labels: Array) -> Array:
  guided = guide(logits_fn, images)

  def total(images: Array) -> Array:
    return inputs.class_logits(guided(images), labels).sum()

  return jax.grad(total)(images)


_guided_backprop = compile_per_callable(_run, ())


@jax.custom_vjp
def _guided_relu(x: Array) -> Array:
  return jnp.maximum(x, 0)


def _forward(x: Array) -> tuple[Array, Array]:
  return _guided_relu(x), x > 0


def _backward(is_on: Array, gradient: Array) -> tuple[Array]:
  return (jnp.where(is_on, jnp.maximum(gradient, 0), 0),)


_guided_relu.defvjp(_forward, _backward)


def _rewrite(
  jaxpr: Jaxpr, zero_inputs: Sequence[bool]
) -> tuple[Jaxpr, list[bool], int]:
  """Guides the ReLUs of a jaxpr.

  Args:
    jaxpr: Any; its constants may be anything.
    zero_inputs: Which of its inputs are known to be 0.

  Returns:
    The new jaxpr, which of its outputs are known to be 0, and how many ReLUs
    were found.
  """
  zeros = {v for v, z in zip(jaxpr.invars, zero_inputs, strict=True) if z}
  made_by: dict[Any, JaxprEqn] = {}

  def is_zero(atom: Any) -> bool:
    if isinstance(atom, Literal):
      return bool(np.ndim(atom.val) == 0 and atom.val == 0)
    return atom in zeros

  equations, count = [], 0
  for equation in jaxpr.eqns:
    known = [is_zero(atom) for atom in equation.invars]
    new, outputs, found = _guide_equation(equation, known, made_by)
    equations.append(new)
    count += found
    for variable, is_known in zip(new.outvars, outputs, strict=True):
      made_by[variable] = equation
      if is_known:
        zeros.add(variable)
  outputs = [is_zero(atom) for atom in jaxpr.outvars]
  return jaxpr.replace(eqns=equations), outputs, count


def _guide_equation(
  equation: JaxprEqn, known: Sequence[bool], made_by: dict[Any, JaxprEqn]
) -> tuple[JaxprEqn, list[bool], int]:
  """As `_rewrite`, of one equation."""
  name, unknown = equation.primitive.name, [False] * len(equation.outvars)
  if name in _KEEP_ZERO:
    return equation, [known[0]], 0
  if name == 'max' and any(known):
    (variable,) = equation.outvars
    rest: Any = equation.invars[known.index(True) - 1]
    if rest.aval.shape != _abstract(variable).shape or _is_variance(
      rest, made_by
    ):
      return equation, unknown, 0
    (guided,) = jax.make_jaxpr(_guided_relu)(_abstract(rest)).jaxpr.eqns
    return _instead(guided, [rest], equation), unknown, 1
  params, outputs, count = dict(equation.params), unknown, 0
  for key, value in equation.params.items():
    params[key], found, zero_outputs = _guide_param(value, name, known)
    count += found
    outputs = zero_outputs or outputs
  if not count:
    return equation, outputs, 0
  if name in _OWN_RULE:
    body = params['call_jaxpr']
    if isinstance(body, Jaxpr):
      body = ClosedJaxpr(body, ())
    avals = [_abstract(atom) for atom in equation.invars]
    (call,) = jax.make_jaxpr(jax.jit(jaxpr_as_fun(body)))(*avals).jaxpr.eqns
    return _instead(call, equation.invars, equation), outputs, count
  return equation.replace(params=params), outputs, count


def _guide_param(
  value: Any, name: str, known: Sequence[bool]
) -> tuple[Any, int, list[bool] | None]:
  """Guides what may be a jaxpr, or several (the branches of a cond)."""
  if isinstance(value, tuple):
    parts = [_guide_param(part, name, known) for part in value]
    if any(found for _, found, _ in parts):
      return tuple(part for part, _, _ in parts), sum(p[1] for p in parts), None
    return value, 0, None
  if not isinstance(value, ClosedJaxpr | Jaxpr):
    return value, 0, None
  jaxpr = value.jaxpr if isinstance(value, ClosedJaxpr) else value
  # Only a call takes its inputs as they are; a loop may change them.
  is_call = name in ('jit', 'pjit', *_OWN_RULE)
  if not is_call or len(jaxpr.invars) != len(known):
    known = [False] * len(jaxpr.invars)
  rewritten, outputs, count = _rewrite(jaxpr, known)
  new: Any = rewritten
  if isinstance(value, ClosedJaxpr):
    new = ClosedJaxpr(rewritten, value.consts)
  return new, count, outputs if is_call else None


def _instead(new: JaxprEqn, inputs_: Sequence[Any], old: JaxprEqn) -> JaxprEqn:
  """Puts an equation in the place of another one."""
  return new.replace(
    invars=list(inputs_),
    outvars=old.outvars,
    source_info=old.source_info,
    ctx=old.ctx,
  )


def _is_variance(atom: Any, made_by: dict[Any, JaxprEqn]) -> bool:
  """Whether it is `E[x^2] - E[x]^2`, which rounding can make negative."""

  def maker(atom: Any) -> JaxprEqn | None:
    return None if isinstance(atom, Literal) else made_by.get(atom)

  difference = maker(atom)
  if difference is None or difference.primitive.name != 'sub':
    return False
  square = maker(difference.invars[1])
  if square is None:
    return False
  name, operands = square.primitive.name, square.invars
  return (
    name == 'square'
    or (name == 'integer_pow' and square.params['y'] == 2)
    or (name == 'mul' and operands[0] is operands[1])
  )


def _abstract(atom: Any) -> jax.ShapeDtypeStruct:
  return jax.ShapeDtypeStruct(atom.aval.shape, atom.aval.dtype)
