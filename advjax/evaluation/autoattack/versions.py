"""The attacks of AutoAttack, and its versions."""

import functools
from collections.abc import Sequence
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
    versions = ', '.join(map(repr, VERSIONS))
    raise ValueError(f'version = {version!r}; allowed: {versions}')
  if attacks is None:
    return list(VERSIONS[version])
  # The others have no form that averages over draws.
  allowed = VERSIONS['rand'] if version == 'rand' else ATTACKS
  names = [attacks] if isinstance(attacks, str) else list(attacks)
  unknown = [name for name in names if name not in allowed]
  if unknown or not names or len(set(names)) < len(names):
    raise ValueError(
      f'attacks = {names} with version {version!r}; allowed: one or more of '
      f'{", ".join(map(repr, allowed))}, each once'
    )
  return names


@functools.lru_cache(maxsize=64)  # Programs compare searches by identity.
def make_component(
  name: str, version: str, norm: str, num_classes: int
) -> Component:
  """Makes one attack with the parameters of the reference implementation.

  For l1 the standard version is that of arXiv 2103.01208: five restarts of
  APGD-CE and five targets of APGD-T.
  """
  plus = version == 'plus'
  standard_l1 = version == 'standard' and norm == 'l1'
  targets = {'apgd-t': 5 if standard_l1 else 9, 'fab-t': 9}.get(name)
  restarts = 1
  if name.startswith('apgd'):
    loss_fn = losses.dlr if num_classes >= _CLASSES_OF_DLR else losses.margin
    search = make_apgd(
      norm=norm,
      num_steps=100,
      loss_fn=losses.cross_entropy if name == 'apgd-ce' else loss_fn,
      eot_samples=eot_samples(version),
    )
    if name != 'apgd-t' and (plus or standard_l1):
      restarts = 5
  elif name == 'fab':
    # Its restarts start around what was found before, so they are steps.
    search = make_fab(norm=norm, num_steps=100, num_restarts=5 if plus else 1)
    # It computes the gradient of every other class.
    search = search._replace(num_backward=num_classes - 1)
  elif name == 'fab-t':
    search = make_fab(norm=norm, num_steps=100)
  else:
    search = make_square(norm=norm, num_queries=5000)
  if targets is not None:
    targets = min(targets, num_classes - 1)
  return Component(name, search, targets, restarts)
