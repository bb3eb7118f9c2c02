"""Sanity checks: can the robustness that a report claims be trusted?

They follow Carlini et al. 2019 (arXiv 1902.06705) and Athalye et al. 2018
(arXiv 1802.00420). What is compared was measured alike: same norm, same
epsilon, same images. One accuracy counts as above another one where the 95 %
interval of the difference excludes 0 (`is_above`).
"""

import dataclasses
import itertools
import math
from collections.abc import Callable, Iterator, Sequence

from advjax.reporting.formatting import attack_label, format_epsilon, percent
from advjax.results import (
  AttackResult,
  AutoAttackSummary,
  Estimate,
  Finding,
  Report,
  accuracy_interval,
)

# What a comparison gives: whether it is suspicious (None: cannot tell), how far
# it is from that, and the numbers. The most suspicious one decides.
Compared = tuple[bool | None, float, str]

# Single-step accuracy from which on it looks like robustness, and what share of
# it remains under multi-step attacks if gradients are masked, and mildly.
_ROBUST, _MASKED, _MILD = 0.5, 0.5, 0.25
# An image whose gradient is zero stays as it is and counts as robust. Up to
# this share that moves an accuracy by no more than chance in 10,000 images.
_ZERO_GRADIENTS = 0.01
_FOUND = 0.95  # Share of the images that minimum-norm attacks succeed on.
# Attacks that continue once the prediction is wrong; all others stop there, and
# rounding may undo what is just across the decision boundary.
_CONTINUE = ('fgsm', 'bim', 'mifgsm', 'pgd', 'apgd')


def sanity_findings(report: Report) -> list[Finding]:
  """Runs all sanity checks on all models of a report.

  Args:
    report: The report; its `sanity` is not read.

  Returns:
    One finding per model and check of `CHECKS`: passed, suspicious or, where
    what it compares was not measured, not run.
  """
  return [
    Finding(check=name, member=model, passed=passed, detail=detail)
    for model in report.members
    for name, check in CHECKS.items()
    for passed, detail in [check(report, model)]
  ]


def findings_of(report: Report) -> list[Finding]:
  """Returns the findings of a report, computed where it holds none."""
  if report.sanity is not None:
    return report.sanity
  attacked = any(each.robust_accuracy for each in report.members.values())
  return sanity_findings(report) if attacked else []


def headline(findings: Sequence[Finding]) -> str:
  """Returns the counts of verdicts.

  Example:
    >>> finding = Finding(check='c', member='m', passed=None, detail='')
    >>> headline([finding])
    '1 not run'
  """
  verdicts = {False: 'suspicious', True: 'passed', None: 'not run'}
  counts = {
    verdict: sum(each.passed is passed for each in findings)
    for passed, verdict in verdicts.items()
  }
  return ', '.join(f'{n} {verdict}' for verdict, n in counts.items() if n)


def is_above(upper: Estimate, lower: Estimate) -> bool:
  """Returns whether an accuracy is above another one by more than chance.

  upper - lower > sqrt((upper - upper.low)^2 + (lower.high - lower)^2)

  Then the 95 % interval of the difference excludes 0 (Robert G. Newcombe, 1998,
  Statistics in Medicine 17, method 10). It takes the two for measured on
  independent images; on the same ones it is conservative.

  Args:
    upper: The accuracy in question, with its interval.
    lower: The other one.

  Example:
    >>> is_above(Estimate(0.5, (0.45, 0.55)), Estimate(0.4, (0.35, 0.45)))
    True
    >>> is_above(Estimate(0.45, (0.4, 0.5)), Estimate(0.4, (0.35, 0.45)))
    False
  """
  low = upper.ci[0] if upper.ci else upper.value
  high = lower.ci[1] if lower.ci else lower.value
  chance = math.hypot(upper.value - low, high - lower.value)
  return upper.value - lower.value > chance


def is_more_than_few(gap: float, num_images: int) -> bool:
  """Returns whether a difference of accuracies is more than a few images.

  More than 0.2 % of them, as in AutoAttack's own check of Square, and more than
  2: which images lie at the very boundary depends on random draws.

  Args:
    gap: The difference of two accuracies over the same images.
    num_images: The number of images.

  Example:
    >>> is_more_than_few(0.02, 100), is_more_than_few(0.03, 100)
    (False, True)
  """
  return round(gap * num_images) > max(2.0, 0.002 * num_images)


