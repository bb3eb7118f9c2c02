"""What a sweep knows of one of its members: a row, and curves."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from advjax.evaluation.logits import NotFinite
from advjax.evaluation.models import Evaluation, model_result
from advjax.reporting.values import accuracy_interval
from advjax.training.run import Diverged, TrainResult


def member_result(
  result: TrainResult, evaluation: Evaluation, labels: np.ndarray
) -> dict[str, Any]:
  """Returns what a sweep keeps of a trained and attacked member.

  Args:
    result: The finished run.
    evaluation: From `evaluate_models`, of this member alone.
    labels: int `[N]`, those of the test images.

  Returns:
    `row`: accuracies on the test images as fractions, with 95 % intervals;
    robust_accuracy counts an image if the network is right on it clean and
    under every attack. `curve`: white-box accuracy over epsilon per attack.
  """
  (member,) = evaluation.clean
  report = model_result([evaluation], labels, member).to_json()
  correct = evaluation.clean[member] == labels
  for name in evaluation.attacks:
    correct &= evaluation.predictions[member, name][member] == labels
  attacks = report['robust_accuracy']
  epochs = [r for r in result.records if r['kind'] == 'epoch']
  row = {
    'status': 'done',
    **_accuracy('clean_accuracy', report['clean_accuracy'], len(labels)),
    **_accuracy('robust_accuracy', float(correct.mean()), len(labels)),
    **{name: entry['white_box'] for name, entry in attacks.items()},
    'loss': epochs[-1]['loss'],
    'train_seconds': result.train_seconds,
    'step_milliseconds': result.step_milliseconds,
    'warnings': result.warnings,
  }
  curve = {
    'epsilons': list(evaluation.epsilons),
    **{
      name: [point['white_box'] for point in entry['curve']]
      for name, entry in attacks.items()
    },
  }
  return {'row': row, 'curve': curve}


def diverged_result(error: Diverged | NotFinite) -> dict[str, Any]:
  """Returns what a sweep keeps of a member that has diverged.

  Args:
    error: Why: what training said, or the logits on the test images.

  Returns:
    A `row` with the reason instead of numbers.
  """
  return {'row': {'status': 'diverged', 'reason': str(error), 'warnings': []}}


def _accuracy(name: str, value: float, num_images: int) -> Mapping[str, float]:
  low, high = accuracy_interval(value, num_images)
  return {name: value, f'{name}_low': low, f'{name}_high': high}
