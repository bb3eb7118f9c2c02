"""The report of explanations: maps of images, and how similar they are."""

import pathlib
import textwrap
from collections.abc import Iterator, Mapping, Sequence, Set
from typing import NamedTuple

import matplotlib
import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from advjax.data import Dataset
from advjax.evaluation.explanations import KINDS, Case, Explained
from advjax.explain import METHODS
from advjax.files import replacing, write_json
from advjax.reporting.formatting import Row, Table, format_estimate, percent
from advjax.reporting.html import dataset_facts, write_page
from advjax.reporting.images import class_name, verdict_style
from advjax.reporting.plots import (
  MARKERS,
  MAX_WIDTH,
  PALETTE,
  PERTURBATION_COLORS,
  SMALL,
  STYLE,
  Picture,
  encode,
  legend,
  save_pictures,
)
from advjax.results import ExplainedModel, ExplainReport, Similarity

NAMES = {
  'saliency': 'saliency',
  'guided_backprop': 'guided backprop',
  'integrated_gradients': 'integrated gradients',
  'smooth_grad': 'SmoothGrad',
  'grad_cam': 'Grad-CAM',
  'cam': 'CAM',
}
# What is compared with the map of the clean image for its true class.
GROUPS = {
  'noise': 'random noise',
  'stood': 'adversarial, correct',
  'fooled': 'adversarial, misclassified',
  'fooled_predicted': 'the same, predicted class',
  'other': 'another image',
}
_HEADS = (
  'random noise',
  'still correct',
  'misclassified',
  'predicted class',
  'another image',
)
# Of the figures of maps: an image is one unit wide.
_INCHES = 1.0
_STEP, _LINE, _HEAD = 1.04, 1.16, 0.34
_FIRST_MAP = 2.34
_TITLES = {
  'saliency+': 'saliency,\npositive',
  'saliency-': 'saliency,\nnegative',
  'guided_backprop': 'guided\nbackprop',
  'integrated_gradients': 'integrated\ngradients',
}


def write_explained(
  workdir: pathlib.Path,
  report: ExplainReport,
  explained: Mapping[str, Explained],
  dataset: Dataset,
  classes: Sequence[int],
) -> str:
  """Writes report.json, report.html, figures and explanations.npz.

  Args:
    workdir: The folder.
    report: The content of report.json.
    explained: Model -> its explanations.
    dataset: The data set.
    classes: The classes of interest.

  Returns:
    The text for the terminal.
  """
  write_json(workdir / 'report.json', report.to_json())
  with replacing(workdir / 'explanations.npz') as file:
    np.savez_compressed(file, **_arrays(explained))
  overview = list(_overview(report, explained, dataset, classes))
  cases = {
    entry.name: encode(
      entry.name,
      f'{entry.true_class.name}, {entry.kind}',
      '',
      maps_figure(_lines(case, dataset)),
    )
    for name, each in explained.items()
    for case, entry in zip(each.cases, report.members[name].cases, strict=True)
  }
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
  return '\n'.join(
    [
      'cosine similarity to the maps of the clean images:',
      similarity_table(report, 'cosine').text(),
      '',
      *sentences,
    ]
  )


