"""Draws the README's picture from the folder of a finished comparison.

  python docs/picture.py runs/nsl_digits docs/nsl_digits.png

Left: the first test images, what FGSM on the first network adds to them, and
what both networks predict for the sum. Right: accuracy over epsilon, each
network attacked with its own gradients by one step and by many.
"""

import json
import pathlib
import sys
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

NUM_IMAGES = 8
COLORS = ('#0072b2', '#d55e00')
MARKERS = ('o', 's')
RIGHT, WRONG = '#1a7f37', '#c9190b'
STYLE: dict[Any, Any] = {
  'font.size': 9,
  'axes.titlesize': 9,
  'axes.spines.top': False,
  'axes.spines.right': False,
  'figure.facecolor': 'white',
}


def draw(workdir: pathlib.Path) -> Figure:
  """Draws the picture of the run in workdir."""
  report = json.loads((workdir / 'report.json').read_text())
  with np.load(workdir / 'adversarial_examples.npz') as file:
    examples = dict(file)
  with matplotlib.rc_context(STYLE):
    figure = Figure(figsize=(11.0, 3.6), layout='constrained')
    left, right = figure.subfigures(1, 2, width_ratios=(1.5, 1), wspace=0.03)
    draw_images(left.subplots(3, NUM_IMAGES), examples)
    draw_curves(right.subplots(1, 2, sharey=True), report)
  return figure


def draw_images(axes: np.ndarray, examples: dict[str, np.ndarray]) -> None:
  """Draws clean image, perturbation and adversarial image, one per column."""
  source = str(examples['members'][0])
  pair = [*zip(examples['source'], examples['attack'], strict=True)].index(
    (source, 'fgsm')
  )
  clean = examples['images'][..., 0]
  perturbed = examples['perturbed'][pair][..., 0]
  epsilon = float(examples['epsilon'][pair])
  for i in range(NUM_IMAGES):
    top, middle, bottom = axes[:, i]
    top.imshow(clean[i], cmap='gray', vmin=0, vmax=1)
    middle.imshow(
      perturbed[i] - clean[i],
      cmap='RdBu_r',
      vmin=-2 * epsilon,
      vmax=2 * epsilon,
    )
    bottom.imshow(perturbed[i], cmap='gray', vmin=0, vmax=1)
    label = int(examples['labels'][i])
    write_predictions(top, examples['clean_predictions'][:, i], label)
    write_predictions(bottom, examples['predictions'][pair, :, i], label)
  titles = (
    'clean',
    f'+ FGSM on {source},\nepsilon {epsilon:.2g}',
    '= adversarial',
  )
  for row, title in zip(axes, titles, strict=True):
    row[0].set_ylabel(title)
    for ax in row:
      ax.set(xticks=[], yticks=[])
      ax.spines[:].set_visible(False)


def write_predictions(ax: Axes, predictions: np.ndarray, label: int) -> None:
  """Writes what the networks say below an image: green right, red wrong."""
  names = ('base', 'adv.')
  for row, (name, prediction) in enumerate(
    zip(names, predictions, strict=True)
  ):
    right = prediction == label
    ax.text(
      0.5,
      -0.03 - 0.19 * row,
      f'{name}: {prediction}',
      transform=ax.transAxes,
      ha='center',
      va='top',
      color=RIGHT if right else WRONG,
      weight='normal' if right else 'bold',
    )


def draw_curves(axes: np.ndarray, report: dict[str, Any]) -> None:
  """Draws white-box accuracy over epsilon: one step, and many."""
  panels = (('fgsm', 'one step (FGSM)'), ('bim', 'twenty steps (BIM)'))
  for ax, (attack, title) in zip(axes, panels, strict=True):
    for index, (name, member) in enumerate(report['members'].items()):
      curve = member['robust_accuracy'][attack]['curve']
      x = [0.0, *(point['epsilon'] for point in curve)]
      y = [member['clean_accuracy'], *(p['white_box'] for p in curve)]
      ax.plot(
        x,
        100 * np.asarray(y),
        color=COLORS[index],
        marker=MARKERS[index],
        markersize=4,
        label=name,
      )
    ax.set(title=title, xlabel='epsilon', ylim=(-2, 102))
    ax.grid(color='#e4e4e4')
  axes[0].set_ylabel('white-box accuracy, %')
  axes[1].legend(frameon=False, loc='upper right')


if __name__ == '__main__':
  if len(sys.argv) != 3:
    sys.exit(__doc__)
  draw(pathlib.Path(sys.argv[1])).savefig(
    sys.argv[2], dpi=140, metadata={'Software': None}
  )
