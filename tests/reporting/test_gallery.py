"""All figures of a report with their captions."""

import struct

import numpy as np
from matplotlib.figure import Figure

from advjax.reporting.gallery import draw, report_pictures, save_figures
from tests.reporting.compared_reports import add_monitor, add_shifts, add_top_k

PNG = b'\x89PNG\r\n\x1a\n'


def test_pictures_of_a_comparison(report, histories, examples, tmp_path):
  drawn = report_pictures(report, histories, examples)
  assert [picture.name for picture in drawn] == [
    'accuracy',
    'robustness',
    'nsl_batch',
    'predictions_base',
    'predictions_adversarial',
    'triptychs_base',
    'triptychs_adversarial',
    'training_curves',
  ]
  paths = save_figures(drawn, tmp_path / 'new' / 'figures')
  for path, picture in zip(paths, drawn, strict=True):
    assert path.name == f'{picture.name}.png'
    assert path.read_bytes() == picture.png
    assert picture.png.startswith(PNG)
    assert picture.title and picture.caption.endswith('.')
  # The caption counts what the picture shows.
  right = np.sum(
    examples.adversarial_predictions['base']['base'][:32]
    == examples.labels[:32]
  )
  assert 0 < right < 32
  caption = drawn[2].caption
  assert 'FGSM at epsilon 0.1 on the gradients of base' in caption
  assert f'base is right on {right} of 32, adv (adversarial) on 32.' in caption


def test_pictures_of_all_that_was_measured(report):
  add_top_k(report)
  add_shifts(report)
  add_monitor(report, num_validation=0)
  drawn = {p.name: p for p in report_pictures(report)}
  assert list(drawn) == ['accuracy', 'robustness', 'shifts', 'generalisation']
  for name in ('accuracy', 'shifts'):
    assert 'Pale: the label is among the 5 likeliest' in drawn[name].caption
  assert 'num_validation = 0' in drawn['generalisation'].caption


def test_one_member_has_fewer_pictures(report, histories):
  member = report['members']['base']
  for entry in member['robust_accuracy'].values():
    entry['transfer'] = {}
  report['members'] = {'model': member}
  histories = {'model': histories['base']}
  drawn = {p.name: p for p in report_pictures(report, histories)}
  assert list(drawn) == ['accuracy', 'robustness', 'training_curves']
  assert 'another member' not in drawn['accuracy'].caption
  member['robust_accuracy'] = {}
  assert [p.name for p in report_pictures(report)] == ['accuracy']
  assert report_pictures({'members': {'model': {}}}) == []


def test_encoded_figures_are_at_most_1650_pixels_wide():
  for inches, pixels in ((4, 600), (30, 1650)):
    png = draw('a', 'b', 'c', Figure(figsize=(inches, 1))).png
    assert struct.unpack('>I', png[16:20]) == (pixels,)


def test_names_are_fit_for_files_and_anchors():
  picture = draw('predictions_../a b', 'b', 'c', Figure(figsize=(1, 1)))
  assert picture.name == 'predictions_.._a_b'
