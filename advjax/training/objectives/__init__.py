"""Objectives: standard training, NSL's regularizations, adversarial training.

An objective is a pure function

    objective(apply, params, model_state, batch, hparams, key)
      -> (loss, (model_state, metrics))

over `batch['image']` `[B, ...]`, `batch['label']`, int `[B]` or shares of the
classes, float `[B, K]`, and, optionally, `batch['weight']` `[B]`, the share of
every example in the loss (default 1 / B each, the mean). The trainer passes
mask / count there, so that padding counts nothing and the losses of all
devices add up to the mean of the global batch. `hparams` maps names to traced
scalars, `key` holds one key per example, and `metrics` has one number per
example, `[B]`.

The factories close over the static choices; every number comes from
`hparams`, so that a sweep over them is a `vmap`.
"""

from advjax.training.objectives.adversarial_training import (
  fgsm_at,
  noisy_fgsm_at,
  pgd_at,
  trades,
)
from advjax.training.objectives.common import Metrics, Objective
from advjax.training.objectives.registry import (
  OBJECTIVES,
  ObjectiveSpec,
  create_objective,
  read_hparams,
)
from advjax.training.objectives.regularization import (
  adversarial_regularization,
  standard,
)
from advjax.training.objectives.virtual import (
  virtual_adversarial_regularization,
)

__all__ = [
  'OBJECTIVES',
  'Metrics',
  'Objective',
  'ObjectiveSpec',
  'adversarial_regularization',
  'create_objective',
  'fgsm_at',
  'noisy_fgsm_at',
  'pgd_at',
  'read_hparams',
  'standard',
  'trades',
  'virtual_adversarial_regularization',
]
