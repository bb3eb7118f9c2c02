"""Training under an objective, on one or many devices."""
