"""Attacks as users name them: `fgsm`, `bim-20`, `pgd-50-10`."""

import dataclasses

from advjax import attacks
from advjax.types import Array, LogitsFn

_FORM = 'NAME[-STEPS[-RESTARTS]] such as fgsm, bim-20, mifgsm-10, pgd-50-10'
# Name: (largest number of parts, default steps, step size as a multiple of
# epsilon / steps).
_ATTACKS = {
  'fgsm': (1, 1, 1.0),
  'bim': (2, 20, 2.0),
  'mifgsm': (2, 10, 1.0),
  'pgd': (3, 40, 2.5),
}


@dataclasses.dataclass(frozen=True)
class Attack:
  """A gradient attack with its static choices made.

  Attributes:
    name: 'fgsm', 'bim', 'mifgsm' or 'pgd'.
    num_steps: Gradient steps.
    num_restarts: Random starts (pgd alone).
    step_ratio: Step size as a share of epsilon, unless `step_size` is given.
    step_size: An absolute step size, or None.
    norm: 'linf', 'l2' or 'l1'.
    bounds: The pixel range.
  """

  name: str
  num_steps: int
  num_restarts: int
  step_ratio: float
  step_size: float | None
  norm: str
  bounds: tuple[float, float] | None

  def __call__(
    self,
    logits_fn: LogitsFn,
    images: Array,
    labels: Array,
    epsilon: Array | float,
    key: Array,
  ) -> Array:
    """Perturbs images: `[B, ...]` to `[B, ...]`, in the ball of epsilon.

    Args:
      logits_fn: Images `[B, ...]` to logits `[B, K]`.
      images: In the pixel range.
      labels: int `[B]`.
      epsilon: Radius.
      key: A key, or one per example; only pgd draws.

    Returns:
      The perturbed images.
    """
    step_size: Array | float = epsilon * self.step_ratio
    if self.step_size is not None:
      step_size = self.step_size
    if self.name == 'fgsm':
      return attacks.fgsm(
        logits_fn, images, labels, epsilon, norm=self.norm, bounds=self.bounds
      )
    if self.name == 'pgd':
      return attacks.pgd(
        logits_fn,
        images,
        labels,
        epsilon,
        step_size,
        num_steps=self.num_steps,
        key=key,
        num_restarts=self.num_restarts,
        norm=self.norm,
        bounds=self.bounds,
      )
    attack = {'bim': attacks.bim, 'mifgsm': attacks.mifgsm}[self.name]
    return attack(
      logits_fn,
      images,
      labels,
      epsilon,
      step_size,
      num_steps=self.num_steps,
      norm=self.norm,
      bounds=self.bounds,
    )


def parse_attack(
  text: str,
  *,
  norm: str = 'linf',
  bounds: tuple[float, float] | None = (0.0, 1.0),
  step_size: float | None = None,
) -> Attack:
  """Reads an attack written as NAME[-STEPS[-RESTARTS]].

  Default step sizes: bim 2 epsilon / steps (epsilon / 10 for 20 steps), pgd
  2.5 epsilon / steps (Madry et al. 2017, arXiv 1706.06083), mifgsm
  epsilon / steps (Dong et al. 2017, arXiv 1710.06081).

  Args:
    text: The attack.
    norm: 'linf', 'l2' or 'l1'.
    bounds: The pixel range, or None for no clip.
    step_size: An absolute step size instead of the default one.

  Returns:
    The attack.

  Raises:
    ValueError: if the name, the numbers or the norm are not allowed.

  Example:
    >>> attack = parse_attack('pgd-50-10')
    >>> attack.num_steps, attack.num_restarts, attack.step_ratio
    (50, 10, 0.05)
  """
  name, *numbers = text.strip().split('-')
  if name not in _ATTACKS:
    raise ValueError(
      f'unknown attack {text!r}; allowed: {_FORM}, with a name among '
      f'{", ".join(_ATTACKS)}'
    )
  if norm not in ('linf', 'l2', 'l1'):
    raise ValueError(f"norm = {norm!r}; allowed: 'linf', 'l2', 'l1'")
  if step_size is not None and not 0 < step_size < float('inf'):
    raise ValueError(f'step_size = {step_size!r}; allowed: a number > 0')
  num_parts, num_steps, factor = _ATTACKS[name]
  whole = all(number.isdigit() and int(number) > 0 for number in numbers)
  if len(numbers) >= num_parts or not whole:
    raise ValueError(
      f'attack {text!r} is not of the form {_FORM} (steps and restarts are '
      'whole numbers >= 1; only pgd has restarts, fgsm has one step)'
    )
  steps, restarts = [*map(int, numbers), *(num_steps, 1)[len(numbers) :]]
  return Attack(name, steps, restarts, factor / steps, step_size, norm, bounds)
