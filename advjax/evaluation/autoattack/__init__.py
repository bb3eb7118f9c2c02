"""AutoAttack on the device: several attacks, in batches that stay full."""

from advjax.evaluation.autoattack.run import (
  AutoAttackResult,
  autoattack,
  summarise,
)

__all__ = ['AutoAttackResult', 'autoattack', 'summarise']
