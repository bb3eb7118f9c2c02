"""Figure and table of linear networks: their weights, and what FGSM does.

A network of two classes whose logits are linear is `f(x) = w . x + b`, the
first class's logit less the second's. FGSM adds `-epsilon * y * sign(w)`, y
being +1 for the first class and -1 for the second: the same perturbation for
every image, but for its sign (Goodfellow et al. 2014, arXiv 1412.6572, figure
2).
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure

from advjax.reporting.figures.charts import MAX_WIDTH
from advjax.reporting.figures.images import (
  CORRECT,
  WRONG,
  Cell,
  class_name,
  image_grid,
  signed_colors,
)
from advjax.reporting.formatting import Row, Table, format_epsilon, percent
from advjax.results import accuracy_interval, mean_and_std
from experiments.linear.measure import Measured

_COLUMNS, _ROWS = 5, 2  # Images of each class.


def linear_figure(
  members: Mapping[str, Measured],
  images: np.ndarray,
  labels: np.ndarray,
  epsilon: float,
  class_names: Sequence[str] = (),
) -> Figure:
  """Draws weights, their sign, clean images and adversarial examples.

  The first ten images `[H, W, 1]` of each class are shown, framed red where the
  prediction is wrong; error rates are those of all. Adversarial examples that
  leave [0, 1] are shown with a wider range of grey.
  """
  by_class = [np.flatnonzero(labels == label) for label in (0, 1)]
  if not all(map(len, by_class)):
    found = sorted(map(int, set(labels)))
    raise ValueError(f'labels = {found}; allowed: 0 and 1, an image of each')
  shown = [indices[: _ROWS * _COLUMNS] for indices in by_class]
  first, second = (class_name(index, class_names) for index in (0, 1))
  rows = []
  for name, member in members.items():
    weights = member.weights[..., 0]
    size = float(np.abs(weights).sum())
    largest = float(np.abs(weights).max()) or 1.0
    row = [
      Cell(
        signed_colors(weights, largest),
        f'{name}: weights, ε‖w‖₁ = {epsilon * size:.3g}\n'
        f'red: {first}, blue: {second}',
      ),
      Cell(
        signed_colors(np.sign(weights), 1.0),
        f'sign: added to {second},\nsubtracted from {first}',
      ),
    ]
    fgsm = f'FGSM {format_epsilon(epsilon)}'
    for kind, pixels, predictions in (
      ('clean', images, member.predictions),
      (fgsm, member.perturbed, member.perturbed_predictions),
    ):
      error = percent(np.mean(predictions != labels))
      mosaic = _mosaic(pixels[..., 0], predictions == labels, shown)
      row.append(Cell(mosaic, f'{name}, {kind}:\nerror {error}'))
    rows.append(row)
  return image_grid(rows, MAX_WIDTH / 4 - 0.1)


def _mosaic(
  images: np.ndarray, correct: np.ndarray, shown: Sequence[np.ndarray]
) -> np.ndarray:
  """Images `[N, H, W]` in frames, the first class above the second one."""
  height, width = images.shape[1:]
  pixels = images[np.concatenate(shown)]
  low, high = min(0.0, float(pixels.min())), max(1.0, float(pixels.max()))
  tile = np.array([height + 4, width + 4])  # 1 pixel of frame, 1 of space.
  mosaic = np.ones([*(tile * (2 * _ROWS, _COLUMNS)), 3])
  for label, indices in enumerate(shown):
    for i, index in enumerate(indices):
      place = tile * (label * _ROWS + i // _COLUMNS, i % _COLUMNS)
      row, column = place + 1
      color = to_rgb(CORRECT if correct[index] else WRONG)
      mosaic[row : row + height + 2, column : column + width + 2] = color
      gray = ((images[index] - low) / (high - low))[..., None]
      row, column = place + 2
      mosaic[row : row + height, column : column + width] = gray
  return mosaic


def merge_seeds(
  entries: Sequence[Mapping[str, Any]], num_images: int
) -> dict[str, Any]:
  """Merges the numbers of a model over seeds."""
  merged = mean_and_std(entries)
  for name in [name for name in merged if name.endswith('_error')]:
    merged[f'{name}_ci'] = list(accuracy_interval(merged[name], num_images))
  merged['largest_difference'] = max(e['largest_difference'] for e in entries)
  merged.pop('largest_difference_std', None)
  return merged


def format_table(entries: Mapping[str, Mapping[str, Any]]) -> str:
  """Writes the numbers of all models for the terminal."""
  columns = ('clean', 'FGSM', 'in [0, 1]', '|w|_1', 'epsilon |w|_1')
  rows, lines = [], []
  for name, entry in entries.items():
    cells = [_error(entry, kind) for kind in ('clean', 'fgsm', 'fgsm_in_box')]
    cells += [f'{entry["weights_l1"]:.1f}', f'{entry["shift"]:.1f}']
    rows.append(Row(name, cells))
    lines.append(
      f'{name}: largest difference between fgsm and the closed form: '
      f'{entry["largest_difference"]:.2g}'
    )
  return '\n'.join([Table('Errors', columns, rows).text(), *lines])


def _error(entry: Mapping[str, Any], name: str) -> str:
  std, text = entry.get(f'{name}_error_std'), percent(entry[f'{name}_error'], 2)
  return text if std is None else f'{text[:-2]} ± {100 * std:.2f} %'
