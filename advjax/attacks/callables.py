"""Compiles an attack once per model, whatever kind of callable the model is.

The arrays inside a callable that is a pytree (`jax.tree_util.Partial`, an NNX or
Equinox module) are traced, so that new parameters do not recompile; everything
else about a callable is static, by identity or equality.
"""

import functools
import weakref
from collections.abc import Callable
from typing import Any

import jax
import numpy as np


@jax.tree_util.register_pytree_node_class
class Callee:
  """A callable as a pytree: its arrays are children, the rest is static."""

  __slots__ = ('arrays', 'structure')

  def __init__(self, arrays: list[Any], structure: Any):
    self.arrays = arrays
    self.structure = structure

  @classmethod
  def of(cls, function: Callable[..., Any]) -> 'Callee':
    leaves, treedef = jax.tree.flatten(function)
    is_array = tuple(isinstance(x, jax.Array | np.ndarray) for x in leaves)
    arrays = [x for x, a in zip(leaves, is_array, strict=True) if a]
    static = [
      _hashable(x) for x, a in zip(leaves, is_array, strict=True) if not a
    ]
    return cls(arrays, (treedef, is_array, tuple(static)))

  def __call__(self, *args: Any) -> Any:
    treedef, is_array, static = self.structure
    arrays, rest = iter(self.arrays), iter(static)
    leaves = [next(arrays) if a else _value(next(rest)) for a in is_array]
    # Built anew for every call: what a stateful module changes in itself stays
    # in this call, at this trace level.
    return jax.tree.unflatten(treedef, leaves)(*args)

  def tree_flatten(self) -> tuple[list[Any], Any]:
    return self.arrays, self.structure

  @classmethod
  def tree_unflatten(cls, structure: Any, arrays: Any) -> 'Callee':
    return cls(list(arrays), structure)


class _ByIdentity:
  """Stands for an object that cannot be hashed."""

  __slots__ = ('value',)

  def __init__(self, value: Any):
    self.value = value

  def __hash__(self) -> int:
    return id(self.value)

  def __eq__(self, other: object) -> bool:
    return isinstance(other, _ByIdentity) and other.value is self.value


def _hashable(value: Any) -> Any:
  try:
    hash(value)
  except TypeError:
    return _ByIdentity(value)
  return value


def _value(value: Any) -> Any:
  return value.value if isinstance(value, _ByIdentity) else value


def _is_plain(function: Callable[..., Any]) -> bool:
  """Whether a callable is known by its identity alone, as functions are."""
  return (
    type(function).__hash__ is object.__hash__
    and type(function).__weakrefoffset__ != 0
    and jax.tree_util.all_leaves([function])
  )


def compile_per_callable(
  run: Callable[..., Any], static_argnames: tuple[str, ...]
) -> Callable[..., Any]:
  """Compiles `run(logits_fn, loss_fn, *args, **static)` for any callables.

  The programs of a plain function (a closure over parameters, say) are dropped
  with it; one cache for all would keep every closure ever attacked alive, with
  its constants, and with the tracers it closes over.
  """
  shared = jax.jit(run, static_argnames=static_argnames)
  own: weakref.WeakKeyDictionary[Any, Any] = weakref.WeakKeyDictionary()

  @functools.wraps(run)
  def compiled(
    logits_fn: Callable[..., Any],
    loss_fn: Callable[..., Any],
    *args: Any,
    **static: Any,
  ) -> Any:
    loss = Callee.of(loss_fn)
    if not _is_plain(logits_fn):
      return shared(Callee.of(logits_fn), loss, *args, **static)
    program = own.get(logits_fn)
    if program is None:
      alive = weakref.ref(logits_fn)
      program = jax.jit(
        lambda *args, **static: run(alive(), *args, **static),
        static_argnames=static_argnames,
      )
      own[logits_fn] = program
    return program(loss, *args, **static)

  return compiled


@jax.jit
def _call(function: Callee, *args: Any) -> Any:
  return function(*args)


def output_shape(function: Callable[..., Any], *args: Any) -> Any:
  """Shapes and dtypes of `function(*args)`; a second call traces nothing."""
  if _is_plain(function):
    return jax.eval_shape(function, *args)
  return _call.eval_shape(Callee.of(function), *args)
