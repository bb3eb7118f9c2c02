"""What a finished run leaves in its workdir, written in one place."""

import json
import logging
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from advjax.evaluation.models import Evaluation, save_examples
from advjax.files import replacing, write_json
from advjax.reporting import sentences, tables
from advjax.reporting.values import attack_label

logger = logging.getLogger(__name__)


def write_run(
  workdir: pathlib.Path,
  report: dict[str, Any],
  evaluation: Evaluation,
  images: np.ndarray,
  labels: np.ndarray,
  records: Mapping[str, Sequence[Mapping[str, Any]]],
  class_names: Sequence[str],
  *,
  title: str,
) -> str:
  """Writes report.json, report.html, figures and adversarial examples.

  Args:
    workdir: The run's folder.
    report: The content of report.json.
    evaluation: From `evaluate_models`; of several seeds that of the first,
      which the pictures show.
    images: The clean test images, float32 `[N, H, W, C]`.
    labels: int `[N]`.
    records: Member -> its records of metrics.jsonl, of the same seed.
    class_names: One per class.
    title: Heading of the page.

  Returns:
    The text for the terminal: the table, the first batch and what the
    numbers mean.
  """
  # What draws is slow to import, and not needed before training ends.
  from advjax.reporting import gallery
  from advjax.reporting import old_html as html
  from advjax.reporting.evaluated.parts import evaluated_lines, evaluated_parts
  from advjax.reporting.training import history_of

  write_json(workdir / 'report.json', report)
  with replacing(workdir / 'adversarial_examples.npz') as file:
    save_examples(file, evaluation, images, labels)
  first = next(iter(evaluation.attacks))
  members = list(evaluation.clean)
  entry = report['members'][members[0]]['robust_accuracy'][first]
  examples = gallery.Examples(
    images=images,
    labels=labels,
    predictions=evaluation.clean,
    adversarial={m: evaluation.images[m, first] for m in members},
    adversarial_predictions={
      m: evaluation.predictions[m, first] for m in members
    },
    attack=attack_label(first, entry),
    epsilon=evaluation.epsilon,
    class_names=class_names,
  )
  histories = {name: history_of(records[name]) for name in members}
  pictures = gallery.report_pictures(
    report, histories, examples, seed=report['seeds'][0]
  )
  parts = evaluated_parts(report)
  own = [picture for part in parts for picture in part.pictures]
  gallery.save_figures([*pictures, *own], workdir / 'figures')
  html.write_report(workdir / 'report.html', report, pictures, title, parts)
  count = min(32, len(labels))
  batch = ', '.join(
    f'{name} {(values[:count] == labels[:count]).sum()} / {count}'
    for name, values in evaluation.predictions[members[0], first].items()
  )
  seeds = report['seeds']
  seed = f' of seed {seeds[0]}' if len(seeds) > 1 else ''
  return '\n'.join(
    [
      tables.format_text(tables.results_table(report)),
      '',
      f'accuracy in batch 0{seed}: {batch}',
      f'({attack_label(first, entry)}, made on {members[0]})',
      '',
      *sentences.explain(report),
      *evaluated_lines(report),
    ]
  )


def merge_metrics(
  path: pathlib.Path,
  runs: Sequence[tuple[Mapping[str, Any], Sequence[Mapping[str, Any]]]],
) -> None:
  """Writes the records of all runs into one metrics.jsonl.

  Args:
    path: The file.
    runs: For each run the fields that name it, and its records.
  """
  lines = [
    json.dumps({**run, **record}) for run, records in runs for record in records
  ]
  with replacing(path) as file:
    file.write(('\n'.join(lines) + '\n').encode())
