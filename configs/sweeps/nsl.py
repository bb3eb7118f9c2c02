"""NSL's adversarial regularization on digits: step size x multiplier.

Shows which step sizes and multipliers give robustness to multi-step attacks
too: clean accuracy and accuracy under FGSM and PGD of the same norm, for four
step sizes, three multipliers and two seeds.

  ./launch.sh sweep --config=configs/sweeps/nsl.py --workdir=runs/sweep_nsl

Variants, the norm of the step: `infinity` (the default; a step changes all 784
pixels), `l2` (a step of 0.1 at every pixel has norm 2.8) and `l1` (NSL changes
only the pixel of the largest gradient; the attacks change the top 5 % of the
pixels); each also as, say, `l2-smoke` (one epoch, 2 x 2 trials); `smoke` is
`infinity-smoke`. All 24 trials differ in traced scalars alone: one compiled
program trains them, and the cost is about that of 24 runs of
`configs/digits.py:nsl`.

The last checkpoint is evaluated, so that catastrophic overfitting is visible.
For another data set add, say, --config.dataset.name=tfds
--config.dataset.builder=mnist.
"""

from collections.abc import Callable
from typing import Any

from ml_collections import config_dict

from advjax.config import choose, default_config
from advjax.variants import set_variant

_STEP_SIZES = {
  'infinity': (0.05, 0.1, 0.2, 0.3),
  'l2': (0.5, 1.0, 2.0, 4.0),
  'l1': (1.0, 2.0, 5.0, 10.0),
}
_MULTIPLIERS = (0.1, 0.2, 0.5)
_SEEDS = (0, 1)
# Radii to report at, the evaluation epsilon in the middle.
_EPSILONS = {
  'infinity': (0.05, 0.1, 0.2),
  'l2': (0.75, 1.5, 3.0),
  'l1': (5.0, 10.0, 20.0),
}
_EVALUATION_NORMS = {'infinity': 'linf', 'l2': 'l2', 'l1': 'l1'}


def _norm_and_smoke(variant: str | None) -> tuple[str, bool]:
  """Returns the norm that a variant names, and whether it is a short one."""
  chosen = {None: 'infinity', 'smoke': 'infinity-smoke'}.get(variant, variant)
  norm, dash, smoke = str(chosen).partition('-')
  choose('variant', norm, _STEP_SIZES)
  if dash:
    choose('variant', smoke, ('smoke',))
  return norm, smoke == 'smoke'


def get_config(variant: str | None = None) -> config_dict.ConfigDict:
  """Returns the config of one trial, of the step size in the middle."""
  norm, smoke = _norm_and_smoke(variant)
  config = default_config()
  config.num_epochs = 20
  config.num_validation = 137
  config.monitor.every_epochs = 10
  config.evaluation.norm = _EVALUATION_NORMS[norm]
  # On so many trials 40 steps at every radius would take longer than training.
  config.evaluation.attacks = ('fgsm', 'pgd-20')
  config.evaluation.epsilon = _EPSILONS[norm][1]
  config.evaluation.epsilons = _EPSILONS[norm]
  set_variant(
    config,
    'nsl-smoke' if smoke else 'nsl',
    epsilon=config.evaluation.epsilon,
    nsl_step_size=_STEP_SIZES[norm][2],
  )
  config.objective.norm = _EVALUATION_NORMS[norm]
  config.report_checkpoint = 'last'
  return config


def sweep(
  add: Callable[[dict[str, Any]], None], variant: str | None = None
) -> None:
  """Adds the trials: step size x multiplier x seed."""
  norm, smoke = _norm_and_smoke(variant)
  step_sizes, multipliers, seeds = _STEP_SIZES[norm], _MULTIPLIERS, _SEEDS
  if smoke:
    step_sizes, multipliers, seeds = step_sizes[1:3], multipliers[1:], (0,)
  for step_size in step_sizes:
    for multiplier in multipliers:
      for seed in seeds:
        add(
          {
            'hparams.step_size': step_size,
            'hparams.multiplier': multiplier,
            'seed': seed,
          }
        )
