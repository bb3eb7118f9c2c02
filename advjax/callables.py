"""Callables: compiled once, whatever their kind; found by 'module:function'.

The arrays inside a callable that is a pytree (`jax.tree_util.Partial`, an NNX
or Equinox module) are traced, so that new parameters do not recompile.
Everything else about a callable is static: functions by identity, numbers and
strings by value. Programs refer weakly to what is static, and end with it: one
cache for all would keep every closure ever attacked, with its constants.
"""

import collections
import contextlib
import functools
import importlib
import operator
import os
import sys
import types
import weakref
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, NamedTuple, TypeVar

import jax
import numpy as np
from jax.tree_util import Partial

_Result = TypeVar('_Result')

# Programs kept by a cache, the latest used: not all end with an object. Modules
# that are pytrees have static fields, to which JAX itself refers, and some
# objects cannot be referred to weakly.
_MAX_PROGRAMS = 128


class _Object:
  """An object to compare programs by: by identity, referred to weakly.

  Objects of classes with `__slots__` but no `__weakref__` are kept.
  """

  __slots__ = ('get', 'key', 'owners')

  def __init__(self, value: Any):
    objects: tuple[Any, ...] = (value,)
    is_method = isinstance(value, types.MethodType)  # Made at every access.
    if is_method:
      objects = value.__self__, value.__func__
    self.key = tuple(map(id, objects))
    self.owners: tuple[weakref.ref[Any], ...] = ()
    self.get: Callable[[], Any] = lambda: value
    try:
      self.owners = tuple(map(weakref.ref, objects))
    except TypeError:
      return
    self.get = weakref.WeakMethod(value) if is_method else self.owners[0]

  def __hash__(self) -> int:
    return hash(self.key)

  def __eq__(self, other: object) -> bool:
    # The identity of an object that is gone may be that of another one.
    return (
      isinstance(other, _Object)
      and self.key == other.key
      and self.owners == other.owners
    )


def _static(value: Any) -> Any:
  """What to compare programs by: an _Object, or a value with its type.

  Callables are objects, for some compare equal that compute different things
  (bound Linen modules do). Values of two types differ, though 1 == True.
  """
  equals: Any = type(value).__eq__
  if equals is not object.__eq__ and not callable(value):
    try:
      hash(value)
      return type(value), value
    except TypeError:
      pass  # By identity, then.
  return _Object(value)


class Structure(NamedTuple):
  """What is static about a pytree: hashable, keeps none of its objects."""

  treedef: Any
  # Of each leaf, _static; None: an array; a Structure: a Partial, as a tuple.
  parts: tuple[Any, ...]

  def build(self, arrays: Iterator[Any]) -> Any:
    """Returns the pytree with other arrays."""
    leaves = []
    for part in self.parts:
      if isinstance(part, Structure):
        function, args, keywords = part.build(arrays)
        leaves.append(Partial(function, *args, **keywords))
      elif isinstance(part, _Object):
        leaves.append(part.get())
      else:
        leaves.append(next(arrays) if part is None else part[1])
    return jax.tree.unflatten(self.treedef, leaves)

  def owners(self) -> Iterator[Any]:
    """Yields the objects that it refers to."""
    for part in self.parts:
      if isinstance(part, Structure):
        yield from part.owners()
      elif isinstance(part, _Object):
        yield from (owner() for owner in part.owners)


@jax.tree_util.register_pytree_node_class
class Callee:
  """A callable, or any pytree: its arrays are children, the rest is static."""

  __slots__ = ('arrays', 'origin', 'structure')

  def __init__(self, arrays: Sequence[Any], structure: Structure):
    self.arrays = arrays
    self.structure = structure
    self.origin: Any = None  # Keeps what the structure does not.

  @classmethod
  def of(cls, tree: Any) -> 'Callee':
    if isinstance(tree, Callee):
      return tree
    arrays: list[Any] = []
    callee = cls(arrays, _flatten(tree, arrays))
    callee.origin = tree
    return callee

  @property
  def value(self) -> Any:
    """The callable, built again: what a stateful module changes stays there."""
    return self.structure.build(iter(self.arrays))

  def __call__(self, *args: Any) -> Any:
    return self.value(*args)  # Its changes stay at this trace level.

  def tree_flatten(self) -> tuple[Sequence[Any], Structure]:
    return self.arrays, self.structure

  @classmethod
  def tree_unflatten(
    cls, structure: Structure, arrays: Sequence[Any]
  ) -> 'Callee':
    return cls(arrays, structure)


