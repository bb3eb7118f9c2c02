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
from typing import NamedTuple

from advjax.reporting.formatting import attack_label, format_epsilon, percent
from advjax.results import (
  AutoAttackSummary,
  Estimate,
  Finding,
  ModelResult,
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


class _Attack(NamedTuple):
  """An attack on a model, white box."""

  name: str
  label: str
  kind: str  # The name without numbers: 'pgd' of 'pgd-50-10'.
  norm: str
  epsilon: float
  num_steps: int
  num_restarts: int
  large: float  # `large_epsilon`, inf if not known.
  size: float  # Of the largest perturbation.
  accuracy: Estimate
  # Epsilon -> accuracy and number of images; a curve may have fewer images.
  points: dict[float, tuple[Estimate, int]]

  @property
  def is_autoattack(self) -> bool:
    return self.name.startswith('autoattack')

  @property
  def black_box(self) -> bool:
    return self.kind == 'square'

  @property
  def single_step(self) -> bool:
    return self.num_steps <= 1 and not self.black_box

  def near(self) -> dict[float, Estimate]:
    """The curve, but for single steps beyond what is near."""
    return {
      epsilon: value
      for epsilon, (value, _) in self.points.items()
      if not (self.single_step and epsilon >= self.large)
    }


class _Model(NamedTuple):
  """What the checks read of a model."""

  name: str
  result: ModelResult
  num_test: int
  chance: float | None  # Share of the largest class.
  clean: Estimate
  attacks: list[_Attack]
  # Attack -> source and accuracy of the strongest transfer.
  transfer: dict[str, tuple[str, Estimate]]


def _read(report: Report, name: str) -> _Model:
  model, num_test = report.members[name], report.dataset.num_test
  attacks = []
  for key, result in model.robust_accuracy.items():
    at = [(point, result.curve_num_images) for point in result.curve]
    points = {
      point.epsilon: (with_interval(point.white_box, count), count)
      for point, count in (*at, (result, num_test))
    }
    large = large_epsilon(
      result.norm, result.bounds, report.dataset.image_shape
    )
    steps = 1 if key.startswith('fgsm') else 2  # Where there is no number.
    attack = _Attack(
      key,
      attack_label(key, result.num_steps),
      '-'.join(part for part in key.split('-') if not part.isdigit()),
      result.norm,
      result.epsilon,
      steps if result.num_steps is None else result.num_steps,
      result.num_restarts or 1,
      math.inf if large is None else large * (1 - 1e-6),
      result.max_perturbation,
      points[result.epsilon][0],
      dict(sorted(points.items())),
    )
    attacks.append(attack)
  transfer: dict[str, tuple[str, Estimate]] = {}
  for source, other in report.members.items():
    for key, result in other.robust_accuracy.items():
      if source != name and name in result.transfer:
        value = with_interval(result.transfer[name], num_test)
        found = f'transfer from {source}', value
        lowest = transfer.get(key, found)
        transfer[key] = min(found, lowest, key=lambda each: each[1].value)
  return _Model(
    name,
    model,
    num_test,
    report.dataset.largest_class_share,
    with_interval(model.clean_accuracy, num_test),
    attacks,
    transfer,
  )


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


def _single_and_multi(model: _Model) -> Iterator[tuple]:
  for one, many in itertools.product(model.attacks, model.attacks):
    if one.single_step and many.num_steps > 1:
      for epsilon, weak, strong in _shared(one, many):
        yield epsilon, one, weak, many, strong


def _at(epsilon: float, norm: str) -> str:
  return f'epsilon {format_epsilon(epsilon)} ({norm})'


def _compare(
  model: _Model,
  where: str,
  expected_lower: tuple[str, Estimate],
  other: tuple[str, Estimate],
) -> Compared:
  """Suspicious if the first accuracy is above the second one."""
  (label, low), (other_label, high) = expected_lower, other
  numbers = (
    f'at {where} the accuracy of {model.name} is {percent(low.value)} under '
    f'{label} and {percent(high.value)} under {other_label}'
  )
  return is_above(low, high), low.value - high.value, numbers


def falls_with_epsilon(model: _Model) -> Iterator[Compared]:
  """A larger ball contains the smaller one: accuracy may not increase."""
  flat = _flat_curves(model)
  if flat:
    yield None, 0.0, flat
  for attack in model.attacks:
    points = {0.0: model.clean, **attack.near()}
    for (below, low), (above, high) in itertools.combinations(
      points.items(), 2
    ):
      numbers = (
        f'under {attack.label} the accuracy of {model.name} changes from '
        f'{percent(low.value)} at epsilon {format_epsilon(below)} to '
        f'{percent(high.value)} at {_at(above, attack.norm)}'
      )
      yield is_above(high, low), high.value - low.value, numbers


def flat_curves(report: Report, name: str) -> str | None:
  """Returns a sentence if no attack lowers the accuracy of a model."""
  text = _flat_curves(_read(report, name))
  return text and f'{text[0].upper()}{text[1:]}.'


def _flat_curves(model: _Model) -> str | None:
  ends = []
  for attack in model.attacks:
    curve = attack.near()
    epsilon = max(curve, default=0.0)
    if epsilon > 0:
      if is_above(model.clean, curve[epsilon]):
        return None
      text = f'{percent(curve[epsilon].value)} under {attack.label}'
      ends.append((epsilon, attack.norm, text))
  if not ends:
    return None
  epsilon, norm, text = max(ends)
  return (
    f'no attack lowers the accuracy of {model.name} significantly up to '
    f'{_at(epsilon, norm)}: {percent(model.clean.value)} clean, {text}; use '
    'larger epsilons or more images'
  )


def reaches_chance(model: _Model) -> Iterator[Compared]:
  """Where all images can be made gray, one class at most is correct."""
  found = [
    (value, f'{attack.label} at {_at(epsilon, attack.norm)}')
    for attack in model.attacks
    for epsilon, (value, _) in attack.points.items()
    if epsilon >= attack.large and not attack.single_step
  ]
  if found:
    value, where = min(found, key=lambda each: each[0].value)
    low = value.ci[0] if value.ci else value.value
    numbers = (
      f'{where}: accuracy {percent(value.value)} of {model.name}, share of the '
      f'largest class {percent(model.chance)}'
    )
    yield None if model.chance is None else low > model.chance, 0.0, numbers


def multi_step_is_stronger(model: _Model) -> Iterator[Compared]:
  """Multi-step attacks are at least as strong as single-step ones."""
  for epsilon, one, weak, many, strong in _single_and_multi(model):
    if not many.black_box:
      where = _at(epsilon, one.norm)
      yield _compare(model, where, (many.label, strong), (one.label, weak))


def effort_helps(model: _Model) -> Iterator[Compared]:
  """More steps and restarts of the same attack are at least as strong."""
  for less, more in itertools.permutations(model.attacks, 2):
    steps, restarts = (
      more.num_steps - less.num_steps,
      more.num_restarts - less.num_restarts,
    )
    if less.kind == more.kind and min(steps, restarts) >= 0 < steps + restarts:
      for epsilon, weak, strong in _shared(less, more):
        where = _at(epsilon, less.norm)
        yield _compare(model, where, (more.label, strong), (less.label, weak))


def single_and_multi_step_agree(model: _Model) -> Iterator[Compared]:
  """Single-step accuracy is not far above multi-step accuracy."""
  for epsilon, one, weak, many, strong in _single_and_multi(model):
    # A single step far beyond the image fails for another reason.
    if epsilon >= one.large or weak.value <= 0:
      continue
    ratio = strong.value / weak.value
    masked = weak.value >= _ROBUST and ratio < _MASKED
    label = f'a single step ({one.label})'
    where = _at(epsilon, one.norm)
    _, _, numbers = _compare(model, where, (many.label, strong), (label, weak))
    if masked:
      mild = 'mild ' if ratio >= _MILD else ''
      numbers = f'{mild}gradient masking: {numbers}'
    # Severe masking first, then the evaluation epsilon.
    rank = 4.0 * (ratio < _MILD) + 2.0 * (epsilon == one.epsilon) - ratio
    yield masked, rank, numbers


def gradients_do_not_vanish(model: _Model) -> Iterator[Compared]:
  """Few gradients are zero, and all are finite."""
  for name, trace in (model.result.traces or {}).items():
    zero, not_finite = trace.zero_gradients, trace.not_finite_gradients
    numbers = (
      f'{percent(zero, 2)} of the gradients of {model.name} are zero, '
      f'{percent(not_finite, 2)} are not finite ({attack_label(name)})'
    )
    suspicious = zero > _ZERO_GRADIENTS or not_finite > 0
    yield suspicious, max(zero, not_finite), numbers


def white_box_beats_transfer(model: _Model) -> Iterator[Compared]:
  """No adversarial examples from other models are stronger than its own."""
  for attack in model.attacks:
    if attack.name in model.transfer:
      where = _at(attack.epsilon, attack.norm)
      own = f'{attack.label}, white box,', attack.accuracy
      yield _compare(model, where, own, model.transfer[attack.name])


def attacks_beat_noise(model: _Model) -> Iterator[Compared]:
  """Attacks are stronger than random noise of the same norm and epsilon."""
  for attack in model.attacks:
    attempts = [(attack.label, attack.accuracy)]
    if attack.name in model.transfer:
      source, accuracy = model.transfer[attack.name]
      attempts.append((f'{attack.label}, {source},', accuracy))
    for kind, noise in (model.result.noise or {}).items():
      if (noise.norm, noise.epsilon) == (attack.norm, attack.epsilon):
        level = with_interval(noise.accuracy, model.num_test)
        found = f'{noise_name(kind)} noise', level
        for number, attempt in enumerate(attempts):
          where = _at(attack.epsilon, attack.norm)
          suspicious, gap, numbers = _compare(model, where, attempt, found)
          # The attack itself before transfer.
          yield suspicious, gap - number, numbers


def noise_name(kind: str) -> str:
  """Returns a kind of noise in words.

  Example:
    >>> noise_name('salt_and_pepper')
    'salt-and-pepper'
  """
  return kind.replace('_', '-').replace('gaussian', 'Gaussian')


def black_box_is_not_stronger(model: _Model) -> Iterator[Compared]:
  """A black-box attack finds little that gradient attacks do not."""
  for run in model.result.autoattack or ():
    yield from _square_stage(model, run)
  for square in (each for each in model.attacks if each.black_box):
    strongest: dict[float, tuple[Estimate, str, Estimate]] = {}
    for many in model.attacks:  # AutoAttack contains Square.
      if many.num_steps > 1 and not (many.black_box or many.is_autoattack):
        for epsilon, weak, strong in _shared(square, many):
          case = strong, many.label, weak
          other = strongest.get(epsilon, case)
          strongest[epsilon] = min(case, other, key=lambda each: each[0].value)
    for epsilon, (strong, label, weak) in strongest.items():
      where = _at(epsilon, square.norm)
      found = _compare(model, where, (label, strong), (square.label, weak))
      few = not is_more_than_few(found[1], square.points[epsilon][1])
      yield not few, *found[1:]


def _square_stage(model: _Model, run: AutoAttackSummary) -> Iterator[Compared]:
  """What Square found after the other attacks of AutoAttack."""
  for before, after in itertools.pairwise(run.attacks):
    if after.name.startswith('square'):
      gap = before.accuracy - after.accuracy
      numbers = (
        f'Square lowers the accuracy of {model.name} from '
        f'{percent(before.accuracy)} to {percent(after.accuracy)} at '
        f'{_at(run.epsilon, run.norm)}, after the rest of AutoAttack'
      )
      yield is_more_than_few(gap, run.num_images), gap, numbers


def autoattack_is_strongest(model: _Model) -> Iterator[Compared]:
  """No other attack of the same norm, epsilon and images is stronger."""
  for run in model.result.autoattack or ():
    for attack in model.attacks:
      other, count = attack.points.get(run.epsilon, (run.accuracy, None))
      same = attack.norm == run.norm and count == run.num_images
      if same and not attack.is_autoattack:
        where, own = _at(run.epsilon, run.norm), ('AutoAttack', run.accuracy)
        _, gap, numbers = _compare(model, where, own, (attack.label, other))
        yield is_more_than_few(gap, run.num_images), gap, numbers


def autoattack_has_no_warnings(model: _Model) -> Iterator[Compared]:
  """AutoAttack warned of nothing."""
  runs, said = model.result.autoattack or [], []
  for run in runs:
    square = any(suspicious for suspicious, _, _ in _square_stage(model, run))
    for text in run.warnings:
      # `black_box_is_not_stronger` says it, with the same threshold.
      if not (square and text.startswith('Square')):
        said.append(f'at {_at(run.epsilon, run.norm)}: {text.rstrip(". ")}')
  if runs:
    texts = '; '.join(said) or 'no warnings of its own'
    yield bool(said), 0.0, f'AutoAttack on {model.name} {texts}'


def minimum_norm_attacks_succeed(model: _Model) -> Iterator[Compared]:
  """Attacks without a bound on the norm succeed on nearly every image."""
  for name, each in (model.result.minimal or {}).items():
    if each.found is not None:
      numbers = (
        f'{attack_label(name)} succeeds on {percent(each.found)} of the images '
        f'of {model.name}'
      )
      yield each.found < _FOUND, -each.found, numbers


def perturbations_within_epsilon(model: _Model) -> Iterator[Compared]:
  """No perturbation exceeds epsilon, up to rounding."""
  for attack in model.attacks:
    # Sums over all pixels in float32 are not exact to the last bits.
    allowed = attack.epsilon * (1 + 1e-6)
    if attack.norm == 'l1':
      allowed = attack.epsilon + 1e-5 * max(1.0, attack.epsilon)
    numbers = (
      f'the largest perturbation of {attack.label} on {model.name} is '
      f'{attack.size:.9g}, epsilon is {attack.epsilon:.9g} ({attack.norm})'
    )
    yield attack.size > allowed, attack.size - allowed, numbers


def survives_rounding(model: _Model) -> Iterator[Compared]:
  """Adversarial examples remain adversarial in 8 bits."""
  for attack in model.attacks:
    rounded = (model.result.rounded or {}).get(attack.name)
    if rounded is not None and attack.kind in _CONTINUE:
      after = with_interval(Estimate(rounded), model.num_test)
      where = _at(attack.epsilon, attack.norm)
      label = f'{attack.label}, rounded to 8 bits,'
      before = attack.label, attack.accuracy
      yield _compare(model, where, (label, after), before)


def outputs_are_logits(model: _Model) -> Iterator[Compared]:
  """Measuring clean accuracy fails on probabilities: never suspicious."""
  if model.num_test > 1:  # A single row cannot tell.
    numbers = (
      f'on {model.num_test:,} clean images the outputs of {model.name} are '
      'finite, and not all rows are >= 0 with a sum within 0.001 of 1'
    )
    yield False, 0.0, numbers


@dataclasses.dataclass(frozen=True)
class Check:
  """A sanity check."""

  compare: Callable[[_Model], Iterator[Compared]]
  missing: str  # What was not measured if it compares nothing.
  advice: str  # What a suspicious result means, and what to do.

  def __call__(self, report: Report, model: str) -> tuple[bool | None, str]:
    """Returns passed, suspicious (False) or not run (None), and the numbers."""
    found = list(self.compare(_read(report, model)))
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
    'A larger epsilon allows every smaller perturbation: the attack is too '
    'weak. Check its step size; use more steps or restarts.',
  ),
  'accuracy reaches chance at large epsilon': Check(
    reaches_chance,
    'no multi-step attack at an epsilon where all images can be made gray, or '
    'the pixel range or image size is not known',
    'More than chance is impossible there: the attack fails, as with masked '
    'or vanishing gradients, and overestimates robustness elsewhere too. Use '
    'a loss on logit differences, more steps, black-box attacks.',
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
    'An attack that keeps its best iterate cannot lose by more steps: its step '
    'size is wrong, or it keeps the last iterate.',
  ),
  'single-step and multi-step agree': Check(
    single_and_multi_step_agree,
    _NO_PAIR,
    'Usual after single-step adversarial training (catastrophic overfitting): '
    'report multi-step attacks only; train with random starts, more steps or '
    'early stopping.',
  ),
  'gradients do not vanish': Check(
    gradients_do_not_vanish,
    'gradients were not examined',
    'Gradient attacks leave such images unchanged and count them as robust. '
    'Zero: use a loss on logit differences (DLR, margin) and a black-box '
    'attack (Square). Not finite: look for square roots, logarithms and '
    'divisions at 0, and for overflow in low precision.',
  ),
  'white box at least as strong as transfer': Check(
    white_box_beats_transfer,
    'transfer was not measured',
    'The gradients of the model mislead (gradient masking): use more steps, '
    'random starts, black-box attacks.',
  ),
  'attacks stronger than random noise': Check(
    attacks_beat_noise,
    'no noise of the norm and epsilon of an attack',
    'The attack does not work: check its step size, the pixel range and the '
    'gradients. If it is transfer, high accuracy under it is no robustness.',
  ),
  'black box not stronger than white box': Check(
    black_box_is_not_stronger,
    'no black-box attack (Square) beside a multi-step gradient attack',
    'The gradients are masked or noisy, and robust accuracy is probably lower: '
    'use more queries and restarts, or attack a smoothed network.',
  ),
  'AutoAttack is the strongest attack': Check(
    autoattack_is_strongest,
    'no AutoAttack with the norm, epsilon and images of another attack',
    'Report the lower number. Gradients may be masked: try autoattack-plus. '
    "Random networks need advjax.autoattack(version='rand').",
  ),
  'AutoAttack raises no warnings': Check(
    autoattack_has_no_warnings, 'no AutoAttack', ''
  ),
  'minimum-norm attacks succeed': Check(
    minimum_norm_attacks_succeed,
    'no minimum-norm attack',
    'Its perturbations are unbounded: it has too few steps, or the gradients '
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
    'rounding was not measured with an attack that continues once it succeeds',
    'The perturbations are finer than image files: exchange them as float32, '
    'and do not report them as a threat to 8-bit images.',
  ),
  'outputs are logits': Check(
    outputs_are_logits, 'a single image cannot tell', ''
  ),
}
