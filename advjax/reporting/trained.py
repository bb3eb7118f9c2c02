"""What a report says of a trained network besides its robustness."""

import dataclasses
import statistics
import time
from collections.abc import Mapping, Sequence
from typing import Any

import jax
from ml_collections import config_dict

from advjax.data import Dataset
from advjax.environment import command_line
from advjax.evaluation.models import Evaluation, model_result
from advjax.evaluation.shifts import Fields
from advjax.reporting.report import mean_and_std
from advjax.training.run import TrainResult
from advjax.training.setup import Training, final_hparams
from advjax.training.state import num_params
from advjax.training.workdir import config_to_json


def member_report(
  trainings: Sequence[Training],
  results: Sequence[TrainResult],
  seeds: Sequence[int],
) -> dict[str, Any]:
  """Returns what report.json says of a member besides its robustness.

  Args:
    trainings: The member's run with each seed.
    results: Their results.
    seeds: The seeds of the whole run, which a member's own may differ from.

  Returns:
    Numbers as JSON; of several seeds the means, and for losses and accuracies
    the sample standard deviations, as `..._std`.
  """
  first, config = trainings[0], trainings[0].config
  runs = [
    _run_report(training, result)
    for training, result in zip(trainings, results, strict=True)
  ]
  return {
    'objective': config.objective.name,
    'hparams': first.hparams,
    'num_params': num_params(results[0].params),
    'num_validation': config.num_validation,
    **{
      name: statistics.fmean(run[name] for run in runs)
      for name in (
        'train_seconds',
        'step_milliseconds',
        'eval_step_milliseconds',
      )
    },
    'epochs': [
      mean_and_std(epochs)
      for epochs in zip(*[run['epochs'] for run in runs], strict=True)
    ],
    'test': mean_and_std([run['test'] for run in runs]),
    'warnings': [
      warning if len(runs) == 1 else f'seed {seed}: {warning}'
      for seed, result in zip(seeds, results, strict=True)
      for warning in result.warnings
    ],
  }


def comparison_report(
  config: config_dict.ConfigDict,
  dataset: Dataset,
  trainings: Mapping[str, Sequence[Training]],
  results: Mapping[str, Sequence[TrainResult]],
  found: Sequence[Evaluation],
  shifts: Fields,
) -> dict[str, Any]:
  """Returns the content of a comparison's report.json, but for where it ran.

  Args:
    config: Of the whole run.
    dataset: Its data.
    trainings: Member -> its run with each seed.
    results: Member -> their results.
    found: From `evaluate_models`, for each seed.
    shifts: From `measure_shifts`.

  Returns:
    JSON.
  """
  labels = dataset.test.labels
  seeds = list(config.seeds or (config.seed,))
  report: dict[str, Any] = {
    'dataset': {
      'name': dataset.name,
      'num_train': len(dataset.train.labels),
      'num_test': len(labels),
    },
    'seeds': seeds,
    'command': command_line(),
    'config': config_to_json(config),
    'members': {
      name: {
        **member_report(trainings[name], results[name], seeds),
        **dataclasses.replace(
          model_result(found, labels, name, top_k=config.evaluation.top_k),
          **shifts[name],
        ).to_json(),
      }
      for name in trainings
    },
  }
  if len(config.seeds) > 1:
    report['per_seed'] = {
      str(seed): {
        name: model_result(
          [found[index]], labels, name, top_k=config.evaluation.top_k
        ).to_json()
        for name in trainings
      }
      for index, seed in enumerate(config.seeds)
    }
  return report


def _run_report(training: Training, result: TrainResult) -> dict[str, Any]:
  """What the report says of one run."""
  split, config = training.test_split, training.config
  arguments = (
    result.params,
    result.model_state,
    split,
    final_hparams(training),
    jax.random.key(config.seed),
  )
  test = training.evaluate(*arguments)
  start = time.perf_counter()
  training.evaluate(*arguments)
  seconds = time.perf_counter() - start
  per_call = config.evaluation.batch_size * len(training.devices)
  num_calls = -(-len(split.labels) // per_call)
  epochs = [r for r in result.records if r['kind'] == 'epoch']
  return {
    'train_seconds': result.train_seconds,
    'step_milliseconds': result.step_milliseconds,
    'eval_step_milliseconds': 1000 * seconds / num_calls,
    'epochs': [_with_accuracy(epoch) for epoch in epochs],
    'test': _with_accuracy(test),
  }


def _with_accuracy(metrics: Mapping[str, Any]) -> dict[str, Any]:
  if 'clean_accuracy' not in metrics:  # The objective did not measure it.
    return dict(metrics)
  return {**metrics, 'accuracy': metrics['clean_accuracy']}
