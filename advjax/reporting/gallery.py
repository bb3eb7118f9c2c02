"""All figures of a report, each with a title and a caption that says it."""

import io
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from matplotlib.figure import Figure

from advjax.files import replacing
from advjax.reporting import bars, charts, pictures, training
from advjax.reporting.evaluated.drawn import without_large, without_transfer
from advjax.reporting.values import (
  Report,
  attacks_of,
  finite,
  is_evaluated,
  members_of,
  short,
  top_k_of,
)

_DPI = 150
_MAX_PIXELS = 1650


class Picture(NamedTuple):
  """A figure, drawn.

  Attributes:
    name: the file's stem and the anchor on the page.
    title: a few words above the figure.
    caption: what it shows.
    png: the encoded image.
    half: whether half the page's width is enough, so that two stand side by
      side.
  """

  name: str
  title: str
  caption: str
  png: bytes
  half: bool = False


class Examples(NamedTuple):
  """Images of one attack at one epsilon, for the pictures of images.

  Attributes:
    images: the clean images, `[N, H, W, C]`.
    labels: int `[N]`.
    predictions: member -> its classes for `images`, int `[N]`.
    adversarial: source -> images perturbed with its gradients, as `images`.
    adversarial_predictions: source -> member -> its classes for those images.
    attack: the name of the attack for people, such as 'FGSM'.
    epsilon: its epsilon.
    class_names: names of the classes; their numbers by default.
  """

  images: np.ndarray
  labels: np.ndarray
  predictions: Mapping[str, np.ndarray]
  adversarial: Mapping[str, np.ndarray]
  adversarial_predictions: Mapping[str, Mapping[str, np.ndarray]]
  attack: str
  epsilon: float
  class_names: Sequence[str] = ()


def draw(
  name: str, title: str, caption: str, figure: Figure, half: bool = False
) -> Picture:
  """Encodes a figure once, for its file and for the page.

  Args:
    name: the file's stem; other characters than letters, digits, dots and
      dashes become underscores.
    title: a few words.
    caption: what the figure shows.
    figure: the figure; at most 1,650 pixels wide when encoded.
    half: whether it takes half the page's width.

  Returns:
    The picture.
  """
  buffer = io.BytesIO()
  width = float(figure.get_size_inches()[0])
  figure.savefig(
    buffer,
    format='png',
    dpi=min(_DPI, _MAX_PIXELS / width),
    metadata={'Software': None},  # The same figure is the same file.
  )
  stem = re.sub(r'[^\w.-]', '_', name)  # Members may be called anything.
  return Picture(stem, title, caption, buffer.getvalue(), half)


def save_figures(drawn: Sequence[Picture], directory: Path) -> list[Path]:
  """Writes `<directory>/<name>.png` for every picture.

  Args:
    drawn: the pictures.
    directory: made if it is not there.

  Returns:
    The paths written, in the same order.
  """
  directory = Path(directory)
  directory.mkdir(parents=True, exist_ok=True)
  paths = []
  for picture in drawn:
    path = directory / f'{picture.name}.png'
    with replacing(path) as file:
      file.write(picture.png)
    paths.append(path)
  return paths


def report_pictures(
  report: Report,
  histories: Mapping[str, Mapping[str, Any]] | None = None,
  examples: Examples | None = None,
  seed: int = 0,
) -> list[Picture]:
  """Draws every figure that the given parts of a run allow.

  Args:
    report: the content of report.json.
    histories: what `training.training_curves` takes, or None.
    examples: images for the pictures of images, or None.
    seed: which random images MATLAB's picture shows.

  Returns:
    The pictures in the order of the page.
  """
  drawn = []
  members = members_of(report)
  attacked = bool(attacks_of(report))
  if any(finite(m.get('clean_accuracy')) is not None for m in members.values()):
    drawn.append(_bars(report, attacked))
  if attacked:
    drawn.append(_curves(report))
  if bars.has_shifts(report):
    drawn.append(_shifts(report))
  if training.watched(report):
    drawn.append(_generalisation(report))
  num_of_all_seeds = len(drawn)
  if examples is not None:
    drawn += _example_pictures(list(members), examples, seed)
  if histories and any(
    len(h.get('losses', ())) or len(h.get('epochs', ()))
    for h in histories.values()
  ):
    drawn.append(
      draw(
        'training_curves',
        'Training',
        'Loss of every iteration, and losses and accuracies of every epoch on '
        'the training images. Adversarial accuracy in training is measured '
        'with the attack that the objective trains on: it says nothing about '
        'stronger ones.',
        training.training_curves(histories),
      )
    )
  seeds = report.get('seeds', ())
  if len(seeds) < 2:
    return drawn
  notes = num_of_all_seeds * [' Means over the seeds.']
  notes += (len(drawn) - num_of_all_seeds) * [f' The run of seed {seeds[0]}.']
  return [
    picture._replace(caption=picture.caption + note)
    for picture, note in zip(drawn, notes, strict=True)
  ]


