"""The report of explanations: maps of images, and how similar they are."""

import pathlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import matplotlib
import numpy as np
from matplotlib import colormaps
from matplotlib.figure import Figure

from advjax.data import Dataset
from advjax.evaluation.explanations import KINDS, Case, Explained
from advjax.explain import METHODS
from advjax.files import replacing, write_json
from advjax.reporting.figures import charts
from advjax.reporting.figures.images import (
  Cell,
  class_name,
  image_grid,
  signed_colors,
  to_pixels,
)
from advjax.reporting.formatting import Row, Table, format_estimate, percent
from advjax.reporting.html import dataset_facts, write_page
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
# Method, what is drawn of it, and its title.
_PANELS = (
  ('saliency', 'saliency+', 'saliency,\npositive'),
  ('saliency', 'saliency-', 'saliency,\nnegative'),
  ('guided_backprop', 'guided_backprop', 'guided\nbackprop'),
  ('integrated_gradients', 'integrated_gradients', 'integrated\ngradients'),
  ('smooth_grad', 'smooth_grad', 'SmoothGrad'),
  ('grad_cam', 'cam', 'Grad-CAM'),
  ('cam', 'cam', 'CAM'),
)


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
    entry.name: charts.encode(
      entry.name,
      f'{entry.true_class.name}, {entry.kind}',
      '',
      _maps_figure(list(_lines(case, dataset))),
    )
    for name, each in explained.items()
    for case, entry in zip(each.cases, report.members[name].cases, strict=True)
  }
  charts.save_pictures([*overview, *cases.values()], workdir / 'figures')
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
      f'{name}: clean accuracy {format_estimate(model.clean_accuracy)}, '
      f'accuracy under {report.attack.label} with its own gradients '
      f'{format_estimate(model.white_box)}, on {report.num_images} test images.'
    )
    found: dict[str, list[str]] = {}
    for method in _methods(model):
      groups = model.similarity[method]
      cosine = groups['fooled'].cosine
      value = '' if cosine is None else f' {cosine:.2f}'
      found.setdefault(_verdict(groups), []).append(NAMES[method] + value)
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
    rows.append(
      Row(
        f'{name} ({groups["noise"].num_images} correct, '
        f'{groups["fooled"].num_images} of them misclassified under attack)'
      )
    )
    for method in _methods(model):
      groups, cells = model.similarity[method], []
      for group in GROUPS:
        mean = getattr(groups[group], measure)
        ends = getattr(groups[group], f'{measure}_ci')
        text = '-' if mean is None else f'{mean:.2f}'
        cells.append(f'{text} [{ends[0]:.2f}, {ends[1]:.2f}]' if ends else text)
      rows.append(Row(f'  {NAMES[method]}', cells))
  return Table('Similarity of maps', [*GROUPS.values()], rows)


def _overview(
  report: ExplainReport,
  explained: Mapping[str, Explained],
  dataset: Dataset,
  classes: Sequence[int],
) -> Iterator[charts.Picture]:
  if all(model.similarity for model in report.members.values()):
    yield charts.encode(
      'similarity',
      'How the attack and random noise change maps',
      'Cosine similarity between the map of the clean image for its true class '
      'and other maps, means with 95 % intervals. Random noise has the size of '
      'the attack; maps of another image show what chance gives.',
      similarity_figure(report.members),
    )
  yield from _same_image(explained, dataset)
  lines = [
    [
      Cell(
        image,
        f'{name}\n{class_name(label, dataset.class_names)}: '
        f'{percent(float(share), 0)}',
      )
      for image, share, label in zip(
        to_pixels(each.maximizing), each.probabilities, classes, strict=True
      )
    ]
    for name, each in explained.items()
  ]
  yield charts.encode(
    'activation_maximization',
    'Activation maximization',
    'Images that maximize the logit of a class, by gradient ascent from noise '
    'with a total variation penalty, and the probability of the class.',
    image_grid(lines, min(1.6, charts.MAX_WIDTH / len(classes) - 0.08)),
  )


def _same_image(
  explained: Mapping[str, Explained], dataset: Dataset
) -> Iterator[charts.Picture]:
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
    for line in _lines(by_row[name][shared[0]], dataset, f'{name}\n')
  ]
  yield charts.encode(
    'same_image',
    f'One image, explained by {len(explained)} models',
    f'Test image {shared[0]}, clean and attacked with the gradients of the '
    'model that is explained. Red is evidence for the class above the image, '
    ' blue against it; green: the true class.',
    _maps_figure(lines),
  )


