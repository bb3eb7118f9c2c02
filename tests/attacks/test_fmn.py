"""The fast minimum-norm attack: closed forms, independent rows."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from advjax.attacks import fmn
from tests import compiles
from tests.attacks import closest

pytestmark = pytest.mark.usefixtures('quick_compiles')
each_norm = pytest.mark.parametrize('norm', ['l2', 'linf', 'l1'])


@each_norm
def test_finds_the_closed_form_of_a_linear_network(norm):
  found = fmn(
    closest.LINEAR, closest.LINEAR_IMAGES, closest.LINEAR_LABELS, norm=norm
  )
  assert np.all(closest.linear_predictions(found) != closest.LINEAR_LABELS)
  moved = np.asarray(found, float) - closest.LINEAR_IMAGES
  ratio = closest.sizes(moved, norm) / closest.linear_distances(norm)
  assert np.all((ratio > 1 - 1e-4) & (ratio < 1.02))


def test_nearer_than_a_line_search_along_the_gradient():
  found = fmn(closest.MLP, closest.IMAGES, closest.LABELS)
  assert np.all(closest.predictions(found) != closest.LABELS)
  size = closest.sizes(np.asarray(found) - closest.IMAGES, 'l2')
  assert size[7] == 0
  assert np.all(size[:7] <= 1.02 * closest.line_search('l2')[:7])


def test_targets():
  found = fmn(
    closest.MLP, closest.IMAGES, closest.LABELS, targets=closest.TARGETS
  )
  # On the boundary, the rounding of float32 logits may decide.
  hit = closest.margins(found, closest.TARGETS) < 1e-6
  still = np.all(np.asarray(found) == closest.IMAGES, axis=1)
  assert hit.sum() >= 6 and np.all(hit != still)
  # Classified as the target from the beginning.
  labels = (closest.predictions(closest.IMAGES) + 2) % 4
  targets = closest.predictions(closest.IMAGES)
  found = fmn(closest.MLP, closest.IMAGES, labels, targets=targets)
  assert np.asarray(found).tobytes() == closest.IMAGES.tobytes()


def test_rows_do_not_see_each_other():
  others = np.concatenate([closest.IMAGES[:4], closest.IMAGES[:3:-1]])
  first, second = (
    fmn(closest.MLP, x, closest.LABELS) for x in (closest.IMAGES, others)
  )
  np.testing.assert_array_equal(np.asarray(first)[:4], np.asarray(second)[:4])


def test_rows_in_trouble():
  closest.check_trouble(fmn, norm='linf')


def test_float64():
  images = closest.IMAGES.astype(np.float64)
  with jax.enable_x64(True):
    found = fmn(closest.MLP64, images, closest.LABELS)
  assert found.dtype == np.float64
  assert np.all(closest.predictions(found) != closest.LABELS)
  single = fmn(closest.MLP, closest.IMAGES, closest.LABELS)
  ratio = closest.sizes((np.asarray(found) - images)[:7], 'l2')
  ratio /= closest.sizes((np.asarray(single) - images)[:7], 'l2')
  np.testing.assert_allclose(ratio, 1, atol=0.02)


def test_bfloat16():
  images = jnp.asarray(closest.IMAGES, 'bfloat16')
  found = fmn(closest.MLP, images, closest.LABELS, norm='l1')
  assert found.dtype == images.dtype
  wide = np.asarray(found, np.float64)
  assert np.all((wide >= 0) & (wide <= 1))
  assert np.all(closest.predictions(found) != closest.LABELS)
  size = closest.sizes(wide - np.asarray(images, np.float64), 'l1')
  assert np.all(size[:7] <= 1.05 * closest.line_search('l1')[:7])


def test_without_bounds():
  images = closest.LINEAR_IMAGES + 3
  found = fmn(closest.LINEAR, images, np.int32([0, 1, 0, 1]), bounds=None)
  assert np.all(closest.linear_predictions(found) == [1, 0, 1, 0])


def test_a_new_network_does_not_compile_again():
  networks = [
    jax.tree.map(lambda x, s=s: jax.block_until_ready(s * x), closest.LINEAR)
    for s in (2, 3)
  ]
  arguments = closest.LINEAR_IMAGES, closest.LINEAR_LABELS
  fmn(closest.LINEAR, *arguments)
  with compiles.counted() as count:
    found = [fmn(f, *arguments) for f in networks]
  assert count == [0]
  np.testing.assert_allclose(*found, atol=1e-3)


def test_errors():
  closest.check_errors(
    fmn,
    [
      *closest.COMMON_ERRORS,
      ({'norm': 'l0'}, r"norm must be one of \['l1', 'l2', 'linf'\]; got 'l0'"),
      ({'gamma': 1}, 'gamma must be at least 0 and below 1; got 1.0'),
      ({'step_size': None}, 'step_size must be a Python number of at least 0'),
      ({'targets': closest.TARGETS + 4}, r'targets must lie in \[0, 4\)'),
    ],
  )
