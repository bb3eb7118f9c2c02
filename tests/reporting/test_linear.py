"""A linear network's picture and table: weights, and what FGSM does to them."""

import re

import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import to_rgb

from advjax.reporting.linear import (
  LinearMember,
  format_table,
  linear_figure,
  merge_seeds,
)

# Seven images, of a class each; the last three are wrong once perturbed.
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
  return LinearMember(**fields | changes)


def shown(image):
  return np.asarray(image.get_array())


def panels(figure, row=0):
  """The four panels of a member."""
  return figure.axes[4 * row : 4 * row + 4]


def test_weights_and_signs_are_symmetric_about_zero(images):
  found = member(images)
  figure = linear_figure({'plain': found}, images, LABELS, 0.25)
  weights, signs, *_ = panels(figure)
  for ax, expected in (
    (weights, found.weights),
    (signs, np.sign(found.weights)),
  ):
    (image,) = ax.images
    np.testing.assert_allclose(shown(image), expected)
    low, high = image.get_clim()
    assert low == -high
    # More is red, less is blue, nothing is white.
    red, _, blue = image.to_rgba(high)[:3]
    assert red > blue + 0.2
    red, _, blue = image.to_rgba(low)[:3]
    assert blue > red + 0.2
    assert min(image.to_rgba(0.0)[:3]) > 0.9
  assert weights.images[0].get_clim() == (-2, 2)
  # A sign has a full colour whatever the size of its weight.
  colors = {tuple(signs.images[0].to_rgba(value)) for value in (-1, 0, 1)}
  assert len(colors) == 3


def test_titles_say_what_is_wrong_and_by_how_much_it_shifts(images):
  members = {
    'plain': member(images),
    'half $': member(images, scale=0.5, predictions=np.ones(7, int)),
  }
  figure = linear_figure(members, images, LABELS, 0.25, ('three', 'seven'))
  assert len(figure.axes) == 8
  size = np.abs(members['plain'].weights).sum()
  for row, name, expected in (
    (0, 'plain', 0.25 * size),
    (1, r'half \$', 0.125 * size),
  ):
    title = panels(figure, row)[0].get_ylabel()
    assert title.startswith(f'{name}: ')
    shift = re.search(r'= ([\d.]+)$', title)[1]
    assert float(shift) == pytest.approx(expected, rel=5e-3)
  titles = [ax.get_title().replace('\n', ' ') for ax in panels(figure)]
  assert titles == [
    'weights: red for three, blue for seven',
    'sign: added to seven, taken from three',
    'clean: 0.0 % wrong',
    'FGSM 0.25: 42.9 % wrong',
  ]
  assert panels(figure, 1)[2].get_title() == 'clean: 57.1 % wrong'
  figure.draw_without_rendering()


def test_images_stand_above_what_the_network_says_of_them(images):
  figure = linear_figure({'plain': member(images)}, images, LABELS, 0.25)
  *_, clean, perturbed = panels(figure)
  # The first class's images, then those of the second.
  order = [0, 2, 3, 6, 1, 4, 5]
  for ax, expected, says in (
    (clean, images, LABELS),
    (perturbed, images - 0.25, FOOLED),
  ):
    assert len(ax.images) == len(ax.texts) == 7
    for image, text, index in zip(ax.images, ax.texts, order, strict=True):
      np.testing.assert_array_equal(shown(image), expected[index])
      left, right, bottom, top = image.get_extent()
      assert top < bottom < text.get_position()[1]  # The axis points down.
      assert left < text.get_position()[0] < right
      assert text.get_text() == str(says[index])
      red, green, _ = to_rgb(text.get_color())
      assert (green > red) == (says[index] == LABELS[index])
  # All images of a panel share one scale, which holds all their values.
  assert {image.get_clim() for image in clean.images} == {(0, 1)}
  ((low, high),) = {image.get_clim() for image in perturbed.images}
  assert low == pytest.approx((images - 0.25).min())
  assert high == 1


