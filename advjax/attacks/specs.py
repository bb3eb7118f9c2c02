"""Attacks as users name them: `fgsm`, `bim-20`, `pgd-50-10`, `autoattack`."""

import dataclasses
import math
from collections.abc import Callable, Mapping
from typing import Any

from advjax import norms
from advjax.attacks.apgd import apgd
from advjax.attacks.carlini_wagner import carlini_wagner
from advjax.attacks.deepfool import deepfool
from advjax.attacks.fab import fab
from advjax.attacks.fmn import fmn
from advjax.attacks.gradient import bim, fgsm, mifgsm, pgd
from advjax.attacks.square import square
from advjax.types import Array, LogitsFn

Box = tuple[float, float] | None

# Name: (attack, largest number of parts, default steps, step size as a multiple
# of epsilon / steps; None: the attack finds its own).
_STEPPED: dict[str, tuple[Callable[..., Any], int, int, float | None]] = {
  'fgsm': (fgsm, 1, 1, 1.0),
  'bim': (bim, 2, 20, 2.0),
  'mifgsm': (mifgsm, 2, 10, 1.0),
  'pgd': (pgd, 3, 40, 2.5),
  'apgd': (apgd, 3, 100, None),
  'fab': (fab, 3, 100, None),
  'square': (square, 3, 5000, None),
}
# Name: (attack, default steps, norms).
_MINIMAL: dict[str, tuple[Callable[..., Any], int, tuple[str, ...]]] = {
  'deepfool': (deepfool, 50, ('linf', 'l2')),
  'cw': (carlini_wagner, 1000, ('l2',)),
  'fmn': (fmn, 100, ('linf', 'l2', 'l1')),
}
# Name: version and attacks of AutoAttack; None: all of the version.
_AUTOATTACK: dict[str, tuple[str, tuple[str, ...] | None]] = {
  'autoattack': ('standard', None),
  'autoattack-plus': ('plus', None),
  **{
    name: ('standard', (name,))
    for name in ('apgd-ce', 'apgd-dlr', 'apgd-t', 'fab-t')
  },
}
_KNOWN = ', '.join([*_STEPPED, *_MINIMAL, *_AUTOATTACK])
_ALLOWED = (
  'NAME[-STEPS[-RESTARTS]] such as fgsm, bim-20 or pgd-50-10, with whole '
  'numbers >= 1 (fgsm has one step; only pgd, apgd, fab and square have '
  f'restarts) and a name among {_KNOWN}'
)


@dataclasses.dataclass(frozen=True)
class Attack:
  """An `advjax.types.Attack` of a given radius, its static choices made."""

  name: str
  num_steps: int  # or queries of square
  num_restarts: int  # of pgd, apgd, fab and square
  # A share of epsilon, unless `step_size` is given, which is absolute; None
  # where the attack finds its own.
  step_ratio: float | None
  step_size: float | None
  norm: str
  bounds: Box  # the pixel range

  def __call__(
    self,
    logits_fn: LogitsFn,
    images: Array,
    labels: Array,
    epsilon: Array | float,
    key: Array,
  ) -> Array:
    """Adversarial images `[B, ...]`; fgsm, bim and mifgsm do not draw."""
    choices: dict[str, Any] = {'norm': self.norm, 'bounds': self.bounds}
    if self.name in ('bim', 'mifgsm', 'pgd'):
      choices['step_size'] = self.step_at(epsilon)
    if self.name in ('pgd', 'apgd', 'fab', 'square'):
      choices |= {'key': key, 'num_restarts': self.num_restarts}
    if self.name != 'fgsm':
      steps = 'num_queries' if self.name == 'square' else 'num_steps'
      choices[steps] = self.num_steps
    attack = _STEPPED[self.name][0]
    perturbed: Array = attack(logits_fn, images, labels, epsilon, **choices)
    return perturbed

  def step_at(self, epsilon: Any) -> Any:
    """The step size at a radius; None where the attack finds its own."""
    if self.step_ratio is None:
      return None
    # The one step of fgsm goes to the boundary.
    if self.step_size is None or self.name == 'fgsm':
      return epsilon * self.step_ratio
    return self.step_size

  def settings(self, epsilon: float) -> dict[str, Any]:
    """Returns what a report says of it at a radius."""
    steps = '' if self.name == 'fgsm' else f'-{self.num_steps}'
    return {
      'attack': f'{self.name}{steps}',
      'num_steps': self.num_steps,
      'num_restarts': self.num_restarts,
      'step_size': self.step_at(epsilon),
    }