def _lines(
  case: Case, dataset: Dataset, note: str = ''
) -> Iterator[list[Cell | None]]:
  """A line per image and explained class: image, perturbation and maps."""
  delta = case.images['adversarial'] - case.images['clean']
  for (version, label), maps in case.maps.items():
    name = class_name(label, dataset.class_names)
    share = percent(float(case.probabilities[version][label]), 0)
    predicted = label == case.predicted(version)
    line: list[Cell | None] = [
      Cell(
        to_pixels(case.images[version][None])[0],
        f'{note}{version}\n{name}: {share}',
        label == case.label,
      ),
      None,
    ]
    if predicted and version == 'adversarial':
      largest = float(np.abs(delta).max()) or 1.0
      line[1] = Cell(
        signed_colors(signed('', delta), largest),
        f'perturbation\nx {1 / largest:.3g}',
      )
    yield line + [
      Cell(_map_colors(panel, case.images[version], maps[method]), title)
      for method, panel, title in _PANELS
      if method in maps
    ]


def _maps_figure(lines: Sequence[Sequence[Cell | None]]) -> Figure:
  columns = max(map(len, lines))
  return image_grid(lines, min(1.1, charts.MAX_WIDTH / columns - 0.08))


def _map_colors(
  panel: str, image: np.ndarray, values: np.ndarray
) -> np.ndarray:
  """A map in colours; its 99th percentile has the full one."""
  if panel == 'cam':
    return overlay(image, values)
  if panel in ('saliency+', 'saliency-'):
    positive = panel == 'saliency+'
    shown = np.maximum(values if positive else -values, 0).max(-1)
    colors = colormaps['Reds' if positive else 'Blues']
    return colors(shown / _scale(shown))[..., :3]
  shown = signed(panel, values)
  return signed_colors(shown, _scale(shown))


def signed(method: str, maps: np.ndarray) -> np.ndarray:
  """Reduces the channels of maps, `[..., C]` to `[...]`.

  Integrated gradients are summed, since their sum is the change of the logit;
  of others the value of the largest magnitude is taken.
  """
  if method == 'integrated_gradients':
    return maps.sum(-1)
  index = np.abs(maps).argmax(-1)[..., None]
  return np.take_along_axis(maps, index, axis=-1)[..., 0]


def overlay(image: np.ndarray, values: np.ndarray) -> np.ndarray:
  """Draws a map `[H, W]` over the gray image, as `[H, W, 3]` in [0, 1]."""
  gray = 0.25 + 0.75 * np.clip(image, 0, 1).mean(-1, keepdims=True)
  strength = np.clip(values / _scale(values), -1, 1)
  colors = colormaps['RdBu_r'](0.5 + 0.42 * np.sign(strength))[..., :3]
  alpha = 0.75 * np.abs(strength)[..., None]
  return gray * (1 - alpha) + colors * alpha


def _scale(values: np.ndarray) -> float:
  """The value of full colour, robust to outliers."""
  size = float(np.percentile(np.abs(values), 99)) or float(np.abs(values).max())
  return size if size > 0 and np.isfinite(size) else 1.0


def similarity_figure(models: Mapping[str, ExplainedModel]) -> Figure:
  """Draws similarities of maps with 95 % intervals, a panel per model."""
  methods = [
    m for m in METHODS if any(m in e.similarity for e in models.values())
  ]
  width = min(charts.MAX_WIDTH, 1.6 + 3.6 * len(models))
  markers = (*charts.MARKERS[:4], 'x')
  with matplotlib.rc_context(charts.STYLE | {'axes.grid.axis': 'x'}):
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
            color=charts.PALETTE[i],
            fmt=markers[i],
            ms=5,
            lw=1.6,
          )
        handles.append(drawn)
      ax.axvline(0, color='#555555', linewidth=0.8)
      ax.set_xlim(right=1.03)
      ax.set_title(name)
      ax.set_xlabel('cosine similarity')
    axes[0].set_yticks(range(len(methods)), [NAMES[m] for m in methods])
    axes[0].set_ylim(len(methods) - 0.45, -0.55)
    charts.legend(figure, handles, list(GROUPS.values()))
  return figure
