"""Sanity checks: can the robustness that a report claims be trusted?

They follow Carlini et al. 2019 (arXiv 1902.06705) and Athalye et al. 2018
(arXiv 1802.00420). What is compared has the same norm, epsilon and images. One
accuracy counts as above another one where the 95 % interval of the difference
excludes 0 (`is_above`).
"""

import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

from advjax.evaluation.diagnostics import large_epsilon
from advjax.reporting.formatting import (
  at_epsilon,
  attack_label,
  format_epsilon,
  format_estimate,
  percent,
)
from advjax.results import (
  AutoAttackSummary,
  DatasetSummary,
  Estimate,
  Finding,
  ModelResult,
  Report,
  accuracy_interval,
)

# What a comparison gives: whether it is suspicious (None: not decided), how far
# it is from that, and the numbers. The most suspicious one decides.
Compared = tuple[bool | None, float, str]

# Single-step accuracy from which on it looks like robustness, and what share of
# it remains under multi-step attacks if gradients are masked, and mildly.
_ROBUST, _MASKED, _MILD = 0.5, 0.5, 0.25
# An image whose gradient is zero stays as it is and counts as robust. Up to
# this share that moves an accuracy by no more than chance in 10,000 images.
_ZERO_GRADIENTS = 0.01
# Test accuracy is far below training accuracy if it is less than this share.
_OVERFITTED = 0.5
_FOUND = 0.95  # Share of the images that minimum-norm attacks succeed on.
_AUTOATTACK = ('autoattack', 'autoattack-plus')
# Attacks that continue once the prediction is wrong; all others stop there, and
# rounding may undo what is just across the decision boundary.
_CONTINUE = ('fgsm', 'bim', 'mifgsm', 'pgd', 'apgd')


def sanity_findings(report: Report) -> list[Finding]:
  """Runs all sanity checks on all models of a report."""
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
  """Returns the counts of verdicts."""
  found = [each.passed for each in findings]
  verdicts = {False: 'suspicious', True: 'passed', None: 'not run'}
  return ', '.join(
    f'{found.count(passed)} {verdict}'
    for passed, verdict in verdicts.items()
    if passed in found
  )


def is_above(upper: Estimate, lower: Estimate) -> bool:
  """Returns whether an accuracy is above another one by more than chance.

  upper - lower > sqrt((upper - upper.low)^2 + (lower.high - lower)^2)

  Then the 95 % interval of the difference excludes 0 (Robert G. Newcombe, 1998,
  Statistics in Medicine 17, method 10); on the same images it is conservative.
  """
  low = upper.ci[0] if upper.ci else upper.value
  high = lower.ci[1] if lower.ci else lower.value
  chance = math.hypot(upper.value - low, high - lower.value)
  return upper.value - lower.value > chance


def is_more_than_few(gap: float, num_images: int) -> bool:
  """Returns whether a difference of accuracies is more than a few images.

  More than 0.2 % of them, as in AutoAttack's own check of Square, and more than
  2: which images are at the very boundary depends on random draws.
  """
  return round(gap * num_images) > max(2.0, 0.002 * num_images)


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
  # Epsilon -> accuracy and number of images; a curve may have fewer images.
  points: dict[float, tuple[Estimate, int]]

  @property
  def accuracy(self) -> Estimate:
    return self.points[self.epsilon][0]

  @property
  def single_step(self) -> bool:
    return self.num_steps <= 1 and self.kind != 'square'

  def near(self) -> dict[float, Estimate]:
    """The curve; of single steps the part below the large epsilon."""
    return {
      epsilon: value
      for epsilon, (value, _) in self.points.items()
      if not (self.single_step and epsilon >= self.large)
    }


class Model(NamedTuple):
  """The results of a model that the checks read."""

  name: str
  result: ModelResult
  dataset: DatasetSummary
  attacks: list[_Attack]
  # Attack -> source and accuracy of the strongest transfer.
  transfer: dict[str, tuple[str, Estimate]]


