"""Sweeps written as a function, in a config file."""

import inspect
from collections.abc import Callable, Mapping
from typing import Any


def collect_sweep(
  sweep: Callable[..., None], variant: str | None = None
) -> list[dict[str, Any]]:
  """Runs the `sweep` of a config file and returns what it adds.

  Args:
    sweep: `sweep(add)`, or `sweep(add, variant)`; it calls `add` once for
      each member, with a mapping from dotted fields to values.
    variant: The variant that the config file is asked for; None: its default.

  Returns:
    What each member sets, in the order of the calls; `create_members` checks
    it.

  Raises:
    ValueError: if something else is added, or nothing at all.

  Example:
    >>> def sweep(add):
    ...   for epsilon in (0.1, 0.2):
    ...     add({'hparams.epsilon': epsilon, 'seed': 0})
    >>> collect_sweep(sweep)[1]
    {'hparams.epsilon': 0.2, 'seed': 0}
  """
  settings: list[dict[str, Any]] = []

  def add(fields: Mapping[str, Any]) -> None:
    if not isinstance(fields, Mapping):
      raise ValueError(
        f'add({fields!r}) is call {len(settings) + 1}; allowed: a mapping '
        "from fields to values, such as {'hparams.epsilon': 0.1, 'seed': 0}"
      )
    settings.append(dict(fields))

  # One whose members are the same for all variants need not ask for them.
  asks = len(inspect.signature(sweep).parameters) > 1
  sweep(*[add, variant] if variant is not None and asks else [add])
  if not settings:
    raise ValueError('the sweep is empty: sweep(add) added no member')
  return settings
