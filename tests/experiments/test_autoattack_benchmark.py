"""The comparison with torchattacks, as far as it needs no PyTorch."""

import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import advjax
from advjax import data
from experiments.benchmarks.autoattack import network, rows, sides

OWN = network.load(network.OWN)

# --------------------------------------------------------- the tests' own file


def test_the_file_is_small_and_its_images_are_ours():
  assert network.OWN.stat().st_size < 400_000
  dataset = data.load({'name': 'digits'})
  images = np.asarray(data.to_float(dataset.test.images[:64]))
  np.testing.assert_array_equal(OWN.images, images)
  np.testing.assert_array_equal(OWN.labels, dataset.test.labels[:64])


def test_flags_are_those_of_this_network():
  kernels = jax.tree.map(jnp.asarray, dict(OWN.kernels))
  images = jnp.asarray(OWN.images)
  logits = jax.jit(network.logits)(kernels, images)
  right = np.asarray(logits.argmax(-1)) == OWN.labels
  assert 0.9 < right.mean() < 1
  for norm in network.EPSILONS:
    robust = OWN.robust[norm]
    assert set(robust) == {*network.ATTACKS, 'autoattack'}
    for flags in robust.values():
      assert flags.shape == (3, 64) and flags.dtype == bool
      assert not (flags & ~right).any()
      assert 0.4 < flags.mean() < 0.8
    each = [robust[name] for name in network.ATTACKS]
    np.testing.assert_array_equal(robust['autoattack'], np.all(each, axis=0))


def test_a_file_that_is_not_there_or_not_whole_is_named(tmp_path):
  with pytest.raises(ValueError, match=r"no file '.*none.npz'"):
    network.load(tmp_path / 'none.npz')
  path = tmp_path / 'part.npz'
  np.savez(path, images=OWN.images, labels=OWN.labels, **OWN.kernels)
  with pytest.raises(ValueError, match='lacks robust_l2_apgd_ce, robust_l2_ap'):
    network.load(path)


# -------------------------------------------------------------------- the sides


def test_other_side_is_asked_for_the_standard_version():
  asked = []

  def run_job(job, arrays):
    asked.append(job)
    assert set(arrays) == {*network.KERNELS, 'images', 'labels'}
    robust = np.zeros(len(arrays['labels']), bool)
    return {'robust': robust, 'seconds': np.asarray(2.0)}

  stand, seconds = sides.their_attack(OWN, run_job, seed=3)('l2', 'fab-t')
  assert stand.shape == (64,) and seconds == 2
  assert asked == [
    {
      'task': 'flags',
      'attack': 'fab-t',
      'norm': 'l2',
      'epsilon': 1.0,
      'seed': 3,
      'num_steps': 100,
      'num_queries': 5000,
    }
  ]


def test_our_side_runs_one_attack(monkeypatch):
  asked = []

  def autoattack(logits_fn, images, labels, epsilon, *, key, norm, attacks):
    asked.append((logits_fn.func, epsilon, norm, attacks, key.shape))
    return types.SimpleNamespace(robust=labels == 1)

  monkeypatch.setattr(advjax, 'autoattack', autoattack, raising=False)
  stand, seconds = sides.our_attack(OWN)('linf', 'square')
  assert asked == [(network.logits, 0.1, 'linf', ['square'], ())]
  np.testing.assert_array_equal(stand, OWN.labels == 1)
  assert seconds >= 0


def test_images_start_again_where_there_are_too_few():
  taken = sides.first(OWN, 130)
  assert taken.images.shape == (130, 28, 28, 1)
  np.testing.assert_array_equal(taken.labels[128:], OWN.labels[:2])
  assert sides.first(OWN, 2).labels.shape == (2,)


# --------------------------------------------------------------------- the rows


def side(name, calls, stand, seconds):
  spent = {attack: iter(values) for attack, values in seconds.items()}

  def run(norm, attack):
    calls.append((name, norm, attack))
    return np.array(stand[attack]), next(spent[attack])

  return run


def test_sides_take_turns_and_compiling_stands_apart():
  calls = []
  ours = side(
    'ours',
    calls,
    {'a': [True, True, False], 'b': [True, False, False]},
    {'a': [9.0, 1.0, 3.0, 2.0], 'b': [5.0, 1.0, 1.0, 1.0]},
  )
  theirs = side(
    'theirs',
    calls,
    {'a': [True, False, False], 'b': [True, True, False]},
    {'a': [8.0, 9.0, 7.0], 'b': [4.0, 4.0, 4.0]},
  )
  found = rows.compare_attacks(ours, theirs, ['l2'], ['a', 'b'], 3)
  turns = ['ours'] + 3 * ['ours', 'theirs']
  assert calls == [(who, 'l2', attack) for attack in 'ab' for who in turns]
  first, second, both = found
  assert first['stand'] == {'ours': 2, 'theirs': 1}
  assert first['only_ours_stand'] == 1 and second['only_ours_stand'] == 0
  assert first['ours']['seconds'] == 2 and first['compile_seconds'] == 7
  assert first['times_as_fast'] == 4
  assert both['attack'] == 'all'
  assert both['stand'] == {'ours': 1, 'theirs': 1}
  assert both['times_as_fast'] == 12 / 3
  assert both['compile_seconds'] == 11
  lines = rows.attacks_table(found).splitlines()
  assert lines[2] == '| l2 | a | 2 | 1 | 1 | 2.00 | 8.00 | 4.00 | 7.0 |'
  assert lines[4] == '| l2 | all | 1 | 1 | 0 | 3.00 | 12.00 | 4.00 | 11.0 |'
