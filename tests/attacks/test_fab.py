"""FAB: what it finds, in which distance, and that rows keep to themselves."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.attacks import cases, hyperplane_reference
from tests.attacks.fab_cases import (
  FAR,
  IMAGES,
  ORDERS,
  B,
  D,
  K,
  attack,
  distance,
  net,
  numpy_logits,
  predicted,
)
from tests.compiles import counted

pytestmark = pytest.mark.usefixtures('quick_compiles')
each_norm = pytest.mark.parametrize('norm', cases.NORMS)


# ------------------------------------------------------------- what it finds


@pytest.mark.parametrize('bounds', [None, (0.0, 1.0)])
@pytest.mark.parametrize(
  ('norm', 'targeted'),
  [*((norm, False) for norm in cases.NORMS), ('l2', True)],
)
def test_finds_the_closed_form_on_a_linear_network(norm, targeted, bounds):
  # Two classes: the third one is never predicted.
  bias = np.array([0.1, -0.1, -1e3], np.float32)
  model = net(curved=0.0, bias=bias)
  labels = predicted(model)
  assert set(labels) == {0, 1}
  result = attack(
    model,
    norm=norm,
    bounds=bounds,
    targets=1 - labels if targeted else None,
  )
  assert np.all(predicted(model, result) == 1 - labels)
  weights = np.float64(model.w1) @ np.float64(model.w2)
  active = False
  for i, x in enumerate(np.float64(IMAGES).reshape(B, D)):
    w = weights[:, 1 - labels[i]] - weights[:, labels[i]]
    logits = numpy_logits(model, IMAGES[i : i + 1])[0]
    gap = logits[labels[i]] - logits[1 - labels[i]]
    box = (-x, 1 - x) if bounds else (x - np.inf, x + np.inf)
    step = hyperplane_reference.shortest_step(norm, w, gap, *box)
    active |= np.any((step == box[0]) | (step == box[1]))
    exact = np.linalg.norm(step, ORDERS[norm])
    found = distance(norm, result)[i]
    assert exact - 1e-6 <= found <= 1.01 * exact
  assert active == (bounds is not None)


@each_norm
def test_not_worse_than_bisection_on_the_way(norm):
  """On the way to what is found, there is no class but the label's."""
  model = net()
  result = attack(model, norm=norm)
  labels = predicted(model)
  assert np.all(predicted(model, result) != labels)
  for part in np.linspace(0, 0.98, 50):
    on_the_way = IMAGES + part * (np.float64(result) - IMAGES)
    np.testing.assert_array_equal(predicted(model, on_the_way), labels)


@each_norm
def test_not_worse_than_the_first_direction(norm):
  """The first steps, as far as it takes to fool, are not nearer."""
  model = net()
  labels = predicted(model)
  found = distance(norm, attack(model, norm=norm))
  x = np.float64(IMAGES).reshape(B, D)
  nudge = 1e-5 * np.eye(D)
  ahead, behind = (
    numpy_logits(model, (x[:, None] + side * nudge).reshape(-1, D))
    for side in (1, -1)
  )
  gradient = ((ahead - behind) / 2e-5).reshape(B, D, K)
  logits = numpy_logits(model, x)
  for i, other in np.ndindex(B, K):
    if other == labels[i]:
      continue
    w = gradient[i, :, other] - gradient[i, :, labels[i]]
    gap = logits[i, labels[i]] - logits[i, other]
    box = -x[i], 1 - x[i]
    way = hyperplane_reference.shortest_step(norm, w, gap, *box)
    parts = np.linspace(0, 3, 301)[:, None]
    ways = np.clip(parts * way, *box)
    fooled = predicted(model, x[i] + ways) != labels[i]
    there = np.linalg.norm(ways[fooled], ORDERS[norm], axis=1)
    assert not np.any(found[i] > 1.02 * there)


# ------------------------------------------------- epsilon, targets, restarts


@each_norm
def test_returns_what_is_within_epsilon_and_else_the_original(norm):
  model = net()
  nearest = attack(model, norm=norm)
  factor = np.where(np.arange(B) % 2, 1 + 1e-4, 1 - 1e-4)
  epsilon = np.float32(factor * distance(norm, nearest))
  result = attack(model, epsilon=epsilon, norm=norm)
  for i in range(B):
    expected = nearest[i] if i % 2 else IMAGES[i]
    assert result[i].tobytes() == expected.tobytes()


@each_norm
def test_epsilon_zero_and_misclassified_images_keep_their_bits(norm):
  images = IMAGES.copy()
  images[0].flat[0] = -0.0
  model = net()
  wrong = (predicted(model, images) + 1) % K
  for labels, epsilon in ((None, np.zeros(B, np.float32)), (wrong, FAR)):
    result = attack(model, images, labels, epsilon, norm=norm)
    assert result.tobytes() == images.tobytes()


