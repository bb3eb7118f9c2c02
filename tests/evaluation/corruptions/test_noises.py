"""The noises have the moments that they are named after."""

import numpy as np
import pytest

from advjax.evaluation.corruptions import corrupt

GREY = np.full((20, 32, 32, 3), 0.5, np.float32)


@pytest.mark.parametrize(
  ('severity', 'scale'), [*enumerate([0.04, 0.06, 0.08, 0.09, 0.10], 1)]
)
def test_gaussian_noise_has_its_standard_deviation(severity, scale):
  noise = corrupt(GREY, 'gaussian_noise', severity, seed=0) - 0.5
  assert noise.std() == pytest.approx(scale, rel=0.02)
  assert abs(noise.mean()) < 0.002
  assert (np.abs(noise) < scale).mean() == pytest.approx(0.683, abs=0.01)


@pytest.mark.parametrize(
  ('severity', 'photons'), [*enumerate([500, 250, 100, 75, 50], 1)]
)
def test_shot_noise_counts_photons(severity, photons):
  noisy = corrupt(0.2 * GREY, 'shot_noise', severity, seed=0)
  counts = noisy * photons
  np.testing.assert_allclose(counts, counts.round(), atol=1e-4)
  assert noisy.mean() == pytest.approx(0.1, abs=0.002)
  assert noisy.var() == pytest.approx(0.1 / photons, rel=0.03)


@pytest.mark.parametrize(
  ('severity', 'share'), [*enumerate([0.01, 0.02, 0.03, 0.05, 0.07], 1)]
)
def test_impulse_noise_is_half_salt(severity, share):
  noisy = corrupt(GREY, 'impulse_noise', severity, seed=0)
  assert set(np.unique(noisy)) == {0, 0.5, 1}
  assert (noisy == 1).mean() == pytest.approx(share / 2, rel=0.15)
  assert (noisy == 0).mean() == pytest.approx(share / 2, rel=0.15)
  # Channel by channel, as in the published sets.
  hit = noisy != 0.5
  assert (hit.any(-1) & ~hit.all(-1)).any()
