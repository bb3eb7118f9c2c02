"""AutoAttack as a whole: what it returns, checks, saves and resumes from."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.tree_util import Partial

import advjax
from advjax.evaluation.autoattack import summarise, versions
from advjax.evaluation.logits import NotFinite

RNG = np.random.default_rng(0)
IMAGES = RNG.uniform(0.2, 0.8, size=(24, 6)).astype(np.float32)
KEY = jax.random.key(5)


def apply(weights, images):
  return (images - 0.5) @ weights


def linear(num_classes):
  """A linear network, and labels of which most are right."""
  weights = RNG.normal(size=(6, num_classes)).astype(np.float32)
  labels = apply(weights, IMAGES).argmax(-1)
  labels[:3] = (labels[:3] + 1) % num_classes
  return Partial(apply, jnp.asarray(weights)), labels, weights


NETWORK, LABELS, WEIGHTS = linear(5)


def attack(network=NETWORK, labels=LABELS, epsilon=0.05, **options):
  options = {'key': KEY, 'attacks': ['apgd-ce'], **options}
  return advjax.autoattack(network, IMAGES, labels, epsilon, **options)


def largest_robust(weights, labels, order):
  """The closed form: distance to the nearest class over the dual norm."""
  logits = apply(weights.astype(np.float64), IMAGES)
  rows = np.arange(len(labels))
  gaps = logits[rows, labels][:, None] - logits
  slopes = weights.T[labels][:, None] - weights.T[None]
  dual = {'linf': 1, 'l2': 2}[order]
  sizes = np.linalg.norm(slopes, dual, axis=-1)
  sizes[rows, labels], gaps[rows, labels] = 1, np.inf
  return (gaps / sizes).min(1)


@pytest.mark.parametrize(
  ('norm', 'num_classes', 'names'),
  [
    ('linf', 5, ['apgd-t', 'fab-t']),
    # Too few classes for DLR.
    ('l2', 2, ['apgd-dlr']),
  ],
)
def test_it_fools_what_can_be_fooled(norm, num_classes, names):
  network, labels, weights = linear(num_classes)
  limits = largest_robust(weights, labels, norm)
  epsilon = float(np.median(limits))
  # Close to the limit rounding decides; the box is out of reach.
  sure = np.abs(limits - epsilon) > 0.02 * epsilon
  for name in names:
    result = attack(network, labels, epsilon, norm=norm, attacks=[name])
    np.testing.assert_array_equal(
      result.robust[sure], (limits > epsilon)[sure], err_msg=name
    )
    np.testing.assert_array_equal(result.clean, limits > 0)


def test_every_attack_runs_on_what_is_still_robust():
  limits = largest_robust(WEIGHTS, LABELS, 'linf')
  epsilon = float(np.median(limits))
  names = ['apgd-ce', 'fab-t']
  result = attack(epsilon=epsilon, attacks=names)
  assert list(result.per_attack) == names and not result.warnings
  first, second = result.per_attack.values()
  assert first.num_fooled == (result.clean & ~first.robust).sum() > 5
  assert second.num_fooled == (first.robust & ~second.robust).sum()
  np.testing.assert_array_equal(result.robust, second.robust)
  # Passes: of 101 steps, fewer for what is fooled earlier.
  robust = int(first.robust.sum())
  tried = int(result.clean.sum())
  assert 101 * robust <= first.num_forward <= 101 * tried
  assert first.num_backward == first.num_forward
  assert second.num_forward <= robust * 4 * 2 * 101
  assert min(first.seconds, first.compile_seconds) > 0
  report = summarise(result, epsilon, 'linf', 'standard')
  assert report.accuracy.value == result.robust.mean()
  assert [each.name for each in report.attacks] == names
  assert report.attacks[0].forward == first.num_forward
  # Images are adversarial or the originals.
  fooled = result.clean & ~result.robust
  predictions = np.asarray(NETWORK(result.images)).argmax(-1)
  assert (predictions[fooled] != LABELS[fooled]).all() and fooled.sum() > 5
  assert result.images[~fooled].tobytes() == IMAGES[~fooled].tobytes()
  moved = np.abs(result.images.astype(np.float64) - IMAGES)
  assert moved.max() <= epsilon * (1 + 1e-6)


def test_epsilon_zero_fools_nothing(capsys):
  """And a progress bar is drawn where it is wanted."""
  result = attack(epsilon=0.0, progress=True)
  np.testing.assert_array_equal(result.robust, result.clean)
  assert result.images.tobytes() == IMAGES.tobytes()
  shown = capsys.readouterr().err
  assert 'apgd-ce' in shown and '100%' in shown


def test_no_flag_depends_on_batches_or_devices():
  epsilon = float(np.median(largest_robust(WEIGHTS, LABELS, 'linf')))
  found, expected = (
    attack(epsilon=epsilon, attacks=['apgd-t'], **options)
    for options in ({'batch_size': 5, 'devices': jax.devices()}, {})
  )
  np.testing.assert_array_equal(found.robust, expected.robust)


def test_a_part_of_the_images_draws_as_it_does_among_all():
  """Where Square's windows are depends on the keys alone."""
  options = {'attacks': ['square'], 'epsilon': 0.3, 'batch_size': 24}
  whole = attack(**options)
  images, labels = IMAGES[10:], LABELS[10:]
  part, other = (
    advjax.autoattack(NETWORK, images, labels, first=i, key=KEY, **options)
    for i in (10, 0)
  )
  np.testing.assert_allclose(part.images, whole.images[10:], atol=1e-6)
  assert not np.allclose(other.images, part.images)