def test_targets_choose_the_hyperplane_and_any_class_is_a_success():
  model = net(curved=0.0)
  labels = predicted(model)
  weights = np.float64(model.w1) @ np.float64(model.w2)
  logits = numpy_logits(model, IMAGES)
  found = {}
  for shift in (1, 2):
    targets = (labels + shift) % K
    result = attack(model, targets=targets, bounds=None, norm='l2')
    assert np.all(predicted(model, result) != labels)
    rows = np.arange(B)
    w = weights[:, targets] - weights[:, labels]
    exact = (logits[rows, labels] - logits[rows, targets]) / np.linalg.norm(
      w, axis=0
    )
    found[shift] = distance('l2', result)
    # Another class may be in the way, and is a success too.
    hit = predicted(model, result) == targets
    np.testing.assert_allclose(found[shift][hit], exact[hit], rtol=0.01)
    assert hit.any() and np.all(found[shift] <= 1.02 * exact)
  untargeted = attack(model, bounds=None, norm='l2')
  nearest = np.minimum(found[1], found[2])
  np.testing.assert_allclose(distance('l2', untargeted), nearest, rtol=0.01)


def test_the_label_as_its_own_target_leads_nowhere():
  model = net()
  result = attack(model, targets=predicted(model), norm='l2', bounds=None)
  np.testing.assert_array_equal(result, IMAGES)


def test_restarts_only_come_nearer_and_follow_their_keys():
  # Far from the boundary and curved: there is more than one way out.
  model = net(curved=4.0, bias=np.array([4, 0, 0], np.float32))
  keys = jax.random.split(jax.random.key(0), B)
  restarts = {'num_restarts': 3, 'norm': 'l2'}
  before = distance('l2', attack(model, norm='l2'))
  result = attack(model, key=keys, **restarts)
  after = distance('l2', result)
  # Two programs may round differently.
  assert np.all(after <= before * (1 + 1e-6))
  assert np.any(after < 0.995 * before)
  assert np.any(attack(model, key=keys[::-1], **restarts) != result)
  turned = attack(model, IMAGES[::-1], key=keys[::-1], **restarts)
  np.testing.assert_array_equal(turned[::-1], result)


# ---------------------------------------------------------- rows and numbers


@each_norm
def test_rows_depend_on_themselves_alone(norm):
  model = net()
  together = attack(model, norm=norm)
  images = IMAGES[::-1].copy()
  images[2:4] = 0.5
  images[5] = IMAGES[0]
  result = attack(model, images, norm=norm)
  for i in (0, 1, 4, 6, 7):
    np.testing.assert_array_equal(result[i], together[B - 1 - i])


def test_alone_as_in_a_batch():
  model = net()
  together = attack(model, norm='l2')
  alone = attack(model, IMAGES[3:4], epsilon=FAR[:1], norm='l2')
  np.testing.assert_allclose(alone[0], together[3], atol=1e-5)


@pytest.mark.parametrize('targeted', [False, True])
def test_nan_logits_do_not_fool(targeted):
  model = net()
  images = IMAGES.copy()
  images[:, 0, 0, 0] = 0.5
  labels = predicted(model, images)
  targets = (labels + 1) % K if targeted else None

  def run(model):
    return attack(model, images, labels, targets=targets, norm='l2')

  np.testing.assert_array_equal(run(net(broken=-1.0)), images)
  # One way leads where the logits are NaN, whose argmax is 0.
  lured = (run(model)[:, 0, 0, 0] > 0.5) & (labels != 0)
  assert lured.any() and not lured.all()
  result = run(net(broken=0.5))
  assert np.isfinite(result).all() and np.all(result[:, 0, 0, 0] <= 0.5)
  moved = np.any(result != images, axis=(1, 2, 3))
  fooled = predicted(model, result) != labels
  np.testing.assert_array_equal(moved, fooled)
  assert moved.any()


@settings(max_examples=25)
@given(
  norm=st.sampled_from(cases.NORMS),
  epsilon=st.sampled_from([0.0, 1e-8, 1e-3, 8 / 255, 0.1, 0.7, 3.0]),
  border=st.sampled_from([None, 0, 1]),
  seed=st.integers(0, 2**31 - 1),
)
def test_inside_ball_and_box(norm, epsilon, border, seed):
  bounds = (-0.1, 0.9)  # Neither is a float.
  rng = np.random.default_rng(seed)
  images = rng.uniform(-0.09, 0.89, IMAGES.shape)
  if border is not None:
    images[seed % B] = bounds[border] * 0.996
  images = jnp.asarray(images, jnp.float32)
  labels = rng.integers(K, size=B)
  scale = rng.choice([0.01, 1, 100], B)
  epsilon = np.float32(epsilon * scale)
  model = net()
  result = attack(model, images, labels, epsilon, norm=norm, bounds=bounds)
  assert result.dtype == images.dtype and result.shape == images.shape
  wide = np.float64(result)
  assert np.all((wide >= bounds[0] - 1e-8) & (wide <= bounds[1] + 1e-8))
  tolerance = 1e-5 if norm == 'l1' else 1e-6
  moved = distance(norm, result, images)
  assert np.all(moved <= epsilon + tolerance * np.maximum(1, epsilon))
  unmoved = np.asarray(images)[moved == 0]
  assert result[moved == 0].tobytes() == unmoved.tobytes()
  assert not moved[epsilon == 0].any()


def test_a_loop_over_epsilons_compiles_once():
  def at(epsilon):
    return attack(net(), epsilon=np.full(B, epsilon, np.float32))

  at(0.5)
  with counted() as compilations:
    at(0.25)
    at(0.1)
  assert compilations == [0]
