"""What training and evaluation measure, as report.json and sweep.json hold it.

Training, evaluation and explanation fill these classes, reporting shows them.
Fractions are in [0, 1]; intervals are 95 % intervals.
"""

import dataclasses
import json
import math
import pathlib
import statistics
import types
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

  Raises:
    ValueError: If accuracy is outside [0, 1] or num_images below 1.
  """
  if num_images < 1:
    raise ValueError(f'num_images = {num_images}; allowed: an integer >= 1')
  if not 0 <= accuracy <= 1:
    raise ValueError(f'accuracy = {accuracy}; allowed: a number in [0, 1]')
  from scipy import stats  # Slow to import: not at the top.

  result = stats.binomtest(round(accuracy * num_images), num_images)
  interval = result.proportion_ci(0.95, method='wilson')
  return float(interval.low), float(interval.high)


@dataclasses.dataclass(frozen=True)
class Estimate:
  """A number with its uncertainty; in JSON `name`, `name_ci`, `name_std`.

  Attributes:
    value: The number; over several seeds their mean.
    ci: Its 95 % interval over the images, None where there is none.
    std: Sample standard deviation over seeds, None for a single one.
  """

  value: float
  ci: Interval | None = None
  std: float | None = None

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


@dataclasses.dataclass(frozen=True, kw_only=True)
class Result:
  """Base of all results: to and from JSON by the declared types.

  An `Estimate` becomes up to three keys, also in a dict over models. A field
  marked `inline` becomes its own fields; one with a `key` is named so in JSON.
  Fields that hold their default of None are left out.
  """

  def to_json(self) -> dict[str, Any]:
    """Returns the result as JSON: dicts, lists, strings and numbers."""
    found: dict[str, Any] = {}
    for field in dataclasses.fields(self):
      value = getattr(self, field.name)
      key = field.metadata.get('key', field.name)
      if value is None and field.default is None:
        continue
      if isinstance(value, Estimate):
        found |= _estimate_to_json(field.name, value)
      elif isinstance(value, dict) and any(
        isinstance(each, Estimate) for each in value.values()
      ):
        parts = [_estimate_to_json(field.name, each) for each in value.values()]
        for key in dict.fromkeys(key for part in parts for key in part):
          found[key] = {
            name: part[key]
            for name, part in zip(value, parts, strict=True)
            if key in part
          }
      elif field.metadata.get('inline'):
        found |= value.to_json()
      else:
        found[key] = _to_json(value)
    return found

  @classmethod
  def from_json(cls, data: Mapping[str, Any]) -> Self:
    """Reads a result back; keys that no field has are ignored.

    Raises:
      ValueError: If a field without a default is absent, naming it.
    """
    hints = typing.get_type_hints(cls)
    values = {}
    for field in dataclasses.fields(cls):
      kind, name = _without_none(hints[field.name]), field.name
      key = field.metadata.get('key', name)
      if field.metadata.get('inline'):
        required = [
          f.name
          for f in dataclasses.fields(kind)
          if f.default is dataclasses.MISSING
        ]
        if all(key in data for key in required):
          values[name] = kind.from_json(data)
      elif key in data:
        if kind is Estimate:
          values[name] = _estimate_from_json(name, data)
        elif kind == dict[str, Estimate]:
          values[name] = {
            model: _estimate_from_json(
              name,
              {
                key: data[key][model]
                for key in (name, f'{name}_ci', f'{name}_std')
                if model in data.get(key, ())
              },
            )
            for model in data[name]
          }
        else:
          values[name] = _from_json(kind, data[key])
      elif field.default is dataclasses.MISSING:
        raise ValueError(f'{cls.__name__} has no {key!r}: {sorted(data)}')
    return cls(**values)

  @classmethod
  def read(cls, path: pathlib.Path) -> Self:
    """Reads a result from a JSON file."""
    return cls.from_json(json.loads(path.read_text()))


def _estimate_to_json(name: str, estimate: Estimate) -> dict[str, Any]:
  found: dict[str, Any] = {name: estimate.value}
  if estimate.ci is not None:
    found[f'{name}_ci'] = list(estimate.ci)
  if estimate.std is not None:
    found[f'{name}_std'] = estimate.std
  return found


def _estimate_from_json(name: str, data: Mapping[str, Any]) -> Estimate:
  ci = data.get(f'{name}_ci')
  return Estimate(data[name], ci and tuple(ci), data.get(f'{name}_std'))


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


def _without_none(kind: Any) -> Any:
  if isinstance(kind, types.UnionType):
    (kind,) = [each for each in kind.__args__ if each is not types.NoneType][:1]
  return kind


def _from_json(kind: Any, value: Any) -> Any:
  kind = _without_none(kind)
  origin, arguments = typing.get_origin(kind), typing.get_args(kind)
  if value is None:
    return None
  if origin is list:
    return [_from_json(arguments[0], each) for each in value]
  if origin is dict:
    return {name: _from_json(arguments[1], v) for name, v in value.items()}
  if isinstance(kind, type) and issubclass(kind, Result):
    return kind.from_json(value)
  return value


@dataclasses.dataclass(frozen=True, kw_only=True)
class AtEpsilon(Result):
  """Accuracies on adversarial examples of one source model at one epsilon.

  Attributes:
    white_box: Accuracy of the source model.
    transfer: Target model -> its accuracy on the same images.
    white_box_top_k: The same, label among the k largest logits; None for k 1.
    transfer_top_k: The same.
  """

  epsilon: float
  white_box: Estimate
  transfer: dict[str, Estimate]
  white_box_top_k: Estimate | None = None
  transfer_top_k: dict[str, Estimate] | None = None


@dataclasses.dataclass(frozen=True, kw_only=True)
class AttackResult(AtEpsilon):
  """An attack on one source model, at the evaluation epsilon and over epsilons.

  Attributes:
    bounds: Pixel range; None: no clip.
    max_perturbation: Largest perturbation at the evaluation epsilon, by norm.
    curve: Over `evaluation.epsilons`, on the first `curve_num_images` images.
    curve_num_images: How many images the curve is of.
    attack: The attack as flags write it, 'pgd-40'.
    num_steps: Steps, or queries.
    step_size: Step size at the evaluation epsilon; None: adaptive.
  """

  norm: str
  bounds: list[float] | None
  max_perturbation: float
  curve: list[AtEpsilon]
  curve_num_images: int
  attack: str
  num_steps: int | None = None
  num_restarts: int | None = None
  step_size: float | None = None
  version: str | None = None


@dataclasses.dataclass(frozen=True, kw_only=True)
class Training(Result):
  """How a model was trained; over several seeds the means.

  Attributes:
    hparams: Its traced numbers.
    num_validation: Held-out training images.
    train_seconds: Wall-clock time of training.
    eval_step_milliseconds: Of a batch of evaluation.
    epochs: Metrics of each epoch, `..._std` over seeds.
    test: The objective's metrics on the test images.
  """

  objective: str
  hparams: dict[str, float]
  num_validation: int
  train_seconds: float
  step_milliseconds: float
  eval_step_milliseconds: float
  epochs: list[dict[str, Any]]
  test: dict[str, Any]
  warnings: list[str]


@dataclasses.dataclass(frozen=True, kw_only=True)
class ShiftResult(Result):
  """Accuracy on shifted images that no attack made.

  Attributes:
    top_k_accuracy: Label among the k largest logits; None for k 1.
    epsilon: Size of the noise, None for other shifts.
  """

  accuracy: Estimate
  top_k_accuracy: Estimate | None = None
  epsilon: float | None = None
  norm: str | None = None


@dataclasses.dataclass(frozen=True, kw_only=True)
class Trace(Result):
  """An attack step by step at the evaluation epsilon.

  Attributes:
    loss: Mean loss at each step; None where it is not finite.
    zero_gradients: Share of the images whose gradient is zero.
    not_finite_gradients: Share of those whose gradient is not finite.
  """

  loss: list[float | None]
  accuracy: list[float]
  zero_gradients: float
  not_finite_gradients: float


@dataclasses.dataclass(frozen=True, kw_only=True)
class MinimalDistance(Result):
  """A minimum-norm attack, over the images that are classified correctly.

  Attributes:
    median_epsilon: Median distance; None if it is infinite.
    found: Share of the images with an adversarial example.
  """

  median_epsilon: float | None
  found: float | None
  norm: str


@dataclasses.dataclass(frozen=True, kw_only=True)
class AutoAttackStage(Result):
  """One attack of AutoAttack: what it fooled and its cost."""

  name: str
  accuracy: float
  fooled: int
  seconds: float
  compile_seconds: float
  forward: int
  backward: int


@dataclasses.dataclass(frozen=True, kw_only=True)
class AutoAttackSummary(Result):
  """AutoAttack at one epsilon.

  Attributes:
    attacks: In the order they ran in.
  """

  epsilon: float
  norm: str
  version: str
  num_images: int
  clean_accuracy: float
  accuracy: Estimate
  attacks: list[AutoAttackStage]
  warnings: list[str]


@dataclasses.dataclass(frozen=True, kw_only=True)
class ModelResult(Result):
  """One model; what was not measured is None.

  Attributes:
    top_k: k of all top-k accuracies.
    robust_accuracy: Attack -> its result with this model as the source.
    seen_corruptions: Kinds of corruption that its training augmentation had.
    noise: Kind -> accuracy under random noise of the evaluation epsilon.
    corruptions: Kind -> accuracy by severity.
    corruption_accuracy: Mean over kinds and severities.
    unseen_corruption_accuracy: Over the kinds that no model of the report has
      seen in training.
    corruptions_top_k: As `corruptions`, in the top k; so the next two.
    pasted_objects: Severity -> accuracy with pasted objects.
    per_class: 'clean' and each attack -> accuracy of each class, None for a
      class without images.
    traces: Attack -> its loss and accuracy step by step.
    rounded: Attack -> accuracy on its adversarial examples in 8 bits.
    minimal: Attack -> distance of the adversarial examples.
    autoattack: One summary per epsilon.
  """

  training: Training | None = dataclasses.field(
    default=None, metadata={'inline': True}
  )
  num_params: int | None = None
  clean_accuracy: Estimate
  top_k: int | None = None
  clean_top_k_accuracy: Estimate | None = None
  robust_accuracy: dict[str, AttackResult]
  seen_corruptions: list[str] | None = None
  noise: dict[str, ShiftResult] | None = None
  corruptions: dict[str, list[float]] | None = None
  corruption_accuracy: Estimate | None = None
  unseen_corruption_accuracy: Estimate | None = None
  corruptions_top_k: dict[str, list[float]] | None = None
  corruption_top_k_accuracy: Estimate | None = None
  unseen_corruption_top_k_accuracy: Estimate | None = None
  pasted_objects: dict[str, ShiftResult] | None = None
  per_class: dict[str, list[float | None]] | None = None
  traces: dict[str, Trace] | None = None
  rounded: dict[str, float] | None = None
  minimal: dict[str, MinimalDistance] | None = None
  autoattack: list[AutoAttackSummary] | None = None


@dataclasses.dataclass(frozen=True, kw_only=True)
class DatasetSummary(Result):
  """The data set of a report.

  Attributes:
    num_train: Training images, held-out ones included.
    num_test: Test images that were evaluated.
    image_shape: `[H, W, C]`.
    largest_class_share: Share of the most frequent class among these.
  """

  name: str
  num_train: int
  num_test: int
  image_shape: list[int] | None = None
  largest_class_share: float | None = None


@dataclasses.dataclass(frozen=True, kw_only=True)
class Finding(Result):
  """The outcome of one sanity check of one model.

  Attributes:
    passed: True, False (suspicious) or None (not run).
    detail: Sentences with the numbers.
  """

  check: str
  member: str
  passed: bool | None
  detail: str


@dataclasses.dataclass(frozen=True, kw_only=True)
class Report(Result):
  """The content of report.json of train, compare and evaluate.

  Attributes:
    members: Model -> its results; over several seeds the means.
    sanity: Findings of the sanity checks; None before they ran.
    per_seed: Seed -> model -> its accuracies, where there are several seeds.
    config: Of the run, or of each model.
  """

  dataset: DatasetSummary
  seeds: list[int]
  classes: list[str] | None = None
  members: dict[str, ModelResult]
  sanity: list[Finding] | None = None
  per_seed: dict[str, dict[str, ModelResult]] | None = None
  command: str
  environment: dict[str, Any]
  config: dict[str, Any]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Trial(Result):
  """One run of a sweep: a row of its table.

  Attributes:
    group: Number of its group: runs of a group share a compiled program.
    fields: Swept field -> its value.
    robust_accuracy: Share of the images that are classified correctly clean and
      under every attack.
    attacks: Attack -> white-box accuracy at the evaluation epsilon.
    devices: Devices that it was trained on.
    command: Trains it alone; None where flags cannot say it.
    folder: Its folder, relative to the sweep's.
  """

  member: str
  group: int
  fields: dict[str, Any]
  status: str
  reason: str | None = None
  clean_accuracy: Estimate | None = None
  robust_accuracy: Estimate | None = None
  attacks: dict[str, float] | None = None
  loss: float | None = None
  train_seconds: float | None = None
  step_milliseconds: float | None = None
  warnings: list[str]
  devices: int
  command: str | None = None
  folder: str


@dataclasses.dataclass(frozen=True, kw_only=True)
class TrialGroup(Result):
  """Runs of a sweep that shared compiled programs.

  Attributes:
    how: How they shared the devices.
    chunks: Runs trained at once, one chunk after the other.
  """

  members: int
  how: str
  chunks: list[int]
  seconds: float
  compiles: int


@dataclasses.dataclass(frozen=True, kw_only=True)
class SweepReport(Result):
  """The content of sweep.json.

  Attributes:
    rows: The runs that are done, in order.
    curves: Run -> 'epsilons' and each attack -> white-box accuracies.
    config: What the runs have in common.
  """

  title: str
  dataset: DatasetSummary
  objective: str
  model: str
  epsilon: float
  norm: str
  attacks: list[str]
  fields: list[str]
  rows: list[Trial]
  curves: dict[str, dict[str, list[float]]]
  num_members: int
  pending: list[str]
  groups: list[TrialGroup]
  command: str
  environment: dict[str, Any]
  config: dict[str, Any]


@dataclasses.dataclass(frozen=True, kw_only=True)
class ExplainedAttack(Result):
  """The attack of an explanation; what it does not have is None.

  Attributes:
    label: All of that for people.
  """

  attack: str
  num_steps: int | None = None
  num_restarts: int | None = None
  step_size: float | None = None
  version: str | None = None
  epsilon: float
  norm: str
  label: str


@dataclasses.dataclass(frozen=True, kw_only=True)
class Similarity(Result):
  """Mean similarity of explanation maps to those of the clean images.

  Attributes:
    num_images: Images that the means are over.
    cosine: Mean cosine; None without images.
    cosine_ci: Its 95 % interval; None below two images.
    rank: Mean Spearman rank correlation.
  """

  num_images: int
  cosine: float | None
  cosine_ci: list[float] | None
  rank: float | None
  rank_ci: list[float] | None


@dataclasses.dataclass(frozen=True, kw_only=True)
class ClassProbability(Result):
  """A class, and its probability where one was predicted.

  Attributes:
    id: Its id (a wnid), or ''.
    probability: Of the prediction.
  """

  label: int
  id: str
  name: str
  probability: float | None = None


@dataclasses.dataclass(frozen=True, kw_only=True)
class ExplainedCase(Result):
  """An explained image.

  Attributes:
    kind: 'right', 'wrong' or 'fooled'.
    predictions: 'clean' and 'adversarial' -> the most probable classes.
  """

  name: str
  kind: str
  index: int
  true_class: ClassProbability = dataclasses.field(metadata={'key': 'class'})
  predictions: dict[str, list[ClassProbability]]


@dataclasses.dataclass(frozen=True, kw_only=True)
class ExplainedModel(Result):
  """The explanations of one model.

  Attributes:
    clean_accuracy: On the images that maps are compared on.
    white_box: Accuracy on their adversarial examples.
    similarity: Method -> group of maps -> similarity.
  """

  num_params: int
  clean_accuracy: Estimate
  white_box: Estimate
  methods: list[str]
  similarity: dict[str, dict[str, Similarity]]
  cases: list[ExplainedCase]


@dataclasses.dataclass(frozen=True, kw_only=True)
class ExplainReport(Result):
  """The content of report.json of explain.

  Attributes:
    num_images: Images that maps are compared on.
    left_out: Sentences about methods that a model does not allow.
    members: Model -> its explanations.
  """

  dataset: DatasetSummary
  seeds: list[int]
  num_images: int
  classes: list[str]
  class_ids: list[str]
  attack: ExplainedAttack
  left_out: list[str]
  members: dict[str, ExplainedModel]
  command: str
  environment: dict[str, Any]
  config: dict[str, Any]
