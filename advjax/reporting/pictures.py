"""Names of classes in pictures."""

from collections.abc import Sequence

from advjax.reporting.charts import plain

_MAX_NAME = 24


def class_name(index: int, class_names: Sequence[str]) -> str:
  """Returns the name of a class, shortened; its number if it has none."""
  if not 0 <= index < len(class_names):
    return str(index)
  name = str(class_names[index])
  if len(name) > _MAX_NAME:
    name = name[: _MAX_NAME - 1] + '…'
  return plain(name)