def _bars(report: Report, attacked: bool) -> Picture:
  several = len(members_of(report)) > 1 and not is_evaluated(report)
  caption = 'Accuracy on the test images with 95 % intervals, in per cent.'
  if top_k_of(report):
    caption += (
      f' Pale: the label is among the {top_k_of(report)} likeliest classes, '
      'on the same images.'
    )
  if attacked:
    caption += (
      ' White box: the member is attacked with its own gradients, at the '
      'headline epsilon.'
    )
  if attacked and several:
    caption += (
      ' Hatched: images perturbed on another member (the one that fools it '
      'most), which is no measure of robustness.'
    )
  figure = bars.accuracy_bars(without_transfer(report))
  return draw('accuracy', 'Accuracy, clean and under attack', caption, figure)


def _shifts(report: Report) -> Picture:
  k = top_k_of(report)
  caption = (
    'Accuracy on corrupted test images, the mean over the kinds of each family '
    'and all five severities, and on images with objects pasted over the '
    'background, where they were measured. Partly seen: a kind of the family '
    'is one of the augmentations that a member was trained with.'
  )
  if k:
    caption += f' Pale: the label is among the {k} likeliest classes.'
  figure = bars.shift_bars(report)
  return draw('shifts', 'Accuracy under shifts', caption, figure)


def _generalisation(report: Report) -> Picture:
  held_out = [
    bool(finite(member.get('num_validation')))
    for member in training.watched(report).values()
  ]
  caption = (
    'Accuracy of every epoch on the training images, as they were trained on '
    '(augmented, if they were), and on the images watched, clean and under '
    'PGD; the gap between the first two is shaded.'
  )
  if not all(held_out):
    caption += (
      ' Where no images are held out (num_validation = 0) the watched images '
      'are training images, and say nothing about overfitting.'
    )
  return draw(
    'generalisation',
    'Training against validation',
    caption,
    training.generalisation_curves(report),
  )


def _curves(report: Report) -> Picture:
  several = len(members_of(report)) > 1
  caption = (
    'Accuracy over epsilon for each attack, every member attacked with its own '
    'gradients (white box). Shades are 95 % intervals, epsilon 0 is the clean '
    'accuracy, the dashed line marks the headline epsilon. The lowest '
    'curve of a member is an upper bound of its robustness, no more.'
  )
  if several:
    caption += (
      ' Transfer, below, uses the same images on the members that they were '
      'not made for.'
    )
  figure = charts.robustness_curves(without_large(report))
  return draw('robustness', 'Accuracy over epsilon', caption, figure)


def _example_pictures(
  names: Sequence[str], examples: Examples, seed: int
) -> list[Picture]:
  drawn = []
  own = [name for name in names if name in examples.adversarial]
  if len(names) > 1 and names[0] in examples.adversarial:
    drawn.append(_nsl(names[0], names[1], examples))
  for name in own:
    drawn.append(_predictions(name, examples, seed))
  for name in own:
    drawn.append(_triptychs(name, examples))
  return drawn


def _how(examples: Examples, source: str) -> str:
  return (
    f'perturbed with {examples.attack} at epsilon {short(examples.epsilon)} on '
    f'the gradients of {source}'
  )


def _nsl(base: str, other: str, examples: Examples) -> Picture:
  predictions = examples.adversarial_predictions[base]
  labels = np.asarray(examples.labels)[:32]
  right = {
    name: int(np.sum(np.asarray(predictions[name])[:32] == labels))
    for name in (base, other)
  }
  return draw(
    'nsl_batch',
    f'The first {len(labels)} test images, perturbed on {base}',
    f'In order, {_how(examples, base)} (transfer for {other}). base is right '
    f'on {right[base]} of {len(labels)}'
    + (f' ({base})' if base != 'base' else '')
    + f', adv ({other}) on {right[other]}.',
    pictures.nsl_grid(
      examples.adversarial[base],
      examples.labels,
      predictions[base],
      predictions[other],
      examples.class_names,
    ),
  )


def _predictions(name: str, examples: Examples, seed: int) -> Picture:
  predictions = np.asarray(examples.adversarial_predictions[name][name])
  labels = np.asarray(examples.labels)
  shown = pictures.random_indices(len(labels), seed)
  right = int(np.sum(predictions[shown] == labels[shown]))
  return draw(
    f'predictions_{name}',
    f'Predictions of {name} under attack',
    f'{len(shown)} random test images {_how(examples, name)} itself: {name} is '
    f'right on {right} (green), wrong on {len(shown) - right} (red, bold).',
    pictures.prediction_grid(
      examples.adversarial[name],
      predictions,
      labels,
      seed,
      examples.class_names,
    ),
    half=True,
  )


def _triptychs(name: str, examples: Examples) -> Picture:
  return draw(
    f'triptychs_{name}',
    f'What the attack changes: {name}',
    f'The first test images, {_how(examples, name)} itself: clean, the '
    'perturbation (red adds, blue takes away, amplified as its title says), '
    'and their sum, with what the network predicts: green right, red wrong.',
    pictures.triptychs(
      examples.images,
      examples.adversarial[name],
      examples.labels,
      examples.predictions[name],
      examples.adversarial_predictions[name][name],
      class_names=examples.class_names,
    ),
  )