def _flatten(tree: Any, arrays: list[Any]) -> Structure:
  """Appends the arrays of a pytree; returns the rest."""
  leaves, treedef = jax.tree.flatten(tree, is_leaf=_is_partial)
  parts: list[Any] = []
  for leaf in leaves:
    if _is_partial(leaf):  # As a pytree it would keep its function.
      function = leaf.func
      inner = getattr(function, 'fun', None)
      # JAX wraps a functools.partial in an object made for this Partial.
      if isinstance(inner, functools.partial) and function == inner:
        function = inner
      parts.append(_flatten((function, leaf.args, leaf.keywords), arrays))
    elif isinstance(leaf, jax.Array | np.ndarray):
      arrays.append(leaf)
      parts.append(None)
    else:
      parts.append(_static(leaf))
  return Structure(treedef, tuple(parts))


def _is_partial(x: Any) -> bool:
  return type(x) is Partial


def cache_while_alive(make: Callable[..., _Result]) -> Callable[..., _Result]:
  """Caches `make(*key)` while all objects live to which Structures refer."""
  found: collections.OrderedDict[Any, tuple[_Result, Any]] = (
    collections.OrderedDict()
  )

  def cached(*key: Any) -> _Result:
    entry = found.get(key)
    if entry is None:
      watched = [
        weakref.ref(owner, lambda _: found.pop(key, None))
        for part in key
        if isinstance(part, Structure)
        for owner in part.owners()
      ]
      entry = found.setdefault(key, (make(*key), watched))
      if len(found) > _MAX_PROGRAMS:
        found.popitem(last=False)
    with contextlib.suppress(KeyError):  # Ended by another thread.
      found.move_to_end(key)
    return entry[0]

  return cached


def separate(args: Iterable[Any]) -> tuple[list[Structure | None], list[Any]]:
  """Returns the Structures of the Callees among args, and all arrays."""
  pairs = [
    (x.structure, x.arrays) if isinstance(x, Callee) else (None, x)
    for x in args
  ]
  return [pair[0] for pair in pairs], [pair[1] for pair in pairs]


def rejoin(
  structures: Iterable[Structure | None], arrays: Iterable[Any]
) -> Iterator[Any]:
  """Yields what was separated."""
  for structure, x in zip(structures, arrays, strict=True):
    yield x if structure is None else Callee(x, structure)


def compile_per_callable(
  run: Callable[..., _Result],
) -> Callable[..., _Result]:
  """Compiles `run(*args, **static)`; args may be callables of any kind."""

  @cache_while_alive
  def program(*structures: Structure | None) -> Callable[..., Any]:
    def call(*arrays: Any) -> _Result:
      *args, static = rejoin(structures, arrays)
      return run(*args, **static.value)

    return jax.jit(call)

  def compiled(*args: Any, **static: Any) -> _Result:
    callees = [Callee.of(x) if callable(x) else x for x in args]
    structures, arrays = separate([*callees, Callee.of(static)])
    result: _Result = program(*structures)(*arrays)
    return result

  return compiled


_call = cache_while_alive(
  lambda structure: jax.jit(
    lambda arrays, *args: Callee(arrays, structure)(*args)
  )
)


def output_shape(function: Callable[..., Any], *args: Any) -> Any:
  """Shapes and dtypes of `function(*args)`; a second call traces nothing."""
  callee = Callee.of(function)
  return _call(callee.structure).eval_shape(callee.arrays, *args)


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
    raise ValueError(f'{problem} that exists; {e}: {found}') from e
