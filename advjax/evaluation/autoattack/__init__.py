"""AutoAttack on the device: several attacks, in batches that stay full."""

from advjax.evaluation.autoattack.result import AutoAttackResult, summarise
from advjax.evaluation.autoattack.run import autoattack

__all__ = ['AutoAttackResult', 'autoattack', 'summarise']
