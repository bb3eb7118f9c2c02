"""The comparison of attacks, with foolbox on JAX, which the tests have."""

import pathlib
import sys

import jax
import numpy as np
import pytest

from advjax import data
from experiments.benchmarks.attacks import rows, sides
from experiments.benchmarks.attacks.measure import measure
from experiments.benchmarks.peers import foolbox_jax, process


@pytest.mark.slow
def test_foolbox_reaches_the_same_loss(monkeypatch):
  variants = {'foolbox on JAX': {'jit': True}}
  monkeypatch.setitem(sides.PEERS, 'foolbox_jax', variants)
  python = pathlib.Path(sys.executable)
  with process.started(foolbox_jax.PEER, python) as run_job:
    found = measure(
      ['fgsm'], 8, jax.devices(), {'foolbox_jax': run_job}, rounds=1
    )
  assert [row['name'] for row in found] == ['advjax', *variants]
  ours = found[0]
  assert ours['times_as_fast'] == 1
  for row in found:
    assert row['milliseconds'] > 0
    assert row['loss'] == pytest.approx(ours['loss'], rel=1e-4)
  line = rows.table(found).splitlines()[2]
  assert line.startswith('| fgsm | 8 | advjax |')


@pytest.mark.parametrize('wrong', [0.11, -0.11])
def test_what_is_no_attack_in_the_ball_is_an_error(wrong):
  dataset = data.load({'name': 'digits'})
  images = np.asarray(data.to_float(dataset.test.images[:2]))
  rows.check_perturbed(images, np.clip(images + 0.1, 0, 1), 0.1, 'peer')
  with pytest.raises(RuntimeError, match=r'peer moved a pixel by 0\.1'):
    rows.check_perturbed(images, images + wrong, 0.1, 'peer')
