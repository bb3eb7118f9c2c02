"""Training under an objective, on one or many devices.

`train` and `compare` run a config from Python, `load` reads a trained network
back, `reads` declares the hparams of an objective of one's own.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
  from advjax.jobs.train import compare, train
  from advjax.training.objectives import reads
  from advjax.training.trained import load

__all__ = ['compare', 'load', 'reads', 'train']

# Imported when they are asked for: jobs are above this package, and all of
# them need more than a user of the objectives alone.
_MODULES = {
  'compare': 'advjax.jobs.train',
  'load': 'advjax.training.trained',
  'reads': 'advjax.training.objectives',
  'train': 'advjax.jobs.train',
}


def __getattr__(name: str) -> Any:
  if name not in _MODULES:
    raise AttributeError(f'module {__name__!r} has no attribute {name!r}')
  return getattr(importlib.import_module(_MODULES[name]), name)
