"""What an explanation leaves in its workdir, written in one place."""

import pathlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from advjax.data import Dataset
from advjax.evaluation.explanations import Case, Explained
from advjax.explain import METHODS
from advjax.files import replacing, write_json
from advjax.reporting import gallery
from advjax.reporting.explained import pictures
from advjax.reporting.explained.page import write_page
from advjax.reporting.explained.words import sentences, similarity_rows
from advjax.reporting.tables import format_text
from advjax.reporting.values import Report


def write_explained(
  workdir: pathlib.Path,
  report: Report,
  explained: Mapping[str, Explained],
  dataset: Dataset,
  classes: Sequence[int],
) -> str:
  """Writes report.json, report.html, figures and explanations.npz.

  Args:
    workdir: The folder.
    report: The content of report.json.
    explained: Network -> what was found.
    dataset: The data set.
    classes: The classes of interest.

  Returns:
    The text for the terminal.
  """
  write_json(workdir / 'report.json', dict(report))
  with replacing(workdir / 'explanations.npz') as file:
    np.savez_compressed(file, **_arrays(explained))
  overview = list(_overview(report, explained, dataset, classes))
  cases = {}
  for name, each in explained.items():
    entries = report['members'][name]['cases']
    for case, entry in zip(each.cases, entries, strict=True):
      cases[entry['name']] = _picture(case, entry['name'], dataset)
  gallery.save_figures([*overview, *cases.values()], workdir / 'figures')
  title = 'What networks see, clean and attacked'
  write_page(workdir / 'report.html', report, overview, cases, title)
  return '\n'.join(
    [
      'cosine with the maps of the clean images:',
      format_text(similarity_rows(report, 'cosine')),
      '',
      *sentences(report),
      *report['left_out'],
    ]
  )


def _arrays(explained: Mapping[str, Explained]) -> dict[str, Any]:
  """A row per network, image, version and class, maps as float32.

  Where a network does not allow a method its maps are NaN.
  """
  found = [
    (name, case, version, label)
    for name, each in explained.items()
    for case in each.cases
    for version, label in case.maps
  ]
  arrays = {
    'member': [name for name, *_ in found],
    'kind': [case.kind for _, case, _, _ in found],
    'index': [case.row for _, case, _, _ in found],
    'label': [case.label for _, case, _, _ in found],
    'version': [version for _, _, version, _ in found],
    'explained': [label for *_, label in found],
    'images': [case.images[version] for _, case, version, _ in found],
    'probabilities': [
      case.probabilities[version] for _, case, version, _ in found
    ],
  }
  maps = [case.maps[version, label] for _, case, version, label in found]
  for method in METHODS:
    of_method = [each[method] for each in maps if method in each]
    if of_method:
      nothing = np.full_like(of_method[0], np.nan)
      arrays[method] = [each.get(method, nothing) for each in maps]
  return {name: np.asarray(values) for name, values in arrays.items()}


def _overview(
  report: Report,
  explained: Mapping[str, Explained],
  dataset: Dataset,
  classes: Sequence[int],
) -> Iterator[gallery.Picture]:
  if all(each.similarity for each in explained.values()):
    yield gallery.draw(
      'similarity',
      'What the attack does to the maps, and what noise does',
      'Cosine between the map of the clean image for its true class and '
      'another one, means with 95 % intervals. Noise: random, of the size of '
      'the attack. Another image: what chance gives.',
      pictures.similarity_figure(report['members']),
    )
  yield from _same_image(explained, dataset)
  yield gallery.draw(
    'activation_maximization',
    'What the networks would like to see',
    'Images that maximise the logit of a class, climbed to from noise with a '
    'penalty on the differences of neighbouring pixels, and the probability '
    'that the network gives the class on them.',
    pictures.invented_figure(
      {name: each.maximizing for name, each in explained.items()},
      {name: each.probabilities for name, each in explained.items()},
      classes,
      dataset.class_names,
    ),
  )


def _same_image(
  explained: Mapping[str, Explained], dataset: Dataset
) -> Iterator[gallery.Picture]:
  """Draws one image that fools the first network, seen by all of them."""
  first, *others = explained
  if not others:
    return
  by_row = {
    name: {case.row: case for case in each.cases}
    for name, each in explained.items()
  }
  fooled = [case for case in explained[first].cases if case.kind == 'fooled']
  shared = [
    case for case in fooled if all(case.row in by_row[name] for name in others)
  ]
  # Best one that the others withstand.
  shared.sort(
    key=lambda case: any(
      by_row[name][case.row].kind != 'right' for name in others
    )
  )
  if not shared:
    return
  row = shared[0].row
  rows = [
    line
    for name in explained
    for line in _rows(by_row[name][row], dataset, f'seen by {name}')
  ]
  yield gallery.draw(
    'same_image',
    f'One image, seen by {len(explained)} networks',
    f'Test image {row}, clean and attacked, each time with the gradients of '
    'the network that looks at it. Red speaks for the class at the left edge '
    'of the maps, blue against it; green letters: the true class.',
    pictures.maps_figure(rows),
  )


def _picture(case: Case, name: str, dataset: Dataset) -> gallery.Picture:
  """Draws an image and its adversarial version with all their maps."""
  return gallery.draw(
    name,
    f'{dataset.class_names[case.label]}, {case.kind}',
    '',
    pictures.maps_figure(_rows(case, dataset)),
  )


def _rows(case: Case, dataset: Dataset, note: str = '') -> list[pictures.Row]:
  delta = case.images['adversarial'] - case.images['clean']
  rows = []
  for (version, label), maps in case.maps.items():
    first = label == case.predicted(version)
    share = case.probabilities[version][label]
    rows.append(
      pictures.Row(
        version if first else '',
        case.images[version],
        delta if first and version == 'adversarial' else None,
        f'{dataset.class_names[label]} {100 * share:.0f} %',
        label == case.label,
        maps,
        note if version == 'clean' and first else '',
      )
    )
  return rows
