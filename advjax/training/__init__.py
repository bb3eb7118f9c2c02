"""Training under an objective, on one or many devices."""

from advjax._extras import ml_collections, optax, tqdm  # noqa: F401
