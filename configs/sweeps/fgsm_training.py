"""FGSM training on digits: epsilon x the ratio of the step to epsilon.

Shows when FGSM training with a random start overfits catastrophically: Wong et
al. 2020 (arXiv 2001.03994), like MATLAB's example, use a step size of 1.25
epsilon, and find that with larger ones networks are robust to FGSM only. Four
radii, four ratios (below 1 a step from the centre stays inside the ball, at 2
it spans the diameter) and two seeds.

  ./launch.sh sweep --config=configs/sweeps/fgsm_training.py \\
    --workdir=runs/sweep_fgsm

Variants: `smoke` (one epoch, 2 x 2 trials). The field `step_ratio` is defined
in this file: hparams.step_size is derived as step_ratio times hparams.epsilon.
All 32 trials differ in traced scalars alone: one compiled program trains them,
and the cost is about that of 32 runs of `configs/digits.py:fgsm_at`.

The last checkpoint is evaluated, so that catastrophic overfitting is visible.
For another data set add, say, --config.dataset.name=tfds
--config.dataset.builder=mnist.
"""

from collections.abc import Callable
from typing import Any

from ml_collections import config_dict

from advjax.config import choose, default_config
from advjax.variants import set_variant

_EPSILONS = (0.05, 0.1, 0.2, 0.3)
_STEP_RATIOS = (0.5, 1.0, 1.25, 2.0)
_SEEDS = (0, 1)


def _is_smoke(variant: str | None) -> bool:
  """Returns whether a variant is the short one."""
  if variant is not None:
    choose('variant', variant, ('smoke',))
  return variant == 'smoke'


def get_config(variant: str | None = None) -> config_dict.ConfigDict:
  """Returns the config of one trial, of epsilon 0.1 and ratio 1.25."""
  smoke = _is_smoke(variant)
  config = default_config()
  config.num_epochs = 20
  config.num_validation = 137
  config.monitor.every_epochs = 5
  # On so many trials 40 steps at every radius would take longer than training.
  config.evaluation.attacks = ('fgsm', 'pgd-20')
  config.evaluation.epsilons = (0.05, 0.1, 0.2)
  set_variant(
    config,
    'fgsm_at-smoke' if smoke else 'fgsm_at',
    epsilon=0.1,
    nsl_step_size=0.2,
  )
  config.step_ratio = 1.25
  radius = config.hparams.get_ref('epsilon')
  config.hparams.step_size = radius * config.get_ref('step_ratio')
  config.report_checkpoint = 'last'
  return config


def sweep(
  add: Callable[[dict[str, Any]], None], variant: str | None = None
) -> None:
  """Adds the trials: epsilon x step_ratio x seed."""
  epsilons, ratios, seeds = _EPSILONS, _STEP_RATIOS, _SEEDS
  if _is_smoke(variant):
    epsilons, ratios, seeds = epsilons[1:3], ratios[1:3], (0,)
  for epsilon in epsilons:
    for ratio in ratios:
      for seed in seeds:
        add({'hparams.epsilon': epsilon, 'step_ratio': ratio, 'seed': seed})
