"""The tutorials' pictures of images, and triptychs."""

import matplotlib
import numpy as np
import pytest
from matplotlib.colors import to_rgb
from matplotlib.offsetbox import AnnotationBbox, TextArea

from advjax.reporting.pictures import (
  nsl_grid,
  prediction_grid,
  random_indices,
  triptychs,
)


@pytest.fixture
def rng():
  return np.random.default_rng(0)


def shown(ax):
  return np.asarray(ax.images[0].get_array())


def title_parts(ax):
  (box,) = [a for a in ax.artists if isinstance(a, AnnotationBbox)]
  return [area.get_children()[0] for area in box.findobj(TextArea)]


def test_nsl_grid_is_the_tutorials_picture(rng):
  images = rng.uniform(size=(40, 6, 6, 1)).astype(np.float32)
  labels, base, adv = rng.integers(0, 10, (3, 40))
  figure = nsl_grid(images, labels, base, adv)
  assert tuple(figure.get_size_inches()) == (15, 15)
  assert len(figure.axes) == 32
  for i, ax in enumerate(figure.axes):
    spec = ax.get_subplotspec()
    assert spec.get_geometry() == (8, 4, i, i)
    assert (
      ax.get_title() == f'true: {labels[i]}, base: {base[i]}, adv: {adv[i]}'
    )
    assert not ax.axison
    assert ax.images[0].get_cmap().name == 'gray'
    assert ax.images[0].get_clim() == (0, 1)
    np.testing.assert_array_equal(shown(ax), images[i, ..., 0])


def test_nsl_grid_names_the_classes():
  names = ['oboe', 'a class of many words indeed']
  classes = np.array([1]), np.array([0]), np.array([2])
  (ax,) = nsl_grid(np.zeros((1, 5, 4, 3)), *classes, names).axes
  short = 'a class of many words i…'
  assert ax.get_title() == f'true: {short}, base: oboe, adv: 2'
  assert ax.title.get_fontsize() < 12


@pytest.mark.parametrize('num', [1, 7])
def test_nsl_grid_of_fewer_images(num):
  zeros = np.zeros(num, int)
  figure = nsl_grid(np.zeros((num, 5, 4)), zeros, zeros, zeros)
  assert len(figure.axes) == num


def test_images_of_bytes_and_out_of_range():
  zeros = np.zeros(1, int)
  for images, expected in (
    (np.full((1, 2, 2, 3), 51, np.uint8), 0.2),
    (np.full((1, 2, 2, 3), 1.5, np.float64), 1.0),
    (np.full((1, 2, 2), -0.5, np.float32), 0.0),
    (np.full((1, 2, 2), np.nan, np.float32), 0.0),
  ):
    ax = nsl_grid(images, zeros, zeros, zeros).axes[0]
    np.testing.assert_allclose(shown(ax), expected, rtol=1e-6)


def test_prediction_grid_colours_the_class_alone(rng):
  images = rng.uniform(size=(20, 4, 4, 3))
  labels = rng.integers(0, 3, 20)
  predictions = (labels + rng.integers(0, 2, 20)) % 3
  names = ['cat', '$5 bill', 'oboe']
  figure = prediction_grid(images, predictions, labels, 3, names)
  indices = random_indices(20, 3)
  assert len(figure.axes) == len(set(indices)) == 16
  right = predictions[indices] == labels[indices]
  assert 0 < right.sum() < 16  # Else the colours below prove nothing.
  for ax, index, good in zip(figure.axes, indices, right, strict=True):
    np.testing.assert_allclose(shown(ax), images[index], rtol=1e-6)
    words, value = title_parts(ax)
    assert words.get_text() == 'Prediction: '
    name = names[predictions[index]]
    assert value.get_text().replace('\\', '') == name
    red, green, _ = to_rgb(value.get_color())
    assert (green > red) == good
    assert to_rgb(words.get_color()) == (0, 0, 0)
  figure.draw_without_rendering()


def test_prediction_grid_depends_on_the_seed_alone():
  assert list(random_indices(50, 1)) == list(random_indices(50, 1))
  assert list(random_indices(50, 1)) != list(random_indices(50, 2))
  assert sorted(random_indices(5, 0)) == [0, 1, 2, 3, 4]


def test_triptychs_show_the_signed_amplified_perturbation():
  clean = np.full((3, 4, 4, 1), 0.5, np.float32)
  adversarial = clean.copy()
  adversarial[0, 0, 0] += 0.1
  adversarial[1, 0, 1] -= 0.05
  labels = np.array([1, 2, 3])
  wrong = np.array([1, 2, 9])
  figure = triptychs(clean, adversarial, labels, labels, wrong, num=2)
  assert len(figure.axes) == 6
  tops, middles, bottoms = (
    figure.axes[::3],
    figure.axes[1::3],
    figure.axes[2::3],
  )
  for ax in middles:
    assert ax.get_title() == 'perturbation\nx 10'
    low, high = ax.images[0].get_clim()
    assert low == -high
  np.testing.assert_allclose(shown(middles[0])[0, 0], 1, rtol=1e-5)
  np.testing.assert_allclose(shown(middles[1])[0, 1], -0.5, rtol=1e-5)
  color = matplotlib.colormaps[middles[0].images[0].get_cmap().name]
  assert min(color(0.5)[:3]) > 0.9  # No change is white.
  assert tops[0].get_title() == 'clean, true: 1\npredicted: 1'
  assert bottoms[1].get_title() == 'adversarial, true: 2\npredicted: 2'


def test_triptychs_of_colours_show_the_largest_channel():
  clean = np.full((1, 2, 2, 3), 0.5)
  adversarial = clean + np.array([0.01, -0.04, 0.02])
  zeros = np.zeros(1, int)
  figure = triptychs(clean, adversarial, zeros, zeros, zeros)
  np.testing.assert_allclose(shown(figure.axes[1]), -1, rtol=1e-4)
  assert figure.axes[1].get_title() == 'perturbation\nx 25'


def test_triptychs_of_an_attack_that_changed_nothing():
  images, zeros = np.zeros((1, 2, 2)), np.zeros(1, int)
  figure = triptychs(images, images, zeros, zeros, zeros)
  assert figure.axes[1].get_title() == 'perturbation\nx 1'


def test_bad_input_is_named():
  zeros = np.zeros(2, int)
  images = np.zeros((2, 4, 4, 1))
  with pytest.raises(ValueError, match=r'one or three .*\(2, 4, 4, 2\)'):
    nsl_grid(np.zeros((2, 4, 4, 2)), zeros, zeros, zeros)
  with pytest.raises(ValueError, match='no image'):
    nsl_grid(images[:0], zeros[:0], zeros[:0], zeros[:0])
  with pytest.raises(ValueError, match=r"lengths differ.*'labels': 1"):
    prediction_grid(images, zeros, zeros[:1], 0)
  with pytest.raises(ValueError, match='adversarial has shape'):
    triptychs(images, np.zeros((2, 5, 5, 1)), zeros, zeros, zeros)
