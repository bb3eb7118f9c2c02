"""The README's picture: how it is drawn, and that it is small."""

import json
import runpy

import numpy as np

from tests.docs import pages

LABELS = np.array([1, 3, 3, 0, 6, 6, 2, 2, 4, 1])
FOOLED = np.array([8, 9, 3, 0, 6, 6, 2, 3, 4, 1])  # Three of the first eight.


def write_run(folder):
  """Writes what a comparison of two networks leaves, made up."""
  members = {}
  for name, bim in (('base', 0.3), ('adversarial', 0.2)):
    members[name] = {
      'clean_accuracy': 0.9,
      'robust_accuracy': {
        attack: {'curve': [{'epsilon': 0.1, 'white_box': white_box}]}
        for attack, white_box in (('fgsm', 0.6), ('bim', bim))
      },
    }
  (folder / 'report.json').write_text(json.dumps({'members': members}))
  images = np.zeros((10, 28, 28, 1), np.float32)
  right = np.stack([LABELS, LABELS])
  np.savez(
    folder / 'adversarial_examples.npz',
    images=images,
    labels=LABELS,
    members=np.array(['base', 'adversarial']),
    clean_predictions=right,
    source=np.array(['adversarial', 'base']),
    attack=np.array(['fgsm', 'fgsm']),
    epsilon=np.array([0.1, 0.1], np.float32),
    perturbed=np.stack([images, images + 0.1]),
    predictions=np.stack([right, np.stack([FOOLED, LABELS])]),
  )


def test_it_draws_a_run(tmp_path):
  write_run(tmp_path)
  picture = runpy.run_path(str(pages.ROOT / 'docs' / 'picture.py'))
  figure = picture['draw'](tmp_path)
  images, curves = figure.subfigs
  texts = [text for ax in images.axes for text in ax.texts]
  assert len(texts) == 2 * 2 * 8
  wrong = [t.get_text() for t in texts if t.get_color() == picture['WRONG']]
  assert wrong == ['base: 8', 'base: 9', 'base: 3']
  one_step, many_steps = curves.axes
  np.testing.assert_allclose(one_step.lines[0].get_ydata(), [90, 60])
  np.testing.assert_allclose(many_steps.lines[1].get_ydata(), [90, 20])


def test_pictures_are_small():
  pictures = list((pages.ROOT / 'docs').glob('*.png'))
  assert pictures
  for path in pictures:
    assert path.read_bytes().startswith(b'\x89PNG')
    assert path.stat().st_size < 250_000, path
