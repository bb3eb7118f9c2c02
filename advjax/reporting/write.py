"""The output files of a run: report.json, report.html, figures, examples."""

import json
import pathlib
import sys
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from advjax.evaluation.models import Evaluation, save_examples
from advjax.files import replacing, write_json
from advjax.reporting import sanity, text
from advjax.reporting.formatting import attack_label, format_epsilon
from advjax.results import Report


def write_run(
  workdir: pathlib.Path,
  report: Report,
  evaluation: Evaluation,
  images: np.ndarray,
  labels: np.ndarray,
  records: Mapping[str, Sequence[Mapping[str, Any]]],
  class_names: Sequence[str],
  *,
  title: str,
) -> str:
  """Writes report.json, report.html, figures and adversarial examples.

  `images` are the clean test images, float32 `[N, H, W, C]`; `records` are
  those of metrics.jsonl of each model. Of several seeds the evaluation and the
  records are of the first. Returns the text for the terminal: warnings, table,
  accuracy in the first batch, what the numbers mean, and the sanity checks.
  """
  # Slow to import, and not needed before training ends.
  from advjax.reporting import html
  from advjax.reporting.figures.charts import save_pictures
  from advjax.reporting.figures.run import run_figures

  write_json(workdir / 'report.json', report.to_json())
  with replacing(workdir / 'adversarial_examples.npz') as file:
    save_examples(file, evaluation, images, labels)
  drawn = run_figures(report, evaluation, images, labels, records, class_names)
  pictures = [picture for part in drawn.values() for picture in part]
  save_pictures(pictures, workdir / 'figures')
  findings = sanity.findings_of(report)
  sentences, warnings = text.sentences(report), text.warnings(report)
  table = text.results_table(report)
  seeds = ', '.join(map(str, report.seeds))
  html.write_page(
    workdir / 'report.html',
    'run.html.j2',
    title=title,
    facts=[
      *html.dataset_facts(report.dataset),
      f'seed{"" if len(report.seeds) == 1 else "s"} {seeds}',
      *([report.environment['date']] if 'date' in report.environment else []),
    ],
    report=report,
    warnings=warnings,
    sentences=sentences,
    results=table,
    findings=findings,
    headline=sanity.headline(findings),
    autoattack=text.autoattack_table(report),
    classes=text.class_table(report),
    figures=drawn,
  )
  red, plain = ('\x1b[31m', '\x1b[0m') if sys.stdout.isatty() else ('', '')
  return '\n'.join(
    [
      *(f'{red}warning: {warning}{plain}' for warning in warnings),
      table.text(),
      '',
      *_first_batch(report, evaluation, labels),
      '',
      *sentences,
      *([f'sanity checks: {sanity.headline(findings)}'] if findings else []),
    ]
  )


def _first_batch(
  report: Report, evaluation: Evaluation, labels: np.ndarray
) -> list[str]:
  """Accuracies of the NSL tutorial's first batch, of 32 images."""
  source = next(iter(evaluation.clean))
  attack = next(iter(evaluation.attacks))
  result = report.members[source].robust_accuracy[attack]
  count = min(32, len(labels))
  correct = ', '.join(
    f'{name} {(predictions[:count] == labels[:count]).sum()} / {count}'
    for name, predictions in evaluation.predictions[source, attack].items()
  )
  seed = f' of seed {report.seeds[0]}' if len(report.seeds) > 1 else ''
  label = attack_label(attack, result.num_steps)
  return [
    f'accuracy in batch 0{seed}: {correct}',
    f'({label}, epsilon {format_epsilon(result.epsilon)}, source {source})',
  ]


def merge_metrics(
  path: pathlib.Path,
  runs: Sequence[tuple[Mapping[str, Any], Sequence[Mapping[str, Any]]]],
) -> None:
  """Writes the records of all runs, with the fields that name each."""
  lines = [
    json.dumps({**run, **record}) for run, records in runs for record in records
  ]
  with replacing(path) as file:
    file.write(('\n'.join(lines) + '\n').encode())