def read_model(report: Report, name: str) -> Model:
  """Collects what the checks read."""
  model, data = report.members[name], report.dataset
  attacks = []
  for key, result in model.robust_accuracy.items():
    count = result.curve_num_images
    points = {at.epsilon: (at.white_box, count) for at in result.curve}
    points[result.epsilon] = result.white_box, data.num_test
    large = large_epsilon(result.norm, result.bounds, data.image_shape)
    # Where there is no number. How many a user's own has is not known.
    steps = 1 if key == 'fgsm' or ':' in key else 2
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
      dict(sorted(points.items())),
    )
    attacks.append(attack)
  transfer: dict[str, tuple[str, Estimate]] = {}
  for source, other in report.members.items():
    for key, result in other.robust_accuracy.items():
      if source != name and name in result.transfer:
        value = result.transfer[name]
        if key not in transfer or value.value <= transfer[key][1].value:
          transfer[key] = f'transfer from {source}', value
  return Model(name, model, data, attacks, transfer)


def _shared(
  one: _Attack, other: _Attack
) -> Iterator[tuple[float, Estimate, Estimate]]:
  """Yields where two attacks have the same norm, epsilon and images."""
  if one.norm == other.norm:
    for epsilon, (first, count) in one.points.items():
      second, other_count = other.points.get(epsilon, (first, None))
      if epsilon > 0 and count == other_count:
        yield epsilon, first, second


def _single_and_multi(model: Model) -> Iterator[tuple]:
  for one, many in itertools.product(model.attacks, model.attacks):
    if one.single_step and ':' not in one.name and many.num_steps > 1:
      for epsilon, weak, strong in _shared(one, many):
        yield epsilon, one, weak, many, strong


def _compare(
  model: Model,
  epsilon: float,
  norm: str,
  expected_lower: tuple[str, Estimate],
  other: tuple[str, Estimate],
) -> Compared:
  """Suspicious if the first accuracy is above the second one."""
  (label, low), (other_label, high) = expected_lower, other
  numbers = (
    f'at {at_epsilon(epsilon, norm)} the accuracy of {model.name} is '
    f'{percent(low.value)} under {label} and {percent(high.value)} under '
    f'{other_label}'
  )
  return is_above(low, high), low.value - high.value, numbers


# Name -> a function of a report and a model that returns whether the check
# passed (False: suspicious, None: not run) and the numbers.
CHECKS: dict[str, Callable[[Report, str], tuple[bool | None, str]]] = {}


def _check(name: str, missing: str, advice: str = '') -> Callable[..., Any]:
  """Adds a check to `CHECKS`.

  It has what was not measured if it compares nothing, and what a suspicious
  result means and what to do.
  """

  def add(compare: Callable[[Model], Iterator[Compared]]) -> Any:
    def check(report: Report, model: str) -> tuple[bool | None, str]:
      found = list(compare(read_model(report, model)))
      if not found:
        return None, f'{model}: {missing}.'
      order = (False, None, True)
      suspicious, _, numbers = max(
        found, key=lambda c: (order.index(c[0]), c[1])
      )
      detail = f'{numbers[0].upper()}{numbers[1:]}.'
      if suspicious:
        return False, f'{detail} {advice}'.rstrip()
      return (None if suspicious is None else True), detail

    CHECKS[name] = check
    return compare

  return add


@_check(
  'clean accuracy above chance',
  'the share of the largest class is not known',
  'A network that always predicts that class is as accurate, and the other '
  'checks mean little: look at the labels, the pixel range and the training.',
)
def _clean_is_above_chance(model: Model) -> Iterator[Compared]:
  share, clean = model.dataset.largest_class_share, model.result.clean_accuracy
  if share is not None:
    numbers = (
      f'the clean accuracy of {model.name} is {format_estimate(clean)}, the '
      f'largest class has {percent(share)} of the test images'
    )
    yield not is_above(clean, Estimate(share)), 0.0, numbers


@_check(
  'test accuracy at least half of training accuracy',
  'no accuracy on training images',
  'The network is overfitted, or the test images are not like the others: '
  'compare their pixel ranges and the order of their classes.',
)
def _test_is_near_training(model: Model) -> Iterator[Compared]:
  training, clean = model.result.training, model.result.clean_accuracy.value
  epoch = training.epochs[-1] if training and training.epochs else {}
  if (seen := epoch.get('clean_accuracy')) is not None:
    numbers = (
      f'the accuracy of {model.name} is {percent(seen)} on training images and '
      f'{percent(clean)} on test images'
    )
    yield clean < _OVERFITTED * seen, seen - clean, numbers


