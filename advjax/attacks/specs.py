"""Attacks as users name them: `fgsm`, `bim-20`, `autoattack`, `mine:attack`."""

import dataclasses
import inspect
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from advjax import norms
from advjax._arguments import check_callable, error
from advjax.attacks.apgd import apgd
from advjax.attacks.carlini_wagner import carlini_wagner
from advjax.attacks.deepfool import deepfool
from advjax.attacks.fab import fab
from advjax.attacks.fmn import fmn
from advjax.attacks.gradient import STEP_SHARES, bim, fgsm, mifgsm, pgd
from advjax.attacks.square import square
from advjax.callables import import_function
from advjax.types import Array, LogitsFn

Box = tuple[float, float] | None

# Attacks within a radius, by name.
_STEPPED: dict[str, Any] = {
  f.__name__: f for f in (fgsm, bim, mifgsm, pgd, apgd, fab, square)
}
# What -STEPS and -RESTARTS set; the functions have the default values.
_NUMBERS = ('num_steps', 'num_queries', 'num_restarts')
# Name: (attack, norms).
_MINIMAL: dict[str, tuple[Any, Any]] = {
  'deepfool': (deepfool, ('linf', 'l2')),
  'cw': (carlini_wagner, ('l2',)),
  'fmn': (fmn, ('linf', 'l2', 'l1')),
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
  f'restarts) and a name among {_KNOWN}, or module:function, an attack of your '
  'own'
)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Attack:
  """An attack with its static choices made; what it does not have is None.

  An `advjax.types.Attack`, but for AutoAttack and its parts, which run on the
  host, on all images. Minimum-norm attacks have no radius.
  """

  name: str  # without numbers; 'module:function' of a user's own
  norm: str
  bounds: Box  # the pixel range
  function: Callable[..., Any] | None = None  # None: AutoAttack
  num_steps: int | None = None  # or queries of square
  num_restarts: int | None = None
  step_size: float | None = None  # absolute; None: `step_ratio * epsilon`
  version: str = ''  # of AutoAttack
  parts: tuple[str, ...] | None = None  # of AutoAttack; None: all

  @property
  def is_minimal(self) -> bool:
    """Whether it looks for the nearest adversarial image."""
    return self.name in _MINIMAL

  def __call__(
    self,
    logits_fn: LogitsFn,
    images: Array,
    labels: Array,
    epsilon: Array | float | None = None,
    key: Array | None = None,
  ) -> Any:
    """Adversarial images `[B, ...]`; fgsm, bim and mifgsm do not draw."""
    if self.function is None:
      raise error('attack', self.name, 'one that runs on the device')
    if self.is_minimal and epsilon is not None:
      raise error('attack', self.name, 'one that has a radius')
    choices: dict[str, Any] = {'norm': self.norm, 'bounds': self.bounds}
    given: tuple[Any, ...] = logits_fn, images, labels, epsilon
    if self.num_steps is None:  # Of a user's own.
      return self.function(*given, key, **choices)
    choices |= dict.fromkeys(('num_steps', 'num_queries'), self.num_steps)
    if self.step_size:
      choices['step_size'] = self.step_size
    known = inspect.signature(self.function).parameters
    if 'num_restarts' in known:
      choices |= {'key': key, 'num_restarts': self.num_restarts}
    choices = {name: choices[name] for name in choices if name in known}
    return self.function(*given[: 3 if self.is_minimal else 4], **choices)

  def check(self, image_shape: Sequence[int], num_classes: int) -> None:
    """Traces a user's own function once, so that its errors come first."""
    if ':' not in self.name:
      return

    def network(images: Array) -> Array:
      means = images.reshape(images.shape[0], -1).mean(-1, keepdims=True)
      return means * jnp.arange(1.0 * num_classes)

    images = jax.ShapeDtypeStruct((2, *image_shape), jnp.float32)
    found = jax.eval_shape(
      lambda images, key: self(
        network, images, jnp.zeros(2, int), jnp.float32(0.1), key
      ),
      images,
      jax.eval_shape(lambda: jax.random.split(jax.random.key(0), 2)),
    )
    if getattr(found, 'shape', None) != images.shape:
      got = jax.tree.map(lambda each: each.shape, found)
      raise error(f'attack = {self.name!r} returns', got, f'{images.shape}')

  @property
  def step_ratio(self) -> float | None:
    """Default step size / epsilon; None where the attack finds its own."""
    share = STEP_SHARES.get(self.name)
    return share / self.num_steps if share and self.num_steps else None

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
    has_number = self.num_steps is not None and self.name != 'fgsm'
    found = {
      'attack': f'{self.name}-{self.num_steps}' if has_number else self.name,
      'num_steps': self.num_steps,
      'num_restarts': self.num_restarts,
      'step_size': self.step_at(epsilon),
      'version': self.version or None,
    }
    return {name: each for name, each in found.items() if each is not None}


