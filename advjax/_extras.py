"""Packages that an extra of advjax brings: `from advjax._extras import flax`.

Where one is missing, the error names the extra. What needs one imports it from
here before anything else.
"""

import importlib
from typing import Any

_TRAIN = (
  *('PIL', 'absl', 'dm_pix', 'filelock', 'flax', 'jinja2', 'matplotlib'),
  *('ml_collections', 'optax', 'scipy', 'tqdm'),
)
_EXTRAS = {**dict.fromkeys(_TRAIN, 'train'), 'keras': 'pretrained'}


def __getattr__(name: str) -> Any:
  if name not in _EXTRAS:
    raise AttributeError(f'module {__name__!r} has no attribute {name!r}')
  try:
    return importlib.import_module(name)
  except ModuleNotFoundError as error:
    if error.name != name:
      raise
    raise ModuleNotFoundError(
      f"No module named {name!r}: pip install 'advjax[{_EXTRAS[name]}]'",
      name=name,
    ) from error
