"""Explain what trained networks see, on clean and on attacked images."""

import logging
import pathlib
from collections.abc import Sequence

import jax
import numpy as np
from ml_collections import config_dict

from advjax.attacks import parse_attack
from advjax.config import MAX_SEED, check_epsilon, check_range, config_to_json
from advjax.devices import Batching
from advjax.environment import command_line, environment
from advjax.evaluation.explanations import (
  Explained,
  choose_classes,
  choose_sample,
  explain_network,
)
from advjax.explain import find_methods
from advjax.jobs.workdir import open_workdir
from advjax.models import network_of
from advjax.reporting.explained import write_explained
from advjax.reporting.formatting import attack_label, format_epsilon
from advjax.results import (
  DatasetSummary,
  Estimate,
  ExplainedAttack,
  ExplainedModel,
  ExplainReport,
  ReportedCheckpoint,
)
from advjax.training.trained import load_trained

logger = logging.getLogger('advjax')


def explain(
  checkpoints: Sequence[str],
  workdir: str | pathlib.Path,
  devices: Sequence[jax.Device] | None = None,
  *,
  attack: str = 'fgsm',
  norm: str = 'linf',
  epsilon: float = 4 / 255,
  classes: Sequence[str] | None = None,
  num_images: int = 100,
  num_cases: int = 3,
  methods: Sequence[str] | None = None,
  seed: int = 0,
  data_dir: str | None = None,
  report_checkpoint: str | None = None,
) -> ExplainReport:
  """Explains trained networks, on clean and on adversarial images.

  Args:
    checkpoints: Workdirs of runs, or folders `checkpoints/best` in them.
    workdir: The folder to write to.
    devices: The devices; None: all.
    attack: As `parse_attack` takes it.
    norm: 'linf', 'l2' or 'l1'.
    epsilon: Radius of the attack, in [0, 1] pixels.
    classes: Names or ids of classes to explain; None: all.
    num_images: Number of test images to measure.
    num_cases: Images to show of each model and kind.
    methods: Names of `advjax.explain.METHODS`; None: all that are possible.
    seed: Seeds images, attack and noise.
    data_dir: Where the data set is now; None: where it was in training.
    report_checkpoint: 'last' or 'best', of workdirs; None: the one that each
      run reported.

  Returns:
    The content of report.json.

  Raises:
    ValueError: for anything wrong, before anything is written.
  """
  devices = devices or jax.devices()
  check_range('epsilon', epsilon, 0.0)
  check_range('seed', seed, 0, MAX_SEED, integer=True)
  check_range('num_images', num_images, 1, integer=True)
  check_range('num_cases', num_cases, 1, integer=True)
  parse_attack(attack, norm=norm)  # For its errors, before all else.
  trained, dataset = load_trained(checkpoints, data_dir, report_checkpoint)
  bounds = next(iter(trained.values())).config.evaluation.bounds
  shape = dataset.test.images.shape[1:]
  check_epsilon('epsilon', epsilon, norm, bounds, shape)
  parsed = parse_attack(attack, norm=norm, bounds=bounds)
  parsed.check(shape, dataset.num_classes)
  labels = choose_classes(dataset, classes)
  example = jax.ShapeDtypeStruct((1, *shape), np.float32)
  networks, allowed, left_out = {}, {}, []
  if shape[-1] not in (1, 3):
    left_out.append(f'Pictures show the first of {shape[-1]} channels.')
  for name, each in trained.items():
    title = f'{name} ({each.config.model.name})'
    networks[name] = network_of(
      each.model, each.params, each.model_state, title
    )
    allowed[name], reasons = find_methods(networks[name], example, methods)
    left_out += [f'Skipped: {reason}.' for reason in reasons.values()]
  job = config_dict.create(
    checkpoint=tuple(str(e.directory.resolve()) for e in trained.values()),
    attack=attack,
    norm=norm,
    epsilon=epsilon,
    classes=tuple(labels),
    num_images=num_images,
    num_cases=num_cases,
    methods=None if methods is None else tuple(methods),
    seed=seed,
  )
  with open_workdir(workdir, job) as path:
    sample = choose_sample(dataset.test, labels, num_images, seed)
    explained: dict[str, Explained] = {}
    for name, network in networks.items():
      logger.info('explaining %s', name)
      explained[name] = explain_network(
        network,
        allowed[name],
        sample,
        parsed,
        epsilon,
        num_cases=num_cases,
        preferred=[c.position for e in explained.values() for c in e.cases],
        batching=Batching(devices=devices, key=jax.random.key(seed)),
      )
    settings = parsed.settings(epsilon)
    label = attack_label(attack, settings.get('num_steps'))
    report = ExplainReport(
      dataset=DatasetSummary.of(dataset),
      seeds=[seed],
      num_images=len(sample.measured),
      classes=list(dataset.class_names),
      class_ids=list(dataset.class_ids),
      attack=ExplainedAttack(
        **settings,
        epsilon=epsilon,
        norm=parsed.norm,
        label=f'{label} at {format_epsilon(epsilon)} ({parsed.norm})',
      ),
      left_out=left_out,
      members={
        name: ExplainedModel(
          checkpoint=ReportedCheckpoint.of(trained[name]),
          num_params=trained[name].num_params,
          clean_accuracy=Estimate.of_correct([each.correct]),
          # Also of images that are misclassified clean, as in `evaluate`.
          white_box=Estimate.of_correct([each.robust]),
          methods=list(allowed[name]),
          similarity=each.similarity,
          cases=[
            case.result(f'{name}_{case.kind}_{case.row}', dataset)
            for case in each.cases
          ],
        )
        for name, each in explained.items()
      },
      command=command_line(),
      environment=environment(devices),
      config={name: config_to_json(e.config) for name, e in trained.items()},
    )
    print(write_explained(path, report, explained, dataset, labels))
    print(f'\nreport: {path / "report.html"}')
    return report