def parse_attack(
  text: str,
  *,
  norm: str = 'linf',
  bounds: Box = (0.0, 1.0),
  step_size: float | None = None,
) -> Attack:
  """Reads an attack written as NAME[-STEPS[-RESTARTS]], or module:function.

  fgsm, bim, mifgsm, pgd, apgd, fab and square stay within a radius; deepfool,
  cw and fmn are minimum-norm attacks; autoattack and autoattack-plus are
  AutoAttack, and apgd-ce, apgd-dlr, apgd-t and fab-t are parts of it, which
  take no numbers.

  Steps and their size are by default those of the functions, such as
  `advjax.pgd`.

  An attack of your own is a pure function `(logits_fn, images, labels, epsilon,
  key, *, norm, bounds) -> images` of a module that `import` finds. It keeps to
  ball and bounds itself; evaluations trace epsilon and give a key per example.

  Args:
    text: The attack.
    norm: 'linf', 'l2' or 'l1'.
    bounds: The pixel range, or None for no clip.
    step_size: An absolute step size for bim, mifgsm and pgd instead of the
      default one.

  Returns:
    The attack.

  Raises:
    ValueError: if the name, the numbers or the norm are not allowed, or no
      function of that name is found.

  Example:
    >>> import advjax
    >>> attack = advjax.parse_attack('pgd-50-10')
    >>> attack.num_steps, attack.num_restarts, attack.step_ratio
    (50, 10, 0.05)
  """
  if not isinstance(text, str):
    raise ValueError(f'attack = {text!r}; allowed: {_ALLOWED}')
  text = text.strip()
  name, *parts = text.split('-')
  norms.get(norm, tuple(norms.NORMS))
  if step_size is not None and not 0 < step_size < math.inf:
    raise ValueError(f'step_size = {step_size!r}; allowed: a number > 0')
  if text in _AUTOATTACK:
    version, attacks = _AUTOATTACK[text]
    return Attack(text, norm, bounds, version=version, parts=attacks)
  if ':' in text:
    function = import_function('attack', text)
    check_callable('attack', function)
    return Attack(text, norm, bounds, function)
  function, allowed = _MINIMAL.get(name, (_STEPPED.get(name), None))
  if allowed and norm not in allowed:
    raise ValueError(
      f'norm = {norm!r} with {name}; allowed: {", ".join(map(repr, allowed))}'
    )
  defaults = getattr(function, '__kwdefaults__', {})
  numbers = [defaults[field] for field in _NUMBERS if field in defaults]
  whole = all(part.isdecimal() and int(part) > 0 for part in parts)
  if function is None or len(parts) > len(numbers) or not whole:
    raise ValueError(f'attack = {text!r}; allowed: {_ALLOWED}')
  numbers[: len(parts)] = map(int, parts)
  steps, restarts = [*numbers, 1, 1][:2]
  if name in _MINIMAL:
    return Attack(name, norm, bounds, function, steps)
  return Attack(name, norm, bounds, function, steps, restarts, step_size)


def parse_attacks(attacks: Any, **choices: Any) -> dict[str, Any]:
  """Reads names as `parse_attack` does, in a list or in one text with commas.

  A mapping gives other names to these, or to attacks, which stay as they are.
  """
  named = attacks
  if not isinstance(attacks, Mapping):
    is_one = isinstance(attacks, str) or not hasattr(attacks, '__iter__')
    texts = [attacks] if is_one else attacks
    split = (str(text).strip(', ').split(',') for text in texts)
    names = [part.strip() for parts in split for part in parts]
    fit = len(set(names)) == len(names) and all(type(x) is str for x in texts)
    named = {name: name for name in names if fit}
  found = {
    name: parse_attack(each, **choices) if isinstance(each, str) else each
    for name, each in named.items()
  }
  if not found or not all(map(callable, found.values())):
    raise ValueError(
      f'attacks = {attacks!r}; allowed: one attack or more, each named once '
      'as parse_attack takes it, or a mapping from names to those or to '
      'functions (logits_fn, images, labels, epsilon, keys) -> images'
    )
  return found
