"""Several models: white-box and transfer attacks of each on all."""

import dataclasses
import functools
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from advjax.attacks.specs import (
  AnyAttack,
  FullAttack,
  MinimalAttack,
  parse_attack,
)
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
  """Logits of every model on every model's adversarial examples.

  Attributes:
    clean_logits: Model -> logits on the clean images, `[N, K]`.
    logits: (source model, attack) -> target model -> logits on its adversarial
      examples at the evaluation epsilon, `[N, K]`.
    curve_logits: The same at all epsilons of the curve, `[E, M, K]`, of the
      first M images: at most 1,000, but for AutoAttack.
    images: (source, attack) -> adversarial examples at the evaluation epsilon.
    max_sizes: (source, attack) -> the largest perturbation at it.
    distances: (source, attack) -> of minimum-norm attacks the distance `[M]` of
      the adversarial examples, infinite where none was found; 0 for images that
      are misclassified clean.
    autoattack: (source, attack) -> AutoAttack's summary at each epsilon of the
      curve and at the evaluation epsilon; empty for other attacks.
    attacks: Name -> attack.
    epsilon: The evaluation epsilon.
    epsilons: Those of the curves.
  """

  clean_logits: Logits
  attacks: dict[str, AnyAttack]
  epsilon: float
  epsilons: tuple[float, ...]
  logits: dict[Pair, Logits] = dataclasses.field(default_factory=dict)
  curve_logits: dict[Pair, Logits] = dataclasses.field(default_factory=dict)
  images: dict[Pair, np.ndarray] = dataclasses.field(default_factory=dict)
  max_sizes: dict[Pair, float] = dataclasses.field(default_factory=dict)
  distances: dict[Pair, np.ndarray] = dataclasses.field(default_factory=dict)
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
  norm: str = 'linf',
  bounds: tuple[float, float] | None = (0.0, 1.0),
  step_size: float | None = None,
) -> dict[str, AnyAttack]:
  """Reads a list of attacks and gives each a short, unique name.

  Args:
    texts: As `parse_attack` takes them; several in one, between commas, are
      what a flag such as --config.evaluation.attacks=fgsm,bim-20 gives.
    norm: 'linf', 'l2' or 'l1'.
    bounds: The pixel range, or None for no clip.
    step_size: An absolute step size for all of them; None: their defaults.

  Returns:
    The attacks by name: 'pgd', or 'pgd-40' where there are several of a kind.

  Raises:
    ValueError: if the list is empty, or an attack is unknown or named twice.

  Example:
    >>> list(parse_attacks(['fgsm', 'pgd-40', 'pgd-50-10']))
    ['fgsm', 'pgd-40', 'pgd-50-10']
  """
  texts = [part for text in texts for part in text.split(',')]
  parsed = {
    text: parse_attack(text, norm=norm, bounds=bounds, step_size=step_size)
    for text in texts
  }
  if not texts or len(parsed) < len(texts):
    raise ValueError(
      f'attacks = {list(texts)}; allowed: one attack or more, each named once'
    )
  kinds = [attack.name for attack in parsed.values()]
  return {
    attack.name if kinds.count(attack.name) == 1 else text: attack
    for text, attack in parsed.items()
  }


