"""Rules on AutoAttack and on Square, which should find all and nothing more."""

from collections.abc import Iterator

from advjax.reporting.sanity.scores import (
  Verdict,
  at,
  attacks_on,
  autoattacks_on,
  few,
  said,
  shared,
)
from advjax.reporting.values import Report, finite, percent, short


def black_box_finds_little(report: Report, member: str) -> Verdict:
  """An attack without gradients does not beat those that have them."""
  found = [*_square_after(report, member), *_square_beside(report, member)]
  if not found:
    return Verdict(
      None,
      f'No attack without gradients (Square) was run on {member} beside one '
      'of many steps that has them.',
    )
  gap, text = max(found)
  if gap > few(report):
    return Verdict(
      False,
      f'Square, which uses no gradients, {text}. Attacks with gradients should '
      f'find all that Square finds: the gradients of {member} are masked or '
      'noisy, and its robust accuracy is probably still lower. Give Square '
      'more queries and restarts, or attack a smoother version of the network.',
    )
  return Verdict(
    True,
    f'Square, which uses no gradients, {text}: no more than chance.',
  )


def _square_after(report: Report, member: str) -> Iterator[tuple[float, str]]:
  """Yields what Square found after the other attacks of AutoAttack."""
  for entry, norm, epsilon, _ in autoattacks_on(report, member):
    before = finite(entry.get('clean_accuracy'))
    attacks = entry.get('attacks', ())
    for number, attack in enumerate(attacks):
      after = finite(attack.get('accuracy'))
      if (
        number
        and str(attack.get('name')).startswith('square')
        and before is not None
        and after is not None
      ):
        yield (
          before - after,
          f'takes {member} from {percent(before)} to {percent(after)} at '
          f'{at(epsilon, norm)}, after the other attacks of AutoAttack',
        )
      before = after


def _square_beside(report: Report, member: str) -> Iterator[tuple[float, str]]:
  """Yields what Square leaves against the strongest attack with gradients."""
  attacked = attacks_on(report, member)
  for square in attacked:
    others = [
      (strong.value, many.label, epsilon, weak)
      for many in attacked
      if square.black_box and not many.black_box and many.num_steps > 1
      for epsilon, weak, strong in shared(square, many)
    ]
    for epsilon in {other[2] for other in others}:
      value, label, _, weak = min(o for o in others if o[2] == epsilon)
      yield (
        value - weak.value,
        f'leaves {member} {said(weak)} at {at(epsilon, square.norm)}, where '
        f'{label} leaves {percent(value)}',
      )


def autoattack_is_strongest(report: Report, member: str) -> Verdict:
  """AutoAttack leaves no more than any other attack in the same ball."""
  found = []
  for _, norm, epsilon, score in autoattacks_on(report, member):
    for attack in attacks_on(report, member):
      other = attack.scores.get(epsilon)
      if attack.norm == norm and other is not None:
        gap = score.value - other.value
        found.append((gap, epsilon, norm, score, attack.label, other))
  if not found:
    return Verdict(
      None,
      f'AutoAttack was not run on {member} in the same ball as another attack.',
    )
  gap, epsilon, norm, score, label, other = max(found)
  numbers = (
    f'at {at(epsilon, norm)} AutoAttack leaves {member} {said(score)} and '
    f'{label} {said(other)}'
  )
  if gap > few(report):
    return Verdict(
      False,
      f'AutoAttack is not the strongest attack: {numbers}. Quote the lower '
      'number. Such a gap is known of networks that are random, masked or at '
      'odds with the losses of AutoAttack: try its versions plus or rand.',
    )
  return Verdict(
    True, f'No attack goes below AutoAttack: {numbers}, which comes closest.'
  )


def autoattack_is_content(report: Report, member: str) -> Verdict:
  """AutoAttack raised no flags of its own."""
  runs = list(autoattacks_on(report, member))
  if not runs:
    return Verdict(None, f'AutoAttack was not run on {member}.')
  flags = [
    f'at {at(epsilon, norm)}: {str(text).rstrip(".")}'
    for entry, norm, epsilon, _ in runs
    for text in entry.get('warnings', ())
  ]
  if flags:
    return Verdict(
      False, f'AutoAttack warns about {member}, {"; ".join(flags)}.'
    )
  epsilons = ', '.join(short(epsilon) for _, _, epsilon, _ in runs)
  return Verdict(
    True, f'AutoAttack had nothing to warn of on {member} (epsilon {epsilons}).'
  )
