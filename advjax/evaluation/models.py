"""Several models: white-box and transfer attacks of each on all."""

import dataclasses
import functools
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from advjax.attacks import specs
from advjax.attacks.specs import Attack
from advjax.devices import Batching
from advjax.evaluation.logits import compute_logits, in_top_k
from advjax.evaluation.robustness import attack_and_predict
from advjax.results import (
  AtEpsilon,
  AttackResult,
  AutoAttackSummary,
  Estimate,
  ModelResult,
)
from advjax.types import LogitsFn

# On larger test sets the curves over epsilon are of so many images; the
# evaluation epsilon is always on all of them.
_MAX_CURVE_IMAGES = 1000

# (source model, attack).
Pair = tuple[str, str]
# Target model -> logits.
Logits = dict[str, np.ndarray]


@dataclasses.dataclass(frozen=True)
class Evaluation:
  """Logits of every model on every model's adversarial examples."""

  clean_logits: Logits
  attacks: dict[str, Attack]
  epsilon: float
  epsilons: tuple[float, ...]
  # On adversarial examples at the evaluation epsilon, [N, K].
  logits: dict[Pair, Logits] = dataclasses.field(default_factory=dict)
  # At all epsilons, of the first M images (at most 1,000, but for AutoAttack):
  # [E, M, K].
  curve_logits: dict[Pair, Logits] = dataclasses.field(default_factory=dict)
  # At the evaluation epsilon, as `max_sizes` of the perturbations.
  images: dict[Pair, np.ndarray] = dataclasses.field(default_factory=dict)
  max_sizes: dict[Pair, float] = dataclasses.field(default_factory=dict)
  # Of minimum-norm attacks, [M]: infinite where none is found, 0 where the
  # clean image is misclassified.
  distances: dict[Pair, np.ndarray] = dataclasses.field(default_factory=dict)
  # At each epsilon of the curve and the evaluation epsilon.
  autoattack: dict[Pair, list[AutoAttackSummary]] = dataclasses.field(
    default_factory=dict
  )

  @functools.cached_property
  def clean(self) -> dict[str, np.ndarray]:
    """Model -> predictions on the clean images, int `[N]`."""
    return _classes(self.clean_logits)

  @functools.cached_property
  def predictions(self) -> dict[Pair, dict[str, np.ndarray]]:
    """(source, attack) -> target model -> predictions, int `[N]`."""
    return {pair: _classes(logits) for pair, logits in self.logits.items()}


def _classes(logits: Logits) -> dict[str, np.ndarray]:
  return {
    name: values.argmax(-1).astype(np.int32) for name, values in logits.items()
  }


def parse_attacks(
  texts: Sequence[str],
  *,
  image_shape: Sequence[int] | None = None,
  num_classes: int = 0,
  **choices: Any,
) -> dict[str, Attack]:
  """Reads attacks, and shortens names that stay unique: 'pgd' of 'pgd-40'."""
  parsed = specs.parse_attacks(texts, **choices)
  for attack in parsed.values():
    if image_shape is not None:
      attack.check(image_shape, num_classes)
  kinds = [attack.name for attack in parsed.values()]
  return {
    attack.name if kinds.count(attack.name) == 1 else text: attack
    for text, attack in parsed.items()
  }


def evaluate_models(
  models: Mapping[str, LogitsFn],
  attacks: Mapping[str, Attack],
  images: np.ndarray,
  labels: np.ndarray,
  *,
  epsilon: float,
  epsilons: Sequence[float],
  batching: Batching,
  folder: pathlib.Path | None = None,
  progress: bool = False,
) -> Evaluation:
  """Attacks every model, and evaluates all models on all adversarial examples.

  The evaluation epsilon is on all images, those of the curves on the first
  1,000. AutoAttack saves its state in `folder`, and resumes from it.
  """
  result = Evaluation(
    {name: compute_logits(fn, images, batching) for name, fn in models.items()},
    dict(attacks),
    epsilon,
    tuple(epsilons),
  )
  for attack_name, attack in attacks.items():
    # AutoAttack always takes all images.
    large = len(images) > _MAX_CURVE_IMAGES and attack.function is not None
    count = _MAX_CURVE_IMAGES if large else len(images)
    radii = list(epsilons)
    # Where images are few, the evaluation epsilon is one of the curve's.
    if not large and epsilon not in radii:
      radii.append(epsilon)
    place = radii.index(epsilon) if epsilon in radii else 0
    if attack.is_minimal:
      radii.append(np.inf)
    for source in models:
      pair = source, attack_name
      run = functools.partial(
        attack_and_predict,
        models[source],
        models,
        attack,
        batching=batching,
        norm=attack.norm,
        save_as=folder and folder / f'{source}_{attack_name}',
        progress=progress,
      )
      curve = final = run(images[:count], labels[:count], radii, kept=place)
      at = place
      if large:
        final, at = run(images, labels, [epsilon]), 0
      result.curve_logits[pair] = {
        name: values[: len(epsilons)] for name, values in curve.logits.items()
      }
      result.logits[pair] = {
        name: values[at] for name, values in final.logits.items()
      }
      result.images[pair] = final.images
      result.max_sizes[pair] = float(final.sizes[at].max())
      result.autoattack[pair] = list(curve.autoattack)
      if attack.is_minimal:
        wrong = curve.predictions[source][-1] != labels[:count]
        result.distances[pair] = np.where(wrong, curve.sizes[-1], np.inf)
  return result