def large_epsilon(
  norm: str,
  bounds: Sequence[float] | None,
  image_shape: Sequence[int] | None = None,
) -> float | None:
  """Returns the radius of the smallest ball that contains a gray image always.

  (upper - lower) / 2 times 1 (linf), sqrt(D) (l2) or D (l1), D = H W C

  Within it all images can be made the same, so that robust accuracy is at most
  chance.

  Args:
    norm: 'linf', 'l2' or 'l1'.
    bounds: The pixel range.
    image_shape: `[H, W, C]`; not needed for linf.

  Returns:
    The radius; None if there is none or it is not known.

  Example:
    >>> large_epsilon('linf', (0.0, 1.0))
    0.5
    >>> large_epsilon('l2', (0.0, 1.0), (32, 32, 4))
    32.0
  """
  if bounds is None:
    return None
  half = (bounds[1] - bounds[0]) / 2
  if norm == 'linf':
    return half
  if image_shape is None or norm not in ('l2', 'l1'):
    return None
  size = math.prod(image_shape)
  return half * (math.sqrt(size) if norm == 'l2' else size)


@dataclasses.dataclass(frozen=True)
class _Attack:
  """A model under one attack, white box."""

  name: str
  result: AttackResult
  large: float | None  # `large_epsilon`.
  # Epsilon -> accuracy and number of images; a curve may have fewer images.
  points: dict[float, tuple[Estimate, int]]

  @property
  def label(self) -> str:
    return attack_label(self.name, self.result.num_steps)

  @property
  def kind(self) -> str:
    """The name without numbers: 'pgd' of 'pgd-50-10'."""
    parts = self.name.split('-')
    return '-'.join(part for part in parts if not part.isdigit())

  @property
  def norm(self) -> str:
    return self.result.norm

  @property
  def epsilon(self) -> float:
    return self.result.epsilon

  @property
  def num_steps(self) -> int:
    if self.result.num_steps is None:
      return 1 if self.name.startswith('fgsm') else 2
    return self.result.num_steps

  @property
  def black_box(self) -> bool:
    return self.kind == 'square'

  @property
  def is_autoattack(self) -> bool:
    return self.name.startswith('autoattack')

  @property
  def single_step(self) -> bool:
    return self.num_steps <= 1 and not self.black_box

  def is_large(self, epsilon: float) -> bool:
    return self.large is not None and epsilon >= self.large * (1 - 1e-6)


def _attacks_on(report: Report, model: str) -> list[_Attack]:
  attacks = []
  for name, result in report.members[model].robust_accuracy.items():
    counted = [(point, result.curve_num_images) for point in result.curve]
    points = {
      point.epsilon: (with_interval(point.white_box, count), count)
      for point, count in (*counted, (result, report.dataset.num_test))
    }
    large = large_epsilon(
      result.norm, result.bounds, report.dataset.image_shape
    )
    attacks.append(_Attack(name, result, large, dict(sorted(points.items()))))
  return attacks


def with_interval(estimate: Estimate, num_images: int) -> Estimate:
  """Returns an accuracy with its Wilson interval, where it has none."""
  if estimate.ci is not None:
    return estimate
  ends = accuracy_interval(estimate.value, num_images)
  return dataclasses.replace(estimate, ci=ends)


def _shared(
  one: _Attack, other: _Attack
) -> Iterator[tuple[float, Estimate, Estimate]]:
  """Yields where two attacks have the same norm, epsilon and images."""
  if one.norm == other.norm:
    for epsilon, (first, count) in one.points.items():
      second, other_count = other.points.get(epsilon, (first, None))
      if epsilon > 0 and count == other_count:
        yield epsilon, first, second


def _single_and_multi(report: Report, model: str) -> Iterator[tuple]:
  attacks = _attacks_on(report, model)
  for one, many in itertools.product(attacks, attacks):
    if one.single_step and many.num_steps > 1:
      for epsilon, weak, strong in _shared(one, many):
        yield epsilon, one, weak, many, strong


def _at(epsilon: float, norm: str = '') -> str:
  text = f'epsilon {format_epsilon(epsilon)}'
  return f'{text} ({norm})' if norm else text


