"""The attacks of AutoAttack, and its versions."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

from advjax import losses
from advjax.attacks._core.loop import Search
from advjax.attacks.apgd import make_apgd
from advjax.attacks.fab import make_fab
from advjax.attacks.square import make_square

# In the order of the paper; an attack draws from `fold_in(key, place here)`.
ATTACKS = ('apgd-ce', 'apgd-dlr', 'apgd-t', 'fab', 'fab-t', 'square')

VERSIONS: dict[str, tuple[str, ...]] = {
  'standard': ('apgd-ce', 'apgd-t', 'fab-t', 'square'),
  'plus': ('apgd-ce', 'apgd-dlr', 'fab', 'square', 'apgd-t', 'fab-t'),
  'rand': ('apgd-ce', 'apgd-dlr'),
}
# Draws that 'rand' averages over.
_EOT_SAMPLES = 20
# Where there are fewer classes the DLR loss is not defined.
_CLASSES_OF_DLR = 4


class Component(NamedTuple):
  """One attack of AutoAttack."""

  name: str  # one of ATTACKS
  search: Search
  # Targets: the classes with the highest logits besides the label; None:
  # untargeted.
  num_targets: int | None
  num_restarts: int


def eot_samples(version: str) -> int | None:
  """Returns the number of draws of a random network to average over."""
  return _EOT_SAMPLES if version == 'rand' else None


def attack_names(version: str, attacks: Sequence[str] | None) -> list[str]:
  """Returns the attacks of a version, or the given ones, checked."""
  if version not in VERSIONS:
    raise ValueError(f'version = {version!r}; allowed: {", ".join(VERSIONS)}')
  if attacks is None:
    return list(VERSIONS[version])
  # The others have no form that averages over draws.
  allowed = VERSIONS['rand'] if version == 'rand' else ATTACKS
  names = [attacks] if isinstance(attacks, str) else list(attacks)
  unknown = [name for name in names if name not in allowed]
  if unknown or not names or len(set(names)) < len(names):
    raise ValueError(
      f'attacks = {names} with version {version!r}; allowed: one or more of '
      f'{", ".join(allowed)}, each once'
    )
  return names


def make_component(
  name: str, version: str, norm: str, num_classes: int
) -> Component:
  """Makes one attack with the parameters of the reference implementation.

  For l1 the standard version is that of arXiv 2103.01208: five restarts of
  APGD-CE and five targets of APGD-T.
  """
  dlr = losses.dlr if num_classes >= _CLASSES_OF_DLR else losses.margin
  samples = eot_samples(version)
  plus = version == 'plus'
  standard_l1 = version == 'standard' and norm == 'l1'
  restarts = 5 if plus or standard_l1 else 1

  def apgd(loss_fn: Callable) -> Search:
    return make_apgd(
      norm=norm,
      num_steps=100,
      loss_fn=loss_fn,
      eot_samples=samples,
    )

  def targets(at_most: int) -> int:
    return min(at_most, num_classes - 1)

  if name == 'apgd-ce':
    return Component(name, apgd(losses.cross_entropy), None, restarts)
  if name == 'apgd-dlr':
    return Component(name, apgd(dlr), None, restarts)
  if name == 'apgd-t':
    number = targets(5 if standard_l1 else 9)
    return Component(name, apgd(dlr), number, 1)
  if name == 'fab':
    # Its restarts start around what was found before, so they are steps.
    search = make_fab(norm=norm, num_steps=100, num_restarts=5 if plus else 1)
    # It computes the gradient of every other class.
    search = search._replace(num_backward=num_classes - 1)
    return Component(name, search, None, 1)
  if name == 'fab-t':
    search = make_fab(norm=norm, num_steps=100)
    return Component(name, search, targets(9), 1)
  search = make_square(norm=norm, num_queries=5000)
  return Component(name, search, None, 1)
