"""Callables: compiled once, whatever their kind; found by 'module:function'.

The arrays inside a callable that is a pytree (`jax.tree_util.Partial`, an NNX
or Equinox module) are traced, so that new parameters do not recompile.
Everything else about a callable is static: functions by identity, numbers and
strings by value.
"""

import importlib
import operator
import os
import sys
import types
import weakref
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import jax
import numpy as np

_Result = TypeVar('_Result')


@jax.tree_util.register_pytree_node_class
class Callee:
  """A callable as a pytree: its arrays are children, the rest is static."""

  __slots__ = ('arrays', 'structure')

  def __init__(self, arrays: Sequence[Any], structure: Any):
    self.arrays = arrays
    self.structure = structure

  @classmethod
  def of(cls, function: Callable[..., Any]) -> 'Callee':
    leaves, treedef = jax.tree.flatten(function)
    arrays = [x for x in leaves if _is_array(x)]
    static = tuple(None if _is_array(x) else _Static(x) for x in leaves)
    return cls(arrays, (treedef, static))

  def __call__(self, *args: Any) -> Any:
    treedef, static = self.structure
    arrays = iter(self.arrays)
    leaves = [next(arrays) if s is None else s.value for s in static]
    # Built again for every call: what a stateful module changes in itself stays
    # in this call, at this trace level.
    return jax.tree.unflatten(treedef, leaves)(*args)

  def tree_flatten(self) -> tuple[Sequence[Any], Any]:
    return self.arrays, self.structure

  @classmethod
  def tree_unflatten(cls, structure: Any, arrays: Sequence[Any]) -> 'Callee':
    return cls(arrays, structure)


class _Static:
  """A value to compare programs by.

  Callables compare by identity, for some compare equal that compute different
  things (bound Linen modules do). Values of two types differ, though 1 == True.
  """

  __slots__ = ('key', 'value')

  def __init__(self, value: Any):
    self.value = value
    self.key: Any = id(value)
    if not callable(value) or isinstance(value, types.MethodType):
      try:
        hash(value)
        self.key = (type(value), value)
      except TypeError:
        pass  # By identity, then.

  def __hash__(self) -> int:
    return hash(self.key)

  def __eq__(self, other: object) -> bool:
    return isinstance(other, _Static) and self.key == other.key


def _is_array(x: Any) -> bool:
  return isinstance(x, jax.Array | np.ndarray)


def compile_per_callable(
  run: Callable[..., _Result], static_argnames: tuple[str, ...]
) -> Callable[..., _Result]:
  """Compiles `run(logits_fn, *args, **static)` for any callable.

  The programs of a plain function (a closure over parameters, say) are dropped
  with it; one cache for all would keep every closure ever attacked alive, with
  its constants and with the tracers that it closes over.
  """
  shared = jax.jit(run, static_argnames=static_argnames)
  own: dict[int, tuple[weakref.ref[Any], Callable[..., Any]]] = {}

  def own_program(logits_fn: Any) -> Callable[..., Any]:
    identity = id(logits_fn)
    if identity not in own:
      alive = weakref.ref(logits_fn, lambda _: own.pop(identity, None))
      program = jax.jit(
        lambda *args, **static: run(alive(), *args, **static),
        static_argnames=static_argnames,
      )
      own[identity] = alive, program
    return own[identity][1]

  def compiled(logits_fn: Any, *args: Any, **static: Any) -> _Result:
    program: Callable[..., Any] = shared
    if _is_opaque(logits_fn):
      program = own_program(logits_fn)
    else:
      args = (Callee.of(logits_fn), *args)
    result: _Result = program(*args, **static)
    return result

  return compiled


def _is_opaque(function: Any) -> bool:
  """Whether a callable is one object, no pytree, whose end can be watched."""
  if isinstance(function, types.MethodType):
    return False  # Made at every access: `model.apply` lives for one call.
  try:
    weakref.ref(function)
  except TypeError:
    return False
  return jax.tree_util.all_leaves([function])


@jax.jit
def _call(function: Callee, *args: Any) -> Any:
  return function(*args)


def output_shape(function: Callable[..., Any], *args: Any) -> Any:
  """Shapes and dtypes of `function(*args)`; a second call traces nothing."""
  if _is_opaque(function):
    return jax.eval_shape(function, *args)
  return _call.eval_shape(Callee.of(function), *args)


def import_function(field: str, text: str) -> Any:
  """Imports what 'module:function' names, or raises a ValueError about field.

  Errors inside the module, but for imports that fail, are raised as they are.
  """
  module, _, attribute = text.partition(':')
  names = [*module.split('.'), *attribute.split('.')]
  problem = f"{field} = {text!r}; allowed: 'module:function'"
  if not all(name.isidentifier() for name in names):
    raise ValueError(f'{problem} such as mine:loss, or package.mine:loss')
  try:
    found: Any = importlib.import_module(module)
  except ImportError as e:
    folders = ', '.join(path or os.getcwd() for path in sys.path)
    raise ValueError(
      f'{problem} that can be imported; tried to import {module} from {folders}'
      f': {type(e).__name__}: {e}'
    ) from e
  try:
    return operator.attrgetter(attribute)(found)
  except AttributeError as e:
    file = getattr(found, '__file__', 'no file')
    raise ValueError(
      f'{problem} that exists; AttributeError: {e}; {module} is {file}'
    ) from e
