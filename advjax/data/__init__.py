"""Data sets by name, as NumPy arrays: `load(config) -> Dataset`.

A new loader needs a line in `LOADERS`.
"""

import inspect
import logging
from collections.abc import Callable, Mapping
from typing import Any

from advjax._extras import filelock, ml_collections, tqdm  # noqa: F401
from advjax.config import choose, find, parameters_of
from advjax.data import digits, folder, npz, tfds
from advjax.data.dataset import (
  Dataset,
  Split,
  holdout,
  keep_classes,
  to_float,
)
from advjax.data.examples import as_dataset, from_examples

__all__ = [
  'Dataset',
  'Split',
  'from_examples',
  'holdout',
  'keep_classes',
  'load',
  'to_float',
]

logger = logging.getLogger(__name__)

# Each returns a `Dataset`; its parameters are a config's fields, of which those
# with a default may be left out.
LOADERS: dict[str, Callable[..., Dataset]] = {
  'digits': digits.load,
  'folder': folder.load,
  'npz': npz.load,
  'tfds': tfds.load,
}


def load(config: Mapping[str, Any]) -> Dataset:
  """Loads the data set that a config names.

  Args:
    config: A mapping or ConfigDict with the loader's `name` ('digits', 'npz',
      'folder', 'tfds', or 'module:function' of your own that returns a
      `Dataset`, or a pair that `from_examples` takes), that loader's own fields
      (its parameters), and for all of them `classes`, the labels to keep
      (`keep_classes`; all by default). A field that is None or '' counts as
      not given, so that a config can hold a place for it and a flag empty it.

  Returns:
    The data set.

  Raises:
    FileNotFoundError: If its file is not there.
    ValueError: If the name or a field is unknown, a field is missing, or the
      data is not as it should be.

  Example:
    >>> dataset = load({'name': 'digits'})
    >>> dataset.train.images.shape, dataset.test.images.shape
    ((1437, 28, 28, 1), (360, 28, 28, 1))
    >>> load({'name': 'digits', 'classes': (3, 7)}).class_names
    ('3', '7')
  """
  fields = {
    key: value
    for key, value in config.items()
    if value is not None and not (isinstance(value, str) and value == '')
  }
  classes = fields.pop('classes', None)
  name = fields.pop('name', None)
  loader = find('dataset.name', name, LOADERS)
  parameters = parameters_of(loader)
  for field in fields:
    choose(f'field of data set {name!r}', field, [*parameters, 'classes'])
  for field, parameter in parameters.items():
    if field not in fields and parameter.default is inspect.Parameter.empty:
      raise ValueError(
        f'dataset.{field} = None; allowed: a value, data set {name!r} needs it'
      )
  dataset = loader(**fields)
  if ':' in name:
    source = f'dataset.name = {name!r} returns'
    dataset = as_dataset(dataset, source, name.partition(':')[2])
  if classes is not None:
    dataset = keep_classes(dataset, classes)
  for warning in dataset.warnings:
    logger.warning('%s: %s', dataset.name, warning)
  return dataset
