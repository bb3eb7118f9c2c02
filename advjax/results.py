"""What training and evaluation measure, as report.json and sweep.json hold it.

Training, evaluation and explanation fill these classes, reporting shows them.
Fractions are in [0, 1]; intervals are 95 % intervals.
"""

import dataclasses
import math
import statistics
import typing
from collections.abc import Mapping, Sequence
from typing import Any, Self

import numpy as np

Interval = tuple[float, float]


def accuracy_interval(accuracy: float, num_images: int) -> Interval:
  """Returns the 95 % Wilson score interval of an accuracy, low and high.

  Unlike accuracy +- 1.96 standard errors it stays within [0, 1] and has a width
  at 0 and 1. (Edwin B. Wilson, 1927, Journal of the American Statistical
  Association 22.) Several seeds over the same images count as one: give their
  mean.
  """
  if num_images < 1:
    raise ValueError(f'num_images = {num_images}; allowed: an integer >= 1')
  if not 0 <= accuracy <= 1:
    raise ValueError(f'accuracy = {accuracy}; allowed: a number in [0, 1]')
  # In closed form: to import scipy.stats takes a second of every run.
  count, z = (
    round(accuracy * num_images),
    statistics.NormalDist().inv_cdf(0.975),
  )
  center = count + z**2 / 2
  width = z * math.sqrt(count * (1 - count / num_images) + z**2 / 4)
  low, high = (
    (center + sign * width) / (num_images + z**2) for sign in (-1, 1)
  )
  return 0.0 if count == 0 else low, 1.0 if count == num_images else high


@dataclasses.dataclass(frozen=True)
class Estimate:
  """A number with its uncertainty; in JSON `name`, `name_ci`, `name_std`."""

  value: float  # over several seeds their mean
  ci: Interval | None = None  # 95 % over the images, None where there is none
  std: float | None = None  # over seeds, of the sample; None for a single one

  @classmethod
  def of_correct(cls, correct: Sequence[np.ndarray]) -> Self:
    """Returns the accuracy over the seeds: which images are correct, `[N]`."""
    values = [float(each.mean()) for each in correct]
    mean = statistics.fmean(values)
    std = statistics.stdev(values) if len(values) > 1 else None
    return cls(mean, accuracy_interval(mean, len(correct[0])), std)