def test_nothing_lies_over_anything_else(images):
  names = ('a quite long class name', 'and another one of them')
  members = {'plain': member(images), 'adversarial': member(images, 1e-3)}
  figure = linear_figure(members, images, LABELS, 8 / 255, names)
  renderer = FigureCanvasAgg(figure).get_renderer()
  figure.draw_without_rendering()
  boxes = [ax.get_tightbbox(renderer) for ax in figure.axes]
  whole = figure.bbox
  for i, box in enumerate(boxes):
    assert whole.x0 <= box.x0 and box.x1 <= whole.x1 + 1
    assert whole.y0 <= box.y0 and box.y1 <= whole.y1
    for other in boxes[:i]:
      assert not box.overlaps(other)


def test_at_most_ten_images_of_a_class():
  labels = np.arange(26) % 2
  images = np.zeros((26, 3, 3))
  found = LinearMember(np.zeros((3, 3)), images, labels, labels)
  figure = linear_figure({'untrained': found}, images, labels, 0.1)
  *_, clean, _ = panels(figure)
  assert [text.get_text() for text in clean.texts] == ['0'] * 10 + ['1'] * 10
  corners = {tuple(image.get_extent()) for image in clean.images}
  assert len(corners) == 20
  figure.draw_without_rendering()


def test_bad_input_is_named(images):
  with pytest.raises(ValueError, match='members is empty'):
    linear_figure({}, images, LABELS, 0.1)
  with pytest.raises(ValueError, match='labels: allowed are 0 and 1'):
    ones = np.ones(7, int)
    linear_figure({'plain': member(images)}, images, ones, 0.1)
  for field, value in (
    ('weights', np.zeros((4, 4))),
    ('perturbed', images[:3]),
    ('predictions', LABELS[:3]),
    ('perturbed_predictions', FOOLED[:, None]),
  ):
    found = member(images, **{field: value})
    with pytest.raises(ValueError, match=rf"plain: .*'{field}': .*allowed"):
      linear_figure({'plain': found}, images, LABELS, 0.1)
  with pytest.raises(ValueError, match=r'images .*allowed'):
    linear_figure({'plain': member(images)}, images[:3], LABELS, 0.1)


# -------------------------------------------------------------------- the table


ENTRY = {
  'weights_l1': 148.6,
  'shift': 37.1,
  'clean_error': 0.015,
  'fgsm_error': 0.9,
  'fgsm_in_box_error': 0.8,
  'largest_difference': 1.2e-7,
  'num_compared': 1990,
  'num_vanished': 10,
}
OTHER = ENTRY | {
  'clean_error': 0.025,
  'largest_difference': 0.0,
  'num_compared': 2000,
  'num_vanished': 0,
}


def test_one_seed_stays_as_it_is():
  merged = merge_seeds([ENTRY], 2000)
  assert {name: merged[name] for name in ENTRY} == ENTRY
  assert {name for name in merged if name not in ENTRY} == {
    'clean_error_ci',
    'fgsm_error_ci',
    'fgsm_in_box_error_ci',
  }


def test_several_seeds_are_averaged_and_counts_added():
  merged = merge_seeds([ENTRY, OTHER], 2000)
  assert merged['clean_error'] == pytest.approx(0.02)
  assert merged['clean_error_std'] == pytest.approx(0.01 / 2**0.5)
  low, high = merged['clean_error_ci']
  assert low < 0.02 < high
  assert merged['largest_difference'] == 1.2e-7
  assert 'largest_difference_std' not in merged
  assert (merged['num_compared'], merged['num_vanished']) == (3990, 10)


def test_the_table_has_a_row_a_member_and_says_what_was_left_out():
  entries = {
    'plain': merge_seeds([ENTRY], 2000),
    'several': merge_seeds([ENTRY, OTHER], 2000),
  }
  lines = format_table(entries).splitlines()
  assert len(lines) == 5
  assert len({len(line) for line in lines[:3]}) == 1
  row = re.split(r'  +', lines[1])
  assert row == ['plain', '1.50 %', '90.00 %', '80.00 %', '148.6', '37.1']
  assert re.split(r'  +', lines[2])[:2] == ['several', '2.00 ± 0.71 %']
  assert '1.2e-07 (1,990 images' in lines[3] and 'on 10 others' in lines[3]
  assert '3,990 images' in lines[4]