def _arrays(explained: Mapping[str, Explained]) -> dict[str, np.ndarray]:
  """A row per model, image, version and class; absent maps are NaN."""
  found = [
    (name, case, version, label)
    for name, each in explained.items()
    for case in each.cases
    for version, label in case.maps
  ]
  arrays: dict[str, list] = {
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
    present = [each[method] for each in maps if method in each]
    if present:
      absent = np.full_like(present[0], np.nan)
      arrays[method] = [each.get(method, absent) for each in maps]
  return {name: np.asarray(values) for name, values in arrays.items()}


def conclusions(report: ExplainReport) -> list[str]:
  """Returns what the maps show as sentences, one model after the other.

  A difference between two groups of maps is stated only where their 95 %
  intervals do not overlap.

  Args:
    report: The report.

  Returns:
    Sentences.
  """
  return [
    sentence
    for name, model in report.members.items()
    for sentence in _conclusions(name, model, report)
  ]


def _conclusions(
  name: str, model: ExplainedModel, report: ExplainReport
) -> Iterator[str]:
  yield (
    f'{name}: clean accuracy {format_estimate(model.clean_accuracy)}, accuracy '
    f'under {report.attack.label} with its own gradients '
    f'{format_estimate(model.white_box)}, on {report.num_images} test images.'
  )
  texts = {
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
  found: dict[str, list[str]] = {}
  for method in METHODS:
    if method not in model.similarity:
      continue
    groups = model.similarity[method]
    cosine = groups['fooled'].cosine
    value = '' if cosine is None else f' {cosine:.2f}'
    found.setdefault(_verdict(groups), []).append(NAMES[method] + value)
  for verdict, text in texts.items():
    if verdict in found:
      listed = ', '.join(found[verdict])
      yield f'{name}, on misclassified images: {text} (cosine: {listed}).'
  if 'unknown' in found:
    yield (
      f'{name}: too few images are misclassified under the attack to say how '
      'maps change.'
    )


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
  """Returns the similarities of maps, a row per model and method.

  Args:
    report: The report.
    measure: 'cosine' or 'rank'.

  Returns:
    The table.
  """
  rows = []
  for name, model in report.members.items():
    if not model.similarity:
      rows.append(Row(f'{name} (no image is classified correctly)'))
      continue
    groups = next(iter(model.similarity.values()))
    rows.append(
      Row(
        f'{name} ({groups["noise"].num_images} correct, '
        f'{groups["fooled"].num_images} of them misclassified under attack)'
      )
    )
    for method in METHODS:
      if method not in model.similarity:
        continue
      groups, cells = model.similarity[method], []
      for group in GROUPS:
        mean = getattr(groups[group], measure)
        ends = getattr(groups[group], f'{measure}_ci')
        text = '-' if mean is None else f'{mean:.2f}'
        cells.append(f'{text} [{ends[0]:.2f}, {ends[1]:.2f}]' if ends else text)
      rows.append(Row(f'  {NAMES[method]}', cells))
  return Table('Similarity of maps', _HEADS, rows)


def _overview(
  report: ExplainReport,
  explained: Mapping[str, Explained],
  dataset: Dataset,
  classes: Sequence[int],
) -> Iterator[Picture]:
  if all(model.similarity for model in report.members.values()):
    yield encode(
      'similarity',
      'How the attack and random noise change maps',
      'Cosine similarity between the map of the clean image for its true class '
      'and other maps, means with 95 % intervals. Random noise has the size of '
      'the attack; maps of another image show what chance gives.',
      similarity_figure(report.members),
    )
  yield from _same_image(explained, dataset)
  yield encode(
    'activation_maximization',
    'Activation maximization',
    'Images that maximize the logit of a class, by gradient ascent from noise '
    'with a total variation penalty, and the probability of the class.',
    maximization_figure(explained, classes, dataset.class_names),
  )


def _same_image(
  explained: Mapping[str, Explained], dataset: Dataset
) -> Iterator[Picture]:
  """An image that the attack makes the first model misclassify, for all."""
  first, *others = explained
  by_row = {
    name: {case.row: case for case in each.cases}
    for name, each in explained.items()
  }
  shared = [
    case.row
    for case in explained[first].cases
    if case.kind == 'fooled' and all(case.row in by_row[o] for o in others)
  ]
  # Preferably one that the others classify correctly.
  shared.sort(key=lambda r: any(by_row[o][r].kind != 'right' for o in others))
  if not others or not shared:
    return
  lines = [
    line
    for name in explained
    for line in _lines(by_row[name][shared[0]], dataset, name)
  ]
  yield encode(
    'same_image',
    f'One image, explained by {len(explained)} models',
    f'Test image {shared[0]}, clean and attacked with the gradients of the '
    'model that is explained. Red is evidence for the class at the left of the '
    'maps, blue against it; green: the true class.',
    maps_figure(lines),
  )


class Line(NamedTuple):
  """A line of a figure of maps: an image, and its maps for one class.

  Attributes:
    heading: Above the image; '' leaves its place empty.
    image: `[H, W, C]` in [0, 1].
    perturbation: `[H, W, C]`, or None.
    label: The class that is explained, and its probability.
    correct: Whether it is the true class.
    maps: Method -> `[H, W, C]` or, of CAMs, `[H, W]`.
    note: In the place of the perturbation, where there is none.
  """

  heading: str
  image: np.ndarray
  perturbation: np.ndarray | None
  label: str
  correct: bool
  maps: Mapping[str, np.ndarray]
  note: str = ''


def _lines(case: Case, dataset: Dataset, note: str = '') -> list[Line]:
  delta = case.images['adversarial'] - case.images['clean']
  lines = []
  for (version, label), maps in case.maps.items():
    first = label == case.predicted(version)
    share = percent(float(case.probabilities[version][label]), 0)
    lines.append(
      Line(
        version if first else '',
        case.images[version],
        delta if first and version == 'adversarial' else None,
        f'{dataset.class_names[label]}: {share}',
        label == case.label,
        maps,
        note if version == 'clean' and first else '',
      )
    )
  return lines


def maps_figure(lines: Sequence[Line]) -> Figure:
  """Draws images beside their maps, a line for each image and class.

  Every map has its own scale: its 99th percentile has the full colour.

  Args:
    lines: What to draw; the place of an absent method stays empty.

  Returns:
    The figure.

  Raises:
    ValueError: If there is no line.
  """
  if not lines:
    raise ValueError('lines is empty; allowed: one line or more')
  panels = _panels({method for line in lines for method in line.maps})
  width = _FIRST_MAP + len(panels) * _STEP
  height = _HEAD + len(lines) * _LINE
  inches = min(_INCHES, MAX_WIDTH / width)
  with matplotlib.rc_context(STYLE | {'axes.grid': False}):
    figure = Figure((inches * width, inches * height))
    # One pair of axes for all images, in units of their width: a pair for
    # each takes longer than all the rest.
    ax = figure.add_axes((0, 0, 1, 1))
    for i, line in enumerate(lines):
      top = _HEAD + i * _LINE
      if line.heading:
        _put(ax, 0.04, top, to_rgb(line.image), line.heading)
      if line.perturbation is not None:
        shown, factor = _amplified(line.perturbation)
        _put(ax, 0.04 + _STEP, top, shown, f'perturbation\nx {factor:.3g}')
      elif line.note:
        note = '\n'.join(textwrap.wrap(line.note.replace('_', ' '), 16))
        ax.text(
          0.54 + _STEP,
          top + 0.5,
          note,
          fontsize=SMALL,
          ha='center',
          va='center',
        )
      ax.text(
        _FIRST_MAP - 0.1,
        top + 0.5,
        textwrap.shorten(line.label, 20, placeholder='…'),
        rotation=90,
        ha='center',
        va='center',
        fontsize=SMALL,
        **verdict_style(line.correct),
      )
      for j, panel in enumerate(panels):
        method = panel.rstrip('+-')
        if method in line.maps:
          title = '' if i else _TITLES.get(panel, NAMES[method])
          colors = _map_colors(panel, line)
          _put(ax, _FIRST_MAP + j * _STEP, top, colors, title)
    ax.set(xlim=(0, width), ylim=(height, 0), aspect='equal')
    ax.set_axis_off()
  return figure


def _put(
  ax: Axes, left: float, top: float, picture: np.ndarray, title: str
) -> None:
  """Puts a picture `[H, W, 3]` in its place, one unit wide, under a title."""
  place = (left, left + 1, top + 1, top)
  ax.imshow(picture, extent=place, interpolation='nearest')
  ax.text(
    left + 0.5, top - 0.03, title, fontsize=SMALL, ha='center', va='bottom'
  )


def _panels(methods: Set[str]) -> list[str]:
  """The columns of maps: saliency has two."""
  found = [method for method in METHODS if method in methods]
  if 'saliency' in found:
    found[found.index('saliency') : found.index('saliency') + 1] = [
      'saliency+',
      'saliency-',
    ]
  return found


def to_rgb(image: np.ndarray) -> np.ndarray:
  """Returns `[H, W, 3]` in [0, 1] of an image `[H, W, 1]` or `[H, W, 3]`.

  Example:
    >>> to_rgb(np.full((1, 1, 1), 2.0)).tolist()
    [[[1.0, 1.0, 1.0]]]
  """
  clipped = np.clip(np.nan_to_num(image), 0, 1)
  return np.broadcast_to(clipped, (*clipped.shape[:2], 3))


def _amplified(delta: np.ndarray) -> tuple[np.ndarray, float]:
  """Red adds to a pixel, blue takes from it; of channels the largest change."""
  largest = float(np.abs(delta).max())
  factor = 1 / largest if largest > 0 else 1.0
  shown = PERTURBATION_COLORS(0.5 + 0.38 * factor * signed('', delta))
  return shown[..., :3], factor


def _map_colors(panel: str, line: Line) -> np.ndarray:
  if panel in ('grad_cam', 'cam'):
    return overlay(line.image, line.maps[panel])
  values = np.asarray(line.maps[panel.rstrip('+-')], np.float32)
  if panel in ('saliency+', 'saliency-'):
    positive = panel == 'saliency+'
    shown = np.maximum(values if positive else -values, 0).max(-1)
    colors = colormaps['Reds' if positive else 'Blues']
    return colors(shown / _scale(shown))[..., :3]
  shown = signed(panel, values)
  return colormaps['RdBu_r'](0.5 + 0.5 * shown / _scale(shown))[..., :3]


def signed(method: str, maps: np.ndarray) -> np.ndarray:
  """Reduces the channels of maps.

  Args:
    method: 'integrated_gradients' are summed, since their sum is the change of
      the logit; of others the value of the largest magnitude is taken.
    maps: `[..., C]`.

  Returns:
    `[...]`.

  Example:
    >>> signed('smooth_grad', np.array([1.0, -3.0, 2.0]))
    array(-3.)
  """
  if method == 'integrated_gradients':
    return maps.sum(-1)
  index = np.abs(maps).argmax(-1)[..., None]
  return np.take_along_axis(maps, index, axis=-1)[..., 0]


def overlay(image: np.ndarray, values: np.ndarray) -> np.ndarray:
  """Draws a map over the gray image.

  Args:
    image: `[H, W, C]` in [0, 1].
    values: `[H, W]`; positive ones are red, negative ones blue.

  Returns:
    `[H, W, 3]` in [0, 1].

  Example:
    >>> overlay(np.zeros((1, 1, 3)), np.zeros((1, 1))).tolist()
    [[[0.25, 0.25, 0.25]]]
  """
  gray = 0.25 + 0.75 * np.clip(image, 0, 1).mean(-1, keepdims=True)
  strength = np.clip(values / _scale(values), -1, 1)
  colors = colormaps['RdBu_r'](0.5 + 0.42 * np.sign(strength))[..., :3]
  alpha = 0.75 * np.abs(strength)[..., None]
  return gray * (1 - alpha) + colors * alpha


def _scale(values: np.ndarray) -> float:
  """What has the full colour: outliers would leave all else white."""
  size = float(np.percentile(np.abs(values), 99)) or float(np.abs(values).max())
  return size if size > 0 and np.isfinite(size) else 1.0


def maximization_figure(
  explained: Mapping[str, Explained],
  classes: Sequence[int],
  class_names: Sequence[str],
) -> Figure:
  """Draws images that maximize logits: a line per model, a column per class.

  Args:
    explained: Model -> its explanations.
    classes: The classes, K of them.
    class_names: Names of all classes.

  Returns:
    The figure.
  """
  cell = min(1.5, (MAX_WIDTH - 0.5) / len(classes))
  size = max(cell * len(classes) + 0.5, 3.5), (cell + 0.3) * len(explained)
  with matplotlib.rc_context(STYLE | {'axes.grid': False}):
    figure = Figure(size, layout='constrained')
    axes = figure.subplots(len(explained), len(classes), squeeze=False)
    for line, (name, each) in zip(axes, explained.items(), strict=True):
      for ax, image, share, label in zip(
        line, each.maximizing, each.probabilities, classes, strict=True
      ):
        ax.imshow(to_rgb(image), interpolation='nearest')
        ax.set(xticks=[], yticks=[])
        ax.spines[:].set_visible(False)
        shown = class_name(label, class_names)[:14]
        title = f'{shown}: {percent(float(share), 0)}'
        ax.set_title(title, fontsize=SMALL)
      line[0].set_ylabel(name[:24], fontsize=SMALL)
  return figure


def similarity_figure(models: Mapping[str, ExplainedModel]) -> Figure:
  """Draws similarities of maps with 95 % intervals, a panel per model.

  Args:
    models: Model -> its explanations.

  Returns:
    The figure.
  """
  present = {m for model in models.values() for m in model.similarity}
  methods = [method for method in METHODS if method in present]
  width = min(MAX_WIDTH, 1.6 + 3.6 * len(models))
  markers = (*MARKERS[:4], 'x')
  with matplotlib.rc_context(STYLE | {'axes.grid.axis': 'x'}):
    figure = Figure((width, 1.4 + 0.55 * len(methods)), layout='constrained')
    axes = figure.subplots(1, len(models), sharey=True, squeeze=False)[0]
    for ax, (name, model) in zip(axes, models.items(), strict=True):
      handles = []
      for i, group in enumerate(GROUPS):
        for j, method in enumerate(methods):
          entry = model.similarity.get(method, {}).get(group)
          x = np.nan if entry is None or entry.cosine is None else entry.cosine
          low, high = (entry and entry.cosine_ci) or (x, x)
          drawn = ax.errorbar(
            x,
            j + 0.14 * (i - 2),
            xerr=[[max(0.0, x - low)], [max(0.0, high - x)]],
            color=PALETTE[i],
            marker=markers[i],
            markersize=5,
            linewidth=1.6,
            linestyle='none',
          )
        handles.append(drawn)
      ax.axvline(0, color='#555555', linewidth=0.8)
      ax.set_xlim(right=1.03)
      ax.set_title(name)
      ax.set_xlabel('cosine similarity')
    axes[0].set_yticks(range(len(methods)), [NAMES[m] for m in methods])
    axes[0].set_ylim(len(methods) - 0.45, -0.55)
    legend(figure, handles, list(GROUPS.values()))
  return figure
