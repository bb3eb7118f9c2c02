"""Rules on what else was measured: transfer, noise, gradients, sizes."""

from advjax.reporting.sanity.scores import (
  Score,
  Verdict,
  at,
  attacks_on,
  is_above,
  num_images,
  said,
  score_of,
)
from advjax.reporting.values import (
  Report,
  attack_label,
  entry_of,
  finite,
  members_of,
  percent,
  transfer_of,
)

# An image whose gradient is zero stays where it is and counts as robust. Up to
# this share that moves an accuracy by no more than chance in 10,000 images.
_ZERO_GRADIENTS = 0.01
_FOUND = 0.95  # Attacks without a limit that find less than this are broken.


def _transferred(
  report: Report, member: str, attack: str
) -> tuple[Score, str] | None:
  """Returns the lowest accuracy on other members' images, and whose."""
  found = []
  for source in members_of(report):
    entry = entry_of(report, source, attack) or {}
    value, ends = transfer_of(entry, member)
    if source != member and value is not None:
      score = score_of(report, {'it': value, 'it_ci': ends}, 'it')
      assert score is not None
      found.append((score, source))
  return min(found, default=None)


def white_box_beats_transfer(report: Report, member: str) -> Verdict:
  """Nobody's images fool a network more than its own."""
  pairs = []
  for attack in attacks_on(report, member):
    other = _transferred(report, member, attack.name)
    if other is not None:
      score, source = other
      own = attack.scores[attack.epsilon]
      numbers = (
        f'{attack.label} at {at(attack.epsilon)} leaves {member} {said(own)} '
        f'with its own gradients and {said(score)} with those of {source}'
      )
      pairs.append((is_above(own, score), own.value - score.value, numbers))
  if not pairs:
    return Verdict(
      None, f'{member} was not tried on images made on another member.'
    )
  alarm, _, numbers = max(pairs)
  if alarm:
    return Verdict(
      False,
      f"Another network's images fool {member} more often than its own: "
      f'{numbers}. Its gradients mislead, so its white-box number is too high: '
      'more steps, random starts or an attack without gradients will tell.',
    )
  return Verdict(
    True, f'White box is at least as strong as transfer: {numbers}.'
  )


def attacks_beat_noise(report: Report, member: str) -> Verdict:
  """Noise of the same size fools less than any image made to fool."""
  noises = []
  for kind, entry in members_of(report)[member].get('noise', {}).items():
    score = score_of(report, entry, 'accuracy')
    if score is not None:
      where = entry.get('norm'), finite(entry.get('epsilon'))
      noises.append(
        (where, score, kind.replace('_', '-').replace('gaussian', 'Gaussian'))
      )
  pairs = []
  for attack in attacks_on(report, member):
    attempts = [(attack.scores[attack.epsilon], attack.label, True)]
    other = _transferred(report, member, attack.name)
    if other is not None:
      label = f'{attack.label} made on {other[1]}'
      attempts.append((other[0], label, False))
    for where, noise, kind in noises:
      if where != (attack.norm, attack.epsilon):
        continue
      for score, label, own in attempts:
        numbers = (
          f'at {at(attack.epsilon, attack.norm)} {label} leaves {member} '
          f'{said(score)}, {kind} noise of the same size {said(noise)}'
        )
        gap = score.value - noise.value
        pairs.append((is_above(score, noise), own, gap, numbers))
  if not pairs:
    return Verdict(
      None, f'No noise of the size of an attack was measured on {member}.'
    )
  alarm, own, _, numbers = max(pairs)
  if not alarm:
    return Verdict(
      True, f'Noise does less than attacks: where they are closest, {numbers}.'
    )
  if own:
    return Verdict(
      False,
      f'Noise breaks more than an attack: {numbers}. The attack finds less '
      'than chance does, so its number says nothing: look at its step size, '
      'the pixel range and the gradients.',
    )
  return Verdict(
    False,
    f'Noise breaks more than images made on another network: {numbers}. Those '
    'images carry nothing over, so a high accuracy on them is no sign of '
    'robustness.',
  )


def gradients_are_there(report: Report, member: str) -> Verdict:
  """Few images have a gradient of zero, none one that is not finite."""
  traces = members_of(report)[member].get('traces', {})
  worst: dict[str, tuple[float, str]] = {}
  for attack, trace in traces.items():
    label = attack_label(attack, entry_of(report, member, attack) or {})
    for name in ('zero_gradients', 'not_finite_gradients'):
      share = finite(trace.get(name))
      if share is not None:
        worst[name] = max((share, label), worst.get(name, (0.0, label)))
  if not worst:
    return Verdict(
      None, f'The gradients of {member} at the clean images were not counted.'
    )
  none = (0.0, '')
  not_finite, label = worst.get('not_finite_gradients', none)
  if not_finite > 0:
    return Verdict(
      False,
      f'{percent(not_finite, 2)} of the images have gradients that are not '
      f'finite on {member} ({label}). Attacks take them for 0, so these images '
      'are hardly attacked: look for square roots, logarithms and divisions '
      'at 0, and for overflow in low precision.',
    )
  zero, label = worst.get('zero_gradients', none)
  text = (
    f'{percent(zero, 2)} of the images have a gradient of exactly zero on '
    f'{member}'
  )
  if zero > _ZERO_GRADIENTS:
    return Verdict(
      False,
      f'{text} ({label}). An attack that follows gradients leaves them where '
      'they are and counts them as robust. The logits are so large that the '
      'loss is flat (gradient masking), or a layer cuts the gradient off: '
      'attack with a loss on logit differences (DLR, margin) and without '
      'gradients (Square).',
    )
  return Verdict(True, f'{text}, and none has one that is not finite.')


