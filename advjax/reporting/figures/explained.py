"""Figures of explanations: maps of images, and how similar they are."""

from collections.abc import Iterator, Mapping, Sequence

import matplotlib
import numpy as np
from matplotlib import colormaps
from matplotlib.figure import Figure

from advjax.data import Dataset
from advjax.evaluation.explanations import Case, Explained
from advjax.explain import METHODS
from advjax.reporting.figures import charts
from advjax.reporting.figures.images import (
  Cell,
  class_name,
  image_grid,
  signed_colors,
  to_pixels,
)
from advjax.reporting.formatting import percent
from advjax.results import Estimate, ExplainedModel, ExplainReport

METHOD_NAMES = {
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
  'correct': 'adversarial, correct',
  'fooled': 'adversarial, misclassified',
  'fooled_predicted': 'the same, predicted class',
  'other': 'another image',
}


def overview_pictures(
  report: ExplainReport,
  explained: Mapping[str, Explained],
  dataset: Dataset,
  classes: Sequence[int],
) -> Iterator[charts.Picture]:
  """Draws similarities of maps, one image for all models, maximized logits."""
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


def case_pictures(
  report: ExplainReport, explained: Mapping[str, Explained], dataset: Dataset
) -> dict[str, charts.Picture]:
  """Draws the maps of every case, by its name in the report."""
  return {
    entry.name: charts.encode(
      entry.name,
      f'{entry.class_.name}, {entry.kind}',
      '',
      _maps_figure(list(_lines(case, dataset))),
    )
    for name, each in explained.items()
    for case, entry in zip(each.cases, report.members[name].cases, strict=True)
  }


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
    'blue against it; green: the true class.',
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
    for method in METHOD_NAMES:
      if method in maps:
        line += _map_cells(method, case.images[version], maps[method])
    yield line


def _maps_figure(lines: Sequence[Sequence[Cell | None]]) -> Figure:
  columns = max(map(len, lines))
  return image_grid(lines, min(1.1, charts.MAX_WIDTH / columns - 0.08))


def _map_cells(
  method: str, image: np.ndarray, values: np.ndarray
) -> Iterator[Cell]:
  """The map of a method in colours; its 99th percentile has the full one."""
  name = METHOD_NAMES[method]
  if method == 'saliency':
    for sign, part, colors in (
      (1, 'positive', 'Reds'),
      (-1, 'negative', 'Blues'),
    ):
      shown = np.maximum(sign * values, 0).max(-1)
      pixels = colormaps[colors](shown / _scale(shown))[..., :3]
      yield Cell(pixels, f'{name}, {part}')
  elif method in ('grad_cam', 'cam'):
    yield Cell(overlay(image, values), name)
  else:
    shown = signed(method, values)
    yield Cell(signed_colors(shown, _scale(shown)), name)


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
      handles = {}
      for i, (group, label) in enumerate(GROUPS.items()):
        for j, method in enumerate(methods):
          entry = model.similarity.get(method, {}).get(group)
          x = np.nan if entry is None or entry.cosine is None else entry.cosine
          low, high = (entry and entry.cosine_ci) or (x, x)
          ends = charts.error_bars(Estimate(x, (low, high)))
          style = {'color': charts.PALETTE[i], 'fmt': markers[i], 'ms': 5}
          y = j + 0.14 * (i - 2)
          handles[label] = ax.errorbar(x, y, xerr=ends, lw=1.6, **style)
      ax.axvline(0, color='#555555', linewidth=0.8)
      ax.set_xlim(right=1.03)
      ax.set_title(name)
      ax.set_xlabel('cosine similarity')
    axes[0].set_yticks(range(len(methods)), [METHOD_NAMES[m] for m in methods])
    axes[0].set_ylim(len(methods) - 0.45, -0.55)
    charts.legend(figure, handles)
  return figure
