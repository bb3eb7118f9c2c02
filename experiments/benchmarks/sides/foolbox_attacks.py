"""The attacks of foolbox, for networks of any library."""

from typing import Any

from foolbox import attacks


def make(job: dict[str, Any]) -> Any:
  steps = {'abs_stepsize': job['step_size'], 'steps': job['num_steps']}
  if job['attack'] == 'fgsm':
    return attacks.FGSM()
  if job['attack'] == 'bim':
    return attacks.LinfBasicIterativeAttack(**steps)
  return attacks.LinfPGD(**steps)