def evaluate_models(
  models: Mapping[str, LogitsFn],
  attacks: Mapping[str, AnyAttack],
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

  Args:
    models: Logits functions by name.
    attacks: From `parse_attacks`.
    images: float32 `[N, ...]` in the pixel range.
    labels: int `[N]`.
    epsilon: The evaluation epsilon, on all images.
    epsilons: Those of the curves, on the first 1,000 images.
    batching: Batch size, devices and key; example i gets `fold_in(key, i)`.
    folder: Where AutoAttack saves its state, to resume from.
    progress: Whether AutoAttack draws progress bars.

  Returns:
    All logits, and the adversarial examples.

  Raises:
    ValueError: as `attack_and_predict`.

  Example:
    >>> result = evaluate_models(
    ...   {'one': lambda x: 10 * x},
    ...   parse_attacks(['fgsm']),
    ...   np.eye(3, dtype=np.float32),
    ...   np.arange(3),
    ...   epsilon=0.1,
    ...   epsilons=(0.9,),
    ...   batching=Batching(),
    ... )
    >>> result.curve_logits['one', 'fgsm']['one'].shape
    (1, 3, 3)
  """
  result = Evaluation(
    {name: compute_logits(fn, images, batching) for name, fn in models.items()},
    dict(attacks),
    epsilon,
    tuple(epsilons),
  )
  for attack_name in attacks:
    for source in models:
      _evaluate_pair(
        result,
        (source, attack_name),
        models,
        images,
        labels,
        batching,
        folder and folder / f'{source}_{attack_name}',
        progress,
      )
  return result


def _evaluate_pair(
  result: Evaluation,
  pair: Pair,
  models: Mapping[str, LogitsFn],
  images: np.ndarray,
  labels: np.ndarray,
  batching: Batching,
  save_as: pathlib.Path | None,
  progress: bool,
) -> None:
  """Fills in one attack on one source model."""
  source, attack = pair[0], result.attacks[pair[1]]
  epsilon, radii = result.epsilon, list(result.epsilons)
  minimal = isinstance(attack, MinimalAttack)
  # AutoAttack always takes all images.
  large = len(images) > _MAX_CURVE_IMAGES and not isinstance(attack, FullAttack)
  # Where images are few, the evaluation epsilon is one of the curve's.
  if not large and epsilon not in radii:
    radii.append(epsilon)
  place = radii.index(epsilon) if epsilon in radii else 0
  if minimal:
    radii.append(np.inf)
  run = functools.partial(
    attack_and_predict,
    models[source],
    models,
    attack,
    batching=batching,
    norm=attack.norm,
    save_as=save_as,
    progress=progress,
  )
  count = _MAX_CURVE_IMAGES if large else len(images)
  curve = final = run(images[:count], labels[:count], radii, kept=place)
  if large:
    final, place = run(images, labels, [epsilon]), 0
  result.curve_logits[pair] = {
    name: values[: len(result.epsilons)]
    for name, values in curve.logits.items()
  }
  result.logits[pair] = {
    name: values[place] for name, values in final.logits.items()
  }
  result.images[pair] = final.images
  result.max_sizes[pair] = float(final.sizes[place].max())
  result.autoattack[pair] = list(curve.autoattack)
  if minimal:
    wrong = curve.predictions[source][-1] != labels[:count]
    result.distances[pair] = np.where(wrong, curve.sizes[-1], np.inf)


def model_result(
  evaluations: Sequence[Evaluation],
  labels: np.ndarray,
  name: str,
  *,
  top_k: int = 1,
) -> ModelResult:
  """Returns the clean and robust accuracy of a model.

  Args:
    evaluations: From `evaluate_models`, one per seed.
    labels: int `[N]`, those of its images.
    name: The model.
    top_k: With k above 1 top-k accuracies are added.

  Returns:
    Accuracies as fractions with 95 % intervals over the images; over several
    seeds means with the sample standard deviation.
  """
  first = evaluations[0]
  clean = [each.clean_logits[name] for each in evaluations]
  attacks = {}
  for attack_name, attack in first.attacks.items():
    pair = name, attack_name
    attacks[attack_name] = AttackResult(
      **attack.settings(first.epsilon),
      epsilon=first.epsilon,
      norm=attack.norm,
      bounds=attack.bounds and list(attack.bounds),
      max_perturbation=max(each.max_sizes[pair] for each in evaluations),
      **_accuracies(
        name, [each.logits[pair] for each in evaluations], labels, top_k
      ),
      curve=[
        AtEpsilon(
          epsilon=epsilon,
          **_accuracies(
            name,
            [
              {
                target: v[point]
                for target, v in each.curve_logits[pair].items()
              }
              for each in evaluations
            ],
            labels,
            top_k,
          ),
        )
        for point, epsilon in enumerate(first.epsilons)
      ],
      curve_num_images=first.curve_logits[pair][name].shape[1],
    )
  return ModelResult(
    clean_accuracy=accuracy_of(clean, labels),
    top_k=top_k if top_k > 1 else None,
    clean_top_k_accuracy=(
      accuracy_of(clean, labels, top_k) if top_k > 1 else None
    ),
    robust_accuracy=attacks,
  )


def _accuracies(
  source: str, logits: Sequence[Logits], labels: np.ndarray, top_k: int
) -> dict[str, Any]:
  """White-box and transfer accuracy on adversarial examples of one source."""
  found: dict[str, Any] = {}
  for k, ending in ((1, ''), (top_k, '_top_k'))[: 1 + (top_k > 1)]:
    accuracy = {
      target: accuracy_of([each[target] for each in logits], labels, k)
      for target in logits[0]
    }
    found[f'white_box{ending}'] = accuracy.pop(source)
    found[f'transfer{ending}'] = accuracy
  return found


def accuracy_of(
  logits: Sequence[np.ndarray], labels: np.ndarray, k: int = 1
) -> Estimate:
  """Returns the top-k accuracy, over seeds.

  Args:
    logits: For each seed `[N, K]`, of the first N labels.
    labels: int.
    k: 1 or more.

  Example:
    >>> accuracy_of([np.eye(2)], np.array([0, 0])).value
    0.5
  """
  labels = labels[: len(logits[0])]
  return Estimate.of_correct([in_top_k(each, labels, k) for each in logits])


def save_examples(
  path: Any,
  evaluation: Evaluation,
  images: np.ndarray,
  labels: np.ndarray,
) -> None:
  """Saves clean images, adversarial examples and predictions, lossless, as npz.

  Arrays, for N images (at most 1,000), M models and P pairs of a source model
  and an attack: `images` float32 `[N, ...]`, `labels` int32 `[N]`, `members`
  `[M]`, `clean_predictions` int32 `[M, N]`, `source`, `attack` and `epsilon`
  `[P]`, `perturbed` float32 `[P, N, ...]`, `predictions` int32 `[P, M, N]`.

  Args:
    path: The file, or one that is open for writing bytes.
    evaluation: From `evaluate_models`.
    images: The clean images given to it.
    labels: Their labels.
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
