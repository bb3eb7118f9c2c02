"""A linear network's figure and table: weights, and what FGSM does to them."""

import re

import numpy as np
import pytest
from matplotlib.colors import to_rgb

from advjax.reporting.figures.images import CORRECT, WRONG
from experiments.linear.figure import format_table, linear_figure, merge_seeds
from experiments.linear.measure import Measured

# Seven images of two classes; the last three are wrong once perturbed.
LABELS = np.array([0, 1, 0, 0, 1, 1, 0])
FOOLED = np.where(np.arange(7) < 4, LABELS, 1 - LABELS)


@pytest.fixture
def images():
  return np.random.default_rng(0).uniform(size=(7, 5, 4)).astype(np.float32)


def member(images, scale=1.0, **changes):
  weights = scale * np.linspace(-2, 1, 20).reshape(5, 4)
  weights[0, 1] = 0
  fields = {
    'weights': weights,
    'perturbed': images - 0.25,
    'predictions': LABELS,
    'perturbed_predictions': FOOLED,
  }
  fields |= changes
  for name in ('weights', 'perturbed'):
    fields[name] = fields[name][..., None]
  return Measured(**fields, entry={})


def panels(figure, row=0):
  """Pixels and titles of the four panels of a member."""
  (ax,) = figure.axes
  part = slice(4 * row, 4 * row + 4)
  titles = [text.get_text().replace('\n', ' ') for text in ax.texts[part]]
  return [np.asarray(each.get_array()) for each in ax.images[part]], titles


def test_images_are_framed_by_whether_they_are_correct(images):
  figure = linear_figure(
    {'plain': member(images)}, images[..., None], LABELS, 0.25
  )
  (*_, clean, perturbed), _ = panels(figure)
  # Tiles of 9 x 8 pixels: the first class in two rows, then the second.
  places = {0: (0, 0), 2: (0, 1), 3: (0, 2), 6: (0, 3)}
  places |= {1: (2, 0), 4: (2, 1), 5: (2, 2)}
  low = float((images - 0.25).min())
  for mosaic, shown, predictions in (
    (clean, images, LABELS),
    (perturbed, (images - 0.25 - low) / (1 - low), FOOLED),
  ):
    assert mosaic.shape == (4 * 9, 5 * 8, 3)
    for index, (row, column) in places.items():
      tile = mosaic[9 * row : 9 * row + 9, 8 * column : 8 * column + 8]
      np.testing.assert_allclose(tile[2:7, 2:6, 0], shown[index], atol=1e-6)
      correct = predictions[index] == LABELS[index]
      np.testing.assert_allclose(
        tile[1, 1], to_rgb(CORRECT if correct else WRONG)
      )
    assert (mosaic[9:18] == 1).all()  # No more images of the first class.


def test_the_table_has_errors_and_the_distance_to_the_closed_form():
  entry = {'weights_l1': 148.6, 'shift': 37.1, 'largest_difference': 1.2e-7}
  entry |= {'clean_error': 0.015, 'fgsm_error': 0.9, 'fgsm_in_box_error': 0.8}
  other = entry | {'clean_error': 0.025, 'largest_difference': 0.0}
  entries = {
    'plain': merge_seeds([entry], 2000),
    'several': merge_seeds([entry, other], 2000),
  }
  _, _, plain, several, *lines = format_table(entries).splitlines()
  assert len(plain) == len(several) and len(lines) == 2
  cells = ['plain', '1.50 %', '90.00 %', '80.00 %', '148.6', '37.1']
  assert re.split(r'  +', plain) == cells
  assert re.split(r'  +', several)[:2] == ['several', '2.00 ± 0.71 %']
  assert '1.2e-07' in lines[0]