def mean_and_std(runs: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
  """Averages the metrics of several seeds.

  Each number becomes its mean, and beside it the sample standard deviation as
  `..._std`; step and epoch, and what is no number, stay as in the first.
  """
  result = dict(runs[0])
  if len(runs) == 1:
    return result
  for name, value in runs[0].items():
    if isinstance(value, float):
      values = [run[name] for run in runs]
      result[name] = statistics.fmean(values)
      result[f'{name}_std'] = statistics.stdev(values)
  return result


@typing.dataclass_transform(
  kw_only_default=True,
  frozen_default=True,
  field_specifiers=(dataclasses.field,),
)
@dataclasses.dataclass(frozen=True)
class Result:
  """Base of all results, which become JSON.

  An `Estimate` becomes up to three keys, also in a dict over models. A field
  marked `inline` becomes its own fields; `class_` is 'class' in JSON. Fields
  that hold their default of None are left out.
  """

  def __init_subclass__(cls) -> None:
    dataclasses.dataclass(frozen=True, kw_only=True)(cls)

  def to_json(self) -> dict[str, Any]:
    """Returns the result as JSON: dicts, lists, strings and numbers."""
    found: dict[str, Any] = {}
    for field in dataclasses.fields(self):
      value, name = getattr(self, field.name), field.name.removesuffix('_')
      if value is None and field.default is None:
        continue
      if field.metadata.get('inline'):
        found |= value.to_json()
      elif isinstance(value, Estimate):
        found |= _estimate_to_json(name, value)
      elif isinstance(value, dict) and any(
        isinstance(each, Estimate) for each in value.values()
      ):
        for model, estimate in value.items():
          for key, part in _estimate_to_json(name, estimate).items():
            found.setdefault(key, {})[model] = part
      else:
        found[name] = _to_json(value)
    return found


def _estimate_to_json(name: str, estimate: Estimate) -> dict[str, Any]:
  parts = {'': estimate.value, '_ci': estimate.ci, '_std': estimate.std}
  return {
    f'{name}{ending}': _to_json(part)
    for ending, part in parts.items()
    if part is not None
  }


def _to_json(value: Any) -> Any:
  """JSON has no infinity and no NaN: null."""
  if isinstance(value, Result):
    return value.to_json()
  if isinstance(value, Mapping):
    return {str(name): _to_json(each) for name, each in value.items()}
  if isinstance(value, list | tuple):
    return [_to_json(each) for each in value]
  if isinstance(value, float) and not math.isfinite(value):
    return None
  return value


class AtEpsilon(Result):
  """Accuracies on adversarial examples of one source model at one epsilon."""

  epsilon: float
  white_box: Estimate  # accuracy of the source model
  # Target model -> its accuracy on the same images.
  transfer: dict[str, Estimate]
  # The same two, label among the k largest logits; None for k 1.
  white_box_top_k: Estimate | None = None
  transfer_top_k: dict[str, Estimate] | None = None


class AttackResult(AtEpsilon):
  """An attack on one source model: `AtEpsilon` at the evaluation epsilon."""

  norm: str
  bounds: list[float] | None  # pixel range; None: no clip
  # Largest perturbation at the evaluation epsilon, by norm.
  max_perturbation: float
  # Over `evaluation.epsilons`, on the first `curve_num_images` images.
  curve: list[AtEpsilon]
  curve_num_images: int  # how many images the curve is of
  attack: str  # as flags write it, 'pgd-40'
  num_steps: int | None = None  # steps, or queries
  num_restarts: int | None = None
  # Step size at the evaluation epsilon; None: adaptive.
  step_size: float | None = None
  version: str | None = None


class Training(Result):
  """How a model was trained; over several seeds the means."""

  objective: str
  hparams: dict[str, float]  # its traced numbers
  num_validation: int  # held-out training images
  train_seconds: float  # wall-clock time of training
  step_milliseconds: float
  eval_step_milliseconds: float  # of a batch of evaluation
  epochs: list[dict[str, Any]]  # metrics of each epoch, `..._std` over seeds
  test: dict[str, Any]  # the objective's metrics on the test images
  warnings: list[str]


class ShiftResult(Result):
  """Accuracy on shifted images that no attack made."""

  accuracy: Estimate
  # Label among the k largest logits; None for k 1.
  top_k_accuracy: Estimate | None = None
  epsilon: float | None = None  # size of the noise, None for other shifts
  norm: str | None = None


class Trace(Result):
  """An attack step by step at the evaluation epsilon."""

  # Mean loss at each step; None where it is not finite.
  loss: list[float | None]
  accuracy: list[float]
  zero_gradients: float  # share of the images whose gradient is zero
  not_finite_gradients: float  # share of those whose gradient is not finite


class MinimalDistance(Result):
  """A minimum-norm attack, over the images that are classified correctly."""

  median_epsilon: float | None  # median distance; None if it is infinite
  found: float | None  # share of the images with an adversarial example
  norm: str


class AutoAttackStage(Result):
  """One attack of AutoAttack: what it fooled and its cost."""

  name: str
  accuracy: float
  fooled: int
  seconds: float
  compile_seconds: float
  forward: int
  backward: int


class AutoAttackSummary(Result):
  """AutoAttack at one epsilon."""

  epsilon: float
  norm: str
  version: str
  num_images: int
  clean_accuracy: float
  accuracy: Estimate
  attacks: list[AutoAttackStage]  # in the order they ran in
  warnings: list[str]


class ReportedCheckpoint(Result):
  """The checkpoint of a run that a model's numbers are of."""

  name: str  # 'last' or 'best'
  steps: list[int]  # of each seed

  @classmethod
  def of(cls, *runs: Any) -> Self:
    """Returns that of trained networks, one per seed."""
    return cls(name=runs[0].checkpoint, steps=[run.step for run in runs])


class ModelResult(Result):
  """One model; what was not measured is None."""

  checkpoint: ReportedCheckpoint | None = None
  training: Training | None = dataclasses.field(
    default=None, metadata={'inline': True}
  )
  num_params: int | None = None
  clean_accuracy: Estimate
  top_k: int | None = None  # of all top-k accuracies
  clean_top_k_accuracy: Estimate | None = None
  # Attack -> its result with this model as the source.
  robust_accuracy: dict[str, AttackResult]
  # Kinds of corruption that its training augmentation had.
  seen_corruptions: list[str] | None = None
  # Kind -> accuracy under random noise of the evaluation epsilon.
  noise: dict[str, ShiftResult] | None = None
  # Kind -> accuracy by severity.
  corruptions: dict[str, list[float]] | None = None
  corruption_accuracy: Estimate | None = None  # mean over kinds and severities
  # Over the kinds that no model of the report has seen in training.
  unseen_corruption_accuracy: Estimate | None = None
  # As `corruptions`, in the top k; so the next two.
  corruptions_top_k: dict[str, list[float]] | None = None
  corruption_top_k_accuracy: Estimate | None = None
  unseen_corruption_top_k_accuracy: Estimate | None = None
  # Severity -> accuracy with pasted objects.
  pasted_objects: dict[str, ShiftResult] | None = None
  # 'clean' and each attack -> accuracy of each class, None for a class
  # without images.
  per_class: dict[str, list[float | None]] | None = None
  # Attack -> its loss and accuracy step by step.
  traces: dict[str, Trace] | None = None
  # Attack -> accuracy on its adversarial examples in 8 bits.
  rounded: dict[str, float] | None = None
  # Attack -> distance of the adversarial examples.
  minimal: dict[str, MinimalDistance] | None = None
  autoattack: list[AutoAttackSummary] | None = None  # one summary per epsilon


class DatasetSummary(Result):
  """The data set of a report."""

  name: str
  num_train: int  # training images, held-out ones included
  num_test: int  # test images that were evaluated
  image_shape: list[int] | None = None  # `[H, W, C]`
  # Share of the most frequent class among these.
  largest_class_share: float | None = None
  warnings: list[str] | None = None  # Classes without images.

  @classmethod
  def of(cls, dataset: Any, **others: Any) -> Self:
    """Returns that of a `Dataset`, of `num_test` images or all of the test."""
    labels = dataset.test.labels[: others.get('num_test')]
    share = float(np.bincount(labels).max() / len(labels))
    numbers = {'num_train': len(dataset.train.labels), 'num_test': len(labels)}
    others = {'largest_class_share': share, **numbers, **others}
    others['warnings'] = dataset.warnings or None
    return cls(name=dataset.name, **others)


class Finding(Result):
  """The outcome of one sanity check of one model."""

  check: str
  member: str
  passed: bool | None  # True, False (suspicious) or None (not run)
  detail: str  # sentences with the numbers


class Report(Result):
  """The content of report.json of train, compare and evaluate."""

  dataset: DatasetSummary
  seeds: list[int]
  classes: list[str] | None = None
  # Model -> its results; over several seeds the means.
  members: dict[str, ModelResult]
  # Findings of the sanity checks; None before they ran.
  sanity: list[Finding] | None = None
  # Seed -> model -> its accuracies, where there are several seeds.
  per_seed: dict[str, dict[str, ModelResult]] | None = None
  command: str
  environment: dict[str, Any]
  config: dict[str, Any]  # of the run, or of each model


class Trial(Result):
  """One run of a sweep: a row of its table."""

  member: str
  group: int  # number of its group: runs of a group share a compiled program
  fields: dict[str, Any]  # swept field -> its value
  status: str
  reason: str | None = None
  checkpoint: ReportedCheckpoint | None = None
  clean_accuracy: Estimate | None = None
  # Share of the images that are classified correctly clean and under every
  # attack.
  robust_accuracy: Estimate | None = None
  # Attack -> white-box accuracy at the evaluation epsilon.
  attacks: dict[str, float] | None = None
  loss: float | None = None
  train_seconds: float | None = None
  step_milliseconds: float | None = None
  warnings: list[str]
  devices: int  # devices that it was trained on
  command: str | None = None  # trains it alone; None where flags cannot say it
  folder: str  # its folder, relative to the sweep's


class TrialGroup(Result):
  """Runs of a sweep that shared compiled programs."""

  members: int
  how: str  # how they shared the devices
  chunks: list[int]  # runs trained at once, one chunk after the other
  seconds: float
  compiles: int


class SweepReport(Result):
  """The content of sweep.json."""

  title: str
  dataset: DatasetSummary
  objective: str
  model: str
  epsilon: float
  norm: str
  attacks: list[str]
  fields: list[str]
  rows: list[Trial]  # the runs that are done, in order
  # Run -> 'epsilons' and each attack -> white-box accuracies.
  curves: dict[str, dict[str, list[float]]]
  num_members: int
  pending: list[str]
  groups: list[TrialGroup]
  command: str
  environment: dict[str, Any]
  config: dict[str, Any]  # what the runs have in common


class ExplainedAttack(Result):
  """The attack of an explanation; what it does not have is None."""

  attack: str
  num_steps: int | None = None
  num_restarts: int | None = None
  step_size: float | None = None
  version: str | None = None
  epsilon: float
  norm: str
  label: str  # all of that for people


class Similarity(Result):
  """Mean similarity of explanation maps to those of the clean images."""

  num_images: int  # images that the means are over
  cosine: float | None  # mean cosine; None without images
  cosine_ci: list[float] | None  # its 95 % interval; None below two images
  rank: float | None  # mean Spearman rank correlation
  rank_ci: list[float] | None


class ClassProbability(Result):
  """A class, and its probability where one was predicted."""

  label: int
  id: str  # its id (a wnid), or ''
  name: str
  probability: float | None = None  # of the prediction


class ExplainedCase(Result):
  """An explained image."""

  name: str
  kind: str  # 'right', 'wrong' or 'fooled'
  index: int
  class_: ClassProbability
  # 'clean' and 'adversarial' -> the most probable classes.
  predictions: dict[str, list[ClassProbability]]


class ExplainedModel(Result):
  """The explanations of one model."""

  checkpoint: ReportedCheckpoint | None = None
  num_params: int
  clean_accuracy: Estimate  # on the images that maps are compared on
  white_box: Estimate  # accuracy on their adversarial examples
  methods: list[str]
  # Method -> group of maps -> similarity.
  similarity: dict[str, dict[str, Similarity]]
  cases: list[ExplainedCase]


class ExplainReport(Result):
  """The content of report.json of explain."""

  dataset: DatasetSummary
  seeds: list[int]
  num_images: int  # images that maps are compared on
  classes: list[str]
  class_ids: list[str]
  attack: ExplainedAttack
  left_out: list[str]  # sentences about methods that a model does not allow
  members: dict[str, ExplainedModel]  # model -> its explanations
  command: str
  environment: dict[str, Any]
  config: dict[str, Any]
