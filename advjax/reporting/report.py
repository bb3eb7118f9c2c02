"""The content of report.json: numbers with intervals, no opinion."""

import datetime
import importlib.metadata
import platform
import shlex
import sys
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np

from advjax.evaluation.members import Evaluation
from advjax.reporting.values import accuracy_interval

_PACKAGES = ('advjax', 'jax', 'jaxlib', 'flax', 'optax', 'numpy')


def environment(devices: Sequence[jax.Device]) -> dict[str, Any]:
  """Returns what a reader needs to know about where numbers were made.

  Args:
    devices: The devices used.

  Returns:
    Versions, devices and the date.

  Example:
    >>> environment(jax.devices()[:1])['num_devices']
    1
  """
  versions = {}
  for package in _PACKAGES:
    try:
      versions[package] = importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
      from advjax import __version__  # Run from a checkout, not installed.

      versions[package] = __version__
  return {
    'date': datetime.datetime.now(datetime.UTC).isoformat(timespec='seconds'),
    'python': platform.python_version(),
    'devices': devices[0].device_kind,
    'num_devices': len(devices),
    **versions,
  }


def command_line() -> str:
  """Returns the command that started this program, as one can type it."""
  main = sys.modules['__main__']
  spec = getattr(main, '__spec__', None)
  if spec is not None and spec.name.startswith('experiments.'):
    program = ['./launch.sh', spec.name.removeprefix('experiments.')]
  else:
    program = [sys.argv[0]]
  return shlex.join([*program, *sys.argv[1:]])


def _accuracy(name: str, correct: np.ndarray) -> dict[str, Any]:
  value = float(correct.mean())
  return {
    name: value,
    f'{name}_ci': list(accuracy_interval(value, len(correct))),
  }


def _attacked(
  source: str,
  predictions: Mapping[str, np.ndarray],
  labels: np.ndarray,
) -> dict[str, Any]:
  """White box for the source, transfer for all other members."""
  correct = {
    name: values == labels[: len(values)]
    for name, values in predictions.items()
  }
  entry = _accuracy('white_box', correct[source])
  others = {
    name: _accuracy('accuracy', values)
    for name, values in correct.items()
    if name != source
  }
  entry['transfer'] = {name: e['accuracy'] for name, e in others.items()}
  entry['transfer_ci'] = {name: e['accuracy_ci'] for name, e in others.items()}
  return entry


def robustness_report(
  evaluation: Evaluation, labels: np.ndarray, member: str
) -> dict[str, Any]:
  """Returns a member's part of report.json that speaks of test accuracy.

  Args:
    evaluation: From `evaluate_members`.
    labels: int `[N]`, those of the images it was made on.
    member: The member.

  Returns:
    `clean_accuracy` and, per attack made with this member's gradients,
    `robust_accuracy`; accuracies are fractions with a 95 % interval beside
    each, as `..._ci`.
  """
  report = _accuracy('clean_accuracy', evaluation.clean[member] == labels)
  report['robust_accuracy'] = attacks = {}
  for name, attack in evaluation.attacks.items():
    curves = evaluation.curves[member, name]
    curve = [
      {
        'epsilon': epsilon,
        **_attacked(member, {k: v[i] for k, v in curves.items()}, labels),
      }
      for i, epsilon in enumerate(evaluation.epsilons)
    ]
    step_size = attack.step_size
    if step_size is None:
      step_size = attack.step_ratio * evaluation.epsilon
    steps = str(attack.num_steps)
    attacks[name] = {
      'attack': attack.name
      if attack.name == 'fgsm'
      else f'{attack.name}-{steps}',
      'epsilon': evaluation.epsilon,
      'norm': attack.norm,
      'num_steps': attack.num_steps,
      'num_restarts': attack.num_restarts,
      'step_size': step_size,
      'max_perturbation': evaluation.max_sizes[member, name],
      **_attacked(member, evaluation.headline[member, name], labels),
      'curve': curve,
      'curve_num_images': min(len(labels), curves[member].shape[1]),
    }
  return report
