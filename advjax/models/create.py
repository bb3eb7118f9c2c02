"""From a configuration to a model."""

from collections.abc import Mapping
import difflib
from typing import Any

from advjax.models.adapters import Model, from_linen
from advjax.models.cnn import CNN

_ARCHITECTURES = {'cnn': CNN}


def create_model(
  config: Mapping[str, Any], num_classes: int, axis_name: str | None = None
) -> Model:
  """Builds the model that `config['name']` names."""
  fields = dict(config)
  module = _ARCHITECTURES[fields.pop('name')]
  return from_linen(
    module(num_classes=num_classes, axis_name=axis_name, **fields)
  )