def test_rand_averages_over_draws():
  limits = largest_robust(WEIGHTS, LABELS, 'linf')
  epsilon = float(np.median(limits))

  def noisy(images, key):
    # Cheaper than a draw: a word of the key, from 0 to 0.02.
    word = jax.random.key_data(key)[0].astype(jnp.float32) / 2.0**32
    return NETWORK(images) + 0.02 * word * (jnp.arange(5) == LABELS[0])[None]

  result = attack(noisy, epsilon=epsilon, version='rand', attacks='apgd-dlr')
  sure = np.abs(limits - epsilon) > 0.3 * epsilon
  assert sure.sum() > 10
  np.testing.assert_array_equal(result.robust[sure], (limits > epsilon)[sure])
  assert result.per_attack['apgd-dlr'].num_forward % 20 == 0
  assert not result.warnings


# -------------------------------------------------------------------- versions


def test_versions_are_those_of_the_paper():
  assert versions.attack_names('standard', None) == [
    'apgd-ce',
    'apgd-t',
    'fab-t',
    'square',
  ]
  assert versions.attack_names('rand', None) == ['apgd-ce', 'apgd-dlr']
  table = {
    name: versions.make_component(name, 'standard', 'linf', 10)
    for name in versions.ATTACKS
  }
  assert [c.num_targets for c in table.values()] == [
    None, None, 9, None, 9, None,
  ]  # fmt: skip
  assert {c.num_restarts for c in table.values()} == {1}
  assert table['apgd-ce'].search.num_steps == 101
  assert table['square'].search.num_steps == 5000
  assert table['square'].search.num_backward == 0
  # The second paper's numbers for l1, the larger ones of plus, few classes.
  make = versions.make_component
  assert make('apgd-ce', 'standard', 'l1', 10).num_restarts == 5
  assert make('apgd-t', 'standard', 'l1', 10).num_targets == 5
  assert make('apgd-dlr', 'plus', 'linf', 10).num_restarts == 5
  assert make('apgd-t', 'plus', 'l1', 10).num_targets == 9
  assert make('apgd-ce', 'rand', 'l1', 10).num_restarts == 1
  assert make('fab-t', 'standard', 'linf', 3).num_targets == 2
  same = make('apgd-t', 'standard', 'linf', 10).search
  assert same is table['apgd-t'].search
  assert make('apgd-ce', 'rand', 'linf', 10).search.num_forward == 20


# -------------------------------------------------------------------- bad input


@pytest.mark.parametrize(
  ('options', 'message'),
  [
    ({'version': 'full'}, "version = 'full'; allowed: 'standard', 'plus'"),
    ({'attacks': ['pgd']}, r"\['pgd'\] with version 'standard'; allowed: one"),
    ({'attacks': []}, r'attacks = \[\] with'),
    (
      {'attacks': ['fab'], 'version': 'rand'},
      "more of 'apgd-ce', 'apgd-dlr', each",
    ),
    ({'labels': LABELS + 0.5, 'version': 'rand'}, 'labels = float'),
    ({'key': None}, 'key = None; allowed: one key'),
    ({'attacks': ['fab', 'fab']}, 'each once'),
    ({'norm': 'l0'}, "norm = 'l0'; allowed: 'linf', 'l2', 'l1'"),
    ({'epsilon': [0.1, 0.2]}, r'epsilon = \[0.1, 0.2\]; allowed: one number'),
    ({'epsilon': -1.0}, 'epsilon = -1.0; allowed: finite numbers >= 0'),
    ({'bounds': (0.0, 0.5)}, 'images = .*; allowed: finite and inside bounds'),
    (
      {'bounds': (np.zeros((24, 6)), None)},
      'bounds of shapes .*; allowed: what broadcasts',
    ),
    ({'labels': LABELS + 5}, 'labels = .*; allowed: classes in'),
    ({'batch_size': 0}, 'batch_size = 0; allowed: an integer >= 1'),
    (
      {'key': jax.random.wrap_key_data(np.zeros((24, 2), np.uint32))},
      r'key has shape \(24,\); allowed: one key',
    ),
  ],
)
def test_bad_input_is_named(options, message):
  with pytest.raises(ValueError, match=message):
    attack(**options)


