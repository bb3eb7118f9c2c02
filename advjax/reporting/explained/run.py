"""What an explanation leaves in its workdir, written in one place."""

import pathlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from advjax.data import Dataset
from advjax.files import replacing, write_json
from advjax.reporting import gallery
from advjax.reporting.explained import pictures
from advjax.reporting.explained.page import write_page
from advjax.reporting.explained.words import sentences, similarity_rows
from advjax.reporting.tables import format_text
from advjax.reporting.values import Report

_TOP = 5


class Case(NamedTuple):
  """An image that one network is asked about.

  Attributes:
    kind: 'right', 'wrong' or 'fooled'.
    position: Its place among the images looked at.
    index: Its place in the test split.
    label: Its class.
    images: Version ('clean', 'adversarial') -> `[H, W, C]`.
    probabilities: Version -> those of all classes, `[K]`.
    maps: (version, class) -> method -> map.
  """

  kind: str
  position: int
  index: int
  label: int
  images: dict[str, np.ndarray]
  probabilities: dict[str, np.ndarray]
  maps: dict[tuple[str, int], dict[str, np.ndarray]]

  def predicted(self, version: str) -> int:
    """Returns the class predicted for a version."""
    return int(self.probabilities[version].argmax())

  def entry(self, name: str, dataset: Dataset) -> dict[str, Any]:
    """Returns what report.json says of it."""
    return {
      'name': name,
      'kind': self.kind,
      'index': self.index,
      'class': _class(self.label, dataset),
      'predictions': {
        version: [
          {
            **_class(int(label), dataset),
            'probability': float(shares[label]),
          }
          for label in np.argsort(-shares, kind='stable')[:_TOP]
        ]
        for version, shares in self.probabilities.items()
      },
    }


class Explained(NamedTuple):
  """What is found about one network.

  Attributes:
    cases: The images to show.
    similarity: From `compare_maps`.
    right: Whether it is right on the images measured on, bool `[N]`.
    stood: Whether it is right on them after the attack.
    invented: Images that maximise the logits of the classes, `[K, H, W, C]`.
    shares: Probability of the class on each of these, `[K]`.
  """

  cases: list[Case]
  similarity: dict[str, Any]
  right: np.ndarray
  stood: np.ndarray
  invented: np.ndarray
  shares: np.ndarray


def _class(label: int, dataset: Dataset) -> dict[str, Any]:
  return {
    'label': label,
    'id': dataset.class_ids[label] if dataset.class_ids else '',
    'name': dataset.class_names[label],
  }


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


def _arrays(explained: Mapping[str, Explained]) -> dict[str, np.ndarray]:
  """A row per network, image, version and class, maps as float32."""
  columns: dict[str, list[Any]] = {}
  for name, each in explained.items():
    for case in each.cases:
      for (version, label), maps in case.maps.items():
        row = {
          'member': name,
          'kind': case.kind,
          'index': case.index,
          'label': case.label,
          'version': version,
          'explained': label,
          'images': case.images[version],
          'probabilities': case.probabilities[version],
          **maps,
        }
        for column, value in row.items():
          columns.setdefault(column, []).append(value)
  return {column: np.stack(values) for column, values in columns.items()}


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
      'the attack. Another image: what chance gives. Maps that are no more '
      'alike than those have become random.',
      pictures.similarity_figure(report['members']),
    )
  yield gallery.draw(
    'activation_maximization',
    'What the networks would like to see',
    'Images that maximise the logit of a class, climbed to from noise with a '
    'penalty on the differences of neighbouring pixels, and the probability '
    'that the network gives the class on them.',
    pictures.invented_figure(
      {name: each.invented for name, each in explained.items()},
      {name: each.shares for name, each in explained.items()},
      classes,
      dataset.class_names,
    ),
  )


def _picture(case: Case, name: str, dataset: Dataset) -> gallery.Picture:
  """Draws an image and its adversarial version with all their maps."""
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
      )
    )
  return gallery.draw(
    name, f'{dataset.class_names[case.label]}, {case.kind}', '',
    pictures.maps_figure(rows),
  )  # fmt: skip
