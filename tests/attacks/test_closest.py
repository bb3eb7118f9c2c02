"""The closest images that fool, beside those that foolbox finds."""

import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from advjax.attacks import deepfool, fmn
from advjax.attacks.closest import Closest, nearer, predicts
from tests.attacks import closest

with warnings.catch_warnings():
  warnings.simplefilter('ignore')
  foolbox = pytest.importorskip('foolbox')

pytestmark = pytest.mark.usefixtures('quick_compiles')


def by_foolbox(attack):
  with jax.numpy_rank_promotion('allow'), warnings.catch_warnings():
    warnings.simplefilter('ignore')
    found = attack.run(
      foolbox.JAXModel(jax.jit(closest.MLP), bounds=(0, 1)),
      jnp.asarray(closest.IMAGES),
      jnp.asarray(closest.LABELS),
    )
  return np.asarray(found)


def test_only_what_is_nearer_and_fools_replaces():
  old = Closest(jnp.zeros((4, 1)), jnp.array([jnp.inf, 2.0, 2.0, 2.0]))
  sizes = jnp.array([9.0, 1.0, 3.0, 1.0])
  fooled = jnp.array([True, True, True, False])
  new = nearer(old, jnp.ones((4, 1)), sizes, fooled)
  np.testing.assert_array_equal(new.images[:, 0], [1, 1, 0, 0])
  np.testing.assert_array_equal(new.size, [9, 1, 2, 2])


def test_nan_predicts_nothing():
  logits = jnp.array([[jnp.nan, 1.0], [0.0, jnp.nan], [0.0, 1.0], [1.0, 0.0]])
  right, wrong = predicts(logits, jnp.array([1, 0, 1, 1]))
  np.testing.assert_array_equal(right, [False, False, True, False])
  np.testing.assert_array_equal(wrong, [False, False, False, True])


@pytest.mark.parametrize('norm', ['l2', 'linf'])
def test_deepfool(norm):
  name = {'l2': 'L2DeepFoolAttack', 'linf': 'LinfDeepFoolAttack'}[norm]
  found = deepfool(
    closest.MLP, closest.IMAGES, closest.LABELS, num_candidates=3, norm=norm
  )
  theirs = by_foolbox(getattr(foolbox.attacks, name)(candidates=3))
  assert np.all(closest.predictions(found) != closest.LABELS)
  assert np.asarray(found[7]).tobytes() == closest.IMAGES[7].tobytes()
  np.testing.assert_allclose(found, theirs, atol=1e-5)


def test_fmn():
  # Not l2, where foolbox does not project, nor l1, where it does not find
  # anything for some of these images.
  found = np.asarray(
    fmn(closest.MLP, closest.IMAGES, closest.LABELS, norm='linf')
  )
  theirs = by_foolbox(foolbox.attacks.LInfFMNAttack(steps=20))
  for images in (found, theirs):
    assert np.all(closest.predictions(images) != closest.LABELS)
  assert found[7].tobytes() == closest.IMAGES[7].tobytes()
  ours, theirs = (
    closest.sizes(x - closest.IMAGES, 'linf')[:7] for x in (found, theirs)
  )
  assert ours.mean() <= 1.01 * theirs.mean()
  assert np.all(ours <= 1.1 * theirs)