def falls_with_epsilon(report: Report, model: str) -> Iterator[Compared]:
  """A larger ball contains the smaller one: accuracy may not increase."""
  flat = flat_curves(report, model)
  if flat:
    yield None, 0.0, flat
  clean = _clean(report, model)
  for attack, curve in _curves(report, model):
    points = [(0.0, clean), *((e, value) for e, value in curve.items() if e)]
    for (below, low), (above, high) in itertools.combinations(points, 2):
      numbers = (
        f'under {attack.label} the accuracy of {model} changes from '
        f'{percent(low.value)} at {_at(below)} to {percent(high.value)} at '
        f'{_at(above, attack.norm)}'
      )
      yield is_above(high, low), high.value - low.value, numbers


def flat_curves(report: Report, model: str) -> str | None:
  """Returns a sentence if no attack lowers the accuracy of a model."""
  clean, ends = _clean(report, model), []
  for attack, curve in _curves(report, model):
    epsilon = max(curve)
    if epsilon <= 0 or is_above(clean, curve[epsilon]):
      return None
    value = percent(curve[epsilon].value)
    ends.append((epsilon, attack.norm, f'{value} under {attack.label}'))
  if not ends:
    return None
  epsilon, norm, text = max(ends)
  return (
    f'no attack lowers the accuracy of {model} significantly up to '
    f'{_at(epsilon, norm)}: {percent(clean.value)} clean, {text}; use larger '
    'epsilons or more images'
  )


def _clean(report: Report, model: str) -> Estimate:
  clean = report.members[model].clean_accuracy
  return with_interval(clean, report.dataset.num_test)


def _curves(
  report: Report, model: str
) -> Iterator[tuple[_Attack, dict[float, Estimate]]]:
  """Epsilon -> accuracy, but for single steps beyond what is near."""
  for attack in _attacks_on(report, model):
    curve = {
      epsilon: value
      for epsilon, (value, _) in attack.points.items()
      if not (attack.single_step and attack.is_large(epsilon))
    }
    if curve:
      yield attack, curve


def reaches_chance(report: Report, model: str) -> Iterator[Compared]:
  """Where all images can be made gray, one class at most is correct."""
  chance = report.dataset.largest_class_share
  found = [
    (value, f'{attack.label} at {_at(epsilon, attack.norm)}')
    for attack in _attacks_on(report, model)
    for epsilon, (value, _) in attack.points.items()
    if attack.is_large(epsilon) and not attack.single_step
  ]
  if found:
    value, attack = min(found, key=lambda each: each[0].value)
    low = value.ci[0] if value.ci else value.value
    numbers = (
      f'{attack}: accuracy {percent(value.value)} of {model}, share of the '
      f'largest class {percent(chance)}'
    )
    yield None if chance is None else low > chance, 0.0, numbers


def multi_step_is_stronger(report: Report, model: str) -> Iterator[Compared]:
  """Multi-step attacks are at least as strong as single-step ones."""
  for epsilon, one, weak, many, strong in _single_and_multi(report, model):
    if not many.black_box:
      yield _compare(model, epsilon, (many.label, strong), (one.label, weak))


def _compare(
  model: str,
  epsilon: float,
  expected_lower: tuple[str, Estimate],
  other: tuple[str, Estimate],
) -> Compared:
  """Suspicious if the first accuracy is above the second one."""
  (label, low), (other_label, high) = expected_lower, other
  numbers = (
    f'at {_at(epsilon)} the accuracy of {model} is {percent(low.value)} under '
    f'{label} and {percent(high.value)} under {other_label}'
  )
  return is_above(low, high), low.value - high.value, numbers


def effort_helps(report: Report, model: str) -> Iterator[Compared]:
  """More steps and restarts of the same attack are at least as strong."""
  for less, more in itertools.permutations(_attacks_on(report, model), 2):
    efforts = [
      (each.num_steps, each.result.num_restarts or 1) for each in (less, more)
    ]
    grows = all(a <= b for a, b in zip(*efforts, strict=True))
    if less.kind == more.kind and efforts[0] != efforts[1] and grows:
      for epsilon, weak, strong in _shared(less, more):
        yield _compare(model, epsilon, (more.label, strong), (less.label, weak))


def single_and_multi_step_agree(
  report: Report, model: str
) -> Iterator[Compared]:
  """Single-step accuracy is not far above multi-step accuracy."""
  for epsilon, one, weak, many, strong in _single_and_multi(report, model):
    # A single step far beyond the image fails for another reason.
    if one.is_large(epsilon) or weak.value <= 0:
      continue
    ratio = strong.value / weak.value
    masked = weak.value >= _ROBUST and ratio < _MASKED
    mild = 'mild ' if ratio >= _MILD else ''
    _, _, numbers = _compare(
      model,
      epsilon,
      (many.label, strong),
      (f'a single step ({one.label})', weak),
    )
    # Severe masking first, then the evaluation epsilon.
    rank = 4.0 * (ratio < _MILD) + 2.0 * (epsilon == one.epsilon) - ratio
    yield masked, rank, f'{mild}gradient masking: ' * masked + numbers


