"""Guided backpropagation, by rewriting the jaxpr of a function.

Every ReLU that is a maximum with 0 is replaced in place by one whose
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
from advjax.explain.saliency import check, class_gradient
from advjax.types import Array, LogitsFn

# What makes zeros of zeros, so that `jnp.maximum(x, jnp.zeros_like(x))` and
# `jnp.clip(x, 0, 6)` are seen to be ReLUs.
_KEEP_ZERO = frozenset(
  {'broadcast_in_dim', 'convert_element_type', 'copy', 'reshape', 'squeeze'}
)
_JAXPRS = (ClosedJaxpr, Jaxpr)
# Calls with a derivative rule of their own, for a ReLU inside.
_OWN_RULE = frozenset({'custom_jvp_call', 'custom_vjp_call'})


def guided_backprop(logits_fn: LogitsFn, images: Array, labels: Array) -> Array:
  """The gradient of a class's logit, with guided ReLUs on the way back.

  Where `y = max(x, 0)`, the gradient `g` becomes `(x > 0) * max(g, 0)`: only
  what increases an active unit is passed back to the image.

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
  images, labels = check(logits_fn, images, labels)
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
  guiding = _Guiding()
  rewritten, _ = guiding.jaxpr(closed.jaxpr, [False])
  if not guiding.count:
    raise ValueError(
      'logits_fn has no ReLU, and guided backpropagation is about ReLUs; '
      'allowed: functions with jax.nn.relu, relu6 or max(x, 0)'
    )
  run = jaxpr_as_fun(ClosedJaxpr(rewritten, closed.consts))
  return lambda x: run(x)[0]


def has_relu(function: Callable[[Array], Array], x: Array) -> bool:
  """Whether `guided_backprop` would find a ReLU in a function of one array."""
  guiding = _Guiding()
  guiding.jaxpr(jax.make_jaxpr(function)(x).jaxpr, [False])
  return guiding.count > 0


@compile_per_callable
def _guided_backprop(
  logits_fn: LogitsFn, images: Array, labels: Array
) -> Array:
  return class_gradient(guide(logits_fn, images), images, labels)


@jax.custom_vjp
def _guided_relu(x: Array) -> Array:
  return jnp.maximum(x, 0)


_guided_relu.defvjp(
  lambda x: (_guided_relu(x), x > 0),
  lambda active, g: (jnp.where(active, jnp.maximum(g, 0), 0),),
)


class _Guiding:
  """Replaces the ReLUs of jaxprs by guided ones, and counts them."""

  def __init__(self) -> None:
    self.count = 0

  def jaxpr(
    self, jaxpr: Jaxpr, zero_inputs: Sequence[bool]
  ) -> tuple[Jaxpr, list[bool]]:
    """From a jaxpr, and which of its inputs are 0, to one, and its outputs."""
    zeros = {v for v, z in zip(jaxpr.invars, zero_inputs, strict=True) if z}
    made_by: dict[Any, JaxprEqn] = {}

    def is_zero(atom: Any) -> bool:
      if isinstance(atom, Literal):
        return bool(np.ndim(atom.val) == 0 and atom.val == 0)
      return atom in zeros

    equations = []
    for equation in jaxpr.eqns:
      known = [is_zero(atom) for atom in equation.invars]
      new, zero_outputs = self.equation(equation, known, made_by)
      equations.append(new)
      for variable, is_known in zip(new.outvars, zero_outputs, strict=True):
        made_by[variable] = equation
        if is_known:
          zeros.add(variable)
    return jaxpr.replace(eqns=equations), [is_zero(v) for v in jaxpr.outvars]

  def equation(
    self,
    equation: JaxprEqn,
    known: Sequence[bool],
    made_by: dict[Any, JaxprEqn],
  ) -> tuple[JaxprEqn, Sequence[bool]]:
    """The same of one equation, whose inputs others made."""
    name, zero_outputs = (
      equation.primitive.name,
      [False] * len(equation.outvars),
    )
    if name in _KEEP_ZERO:
      return equation, [known[0]]
    if name == 'max' and any(known):
      rest: Any = equation.invars[known.index(True) - 1]
      (variable,) = equation.outvars
      same_shape = rest.aval.shape == _abstract(variable).shape
      if not same_shape or _is_variance(rest, made_by):
        return equation, zero_outputs
      self.count += 1
      (guided,) = jax.make_jaxpr(_guided_relu)(_abstract(rest)).jaxpr.eqns
      return _instead(guided, [rest], equation), zero_outputs
    before = self.count
    is_call = name in ('jit', 'pjit', *_OWN_RULE)

    def inner(value: Any) -> Any:
      nonlocal zero_outputs
      if not isinstance(value, _JAXPRS):
        return value
      jaxpr = value.jaxpr if isinstance(value, ClosedJaxpr) else value
      # Only a call takes its inputs as they are; a loop may change them.
      zero_inputs = [False] * len(jaxpr.invars)
      if is_call and len(known) == len(zero_inputs):
        zero_inputs = list(known)
      jaxpr, outputs = self.jaxpr(jaxpr, zero_inputs)
      if is_call:
        zero_outputs = outputs
      if isinstance(value, ClosedJaxpr):
        return ClosedJaxpr(jaxpr, value.consts)
      return jaxpr

    # The branches of a cond are a tuple of jaxprs.
    params = {
      key: tuple(map(inner, value)) if type(value) is tuple else inner(value)
      for key, value in equation.params.items()
    }
    if self.count == before:
      return equation, zero_outputs
    if name in _OWN_RULE:
      body = params['call_jaxpr']
      if isinstance(body, Jaxpr):
        body = ClosedJaxpr(body, ())
      avals = [_abstract(atom) for atom in equation.invars]
      (call,) = jax.make_jaxpr(jax.jit(jaxpr_as_fun(body)))(*avals).jaxpr.eqns
      return _instead(call, equation.invars, equation), zero_outputs
    return equation.replace(params=params), zero_outputs


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
