"""What `evaluate` measures besides attacks and transfer."""

from collections.abc import Mapping, Sequence

import numpy as np

from advjax.config import box_diameter
from advjax.devices import Batching
from advjax.evaluation.logits import compute_logits
from advjax.evaluation.models import Evaluation
from advjax.evaluation.shifts import Fields, can_corrupt, measure_shifts
from advjax.evaluation.traces import TRACED, trace
from advjax.results import MinimalDistance
from advjax.types import LogitsFn

_UNIT = (0.0, 1.0)  # The pixel range of 8-bit images and of corruptions.


def large_epsilon(
  norm: str,
  bounds: Sequence[float] | None,
  image_shape: Sequence[int] | None = None,
) -> float | None:
  """Returns the radius of the smallest ball that contains a gray image always.

  None if it is not known. Within it robust accuracy is at most chance.
  """
  diameter = box_diameter(norm, bounds, image_shape)
  return diameter and diameter / 2


def per_class_accuracy(
  predictions: np.ndarray, labels: np.ndarray, num_classes: int
) -> list[float | None]:
  """The accuracy on the images of each class, None if there is none."""
  count = np.bincount(labels, minlength=num_classes)
  correct = np.bincount(labels[predictions == labels], minlength=num_classes)
  return [
    float(right / number) if number else None
    for right, number in zip(correct, count, strict=True)
  ]


def round_to_8_bits(images: np.ndarray) -> np.ndarray:
  """Rounds images as an 8-bit file would: `round(255 clip(x, 0, 1)) / 255`."""
  # In float64: a product that float32 rounds up to a half goes the wrong way.
  levels = np.round(255 * np.clip(images.astype(np.float64), 0, 1))
  return (levels / 255).astype(np.float32)


def measure_diagnostics(
  models: Mapping[str, LogitsFn],
  evaluation: Evaluation,
  images: np.ndarray,
  labels: np.ndarray,
  *,
  num_classes: int,
  bounds: tuple[float, float] | None,
  batching: Batching,
  seen: Mapping[str, Sequence[str]],
  corruptions: bool = True,
  top_k: int = 1,
) -> Fields:
  """Returns model -> fields of `ModelResult` besides its attack accuracies.

  Rounding needs a pixel range of [0, 1]; so do corruptions, which need images
  of 8 x 8 or more with 1 or 3 channels too. `seen` are the corruptions that the
  training of each model has seen.
  """
  is_unit = bounds is not None and tuple(bounds) == _UNIT
  shifts = ['noise']
  if corruptions and is_unit and can_corrupt(images.shape[1:]):
    shifts.append('corruptions')
    if len(set(labels.tolist())) > 1:
      shifts.append('pasted_objects')
  found = measure_shifts(
    shifts,
    {name: [logits_fn] for name, logits_fn in models.items()},
    images,
    labels,
    epsilon=evaluation.epsilon,
    norm=next(iter(evaluation.attacks.values())).norm,
    bounds=bounds,
    seen=seen,
    batching=batching,
    top_k=top_k,
  )
  for name, logits_fn in models.items():
    predictions = {'clean': evaluation.clean[name]}
    traces, rounded, minimal, summaries = {}, {}, {}, []
    for key, attack in evaluation.attacks.items():
      pair = name, key
      predictions[key] = evaluation.predictions[pair][name]
      if attack.name in TRACED:
        traces[key] = trace(
          logits_fn, attack, images, labels, evaluation.epsilon, batching
        )
      if is_unit:
        in_8_bits = round_to_8_bits(evaluation.images[pair])
        logits = compute_logits(logits_fn, in_8_bits, batching, check=False)
        rounded[key] = float((logits.argmax(-1) == labels).mean())
      if pair in evaluation.distances:
        distances = evaluation.distances[pair]
        correct = (predictions['clean'] == labels)[: len(distances)]
        minimal[key] = _minimal(distances[correct], attack.norm)
      if attack.version and attack.parts is None:  # All of AutoAttack.
        summaries += evaluation.autoattack[pair]
    found[name] |= {
      'per_class': {
        kind: per_class_accuracy(each, labels, num_classes)
        for kind, each in predictions.items()
      },
      'traces': traces,
      'rounded': rounded if is_unit else None,
      'minimal': minimal or None,
      'autoattack': summaries or None,
    }
  return found


def _minimal(distances: np.ndarray, norm: str) -> MinimalDistance:
  """The distances of the images that are classified correctly."""
  median = float(np.median(distances)) if len(distances) else np.inf
  return MinimalDistance(
    median_epsilon=median if np.isfinite(median) else None,
    found=float(np.isfinite(distances).mean()) if len(distances) else None,
    norm=norm,
  )
