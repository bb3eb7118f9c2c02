"""Whole jobs: train, compare, sweep, evaluate and explain."""

from advjax._extras import flax, ml_collections, optax  # noqa: F401