def test_probabilities_and_nan_are_refused():
  with pytest.raises(ValueError, match='returns probabilities'):
    attack(lambda images: jax.nn.softmax(NETWORK(images)))
  with pytest.raises(NotFinite, match='not finite for 24 of 24'):
    attack(lambda images: NETWORK(images) * jnp.nan)


def test_traced_values_are_refused():
  with pytest.raises(ValueError, match='runs on the host'):
    jax.jit(lambda epsilon: attack(epsilon=epsilon).robust)(0.1)


# --------------------------------------------------------- saving and resuming


def stop_at(monkeypatch, name):
  """The attack of that name fails: what came before is saved."""
  make = versions.make_component

  def stopping(wanted, *args):
    if wanted == name:
      raise KeyboardInterrupt
    return make(wanted, *args)

  monkeypatch.setattr(versions, 'make_component', stopping)


def test_a_stopped_run_resumes(monkeypatch, tmp_path):
  epsilon = float(np.median(largest_robust(WEIGHTS, LABELS, 'linf')))
  names, path = ['apgd-ce', 'fab-t'], '~/new/saved.npz'
  monkeypatch.setenv('HOME', str(tmp_path))
  whole = attack(epsilon=epsilon, attacks=names)
  with monkeypatch.context() as context:
    stop_at(context, 'fab-t')
    with pytest.raises(KeyboardInterrupt):
      attack(epsilon=epsilon, attacks=names, path=path)
  assert [each.name for each in (tmp_path / 'new').iterdir()] == ['saved.npz']
  stop_at(monkeypatch, 'apgd-ce')  # It is not run again.
  result = attack(epsilon=epsilon, attacks=names, path=path)
  np.testing.assert_array_equal(result.robust, whole.robust)
  assert result.images.tobytes() == whole.images.tobytes()
  assert list(result.per_attack) == names
  first = result.per_attack['apgd-ce']
  assert first.num_forward == whole.per_attack['apgd-ce'].num_forward
  # Now all of it is there: nothing is attacked at all.
  stop_at(monkeypatch, 'fab-t')
  again = attack(epsilon=epsilon, attacks=names, path=path)
  np.testing.assert_array_equal(again.robust, whole.robust)


def test_a_file_of_another_run_is_left_alone(tmp_path):
  path = tmp_path / 'saved.npz'
  attack(epsilon=0.01, path=path)
  before = path.read_bytes()
  other = Partial(apply, -jnp.asarray(WEIGHTS))
  for options, message in [
    ({'epsilon': 0.02}, 'epsilon: 0.01 there, 0.02 requested'),
    ({'epsilon': 0.01, 'norm': 'l2'}, 'norm: linf there, l2 requested'),
    ({'epsilon': 0.01, 'network': other}, 'logits of the network differ'),
    ({'epsilon': 0.01, 'attacks': ['fab']}, 'attacks: apgd-ce there'),
    ({'epsilon': 0.01, 'key': jax.random.key(6)}, 'key differ'),
    ({'epsilon': 0.01, 'first': 3}, 'key differ'),
    ({'epsilon': 0.01, 'network': masked}, r'\(norms of its gradients differ'),
  ]:
    with pytest.raises(ValueError, match=message):
      attack(path=path, **options)
  path.write_bytes(before[:100])
  with pytest.raises(ValueError, match='holds no state of AutoAttack'):
    attack(epsilon=0.01, path=path)
  assert path.read_bytes() == before[:100]


# -------------------------------------------------------------------- warnings


@jax.custom_vjp
def masked(images):
  """The network without gradients."""
  return NETWORK(images)


masked.defvjp(
  lambda images: (masked(images), images),
  lambda images, _: (jnp.zeros_like(images),),
)


def test_square_after_masked_gradients_is_a_warning():
  # So large that Square is soon done.
  epsilon = 2 * float(largest_robust(WEIGHTS, LABELS, 'linf').max())
  result = attack(masked, epsilon=epsilon, attacks=['apgd-ce', 'square'])
  assert result.per_attack['square'].num_fooled > 3
  (warning,) = (w for w in result.warnings if 'Square' in w)
  assert 'the gradients may be masked' in warning
  # Nothing ran before it: whatever it finds says nothing about gradients.
  reverse = ['square', 'apgd-ce']
  assert not attack(masked, epsilon=epsilon, attacks=reverse).warnings


def test_infinite_logits_of_what_was_found_are_a_warning():
  far = IMAGES.max() + 0.01

  def network(images):
    beyond = images.max(-1, keepdims=True) > far
    first = jnp.arange(5)[None] == 0
    return jnp.where(beyond & first, jnp.inf, NETWORK(images))

  result = attack(network, epsilon=0.1)
  assert any('not finite' in warning for warning in result.warnings)
