"""The picture of a linear network's weights, and of what FGSM makes of them."""

import re

import numpy as np
import pytest
from matplotlib.colors import to_rgb

from advjax.reporting.linear import LinearMember, linear_figure

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


def panels(part):
  """The four panels of a member, without the colour bars."""
  return [ax for ax in part.axes if ax.get_label() != '<colorbar>']


def test_weights_and_signs_are_symmetric_about_zero(images):
  found = member(images)
  figure = linear_figure({'plain': found}, images, LABELS, 0.25)
  weights, signs, *_ = panels(figure.subfigs[0])
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
  first, second = figure.subfigs
  size = np.abs(members['plain'].weights).sum()
  for part, name, expected in (
    (first, 'plain', 0.25 * size),
    (second, r'half \$', 0.125 * size),
  ):
    title = part.get_suptitle()
    assert title.startswith(f'{name}: ')
    shift = re.search(r'= ([\d.]+)$', title)[1]
    assert float(shift) == pytest.approx(expected, rel=5e-3)
  assert [ax.get_title() for ax in panels(first)] == [
    'weights: red for three, blue for seven',
    'sign: added to seven, taken from three',
    'clean: 0.0 % wrong',
    'FGSM 0.25: 42.9 % wrong',
  ]
  assert panels(second)[2].get_title() == 'clean: 57.1 % wrong'
  figure.draw_without_rendering()


def test_images_stand_above_what_the_network_says_of_them(images):
  figure = linear_figure({'plain': member(images)}, images, LABELS, 0.25)
  *_, clean, perturbed = panels(figure.subfigs[0])
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


def test_at_most_ten_images_of_a_class():
  labels = np.arange(26) % 2
  images = np.zeros((26, 3, 3))
  found = LinearMember(np.zeros((3, 3)), images, labels, labels)
  figure = linear_figure({'untrained': found}, images, labels, 0.1)
  *_, clean, _ = panels(figure.subfigs[0])
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
