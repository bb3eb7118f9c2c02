"""Whole jobs: train, compare, sweep, evaluate and explain."""
