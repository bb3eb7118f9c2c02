"""Rules on AutoAttack and on Square, which should find all and nothing more."""

from collections.abc import Iterator

from advjax.reporting.sanity.scores import (
  Run,
  Verdict,
  at,
  attacks_on,
  autoattacks_on,
  is_more_than_few,
  said,
  shared,
)
from advjax.reporting.values import Report, finite, percent, short

# Whether it is suspicious, the gap by which it is, and what was seen.
_Found = tuple[bool, float, str]


def black_box_finds_little(report: Report, member: str) -> Verdict:
  """An attack without gradients does not beat those that have them."""
  found = [
    *(
      each
      for run in autoattacks_on(report, member)
      for each in _square_after(run, member)
    ),
    *_square_beside(report, member),
  ]
  if not found:
    return Verdict(
      None,
      f'No attack without gradients (Square) was run on {member} beside one '
      'of many steps that has them.',
    )
  alarm, _, text = max(found)
  if alarm:
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


def _square_after(run: Run, member: str) -> Iterator[_Found]:
  """Yields what Square found after the other attacks of AutoAttack."""
  before = finite(run.entry.get('clean_accuracy'))
  for number, attack in enumerate(run.entry.get('attacks', ())):
    after = finite(attack.get('accuracy'))
    if (
      number
      and str(attack.get('name')).startswith('square')
      and before is not None
      and after is not None
    ):
      gap = before - after
      yield (
        is_more_than_few(gap, run.num_images),
        gap,
        f'takes {member} from {percent(before)} to {percent(after)} at '
        f'{at(run.epsilon, run.norm)}, after the other attacks of AutoAttack',
      )
    before = after


def _square_beside(report: Report, member: str) -> Iterator[_Found]:
  """Yields what Square leaves against the strongest attack with gradients."""
  attacked = attacks_on(report, member)
  # AutoAttack holds Square itself.
  with_gradients = [
    each
    for each in attacked
    if each.num_steps > 1 and not (each.black_box or each.is_autoattack)
  ]
  for square in attacked:
    others = [
      (strong.value, many.label, epsilon, weak)
      for many in with_gradients
      if square.black_box
      for epsilon, weak, strong in shared(square, many)
    ]
    for epsilon in {other[2] for other in others}:
      value, label, _, weak = min(o for o in others if o[2] == epsilon)
      gap = value - weak.value
      yield (
        is_more_than_few(gap, square.counts[epsilon]),
        gap,
        f'leaves {member} {said(weak)} at {at(epsilon, square.norm)}, where '
        f'{label} leaves {percent(value)}',
      )


def autoattack_is_strongest(report: Report, member: str) -> Verdict:
  """AutoAttack leaves no more than any other attack in the same ball."""
  found = []
  for run in autoattacks_on(report, member):
    for attack in attacks_on(report, member):
      other = attack.scores.get(run.epsilon)
      # On other images the numbers differ by chance.
      same_images = (
        run.num_images and attack.counts.get(run.epsilon) == run.num_images
      )
      if attack.is_autoattack or other is None or not same_images:
        continue
      if attack.norm == run.norm:
        gap = run.score.value - other.value
        numbers = (
          f'at {at(run.epsilon, run.norm)} AutoAttack leaves {member} '
          f'{said(run.score)} and {attack.label} {said(other)}'
        )
        found.append((is_more_than_few(gap, run.num_images), gap, numbers))
  if not found:
    return Verdict(
      None,
      f'AutoAttack was not run on {member} in the same ball and on the same '
      'images as another attack.',
    )
  alarm, _, numbers = max(found)
  if alarm:
    return Verdict(
      False,
      f'AutoAttack is not the strongest attack: {numbers}. Quote the lower '
      'number. Such a gap is known of networks whose gradients are masked or '
      'at odds with the losses of AutoAttack: try autoattack-plus. Networks '
      "that draw at random need advjax.autoattack(version='rand').",
    )
  return Verdict(
    True, f'No attack goes below AutoAttack: {numbers}, which comes closest.'
  )


def autoattack_is_content(report: Report, member: str) -> Verdict:
  """AutoAttack raised no flags of its own."""
  runs = list(autoattacks_on(report, member))
  if not runs:
    return Verdict(None, f'AutoAttack was not run on {member}.')
  flags, others = [], ''
  for run in runs:
    square = any(alarm for alarm, _, _ in _square_after(run, member))
    for text in run.entry.get('warnings', ()):
      # `black_box_finds_little` says it, by the same threshold.
      if square and str(text).startswith('Square'):
        others = ' but of what Square found, which another check says'
        continue
      flags.append(f'at {at(run.epsilon, run.norm)}: {str(text).rstrip(". ")}')
  if flags:
    return Verdict(
      False, f'AutoAttack warns about {member}, {"; ".join(flags)}.'
    )
  epsilons = ', '.join(short(run.epsilon) for run in runs)
  return Verdict(
    True,
    f'AutoAttack had nothing to warn of on {member} (epsilon {epsilons})'
    f'{others}.',
  )
