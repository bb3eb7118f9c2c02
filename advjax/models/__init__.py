"""Models behind a two-function seam."""

from advjax.models.adapters import Model, from_linen
from advjax.models.create import create_model

__all__ = ['Model', 'create_model', 'from_linen']
