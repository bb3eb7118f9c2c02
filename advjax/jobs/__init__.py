"""Whole jobs from configs to reports, as the experiments run them."""
