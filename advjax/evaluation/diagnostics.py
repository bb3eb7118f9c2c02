"""What `evaluate` measures besides attacks and transfer."""

from collections.abc import Mapping, Sequence

import numpy as np

from advjax.attacks.specs import Attack
from advjax.devices import Batching
from advjax.evaluation.logits import compute_logits
from advjax.evaluation.models import Evaluation
from advjax.evaluation.shifts import Fields, can_corrupt, measure_shifts
from advjax.evaluation.traces import TRACED, trace
from advjax.results import MinimalDistance
from advjax.types import LogitsFn

_UNIT = (0.0, 1.0)  # The pixel range of 8-bit images and of corruptions.


def per_class_accuracy(
  predictions: np.ndarray, labels: np.ndarray, num_classes: int
) -> np.ndarray:
  """The accuracy on the images of each class, `[K]`; NaN if there is none."""
  predictions, labels = np.asarray(predictions), np.asarray(labels)
  if labels.ndim != 1 or predictions.shape != labels.shape:
    raise ValueError(
      f'predictions and labels have shapes {predictions.shape} and '
      f'{labels.shape}; allowed: [N] both'
    )
  if len(labels) and not 0 <= labels.min() <= labels.max() < num_classes:
    raise ValueError(
      f'labels hold values from {labels.min()} to {labels.max()}; allowed: 0 '
      f'to {num_classes - 1}, the classes'
    )
  count = np.bincount(labels, minlength=num_classes)
  correct = np.bincount(labels[predictions == labels], minlength=num_classes)
  return np.where(count > 0, correct / np.maximum(count, 1), np.nan)


def round_to_8_bits(images: np.ndarray) -> np.ndarray:
  """Rounds images as an 8-bit file would: `round(255 clip(x, 0, 1)) / 255`."""
  images = np.asarray(images)
  if images.dtype.kind in 'biuc':
    raise ValueError(
      f'images have dtype {images.dtype}; allowed: a floating type'
    )
  if not np.isfinite(images).all():
    raise ValueError('images hold values that are not finite')
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
    fields = found[name]
    own = {
      attack: evaluation.predictions[name, attack][name]
      for attack in evaluation.attacks
    }
    fields['per_class'] = {
      kind: [
        None if np.isnan(accuracy) else float(accuracy)
        for accuracy in per_class_accuracy(predictions, labels, num_classes)
      ]
      for kind, predictions in (('clean', evaluation.clean[name]), *own.items())
    }
    fields['traces'] = {
      attack_name: trace(
        logits_fn, attack, images, labels, evaluation.epsilon, batching
      )
      for attack_name, attack in evaluation.attacks.items()
      if isinstance(attack, Attack) and attack.name in TRACED
    }
    if is_unit:
      fields['rounded'] = {}
      for attack in evaluation.attacks:
        rounded = round_to_8_bits(evaluation.images[name, attack])
        logits = compute_logits(logits_fn, rounded, batching, check=False)
        fields['rounded'][attack] = float((logits.argmax(-1) == labels).mean())
    minimal = {
      attack: _distance(evaluation, name, attack, labels)
      for source, attack in evaluation.distances
      if source == name
    }
    summaries = [
      summary
      for (source, attack), each in evaluation.autoattack.items()
      if source == name and attack.startswith('autoattack')
      for summary in each
    ]
    fields |= {'minimal': minimal or None, 'autoattack': summaries or None}
  return found


def _distance(
  evaluation: Evaluation, name: str, attack: str, labels: np.ndarray
) -> MinimalDistance:
  distances = evaluation.distances[name, attack]
  count = len(distances)
  correct = evaluation.clean[name][:count] == labels[:count]
  median = float(np.median(distances[correct])) if correct.any() else np.inf
  found = np.isfinite(distances[correct])
  return MinimalDistance(
    median_epsilon=median if np.isfinite(median) else None,
    found=float(found.mean()) if correct.any() else None,
    norm=evaluation.attacks[attack].norm,
  )