def gradients_do_not_vanish(report: Report, model: str) -> Iterator[Compared]:
  """Few gradients are zero, and all are finite."""
  for name, trace in (report.members[model].traces or {}).items():
    zero, not_finite = trace.zero_gradients, trace.not_finite_gradients
    numbers = (
      f'{percent(zero, 2)} of the gradients of {model} are zero, '
      f'{percent(not_finite, 2)} are not finite ({attack_label(name)})'
    )
    suspicious = zero > _ZERO_GRADIENTS or not_finite > 0
    yield suspicious, max(zero, not_finite), numbers


def _transferred(
  report: Report, model: str, attack: str
) -> tuple[str, Estimate] | None:
  """The lowest accuracy on adversarial examples from other models."""
  found = []
  for source, each in report.members.items():
    result = each.robust_accuracy.get(attack)
    if source != model and result and model in result.transfer:
      value = with_interval(result.transfer[model], report.dataset.num_test)
      found.append((f'transfer from {source}', value))
  return min(found, key=lambda each: each[1].value, default=None)


def white_box_beats_transfer(report: Report, model: str) -> Iterator[Compared]:
  """No adversarial examples from other models are stronger than its own."""
  for attack in _attacks_on(report, model):
    other = _transferred(report, model, attack.name)
    if other:
      own, _ = attack.points[attack.epsilon]
      label = f'{attack.label}, white box,'
      yield _compare(model, attack.epsilon, (label, own), other)


def attacks_beat_noise(report: Report, model: str) -> Iterator[Compared]:
  """Attacks are stronger than random noise of the same norm and epsilon."""
  for attack in _attacks_on(report, model):
    own, _ = attack.points[attack.epsilon]
    attempts = [(attack.label, own)]
    other = _transferred(report, model, attack.name)
    if other:
      attempts.append((f'{attack.label}, {other[0]},', other[1]))
    for kind, noise in (report.members[model].noise or {}).items():
      if (noise.norm, noise.epsilon) == (attack.norm, attack.epsilon):
        level = with_interval(noise.accuracy, report.dataset.num_test)
        for number, attempt in enumerate(attempts):
          suspicious, gap, numbers = _compare(
            model, attack.epsilon, attempt, (f'{noise_name(kind)} noise', level)
          )
          # The attack itself before transfer.
          yield suspicious, gap - number, numbers


def noise_name(kind: str) -> str:
  """Returns a kind of noise in words.

  Example:
    >>> noise_name('salt_and_pepper')
    'salt-and-pepper'
  """
  return kind.replace('_', '-').replace('gaussian', 'Gaussian')


def black_box_is_not_stronger(report: Report, model: str) -> Iterator[Compared]:
  """A black-box attack finds little that gradient attacks do not."""
  for run in report.members[model].autoattack or ():
    yield from _square_stage(run, model)
  attacks = _attacks_on(report, model)
  for square in (each for each in attacks if each.black_box):
    strongest: dict[float, tuple[float, str, Estimate]] = {}
    for many in attacks:  # AutoAttack contains Square.
      if many.num_steps > 1 and not (many.black_box or many.is_autoattack):
        for epsilon, weak, strong in _shared(square, many):
          case = strong.value, many.label, weak
          other = strongest.get(epsilon, case)
          strongest[epsilon] = min(case, other, key=lambda each: each[0])
    for epsilon, (value, label, weak) in strongest.items():
      numbers = (
        f'at {_at(epsilon, square.norm)} the accuracy of {model} is '
        f'{percent(weak.value)} under Square and {percent(value)} under {label}'
      )
      gap = value - weak.value
      yield is_more_than_few(gap, square.points[epsilon][1]), gap, numbers


def _square_stage(run: AutoAttackSummary, model: str) -> Iterator[Compared]:
  """What Square found after the other attacks of AutoAttack."""
  for before, after in itertools.pairwise(run.attacks):
    if after.name.startswith('square'):
      gap = before.accuracy - after.accuracy
      numbers = (
        f'Square lowers the accuracy of {model} from '
        f'{percent(before.accuracy)} to {percent(after.accuracy)} at '
        f'{_at(run.epsilon, run.norm)}, after the rest of AutoAttack'
      )
      yield is_more_than_few(gap, run.num_images), gap, numbers


