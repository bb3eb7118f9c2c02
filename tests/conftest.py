"""Strict settings for every test: two CPU devices, no silent broadcasting."""

import hypothesis
import jax
import matplotlib

matplotlib.use('Agg')
jax.config.update('jax_platforms', 'cpu')
jax.config.update('jax_num_cpu_devices', 2)
jax.config.update('jax_numpy_rank_promotion', 'raise')

# The same examples in every run; the first call compiles, so no deadline.
hypothesis.settings.register_profile(
  'advjax', deadline=None, derandomize=True, database=None
)
hypothesis.settings.load_profile('advjax')
# JAX starts now: no test that selects devices can change their number later.
jax.devices()
