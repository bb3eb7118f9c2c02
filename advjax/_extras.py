"""Packages that an extra of advjax brings: `from advjax._extras import flax`.

Where one is missing, the error names the extra. What needs one imports it from
here before anything else.
"""

import importlib
from typing import Any


def __getattr__(name: str) -> Any:
  if name.startswith('__'):
    raise AttributeError(name)
  try:
    return importlib.import_module(name)
  except ModuleNotFoundError as error:
    if error.name != name:
      raise
    extra = 'pretrained' if name == 'keras' else 'train'
    raise ModuleNotFoundError(
      f"No module named {name!r}: pip install 'advjax[{extra}]'", name=name
    ) from error