@_check(
  'accuracy falls with epsilon',
  'no attack, or only a single step at a large epsilon',
  'A larger epsilon allows every smaller perturbation: the attack is too weak. '
  'Check its step size; use more steps or restarts.',
)
def _falls_with_epsilon(model: Model) -> Iterator[Compared]:
  flat = flat_curves(model)
  if flat:
    yield None, 0.0, flat
  for attack in model.attacks:
    points = {0.0: model.result.clean_accuracy, **attack.near()}
    for (below, low), (above, high) in itertools.combinations(
      points.items(), 2
    ):
      numbers = (
        f'under {attack.label} the accuracy of {model.name} changes from '
        f'{percent(low.value)} at epsilon {format_epsilon(below)} to '
        f'{percent(high.value)} at {at_epsilon(above, attack.norm)}'
      )
      yield is_above(high, low), high.value - low.value, numbers


def flat_curves(model: Model) -> str | None:
  """Returns a sentence if no epsilon lowers the accuracy of a model."""
  ends = []
  for attack in model.attacks:
    curve = attack.near()
    epsilon = max(curve, default=0.0)
    if epsilon > 0:
      if is_above(model.result.clean_accuracy, curve[epsilon]):
        return None
      text = f'{percent(curve[epsilon].value)} under {attack.label}'
      ends.append((epsilon, attack.norm, text))
  if not ends:
    return None
  epsilon, norm, text = max(ends)
  clean = percent(model.result.clean_accuracy.value)
  return (
    f'no attack lowers the accuracy of {model.name} significantly up to '
    f'{at_epsilon(epsilon, norm)}: {clean} clean, {text}; use larger epsilons '
    'or more images'
  )


@_check(
  'accuracy reaches chance at large epsilon',
  'no multi-step attack at an epsilon where all images can be made gray, or '
  'the pixel range or image size is not known',
  'More than chance is impossible there: the attack fails, as with masked or '
  'vanishing gradients, and overestimates robustness elsewhere too. Use a loss '
  'on logit differences, more steps, black-box attacks.',
)
def _reaches_chance(model: Model) -> Iterator[Compared]:
  found = [
    (value, f'{attack.label} at {at_epsilon(epsilon, attack.norm)}')
    for attack in model.attacks
    for epsilon, (value, _) in attack.points.items()
    if epsilon >= attack.large and not attack.single_step
  ]
  if found:
    value, where = min(found, key=lambda each: each[0].value)
    low = value.ci[0] if value.ci else value.value
    chance = model.dataset.largest_class_share
    numbers = (
      f'{where}: accuracy {percent(value.value)} of {model.name}, share of the '
      f'largest class {percent(chance)}'
    )
    yield None if chance is None else low > chance, 0.0, numbers


_NO_PAIR = 'no single-step and multi-step attacks of the same norm and epsilon'


@_check(
  'multi-step at least as strong as single-step',
  _NO_PAIR,
  'The step size or number of steps is wrong, or the first gradient misleads: '
  'use smaller steps and random starts.',
)
def _multi_step_is_stronger(model: Model) -> Iterator[Compared]:
  for epsilon, one, weak, many, strong in _single_and_multi(model):
    if many.kind != 'square':
      pair = (many.label, strong), (one.label, weak)
      yield _compare(model, epsilon, one.norm, *pair)


@_check(
  'more steps and restarts at least as strong',
  'no attack with few and with more steps or restarts',
  'An attack that keeps its best iterate cannot lose by more steps: its step '
  'size is wrong, or it keeps the last iterate.',
)
def _effort_helps(model: Model) -> Iterator[Compared]:
  for less, more in itertools.permutations(model.attacks, 2):
    steps = more.num_steps - less.num_steps
    restarts = more.num_restarts - less.num_restarts
    if less.kind == more.kind and min(steps, restarts) >= 0 < steps + restarts:
      for epsilon, weak, strong in _shared(less, more):
        pair = (more.label, strong), (less.label, weak)
        yield _compare(model, epsilon, less.norm, *pair)


