"""Rules that compare attacks on one member with each other."""

import itertools
from collections.abc import Iterator

from advjax.reporting.sanity.scores import (
  Score,
  Verdict,
  at,
  attacks_on,
  is_above,
  said,
  score_of,
  shared,
)
from advjax.reporting.values import Report, finite, members_of, percent

_ROBUST = 0.5  # Accuracy after one step from which on it looks like robustness.

_MASKED, _MILD = 0.5, 0.25  # What many steps leave of it, as a share.


def falls(report: Report, member: str) -> Verdict:
  """A larger ball holds the smaller one: accuracy may not rise with it."""
  clean = score_of(report, members_of(report)[member], 'clean_accuracy')
  curves = list(_curves(report, member))
  if not curves:
    return Verdict(
      None, f'{member} was not attacked, or only by one step too long.'
    )
  rises = []
  for label, _, scores in curves:
    points = [(e, score) for e, score in scores.items() if e > 0]
    if clean:
      points.insert(0, (0.0, clean))
    for (below, low), (above, high) in itertools.combinations(points, 2):
      if is_above(high, low):
        rises.append((high.value - low.value, label, below, low, above, high))
  if rises:
    _, label, below, low, above, high = max(rises)
    return Verdict(
      False,
      f'Under {label} the accuracy of {member} rises from {said(low)} at '
      f'{at(below)} to {said(high)} at {at(above)}. A larger epsilon allows '
      'every smaller perturbation, so the attack misses what is there: look '
      'at its step size, and give it more steps or restarts.',
    )
  flat = does_not_fall(report, member)
  if flat:
    return Verdict(None, flat)
  return Verdict(
    True,
    f'The accuracy of {member} falls with epsilon under '
    f'{_count(len(curves), "attack")}.',
  )


def does_not_fall(report: Report, member: str) -> str | None:
  """Returns what to say where no attack lowers the accuracy, else None."""
  clean = score_of(report, members_of(report)[member], 'clean_accuracy')
  ends = []
  for label, norm, scores in _curves(report, member):
    epsilon = max(scores)
    if clean is None or epsilon <= 0 or is_above(clean, scores[epsilon]):
      return None
    ends.append((epsilon, label, norm, scores[epsilon]))
  if clean is None or not ends:
    return None
  epsilon, label, norm, score = max(ends)
  return (
    f'Up to {at(epsilon, norm)} no attack lowers the accuracy of {member} by '
    f'more than chance ({said(clean)} clean, {said(score)} under {label}): '
    'larger epsilons or more images would tell.'
  )


def _curves(
  report: Report, member: str
) -> Iterator[tuple[str, str, dict[float, Score]]]:
  """Yields label, norm and epsilon -> accuracy of every attack."""
  for attack in attacks_on(report, member):
    # One long step leads beyond what is near: no sign of anything.
    scores = {
      epsilon: score
      for epsilon, score in attack.scores.items()
      if not (attack.one_step and attack.is_large(epsilon))
    }
    if scores:
      yield attack.label, attack.norm, scores


def reaches_chance(report: Report, member: str) -> Verdict:
  """In a ball that holds a gray image around any, nothing may stand."""
  found, one_step, unlimited = [], False, False
  for attack in attacks_on(report, member):
    unlimited |= attack.large is None
    for epsilon, score in attack.scores.items():
      if attack.is_large(epsilon):
        one_step |= attack.one_step
        if not attack.one_step:
          found.append((score, epsilon, attack.norm, attack.label))
  if not found:
    reason = 'no epsilon of the curve is large enough to break everything'
    if one_step:
      reason = 'only attacks of one step were run at a large epsilon'
    elif unlimited:
      reason += ', or the pixel range or size of the images is not known'
    return Verdict(None, f'For {member} this was not measured: {reason}.')
  score, epsilon, norm, label = min(found)
  where = f'at {at(epsilon, norm)}, where every image can be made the same'
  # All images made the same get one answer: right for one class at most.
  chance = finite(report.get('dataset', {}).get('largest_class_share'))
  if chance is None:
    return Verdict(
      None,
      f'{label} leaves {member} {said(score)} {where}. Whether that is above '
      'chance cannot be said: the report does not have the share of the most '
      'frequent class.',
    )
  if score.low > chance:
    return Verdict(
      False,
      f'{member} is right on {said(score)} {where}; nothing above the share of '
      f'the most frequent class ({percent(chance)}) is possible. {label} fails '
      'there, as it does where gradients are masked or vanish, so its other '
      'numbers are too high as well: try a loss on logit differences, more '
      'steps, and attacks that use no gradients.',
    )
  return Verdict(
    True,
    f'{label} leaves {member} {said(score)} {where} (the most frequent class: '
    f'{percent(chance)}).',
  )


