"""Attack trained networks, and report how robust they are."""

import dataclasses
import logging
import pathlib
import sys
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from ml_collections import config_dict

from advjax import data
from advjax.config import MAX_SEED, check_epsilon, check_range, config_to_json
from advjax.devices import Batching
from advjax.environment import command_line, environment
from advjax.evaluation.diagnostics import large_epsilon, measure_diagnostics
from advjax.evaluation.models import (
  evaluate_models,
  model_result,
  parse_attacks,
)
from advjax.evaluation.shifts import seen_corruptions
from advjax.jobs.workdir import open_workdir
from advjax.processes.collectives import is_main
from advjax.reporting.sanity import sanity_findings
from advjax.reporting.write import write_run
from advjax.results import DatasetSummary, Report, ReportedCheckpoint
from advjax.training.trained import load_trained

logger = logging.getLogger('advjax')


def evaluate(
  checkpoints: Sequence[str],
  attack_names: Sequence[str],
  epsilons: Sequence[float],
  workdir: str | pathlib.Path,
  devices: Sequence[jax.Device] | None = None,
  *,
  norm: str = 'linf',
  step_size: float | None = None,
  batch_size: int | None = None,
  seed: int = 0,
  num_images: int | None = None,
  corruptions: bool = True,
  data_dir: str | None = None,
  report_checkpoint: str | None = None,
) -> Report:
  """Attacks trained networks on the test images of their data set.

  Args:
    checkpoints: Workdirs of runs, or folders `checkpoints/best` in them.
    attack_names: As `parse_attack` takes them.
    epsilons: Radii in [0, 1] pixels; the last one is the evaluation epsilon.
    workdir: The folder to write to.
    devices: The devices; None: all.
    norm: 'linf', 'l2' or 'l1'.
    step_size: Of bim, mifgsm and pgd; None: their defaults.
    batch_size: Images per device; None: 64, of AutoAttack its own choice.
    seed: Seeds attacks and noise.
    num_images: Number of test images, the first ones; None: all.
    corruptions: Whether to measure common corruptions and pasted objects.
    data_dir: Where the data set is now; None: where it was in training.
    report_checkpoint: 'last' or 'best', of workdirs; None: the one that each
      run reported.

  Returns:
    The content of report.json.

  Raises:
    ValueError: for anything wrong, before anything is written.
  """
  devices = devices or jax.devices()
  for index, epsilon in enumerate(epsilons):
    check_range(f'epsilons[{index}]', epsilon, 0.0)
  check_range('seed', seed, 0, MAX_SEED, integer=True)
  for name, value in (('batch_size', batch_size), ('num_images', num_images)):
    if value is not None:
      check_range(name, value, 1, integer=True)
  if not epsilons:
    raise ValueError(f'epsilons = {epsilons!r}; allowed: one number or more')
  choices: dict[str, Any] = {'norm': norm, 'step_size': step_size}
  parse_attacks(attack_names, **choices)  # For its errors, before all else.
  trained, dataset = load_trained(checkpoints, data_dir, report_checkpoint)
  first_name, first = next(iter(trained.items()))
  evaluation = first.config.evaluation
  shape = dataset.test.images.shape[1:]
  check_epsilon('epsilon', epsilons[-1], norm, evaluation.bounds, shape)
  attacks = parse_attacks(
    attack_names,
    image_shape=shape,
    num_classes=dataset.num_classes,
    bounds=evaluation.bounds,
    **choices,
  )
  job = config_dict.create(
    checkpoint=tuple(str(e.directory.resolve()) for e in trained.values()),
    attacks=tuple(attack_names),
    norm=norm,
    epsilons=tuple(epsilons),
    step_size=step_size,
    seed=seed,
    num_images=num_images,
    corruptions=corruptions,
  )
  with open_workdir(workdir, job) as path:
    images = np.asarray(data.to_float(dataset.test.images[:num_images]))
    labels = dataset.test.labels[:num_images]
    logger.info('attacking %d test images', len(labels))
    batching = Batching(batch_size, devices, jax.random.key(seed))
    # One more epsilon, at which no network can be right.
    large = large_epsilon(norm, evaluation.bounds, images.shape[1:])
    found = evaluate_models(
      trained,
      attacks,
      images,
      labels,
      epsilon=epsilons[-1],
      epsilons=[*epsilons, large]
      if large is not None and large > max(epsilons)
      else epsilons,
      batching=batching,
      folder=path / 'autoattack',
      progress=sys.stderr.isatty(),
    )
    diagnostics = measure_diagnostics(
      trained,
      found,
      images,
      labels,
      num_classes=dataset.num_classes,
      bounds=evaluation.bounds,
      batching=batching,
      seen={name: seen_corruptions(e.config) for name, e in trained.items()},
      corruptions=corruptions,
      top_k=evaluation.top_k,
    )
    report = Report(
      dataset=DatasetSummary.of(
        dataset, num_test=len(labels), image_shape=list(shape)
      ),
      seeds=[seed],
      classes=list(dataset.class_names),
      members={
        name: dataclasses.replace(
          model_result([found], labels, name, top_k=evaluation.top_k),
          checkpoint=ReportedCheckpoint.of(each),
          num_params=each.num_params,
          **diagnostics[name],
        )
        for name, each in trained.items()
      },
      command=command_line(),
      environment=environment(devices),
      config={name: config_to_json(e.config) for name, e in trained.items()},
    )
    report = dataclasses.replace(report, sanity=sanity_findings(report))
    if is_main():
      model = first.config.model.name
      title = f'Robustness of {model}, trained by {first_name}'
      if len(trained) > 1:
        title = f'Robustness of {len(trained)} models'
      text = write_run(
        path,
        report,
        found,
        images,
        labels,
        {name: [] for name in trained},
        dataset.class_names,
        title=title,
      )
      print(text)
      print(f'\nreport: {path / "report.html"}')
    return report