def logits_were_checked(report: Report, member: str) -> Verdict:
  """Probabilities are refused where clean accuracy is measured.

  So this is never suspicious: it tells what was looked at.
  """
  clean = finite(members_of(report)[member].get('clean_accuracy'))
  count = num_images(report)
  if clean is None or count is None:
    return Verdict(None, f'The outputs of {member} were not looked at.')
  if count == 1:
    return Verdict(
      None,
      f'On a single image the outputs of {member} may be logits or '
      'probabilities.',
    )
  return Verdict(
    True,
    f'On the {count:,} clean test images all outputs of {member} are finite, '
    'and not every row is >= 0 with a sum within 0.001 of 1. Otherwise the '
    'evaluation would have ended with an error. Probabilities of low '
    'precision, whose sums are further from 1, are not caught.',
  )


# Attacks that climb on when the network is fooled; all others stop there.
_CLIMBERS = ('fgsm', 'bim', 'mifgsm', 'pgd', 'apgd')


def survives_rounding(report: Report, member: str) -> Verdict:
  """Perturbed images still fool when they are stored in 8 bits."""
  rounded = members_of(report)[member].get('rounded', {})
  pairs = []
  for attack in attacks_on(report, member):
    after = score_of(report, rounded, attack.name)
    # What stops just across the border is back behind it after any rounding.
    if after is not None and attack.kind in _CLIMBERS:
      before = attack.scores[attack.epsilon]
      numbers = (
        f'{attack.label} at {at(attack.epsilon, attack.norm)} leaves {member} '
        f'{said(before)}, and {said(after)} once its images are rounded'
      )
      gap = after.value - before.value
      pairs.append((is_above(after, before), gap, numbers))
  if not pairs:
    return Verdict(
      None,
      f'No images made on {member} by an attack that goes as far as it can '
      f'({", ".join(_CLIMBERS)}) were tried after rounding to 8 bits.',
    )
  alarm, _, numbers = max(pairs)
  if alarm:
    return Verdict(
      False,
      f'Rounding to 8 bits undoes a part of the attack: {numbers} to multiples '
      'of 1/255. The perturbations are finer than an image file can hold: '
      'exchange them as float32, and do not quote them as a threat to 8-bit '
      'images.',
    )
  return Verdict(True, f'The attacks survive 8 bits: {numbers}.')


def stays_in_ball(report: Report, member: str) -> Verdict:
  """No perturbation is larger than epsilon, but for rounding."""
  found = []
  for attack in attacks_on(report, member):
    entry = entry_of(report, member, attack.name) or {}
    size = finite(entry.get('max_perturbation'))
    if size is None:
      continue
    # Sums over all pixels in float32 are not exact to the last bits.
    allowed = attack.epsilon * (1 + 1e-6)
    if attack.norm == 'l1':
      allowed = attack.epsilon + 1e-5 * max(1.0, attack.epsilon)
    found.append((size - allowed, size, attack))
  if not found:
    return Verdict(None, f'Perturbations of {member} were not measured.')
  excess, size, attack = max(found)
  numbers = (
    f'the largest perturbation of {attack.label} on {member} has size '
    f'{size:.9g}, epsilon is {attack.epsilon:.9g} ({attack.norm})'
  )
  if excess > 0:
    return Verdict(
      False,
      f'An attack leaves its ball: {numbers}. Its accuracy is too low for this '
      'epsilon, and not comparable: project after every step and after the '
      'last rounding, and check the scale of the pixels.',
    )
  return Verdict(True, f'All attacks stay in their balls: {numbers}.')


def unlimited_finds_all(report: Report, member: str) -> Verdict:
  """An attack that may go as far as it likes fools on nearly every image."""
  shares = [
    (share, attack_label(attack, {}))
    for attack, entry in members_of(report)[member].get('minimal', {}).items()
    if (share := finite(entry.get('found'))) is not None
  ]
  if not shares:
    return Verdict(
      None, f'No attack without a limit on its size was run on {member}.'
    )
  share, label = min(shares)
  numbers = f'{label} fools {member} on {percent(share)} of the images'
  if share < _FOUND:
    return Verdict(
      False,
      f'An attack without a limit should always find something: {numbers}. It '
      'has too few steps, or the gradients of the network are masked, so that '
      'its median epsilon is too high.',
    )
  return Verdict(
    True, f'Attacks without a limit find something for nearly all: {numbers}.'
  )
