"""Training under an objective, on one or many devices; `train` from Python."""

import importlib
from typing import TYPE_CHECKING, Any

from advjax._extras import ml_collections, optax, tqdm  # noqa: F401

if TYPE_CHECKING:
  from advjax.jobs.train import compare, train
  from advjax.training.objectives import reads
  from advjax.training.trained import load

__all__ = ['compare', 'load', 'reads', 'train']
# Imported when asked for: jobs are above this package.
_MODULES = {'load': 'training.trained', 'reads': 'training.objectives'}


def __dir__() -> list[str]:
  return sorted({*globals(), *__all__})


def __getattr__(name: str) -> Any:
  if name not in __all__:
    raise AttributeError(f'module {__name__!r} has no attribute {name!r}')
  module = importlib.import_module(f'advjax.{_MODULES.get(name, "jobs.train")}')
  return getattr(module, name)