@dataclasses.dataclass(frozen=True)
class MinimalAttack:
  """A minimum-norm attack."""

  name: str
  num_steps: int
  norm: str
  bounds: Box

  def __call__(
    self, logits_fn: LogitsFn, images: Array, labels: Array
  ) -> Array:
    """The nearest adversarial images found, the originals where none was."""
    choices: dict[str, Any] = {} if self.name == 'cw' else {'norm': self.norm}
    attack = _MINIMAL[self.name][0]
    choices |= {'num_steps': self.num_steps, 'bounds': self.bounds}
    perturbed: Array = attack(logits_fn, images, labels, **choices)
    return perturbed

  def settings(self, epsilon: float) -> dict[str, Any]:
    """Returns what a report says of it; epsilon is not read."""
    del epsilon
    name = f'{self.name}-{self.num_steps}'
    return {'attack': name, 'num_steps': self.num_steps}


@dataclasses.dataclass(frozen=True)
class FullAttack:
  """AutoAttack, or one of its attacks; it runs on the host, on all images."""

  name: str  # as users write it
  version: str
  attacks: tuple[str, ...] | None  # None: all of the version
  norm: str
  bounds: Box

  def settings(self, epsilon: float) -> dict[str, Any]:
    """Returns what a report says of it; epsilon is not read."""
    del epsilon
    return {'attack': self.name, 'version': self.version}


AnyAttack = Attack | MinimalAttack | FullAttack


def parse_attack(
  text: str,
  *,
  norm: str = 'linf',
  bounds: Box = (0.0, 1.0),
  step_size: float | None = None,
) -> AnyAttack:
  """Reads an attack written as NAME[-STEPS[-RESTARTS]].

  fgsm, bim, mifgsm, pgd, apgd, fab and square stay within a radius; deepfool,
  cw and fmn are minimum-norm attacks; autoattack and autoattack-plus are
  AutoAttack, and apgd-ce, apgd-dlr, apgd-t and fab-t are parts of it, which
  take no numbers.

  Default step sizes: bim 2 epsilon / steps (epsilon / 10 for 20 steps), pgd
  2.5 epsilon / steps (Madry et al. 2017, arXiv 1706.06083), mifgsm
  epsilon / steps (Dong et al. 2017, arXiv 1710.06081).

  Args:
    text: The attack.
    norm: 'linf', 'l2' or 'l1'.
    bounds: The pixel range, or None for no clip.
    step_size: An absolute step size for bim, mifgsm and pgd instead of the
      default one.

  Returns:
    The attack.

  Raises:
    ValueError: if the name, the numbers or the norm are not allowed.

  Example:
    >>> from advjax.attacks import parse_attack
    >>> attack = parse_attack('pgd-50-10')
    >>> attack.num_steps, attack.num_restarts, attack.step_ratio
    (50, 10, 0.05)
  """
  text = text.strip()
  name, *parts = text.split('-')
  norms.get(norm, tuple(norms.NORMS))
  if step_size is not None and not 0 < step_size < math.inf:
    raise ValueError(f'step_size = {step_size!r}; allowed: a number > 0')
  if text in _AUTOATTACK:
    return FullAttack(text, *_AUTOATTACK[text], norm, bounds)
  num_parts, num_steps = 0, 1
  if name in _MINIMAL:
    num_parts, (_, num_steps, allowed) = 2, _MINIMAL[name]
    if norm not in allowed:
      raise ValueError(
        f'norm = {norm!r} with {name}; allowed: {", ".join(map(repr, allowed))}'
      )
  elif name in _STEPPED:
    _, num_parts, num_steps, factor = _STEPPED[name]
  whole = all(part.isdigit() and int(part) > 0 for part in parts)
  if len(parts) >= num_parts or not whole:
    raise ValueError(f'attack = {text!r}; allowed: {_ALLOWED}')
  steps, restarts = [*map(int, parts), *(num_steps, 1)[len(parts) :]]
  if name in _MINIMAL:
    return MinimalAttack(name, steps, norm, bounds)
  ratio = None if factor is None else factor / steps
  return Attack(name, steps, restarts, ratio, step_size, norm, bounds)


def replace_bounds(
  attacks: Mapping[str, AnyAttack], bounds: Box
) -> dict[str, AnyAttack]:
  """Returns the same attacks for images of another pixel range."""
  return {
    name: dataclasses.replace(attack, bounds=bounds)
    for name, attack in attacks.items()
  }
