"""Keras models on the JAX backend, behind the seam; Keras is optional."""

from advjax.models.keras.adapter import from_keras

__all__ = ['from_keras']
