"""What follows from an evaluation's predictions, as parts of report.json."""

from typing import Any

import numpy as np

from advjax.evaluation.members import Evaluation
from advjax.evaluation.per_class import per_class_accuracy
from advjax.reporting.values import accuracy_interval

# Member -> the name of a part -> the part.
Parts = dict[str, dict[str, Any]]


def measure_classes(
  evaluation: Evaluation, labels: np.ndarray, num_classes: int
) -> Parts:
  """Counts the accuracy of each class, clean and at the headline epsilon.

  Args:
    evaluation: From `evaluate_members`.
    labels: int `[N]`.
    num_classes: The number of classes.

  Returns:
    Member -> `per_class`: 'clean' and each attack -> accuracies, None for a
    class without images.
  """

  def classes(predictions: np.ndarray) -> list[float | None]:
    values = per_class_accuracy(predictions, labels, num_classes)
    return [None if np.isnan(value) else float(value) for value in values]

  return {
    name: {
      'per_class': {
        'clean': classes(clean),
        **{
          attack: classes(evaluation.headline[name, attack][name])
          for attack in evaluation.attacks
        },
      }
    }
    for name, clean in evaluation.clean.items()
  }


def measure_distances(evaluation: Evaluation, labels: np.ndarray) -> Parts:
  """Sums up how far the nearest adversarial images are.

  Args:
    evaluation: From `evaluate_members`.
    labels: int `[N]`.

  Returns:
    Member -> `minimal`, if an attack looked for them: attack -> the median over
    images that are classified correctly (None if it is infinite), the share of
    these for which one was found, and the norm.
  """
  parts: Parts = {name: {} for name in evaluation.clean}
  for (source, attack), distances in evaluation.distances.items():
    count = len(distances)
    correct = evaluation.clean[source][:count] == labels[:count]
    median = np.median(distances[correct]) if correct.any() else np.nan
    found = np.isfinite(distances[correct])
    parts[source].setdefault('minimal', {})[attack] = {
      'median_epsilon': float(median) if np.isfinite(median) else None,
      'found': float(found.mean()) if correct.any() else None,
      'norm': evaluation.attacks[attack].norm,
    }
  return parts


def collect_autoattack(evaluation: Evaluation) -> Parts:
  """Collects what AutoAttack said of each member.

  Args:
    evaluation: From `evaluate_members`.

  Returns:
    Member -> `autoattack`, if it ran: what it found, one epsilon after the
    other.
  """
  parts: Parts = {name: {} for name in evaluation.clean}
  for (source, attack), found in evaluation.autoattack.items():
    if attack.startswith('autoattack') and found:
      parts[source].setdefault('autoattack', []).extend(
        {
          **each,
          'accuracy_ci': list(
            accuracy_interval(each['accuracy'], each['num_images'])
          ),
        }
        for each in found
      )
  return parts