@_check(
  'single-step and multi-step agree',
  _NO_PAIR,
  'Usual after single-step adversarial training (catastrophic overfitting): '
  'report multi-step attacks only; train with random starts, more steps or '
  'early stopping.',
)
def _single_and_multi_step_agree(model: Model) -> Iterator[Compared]:
  for epsilon, one, weak, many, strong in _single_and_multi(model):
    # A single step far beyond the image fails for another reason.
    if epsilon >= one.large or weak.value <= 0:
      continue
    ratio = strong.value / weak.value
    masked = weak.value >= _ROBUST and ratio < _MASKED
    pair = (many.label, strong), (f'a single step ({one.label})', weak)
    _, _, numbers = _compare(model, epsilon, one.norm, *pair)
    if masked:
      mild = 'mild ' if ratio >= _MILD else ''
      numbers = f'{mild}gradient masking: {numbers}'
    # Severe masking first, then the evaluation epsilon.
    rank = 4.0 * (ratio < _MILD) + 2.0 * (epsilon == one.epsilon) - ratio
    yield masked, rank, numbers


@_check(
  'gradients do not vanish',
  'gradients were not examined',
  'Gradient attacks leave such images unchanged and count them as robust. '
  'Zero: use a loss on logit differences (DLR, margin) and a black-box attack '
  '(Square). Not finite: look for square roots, logarithms and divisions at 0, '
  'and for overflow in low precision.',
)
def _gradients_do_not_vanish(model: Model) -> Iterator[Compared]:
  for name, trace in (model.result.traces or {}).items():
    zero, not_finite = trace.zero_gradients, trace.not_finite_gradients
    numbers = (
      f'{percent(zero, 2)} of the gradients of {model.name} are zero, '
      f'{percent(not_finite, 2)} are not finite ({attack_label(name)})'
    )
    suspicious = zero > _ZERO_GRADIENTS or not_finite > 0
    yield suspicious, max(zero, not_finite), numbers


@_check(
  'white box at least as strong as transfer',
  'transfer was not measured',
  'The gradients of the model mislead (gradient masking): use more steps, '
  'random starts, black-box attacks.',
)
def _white_box_beats_transfer(model: Model) -> Iterator[Compared]:
  for attack in model.attacks:
    if attack.name in model.transfer:
      own = f'{attack.label}, white box,', attack.accuracy
      other = model.transfer[attack.name]
      yield _compare(model, attack.epsilon, attack.norm, own, other)


@_check(
  'attacks stronger than random noise',
  'no noise of the norm and epsilon of an attack',
  'The attack does not work: check its step size, the pixel range and the '
  'gradients. If it is transfer, high accuracy under it is no robustness.',
)
def _attacks_beat_noise(model: Model) -> Iterator[Compared]:
  for attack in model.attacks:
    attempts = [(attack.label, attack.accuracy)]
    if attack.name in model.transfer:
      source, accuracy = model.transfer[attack.name]
      attempts.append((f'{attack.label}, {source},', accuracy))
    for kind, noise in (model.result.noise or {}).items():
      if (noise.norm, noise.epsilon) == (attack.norm, attack.epsilon):
        found = f'{noise_name(kind)} noise', noise.accuracy
        for number, attempt in enumerate(attempts):
          suspicious, gap, numbers = _compare(
            model, attack.epsilon, attack.norm, attempt, found
          )
          # The attack itself before transfer.
          yield suspicious, gap - number, numbers


def noise_name(kind: str) -> str:
  """Returns a kind of noise in words: 'salt-and-pepper'."""
  return kind.replace('_', '-').replace('gaussian', 'Gaussian')


@_check(
  'black box not stronger than white box',
  'no black-box attack (Square) beside a multi-step gradient attack',
  'The gradients are masked or noisy, and robust accuracy is probably lower: '
  'use more queries and restarts, or attack a smoothed network.',
)
def _black_box_is_not_stronger(model: Model) -> Iterator[Compared]:
  for run in model.result.autoattack or ():
    yield from _square_stage(model, run)
  for square in (each for each in model.attacks if each.kind == 'square'):
    strongest: dict[float, tuple[Estimate, str, Estimate]] = {}
    for many in model.attacks:  # AutoAttack contains Square.
      if many.num_steps > 1 and many.kind not in ('square', *_AUTOATTACK):
        for epsilon, weak, strong in _shared(square, many):
          case = strong, many.label, weak
          other = strongest.get(epsilon, case)
          strongest[epsilon] = min(case, other, key=lambda each: each[0].value)
    for epsilon, (strong, label, weak) in strongest.items():
      pair = (label, strong), (square.label, weak)
      _, gap, numbers = _compare(model, epsilon, square.norm, *pair)
      yield is_more_than_few(gap, square.points[epsilon][1]), gap, numbers