def model_result(
  evaluations: Sequence[Evaluation],
  labels: np.ndarray,
  name: str,
  *,
  top_k: int = 1,
) -> ModelResult:
  """Returns the accuracies of a model from its evaluations, one per seed."""

  def accuracies(logits: Sequence[Logits]) -> dict[str, Any]:
    """White box and transfer, on adversarial examples of this model."""
    found: dict[str, Any] = {}
    for k, ending in ((1, ''), (top_k, '_top_k'))[: 1 + (top_k > 1)]:
      accuracy = {
        target: accuracy_of([each[target] for each in logits], labels, k)
        for target in logits[0]
      }
      found[f'white_box{ending}'] = accuracy.pop(name)
      found[f'transfer{ending}'] = accuracy
    return found

  first = evaluations[0]
  attacks = {}
  for key, attack in first.attacks.items():
    pair = name, key
    curves = [each.curve_logits[pair] for each in evaluations]
    attacks[key] = AttackResult(
      **attack.settings(first.epsilon),
      epsilon=first.epsilon,
      norm=attack.norm,
      bounds=attack.bounds and list(attack.bounds),
      max_perturbation=max(each.max_sizes[pair] for each in evaluations),
      **accuracies([each.logits[pair] for each in evaluations]),
      curve=[
        AtEpsilon(
          epsilon=epsilon,
          **accuracies([{t: v[i] for t, v in c.items()} for c in curves]),
        )
        for i, epsilon in enumerate(first.epsilons)
      ],
      curve_num_images=curves[0][name].shape[1],
    )
  clean = [each.clean_logits[name] for each in evaluations]
  return ModelResult(
    clean_accuracy=accuracy_of(clean, labels),
    top_k=top_k if top_k > 1 else None,
    clean_top_k_accuracy=(
      accuracy_of(clean, labels, top_k) if top_k > 1 else None
    ),
    robust_accuracy=attacks,
  )


def accuracy_of(
  logits: Sequence[np.ndarray], labels: np.ndarray, k: int = 1
) -> Estimate:
  """Returns the top-k accuracy; `logits` are `[N, K]` of each seed."""
  labels = labels[: len(logits[0])]
  return Estimate.of_correct([in_top_k(each, labels, k) for each in logits])


def save_examples(
  path: Any,
  evaluation: Evaluation,
  images: np.ndarray,
  labels: np.ndarray,
) -> None:
  """Saves clean images, adversarial examples and predictions, lossless, as npz.

  For N images (at most 1,000), M models and P pairs of a source model and an
  attack: `images` `[N, ...]`, `labels` `[N]`, `members` `[M]`,
  `clean_predictions` `[M, N]`, `source`, `attack` and `epsilon` `[P]`,
  `perturbed` `[P, N, ...]`, `predictions` `[P, M, N]`.
  """
  count = min(len(images), _MAX_CURVE_IMAGES)
  pairs, names = list(evaluation.logits), list(evaluation.clean)
  predictions = [
    [evaluation.predictions[pair][name][:count] for name in names]
    for pair in pairs
  ]
  np.savez_compressed(
    path,
    images=images[:count].astype(np.float32),
    labels=labels[:count].astype(np.int32),
    members=np.array(names),
    clean_predictions=np.stack(
      [evaluation.clean[name][:count] for name in names]
    ),
    source=np.array([source for source, _ in pairs]),
    attack=np.array([attack for _, attack in pairs]),
    epsilon=np.full(len(pairs), evaluation.epsilon, np.float32),
    perturbed=np.stack([evaluation.images[pair][:count] for pair in pairs]),
    predictions=np.array(predictions, np.int32),
  )