def autoattack_is_strongest(report: Report, model: str) -> Iterator[Compared]:
  """No other attack of the same norm, epsilon and images is stronger."""
  for run in report.members[model].autoattack or ():
    for attack in _attacks_on(report, model):
      other, count = attack.points.get(run.epsilon, (run.accuracy, None))
      same = attack.norm == run.norm and count == run.num_images
      if same and not attack.is_autoattack:
        _, gap, numbers = _compare(
          model,
          run.epsilon,
          ('AutoAttack', run.accuracy),
          (attack.label, other),
        )
        yield is_more_than_few(gap, run.num_images), gap, numbers


def autoattack_has_no_warnings(
  report: Report, model: str
) -> Iterator[Compared]:
  """AutoAttack warned of nothing."""
  runs, said = report.members[model].autoattack or [], []
  for run in runs:
    square = any(suspicious for suspicious, _, _ in _square_stage(run, model))
    for text in run.warnings:
      # `black_box_is_not_stronger` says it, with the same threshold.
      if not (square and text.startswith('Square')):
        said.append(f'at {_at(run.epsilon, run.norm)}: {text.rstrip(". ")}')
  if runs:
    texts = '; '.join(said) or 'no warnings of its own'
    yield bool(said), 0.0, f'AutoAttack on {model} {texts}'


def minimum_norm_attacks_succeed(
  report: Report, model: str
) -> Iterator[Compared]:
  """Attacks without a bound on the norm succeed on nearly every image."""
  for name, each in (report.members[model].minimal or {}).items():
    if each.found is not None:
      yield (
        each.found < _FOUND,
        -each.found,
        f'{attack_label(name)} succeeds on {percent(each.found)} of the images '
        f'of {model}',
      )


def perturbations_within_epsilon(
  report: Report, model: str
) -> Iterator[Compared]:
  """No perturbation exceeds epsilon, up to rounding."""
  for attack in _attacks_on(report, model):
    # Sums over all pixels in float32 are not exact to the last bits.
    allowed = attack.epsilon * (1 + 1e-6)
    if attack.norm == 'l1':
      allowed = attack.epsilon + 1e-5 * max(1.0, attack.epsilon)
    size = attack.result.max_perturbation
    numbers = (
      f'the largest perturbation of {attack.label} on {model} is {size:.9g}, '
      f'epsilon is {attack.epsilon:.9g} ({attack.norm})'
    )
    yield size > allowed, size - allowed, numbers


def survives_rounding(report: Report, model: str) -> Iterator[Compared]:
  """Adversarial examples remain adversarial in 8 bits."""
  for attack in _attacks_on(report, model):
    rounded = (report.members[model].rounded or {}).get(attack.name)
    if rounded is not None and attack.kind in _CONTINUE:
      after = with_interval(Estimate(rounded), report.dataset.num_test)
      before, _ = attack.points[attack.epsilon]
      yield _compare(
        model,
        attack.epsilon,
        (f'{attack.label}, rounded to 8 bits,', after),
        (attack.label, before),
      )


def outputs_are_logits(report: Report, model: str) -> Iterator[Compared]:
  """Measuring clean accuracy fails on probabilities: never suspicious."""
  count = report.dataset.num_test
  if count > 1:  # A single row cannot tell.
    yield (
      False,
      0.0,
      f'on {count:,} clean images the outputs of {model} are finite, and not '
      'all rows are >= 0 with a sum within 0.001 of 1',
    )


@dataclasses.dataclass(frozen=True)
class Check:
  """A sanity check.

  Attributes:
    compare: Compares what was measured on a model.
    missing: What was not measured if it compares nothing.
    advice: What a suspicious result means, and what to do.
  """

  compare: Callable[[Report, str], Iterator[Compared]]
  missing: str
  advice: str

  def __call__(self, report: Report, model: str) -> tuple[bool | None, str]:
    """Returns passed, suspicious (False) or not run (None), and the numbers."""
    found = list(self.compare(report, model))
    if not found:
      return None, f'{model}: {self.missing}.'
    suspicious, _, numbers = max(found, key=_suspicion)
    detail = f'{numbers[0].upper()}{numbers[1:]}.'
    if suspicious:
      return False, f'{detail} {self.advice}'.rstrip()
    return (None if suspicious is None else True), detail