def _square_stage(model: Model, run: AutoAttackSummary) -> Iterator[Compared]:
  """The images fooled by Square after the rest of AutoAttack."""
  for before, after in itertools.pairwise(run.attacks):
    if after.name.startswith('square'):
      gap = before.accuracy - after.accuracy
      numbers = (
        f'Square lowers the accuracy of {model.name} from '
        f'{percent(before.accuracy)} to {percent(after.accuracy)} at '
        f'{at_epsilon(run.epsilon, run.norm)}, after the rest of AutoAttack'
      )
      yield is_more_than_few(gap, run.num_images), gap, numbers


@_check(
  'AutoAttack is the strongest attack',
  'no AutoAttack with the norm, epsilon and images of another attack',
  'Report the lower number. Gradients may be masked: try autoattack-plus. '
  "Random networks need advjax.autoattack(version='rand').",
)
def _autoattack_is_strongest(model: Model) -> Iterator[Compared]:
  for run in model.result.autoattack or ():
    for attack in model.attacks:
      other, count = attack.points.get(run.epsilon, (run.accuracy, None))
      same = attack.norm == run.norm and count == run.num_images
      if same and attack.kind not in _AUTOATTACK:
        pair = ('AutoAttack', run.accuracy), (attack.label, other)
        _, gap, numbers = _compare(model, run.epsilon, run.norm, *pair)
        yield is_more_than_few(gap, run.num_images), gap, numbers


@_check('AutoAttack raises no warnings', 'no AutoAttack')
def _autoattack_has_no_warnings(model: Model) -> Iterator[Compared]:
  runs, warnings = model.result.autoattack or [], []
  for run in runs:
    square = any(suspicious for suspicious, _, _ in _square_stage(model, run))
    for text in run.warnings:
      # `_black_box_is_not_stronger` reports it, with the same threshold.
      if not (square and text.startswith('Square')):
        warnings.append(
          f'at {at_epsilon(run.epsilon, run.norm)}: {text.rstrip(". ")}'
        )
  if runs:
    texts = '; '.join(warnings) or 'no other warnings'
    yield bool(warnings), 0.0, f'AutoAttack on {model.name}: {texts}'


@_check(
  'minimum-norm attacks succeed',
  'no minimum-norm attack',
  'Its perturbations are unbounded: it has too few steps, or the gradients are '
  'masked; the median distance is too large.',
)
def _minimum_norm_attacks_succeed(model: Model) -> Iterator[Compared]:
  for name, each in (model.result.minimal or {}).items():
    if each.found is not None:
      numbers = (
        f'{attack_label(name)} succeeds on {percent(each.found)} of the images '
        f'of {model.name}'
      )
      yield each.found < _FOUND, -each.found, numbers


@_check(
  'perturbations within epsilon',
  'no attack',
  'The accuracy is too low for this epsilon: project after every step, and '
  'check the pixel range.',
)
def _perturbations_within_epsilon(model: Model) -> Iterator[Compared]:
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


@_check(
  'adversarial examples survive 8-bit rounding',
  'rounding was not measured with an attack that continues once it succeeds',
  'The perturbations are finer than image files: exchange them as float32, and '
  'do not report them as a threat to 8-bit images.',
)
def _survives_rounding(model: Model) -> Iterator[Compared]:
  for attack in model.attacks:
    rounded = (model.result.rounded or {}).get(attack.name)
    if rounded is not None and attack.kind in _CONTINUE:
      interval = accuracy_interval(rounded, model.dataset.num_test)
      after = f'{attack.label}, rounded to 8 bits,', Estimate(rounded, interval)
      before = attack.label, attack.accuracy
      yield _compare(model, attack.epsilon, attack.norm, after, before)


@_check('outputs are logits', 'a single image cannot tell')
def _outputs_are_logits(model: Model) -> Iterator[Compared]:
  """Measuring clean accuracy fails on probabilities: never suspicious."""
  num_test = model.dataset.num_test
  if num_test > 1:
    numbers = (
      f'on {num_test:,} clean images the outputs of {model.name} are finite, '
      'and not all rows are >= 0 with a sum within 0.001 of 1'
    )
    yield False, 0.0, numbers