def steps_help(report: Report, member: str) -> Verdict:
  """Many steps do at least what one does."""
  attacked = attacks_on(report, member)
  worse, count = [], 0
  for one, many in itertools.product(attacked, attacked):
    if not one.one_step or many.num_steps <= 1 or many.black_box:
      continue
    for epsilon, weak, strong in shared(one, many):
      count += 1
      if is_above(strong, weak):
        gap = strong.value - weak.value
        worse.append((gap, epsilon, many.label, strong, one.label, weak))
  if not count:
    return Verdict(
      None,
      f'{member} was not attacked with one step and with many in the same '
      'norm at the same epsilon.',
    )
  if worse:
    _, epsilon, many_label, strong, one_label, weak = max(worse)
    return Verdict(
      False,
      f'At {at(epsilon)} {many_label} leaves {member} {said(strong)}, more '
      f'than {one_label} ({said(weak)}), although it takes more steps. Its '
      'step size or number of steps does not suit, or the gradients lead '
      'astray after the first step: try a smaller step and random starts.',
    )
  return Verdict(
    True,
    f'No attack of many steps leaves {member} more than an attack of one step '
    f'({_count(count, "comparison")}).',
  )


def effort_helps(report: Report, member: str) -> Verdict:
  """More steps and more restarts of the same attack do not do worse."""
  attacked = attacks_on(report, member)
  worse, shown = [], []
  for less, more in itertools.permutations(attacked, 2):
    effort = (less.num_steps, less.num_restarts)
    greater = (more.num_steps, more.num_restarts)
    rises = all(a <= b for a, b in zip(effort, greater, strict=True))
    if less.kind != more.kind or effort == greater or not rises:
      continue
    for epsilon, weak, strong in shared(less, more):
      gap = weak.value - strong.value
      text = (
        f'{more.label} leaves {said(strong)} and {less.label} {said(weak)} at '
        f'{at(epsilon)}'
      )
      shown.append((gap, text))
      if is_above(strong, weak):
        worse.append((gap, text))
  if not shown:
    return Verdict(
      None,
      f'No attack on {member} was run twice, with few and with more steps or '
      'restarts.',
    )
  if worse:
    return Verdict(
      False,
      f'More work breaks less of {member}: {min(worse)[1]}. An attack that '
      'keeps its best image cannot lose by more steps: its step size does not '
      'suit, or it keeps the last image instead.',
    )
  return Verdict(
    True,
    f'More steps or restarts do not do worse on {member}: {max(shown)[1]}.',
  )


def unmasked(report: Report, member: str) -> Verdict:
  """One step does not leave far more than many."""
  attacked = attacks_on(report, member)
  pairs = [
    (strong.value / weak.value, epsilon, one, weak, many, strong)
    for one, many in itertools.product(attacked, attacked)
    if one.one_step and many.num_steps > 1
    for epsilon, weak, strong in shared(one, many)
    # One step that leads far beyond the image fails for another reason.
    if not one.is_large(epsilon) and weak.value > 0
  ]
  if not pairs:
    return Verdict(
      None,
      f'{member} was not attacked with one step and with many in the same '
      'norm at the same epsilon.',
    )
  # Where one step breaks most of a network, nobody takes it for robust.
  masked = [p for p in pairs if p[3].value >= _ROBUST and p[0] < _MASKED]
  # The headline goes before other epsilons, unless it is the milder case.
  ratio, epsilon, one, weak, many, strong = min(
    masked or pairs,
    key=lambda pair: (pair[0] >= _MILD, pair[1] != pair[2].epsilon, pair[0]),
  )
  numbers = (
    f'at {at(epsilon)} one step ({one.label}) leaves {said(weak)}, many steps '
    f'({many.label}) leave {said(strong)}'
  )
  if not masked:
    return Verdict(
      True,
      f'One step and many agree well enough on {member}: where they differ '
      f'most, {numbers}.',
    )
  what = 'masks its gradients'
  if ratio >= _MILD:
    what = 'shows a mild form of gradient masking'
  return Verdict(
    False,
    f'{member} {what}: {numbers}. The first number is a failure of the attack, '
    'not robustness, as is usual after training on one step (catastrophic '
    'overfitting): quote attacks of many steps alone, and train with a random '
    'start, more steps or an earlier checkpoint.',
  )


def _count(number: int, what: str) -> str:
  return f'{number} {what}{"" if number == 1 else "s"}'
