"""The content of report.json: numbers with intervals, no opinion."""

import datetime
import importlib.metadata
import platform
import shlex
import statistics
import sys
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np

from advjax.evaluation.members import Evaluation, TopK
from advjax.processes.topology import find_place
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
    'num_processes': jax.process_count(),
    **versions,
  }


def command_line() -> str:
  """Returns the command that started this program, as one can type it."""
  main = sys.modules['__main__']
  spec = getattr(main, '__spec__', None)
  name = '' if spec is None else spec.name.removesuffix('.__main__')
  if name.startswith('experiments.benchmarks.'):
    program = ['python', '-m', name]
  elif name.startswith('experiments.'):
    program = ['./launch.sh', name.removeprefix('experiments.')]
    place = find_place()
    if place.launcher == 'launch.sh':
      program.insert(1, f'--processes={place.num_processes}')
  else:
    program = [sys.argv[0]]
  return shlex.join([*program, *sys.argv[1:]])


def accuracy_entry(name: str, correct: Sequence[np.ndarray]) -> dict[str, Any]:
  """Returns one network's accuracy, or the mean over those of several seeds.

  Args:
    name: What it is called.
    correct: For each seed, which images are classified correctly, bool `[N]`.

  Returns:
    The accuracy as `name`, its interval as `<name>_ci`, and of several seeds
    the sample standard deviation as `<name>_std`.

  Example:
    >>> accuracy_entry('accuracy', [np.array([True, False])])['accuracy']
    0.5
  """
  accuracies = [float(each.mean()) for each in correct]
  value = statistics.fmean(accuracies)
  entry: dict[str, Any] = {
    name: value,
    f'{name}_ci': list(accuracy_interval(value, len(correct[0]))),
  }
  if len(correct) > 1:
    entry[f'{name}_std'] = statistics.stdev(accuracies)
  return entry


def _attacked(
  evaluations: Sequence[Evaluation],
  pair: tuple[str, str],
  labels: np.ndarray,
  point: int | None = None,
) -> dict[str, Any]:
  """White box and transfer at a point of the curve, or at the headline."""

  def at_point(part: Evaluation | TopK) -> dict[str, np.ndarray]:
    if point is None:
      return part.headline[pair]
    return {name: each[point] for name, each in part.curves[pair].items()}

  correct = [
    {name: v == labels[: len(v)] for name, v in at_point(each).items()}
    for each in evaluations
  ]
  in_top_k = [at_point(each.in_top_k) for each in evaluations if each.in_top_k]
  result = _own_and_others(pair[0], correct, '')
  return result | (
    _own_and_others(pair[0], in_top_k, '_top_k') if in_top_k else {}
  )


def _own_and_others(
  source: str, correct: Sequence[Mapping[str, np.ndarray]], ending: str
) -> dict[str, Any]:
  """White box for the source, transfer for all other members.

  `correct` says for each seed which images which member gets right.
  """
  result = accuracy_entry(
    f'white_box{ending}', [each[source] for each in correct]
  )
  # Every number of the white box has one of transfer for each other member.
  transfer: dict[str, Any] = {
    key.replace('white_box', 'transfer'): {} for key in result
  }
  for name in correct[0]:
    if name != source:
      entry = accuracy_entry(
        f'transfer{ending}', [each[name] for each in correct]
      )
      for key, value in entry.items():
        transfer[key][name] = value
  return result | transfer


def robustness_report(
  evaluations: Sequence[Evaluation], labels: np.ndarray, member: str
) -> dict[str, Any]:
  """Returns a member's part of report.json that speaks of test accuracy.

  Args:
    evaluations: From `evaluate_members`, one per seed.
    labels: int `[N]`, those of the images it was made on.
    member: The member.

  Returns:
    `clean_accuracy` and, per attack made with this member's gradients,
    `robust_accuracy`; accuracies are fractions with a 95 % interval over the
    images beside each, as `..._ci`. Of several seeds they are the means, with
    the sample standard deviation over the seeds as `..._std`. Where labels
    were looked for in the top k, also `top_k`, `clean_top_k_accuracy`, and
    `white_box_top_k` and `transfer_top_k` of every attack.
  """
  first = evaluations[0]
  report = accuracy_entry(
    'clean_accuracy', [each.clean[member] == labels for each in evaluations]
  )
  if first.in_top_k:
    report['top_k'] = first.in_top_k.k
    report |= accuracy_entry(
      'clean_top_k_accuracy',
      [each.in_top_k.clean[member] for each in evaluations if each.in_top_k],
    )
  report['robust_accuracy'] = attacks = {}
  for name, attack in first.attacks.items():
    pair = member, name
    curve = [
      {'epsilon': epsilon, **_attacked(evaluations, pair, labels, point)}
      for point, epsilon in enumerate(first.epsilons)
    ]
    attacks[name] = {
      **attack.settings(first.epsilon),
      'epsilon': first.epsilon,
      'norm': attack.norm,
      'bounds': attack.bounds and list(attack.bounds),
      'max_perturbation': max(each.max_sizes[pair] for each in evaluations),
      **_attacked(evaluations, pair, labels),
      'curve': curve,
      'curve_num_images': min(len(labels), first.curves[pair][member].shape[1]),
    }
  return report


def mean_and_std(runs: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
  """Averages the metrics of several seeds.

  Args:
    runs: The same metrics of each seed; one seed's stay as they are.

  Returns:
    Each number's mean, and beside it the sample standard deviation as
    `..._std`; step and epoch, and what is no number, as in the first.

  Example:
    >>> mean_and_std([{'epoch': 1, 'loss': 1.0}, {'epoch': 1, 'loss': 3.0}])
    {'epoch': 1, 'loss': 2.0, 'loss_std': 1.4142135623730951}
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