def _suspicion(compared: Compared) -> tuple[int, float]:
  suspicious, rank, _ = compared
  return {True: 2, None: 1, False: 0}[suspicious], rank


_NO_PAIR = 'no single-step and multi-step attacks of the same norm and epsilon'
CHECKS = {
  'accuracy falls with epsilon': Check(
    falls_with_epsilon,
    'no attack, or only a single step at a large epsilon',
    'A larger epsilon allows every smaller perturbation, so the attack is too '
    'weak: check its step size; use more steps or restarts.',
  ),
  'accuracy reaches chance at large epsilon': Check(
    reaches_chance,
    'no multi-step attack at an epsilon so large that all images can be made '
    'gray, or the pixel range or image size is not known',
    'More than chance is impossible there, so the attack fails, as it does '
    'with masked or vanishing gradients, and overestimates robustness at '
    'smaller epsilons too: use a loss on logit differences, more steps, '
    'black-box attacks.',
  ),
  'multi-step at least as strong as single-step': Check(
    multi_step_is_stronger,
    _NO_PAIR,
    'The step size or number of steps is wrong, or the first gradient '
    'misleads: use smaller steps and random starts.',
  ),
  'more steps and restarts at least as strong': Check(
    effort_helps,
    'no attack with few and with more steps or restarts',
    'An attack that keeps its best iterate cannot lose by more steps: the step '
    'size is wrong, or it keeps the last iterate.',
  ),
  'single-step and multi-step agree': Check(
    single_and_multi_step_agree,
    _NO_PAIR,
    'This is usual after single-step adversarial training (catastrophic '
    'overfitting): report multi-step attacks only; train with random starts, '
    'more steps or early stopping.',
  ),
  'gradients do not vanish': Check(
    gradients_do_not_vanish,
    'gradients were not examined',
    'Gradient attacks leave such images unchanged and count them as robust. '
    'Zero: the loss saturates or a layer blocks the gradient; use a loss on '
    'logit differences (DLR, margin) and a black-box attack (Square). Not '
    'finite: look for square roots, logarithms and divisions at 0, and for '
    'overflow in low precision.',
  ),
  'white box at least as strong as transfer': Check(
    white_box_beats_transfer,
    'transfer was not measured',
    'The gradients of the model mislead (gradient masking): use more steps, '
    'random starts, black-box attacks.',
  ),
  'attacks stronger than random noise': Check(
    attacks_beat_noise,
    'no noise of the norm and epsilon of an attack was measured',
    'The attack does not work: check its step size, the pixel range and the '
    'gradients. If it is transfer, the adversarial examples do not transfer, '
    'and high accuracy on them is no robustness.',
  ),
  'black box not stronger than white box': Check(
    black_box_is_not_stronger,
    'no black-box attack (Square) beside a multi-step gradient attack',
    'The gradients are masked or noisy, and robust accuracy is probably lower '
    'still: use more queries and restarts, or attack a smoothed version of '
    'the network.',
  ),
  'AutoAttack is the strongest attack': Check(
    autoattack_is_strongest,
    'no AutoAttack with the norm, epsilon and images of another attack',
    'Report the lower number. Gradients may be masked: try autoattack-plus. '
    "Random networks need advjax.autoattack(version='rand').",
  ),
  'AutoAttack raises no warnings': Check(
    autoattack_has_no_warnings,
    'no AutoAttack',
    '',
  ),
  'minimum-norm attacks succeed': Check(
    minimum_norm_attacks_succeed,
    'no minimum-norm attack',
    'Its perturbations are unbounded, so it has too few steps or the gradients '
    'are masked; the median distance is too large.',
  ),
  'perturbations within epsilon': Check(
    perturbations_within_epsilon,
    'no attack',
    'The accuracy is too low for this epsilon: project after every step, and '
    'check the pixel range.',
  ),
  'adversarial examples survive 8-bit rounding': Check(
    survives_rounding,
    'rounding was not measured with an attack that continues once it succeeds '
    f'({", ".join(_CONTINUE)})',
    'The perturbations are finer than image files: exchange them as float32, '
    'and do not report them as a threat to 8-bit images.',
  ),
  'outputs are logits': Check(
    outputs_are_logits, 'a single image cannot tell', ''
  ),
}
