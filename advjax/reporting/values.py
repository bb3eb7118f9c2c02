"""Numbers of a report as people read them."""

import math
from collections.abc import Mapping
from typing import Any

Report = Mapping[str, Any]
Interval = tuple[float, float]

_NAMES = {
  'mifgsm': 'MI-FGSM',
  'autoattack': 'AutoAttack',
  'deepfool': 'DeepFool',
  'square': 'Square',
}


def accuracy_interval(accuracy: float, num_images: int) -> Interval:
  """Returns the 95 % interval of Wilson for an accuracy over some images.

  Unlike accuracy +- 1.96 standard errors it stays within [0, 1] and has a width
  at 0 and 1. (Edwin B. Wilson, 1927, Journal of the American Statistical
  Association 22.)

  Args:
    accuracy: the fraction of images classified correctly, in [0, 1]. Several
      seeds over the same images count as one: give their mean.
    num_images: the number of images, at least 1.

  Returns:
    The lower and the upper end, fractions.

  Raises:
    ValueError: if accuracy is outside [0, 1] or num_images below 1.

  Example:
    >>> low, high = accuracy_interval(0.9, 100)
    >>> f'{low:.3f} {high:.3f}'
    '0.826 0.945'
  """
  if num_images < 1:
    raise ValueError(f'num_images must be at least 1, got {num_images}')
  if not 0 <= accuracy <= 1:
    raise ValueError(f'accuracy must be in [0, 1], got {accuracy}')
  from scipy import stats  # Slow to import: not at the top.

  num_correct = round(accuracy * num_images)
  result = stats.binomtest(num_correct, num_images)
  interval = result.proportion_ci(0.95, method='wilson')
  return float(interval.low), float(interval.high)


def finite(value: object) -> float | None:
  """Returns the value as a float, None where it is absent or not finite."""
  if isinstance(value, bool) or not hasattr(value, '__float__'):
    return None
  number = float(value)
  return number if math.isfinite(number) else None


def interval_of(entry: Mapping[str, Any], name: str) -> Interval | None:
  """Returns the interval that stands beside `name` as `<name>_ci`, or None."""
  ends = entry.get(f'{name}_ci')
  if ends is None or len(ends) != 2:
    return None
  low, high = finite(ends[0]), finite(ends[1])
  return None if low is None or high is None else (low, high)


def percent(value: object, digits: int = 1) -> str:
  """Writes a fraction as per cent, an absent one as n/a.

  Example:
    >>> percent(0.98611)
    '98.6 %'
  """
  number = finite(value)
  return 'n/a' if number is None else f'{100 * number:.{digits}f} %'


def short(number: float) -> str:
  """Writes an epsilon or a step size with three digits: 8/255 is 0.0314."""
  return f'{number:.3g}'


def attack_label(key: str, entry: Mapping[str, Any]) -> str:
  """Returns the name of an attack for people: 'FGSM', 'BIM-20', 'PGD-40'.

  Args:
    key: the attack's key in `robust_accuracy`.
    entry: what stands under that key; `num_steps` is read if it is there.

  Example:
    >>> attack_label('bim', {'num_steps': 20})
    'BIM-20'
  """
  stem, _, rest = key.partition('-')
  name = _NAMES.get(stem.lower(), stem.upper())
  kind, _, numbers = rest.partition('-')
  if kind.isalpha():  # 'ce' of 'apgd-ce', 't' of 'fab-t-100'
    name, rest = f'{name}-{kind.upper()}', numbers
  num_steps = finite(entry.get('num_steps'))
  if num_steps is not None and num_steps > 1 and not rest:
    rest = f'{num_steps:.0f}'
  return f'{name}-{rest}' if rest else name


def is_evaluated(report: Report) -> bool:
  """Returns whether a report has a sanity section and parts of its own."""
  return 'sanity' in report


def members_of(report: Report) -> dict[str, Mapping[str, Any]]:
  """Returns the members of a report by name, in the report's order."""
  return dict(report.get('members', {}))


def attacks_of(report: Report) -> dict[str, Mapping[str, Any]]:
  """Returns key and one entry of every attack that any member has, in order."""
  attacks: dict[str, Mapping[str, Any]] = {}
  for member in members_of(report).values():
    for key, entry in member.get('robust_accuracy', {}).items():
      attacks.setdefault(key, entry)
  return attacks


def entry_of(
  report: Report, member: str, attack: str
) -> Mapping[str, Any] | None:
  """Returns members[member].robust_accuracy[attack], None if it is absent."""
  entries = members_of(report).get(member, {}).get('robust_accuracy', {})
  return entries.get(attack)


def top_k_of(report: Report) -> int | None:
  """Returns the k of the accuracies of the top k, None if there are none."""
  for member in members_of(report).values():
    if finite(member.get('top_k')) is not None:
      return int(member['top_k'])
  return None


def transfer_of(
  entry: Mapping[str, Any], target: str, ending: str = ''
) -> tuple[float | None, Interval | None]:
  """Returns the target's accuracy on the entry's images, and its interval.

  Args:
    entry: Of an attack.
    target: The member that is scored.
    ending: '_top_k' for its accuracy in the top k.
  """
  name = f'transfer{ending}'
  value = finite(entry.get(name, {}).get(target))
  ends = {f'{name}_ci': entry.get(f'{name}_ci', {}).get(target)}
  return value, interval_of(ends, name)


def autoattack_runs(
  report: Report,
) -> dict[str, dict[str, Mapping[str, Any]]]:
  """Returns the runs of AutoAttack: where -> member -> its entry.

  Epsilons have three digits, or all where three do not tell them apart.

  Example:
    >>> entry = {'version': 'plus', 'epsilon': 0.1, 'norm': 'linf'}
    >>> list(autoattack_runs({'members': {'base': {'autoattack': [entry]}}}))
    ['plus, epsilon 0.1, linf']
  """
  runs: dict[tuple[str, float | None, str], dict[str, Mapping[str, Any]]] = {}
  for name, member in members_of(report).items():
    for entry in member.get('autoattack', ()):
      ball = (
        str(entry.get('version', 'version unknown')),
        finite(entry.get('epsilon')),
        str(entry.get('norm', 'norm unknown')),
      )
      runs.setdefault(ball, {})[name] = entry
  rounded = [_where(*ball) for ball in runs]
  return {
    where if rounded.count(where) == 1 else _where(*ball, exact=True): found
    for where, (ball, found) in zip(rounded, runs.items(), strict=True)
  }


def _where(
  version: str, epsilon: float | None, norm: str, exact: bool = False
) -> str:
  if epsilon is None:
    number = 'unknown'
  else:
    number = repr(epsilon) if exact else short(epsilon)
  return f'{version}, epsilon {number}, {norm}'
