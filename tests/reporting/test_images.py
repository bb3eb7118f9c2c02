"""Grids of images."""

import numpy as np
import pytest

from advjax.reporting.figures.charts import MAX_WIDTH, encode
from advjax.reporting.figures.images import (
  CORRECT,
  WRONG,
  class_name,
  nsl_grid,
  perturbation_grid,
  prediction_grid,
  random_indices,
  to_pixels,
)

LABELS = np.arange(40) % 10
WRONG_LABELS = np.where(LABELS == 3, 4, LABELS)


def make_images(channels, num=40):
  rng = np.random.default_rng(0)
  return rng.uniform(size=(num, 6, 5, channels)).astype(np.float32)


def shown(figure):
  """Pixels and title of every image."""
  (ax,) = figure.axes
  pixels = [np.asarray(image.get_array()) for image in ax.images]
  return pixels, ax.texts


@pytest.mark.parametrize('channels', [1, 3])
def test_the_nsl_grid_has_the_first_32_in_order(channels):
  images = make_images(channels)
  figure = nsl_grid(images, LABELS, WRONG_LABELS, LABELS)
  pixels, titles = shown(figure)
  np.testing.assert_allclose(
    pixels, np.broadcast_to(images[:32], (32, 6, 5, 3))
  )
  assert len(titles) == 32
  assert titles[3].get_text() == 'true: 3\nbase: 4\nadv: 3'
  assert figure.get_size_inches()[0] <= MAX_WIDTH


def test_random_images_are_the_same_for_a_seed():
  images, names = make_images(1), [f'digit {i}' for i in range(10)]
  figures = [
    prediction_grid(images, WRONG_LABELS, LABELS, seed, names)
    for seed in (3, 3, 4)
  ]
  first, second, other = (shown(figure) for figure in figures)
  np.testing.assert_array_equal(first[0], second[0])
  assert not np.array_equal(first[0], other[0])
  for title, index in zip(first[1], random_indices(40, 3), strict=True):
    name = names[WRONG_LABELS[index]]
    assert title.get_text().replace('\n', ' ') == f'Prediction: {name}'
    correct = WRONG_LABELS[index] == LABELS[index]
    assert title.get_color() == (CORRECT if correct else WRONG)
    assert title.get_fontweight() == ('normal' if correct else 'bold')
  assert len(random_indices(5, 0)) == 5


def test_perturbations_are_signed_and_amplified():
  clean = np.full((2, 4, 4, 3), 0.5, np.float32)
  adversarial = clean.copy()
  adversarial[:, 0, 0, 1] += 0.1
  adversarial[:, 1, 1, 2] -= 0.05
  labels = np.array([0, 1])
  figure = perturbation_grid(clean, adversarial, labels, labels, 1 - labels)
  pixels, titles = shown(figure)
  red, _, blue = pixels[2][0, 0]
  assert red > blue + 0.2  # Added.
  red, _, blue = pixels[2][1, 1]
  assert blue > red + 0.1  # Subtracted.
  assert pixels[2][2, 2].min() > 0.9
  assert [title.get_text() for title in titles[:3]] == [
    'clean\ntrue: 0\npredicted: 0',
    'clean\ntrue: 1\npredicted: 1',
    'perturbation x 10',
  ]
  assert titles[4].get_color() == WRONG


def test_long_titles_are_broken_and_rows_do_not_overlap():
  names = ['a very long name of a class, with details'] * 10
  images = make_images(3)
  figure = nsl_grid(images, LABELS, LABELS, LABELS, names)
  figure.draw_without_rendering()
  _, titles = shown(figure)
  boxes = [image.get_window_extent() for image in figure.axes[0].images]
  boxes += [title.get_window_extent() for title in titles]
  for i, box in enumerate(boxes):
    assert not any(box.shrunk(0.98, 0.98).overlaps(o) for o in boxes[:i])
  assert class_name(0, names).endswith('…') and class_name(12, names) == '12'


@pytest.mark.parametrize(
  'shape', [(0, 4, 4, 1), (2, 4, 4, 0), (2, 4), (2, 4, 4, 4, 1)]
)
def test_what_is_no_image_is_an_error(shape):
  with pytest.raises(ValueError, match='allowed: '):
    to_pixels(np.zeros(shape))


@pytest.mark.parametrize(('channels', 'drawn'), [(2, 1), (4, 3), (5, 3)])
def test_other_channels_are_drawn_by_the_first_of_them(channels, drawn):
  images = make_images(channels, 3)
  labels = LABELS[:3]
  figure = perturbation_grid(images, 1 - images, labels, labels, labels)
  pixels, _ = shown(figure)
  expected = np.broadcast_to(images[..., :drawn], (3, 6, 5, 3))
  np.testing.assert_allclose(pixels[:3], expected)


def test_names_that_a_font_cannot_draw_do_not_end_a_report():
  names = ['$\\frac$', '\u732b \U0001f600', 'x' * 5000, ' '] * 10
  figure = nsl_grid(make_images(1), LABELS, LABELS, LABELS, names)
  assert encode('grid', 'grid', '', figure).png.startswith(b'\x89PNG')


def test_lengths_that_differ_are_an_error():
  images = make_images(1)
  with pytest.raises(ValueError, match=r'lengths = .*39'):
    nsl_grid(images, LABELS, LABELS[:39], LABELS)
