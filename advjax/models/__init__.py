"""Networks as two pure functions, `init` and `apply`."""

from advjax._extras import flax, ml_collections  # noqa: F401
from advjax.models.adapters import Model, from_linen, from_nnx
from advjax.models.create import create_model
from advjax.models.keras import from_keras
from advjax.models.logits import network_of
from advjax.models.summary import summary

__all__ = [
  'Model',
  'create_model',
  'from_keras',
  'from_linen',
  'from_nnx',
  'network_of',
  'summary',
]
