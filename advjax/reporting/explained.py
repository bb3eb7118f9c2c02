"""The report of explanations: maps of images, and how similar they are."""

import pathlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from advjax.data import Dataset
from advjax.evaluation.explanations import KINDS, Explained
from advjax.explain import METHODS
from advjax.files import replacing, write_json
from advjax.reporting.figures.charts import save_pictures
from advjax.reporting.figures.explained import (
  GROUPS,
  METHOD_NAMES,
  case_pictures,
  overview_pictures,
)
from advjax.reporting.formatting import (
  Row,
  Table,
  format_estimate,
  of_checkpoint,
)
from advjax.reporting.html import dataset_facts, write_page
from advjax.results import ExplainedModel, ExplainReport, Similarity

# What the intervals of maps of misclassified images show.
_VERDICTS = {
  'inverted': 'maps of the true class are inverted: evidence for it becomes '
  'evidence against it',
  'farther': 'maps of the true class are less similar to those of the clean '
  'image than maps of another image are',
  'random': 'maps of the true class change more than under random noise of '
  'the same size; no difference from maps of another image is shown',
  'distorted': 'maps of the true class change more than under random noise '
  'of the same size, and less than to maps of another image',
  'as noise': 'maps of the true class are more similar to those of the clean '
  'image than maps of another image are; that they change more than under '
  'random noise of the same size is not shown',
  'unclear': 'too few images to show a difference from random noise of the '
  'same size or from another image',
}


def write_explained(
  workdir: pathlib.Path,
  report: ExplainReport,
  explained: Mapping[str, Explained],
  dataset: Dataset,
  classes: Sequence[int],
) -> str:
  """Writes report.json, report.html, figures and explanations.npz.

  `explained` has the explanations of each model, `classes` are the classes of
  interest. Returns the text for the terminal.
  """
  write_json(workdir / 'report.json', report.to_json())
  with replacing(workdir / 'explanations.npz') as file:
    np.savez_compressed(file, **_arrays(explained))
  overview = list(overview_pictures(report, explained, dataset, classes))
  cases = case_pictures(report, explained, dataset)
  save_pictures([*overview, *cases.values()], workdir / 'figures')
  sentences = [*conclusions(report), *report.left_out]
  write_page(
    workdir / 'report.html',
    'explained.html.j2',
    title='Explanations of clean images and adversarial examples',
    facts=[*dataset_facts(report.dataset), report.attack.label],
    report=report,
    sentences=sentences,
    cosines=similarity_table(report, 'cosine'),
    ranks=similarity_table(report, 'rank'),
    overview=overview,
    cases=cases,
    kinds=KINDS,
  )
  heading = 'cosine similarity to the maps of the clean images:'
  table = similarity_table(report, 'cosine').text()
  return '\n'.join([heading, table, '', *sentences])


def _arrays(explained: Mapping[str, Explained]) -> dict[str, Any]:
  """A row per model, image, version and class; absent maps are NaN."""
  found = [
    (name, case, version, label)
    for name, each in explained.items()
    for case in each.cases
    for version, label in case.maps
  ]
  arrays: dict[str, list[Any]] = {
    'member': [name for name, *_ in found],
    'kind': [case.kind for _, case, _, _ in found],
    'index': [case.row for _, case, _, _ in found],
    'label': [case.label for _, case, _, _ in found],
    'version': [version for _, _, version, _ in found],
    'explained': [label for *_, label in found],
    'images': [case.images[version] for _, case, version, _ in found],
    'probabilities': [case.probabilities[v] for _, case, v, _ in found],
  }
  maps = [case.maps[version, label] for _, case, version, label in found]
  for method in METHODS:
    present = [each[method] for each in maps if method in each]
    if present:
      absent = np.full_like(present[0], np.nan)
      arrays[method] = [each.get(method, absent) for each in maps]
  return {name: np.asarray(values) for name, values in arrays.items()}


def conclusions(report: ExplainReport) -> Iterator[str]:
  """Yields what the maps show, one model after the other.

  A difference between two groups of maps is stated only where their 95 %
  intervals do not overlap.
  """
  for name, model in report.members.items():
    yield (
      f'{name}{of_checkpoint(model.checkpoint)}: clean accuracy '
      f'{format_estimate(model.clean_accuracy)}, '
      f'accuracy under {report.attack.label} with its own gradients '
      f'{format_estimate(model.white_box)}, on {report.num_images} test images.'
    )
    found: dict[str, list[str]] = {}
    for method in _methods(model):
      groups = model.similarity[method]
      cosine = groups['fooled'].cosine
      value = '' if cosine is None else f' {cosine:.2f}'
      text = METHOD_NAMES[method] + value
      found.setdefault(_verdict(groups), []).append(text)
    for verdict, text in _VERDICTS.items():
      if verdict in found:
        listed = ', '.join(found[verdict])
        yield f'{name}, on misclassified images: {text} (cosine: {listed}).'
    if 'unknown' in found:
      yield (
        f'{name}: too few images are misclassified under the attack to say how '
        'maps change.'
      )


def _methods(model: ExplainedModel) -> list[str]:
  return [method for method in METHODS if method in model.similarity]


def _verdict(groups: Mapping[str, Similarity]) -> str:
  fooled, noise, other = (
    groups[name].cosine_ci for name in ('fooled', 'noise', 'other')
  )
  if fooled is None or noise is None or other is None:
    return 'unknown'
  if fooled[1] < 0:
    return 'inverted'
  if fooled[1] < other[0]:
    return 'farther'
  unlike_other = fooled[0] > other[1]
  if fooled[1] < noise[0]:
    return 'distorted' if unlike_other else 'random'
  return 'as noise' if unlike_other else 'unclear'


def similarity_table(report: ExplainReport, measure: str) -> Table:
  """Returns the similarities of maps, a row per model and method."""
  rows = []
  for name, model in report.members.items():
    if not model.similarity:
      rows.append(Row(f'{name} (no image is classified correctly)'))
      continue
    groups = next(iter(model.similarity.values()))
    correct, fooled = (groups[g].num_images for g in ('noise', 'fooled'))
    counts = f'{correct} correct, {fooled} of them misclassified under attack'
    rows.append(Row(f'{name} ({counts})'))
    for method in _methods(model):
      groups, cells = model.similarity[method], []
      for group in GROUPS:
        mean = getattr(groups[group], measure)
        ends = getattr(groups[group], f'{measure}_ci')
        text = '-' if mean is None else f'{mean:.2f}'
        cells.append(f'{text} [{ends[0]:.2f}, {ends[1]:.2f}]' if ends else text)
      rows.append(Row(f'  {METHOD_NAMES[method]}', cells))
  return Table('Similarity of maps', [*GROUPS.values()], rows)
