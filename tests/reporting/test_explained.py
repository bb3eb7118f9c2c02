"""The report of explanations: sentences, tables, figures and page."""

import json

import numpy as np
import pytest

from advjax.data import Dataset, Split
from advjax.evaluation.explanations import Case, Explained
from advjax.reporting import explained as reporting
from advjax.reporting.figures.explained import overlay
from advjax.results import (
  DatasetSummary,
  Estimate,
  ExplainedAttack,
  ExplainedModel,
  ExplainReport,
  Similarity,
)

RNG = np.random.default_rng(0)
NAMES = ('crane <b>', 'oboe $5')


def similarity(cosine, half=0.05, **changes):
  ends = [cosine - half, cosine + half]
  values = {'num_images': 9, 'cosine': cosine, 'cosine_ci': ends}
  values |= {'rank': cosine, 'rank_ci': ends}
  return Similarity(**(values | changes))


def groups(fooled):
  return {
    'noise': similarity(0.9),
    'correct': similarity(0.8),
    'fooled': fooled,
    'fooled_predicted': similarity(0.1),
    'other': similarity(0.2),
  }


def model(cases=(), **methods):
  return ExplainedModel(
    num_params=10,
    clean_accuracy=Estimate(0.75, (0.4, 0.9)),
    white_box=Estimate(0.25, (0.1, 0.5)),
    methods=list(methods),
    similarity={name: groups(each) for name, each in methods.items()},
    cases=list(cases),
  )


def make_report(**models):
  return ExplainReport(
    dataset=DatasetSummary(name='birds', num_train=10, num_test=12),
    seeds=[0],
    num_images=12,
    classes=list(NAMES),
    class_ids=['n01', 'n02'],
    attack=ExplainedAttack(
      attack='fgsm', epsilon=0.1, norm='linf', label='FGSM at 0.1 (linf)'
    ),
    left_out=['Left out: cam needs <pooling>.'],
    members=models,
    command='./launch.sh explain',
    environment={'jax': '0.10.2'},
    config={},
  )


@pytest.mark.parametrize(
  ('fooled', 'text'),
  [
    (similarity(-0.3), 'inverted'),
    (similarity(0.08, 0.02), 'less similar'),
    (similarity(0.15), 'no difference from maps of another image is shown'),
    (similarity(0.5), 'less than to maps of another image'),
    (similarity(0.88), 'more similar'),
    (similarity(0.5, 0.4), 'too few images to show'),
    (similarity(0.5, cosine_ci=None), 'too few images are misclassified'),
  ],
)
def test_only_what_the_intervals_show_is_stated(fooled, text):
  first, second = reporting.conclusions(make_report(base=model(cam=fooled)))
  assert '75.0 % [40.0, 90.0]' in first
  assert text in second


def test_the_table_of_a_model_without_correct_images():
  (row,) = reporting.similarity_table(make_report(base=model()), 'cosine').rows
  assert 'no image' in row.label and not row.cells


def test_evidence_is_red_and_evidence_against_is_blue():
  values = np.array([[1.0, -1.0, 0.0]])
  red, blue, gray = overlay(np.full((1, 3, 3), 0.5), values)[0]
  assert red[0] > red[2] + 0.3 and blue[2] > blue[0] + 0.3
  assert gray.tolist() == [0.625] * 3


def test_files(tmp_path):
  split = Split(np.zeros((1, 4, 4, 3), np.uint8), np.zeros(1, np.int32))
  dataset = Dataset('birds', split, split, 2, NAMES, ('n01', 'n02'))
  explained, models = {}, {}
  for name, method in (('base <i>', 'saliency'), ('other', 'cam')):
    images = RNG.uniform(size=(2, 4, 4, 3)).astype(np.float32)
    values = images[0] if method == 'saliency' else images[0, ..., 0]
    shares = np.array([[0.9, 0.1], [0.375, 0.625]])
    versions = 'clean', 'adversarial'
    maps = {
      ('clean', 0): {method: values},
      ('adversarial', 1): {method: values},
    }
    maps['adversarial', 0] = {method: 0 * values}
    pairs = (
      dict(zip(versions, each, strict=True)) for each in (images, shares)
    )
    case = Case('fooled', 0, 7, 0, *pairs, maps)
    correct, fooled = np.ones(1, bool), np.zeros(1, bool)
    explained[name] = Explained(
      [case], {}, correct, fooled, images, np.array([0.5, 0.6])
    )
    cases = [case.result(f'{name}_fooled_7', dataset)]
    models[name] = model(cases, **{method: similarity(0.5)})
  report = make_report(**models)
  text = reporting.write_explained(tmp_path, report, explained, dataset, [0, 1])
  assert 'cam needs <pooling>' in text
  saved = json.loads((tmp_path / 'report.json').read_text())
  assert saved == json.loads(json.dumps(report.to_json()))
  page = (tmp_path / 'report.html').read_text()
  assert '<i>' not in page and '<b>' not in page and '<pooling>' not in page
  assert 'http' not in page
  for escaped in ('crane &lt;b&gt;', 'n01', '62.5 %', 'test image 7'):
    assert escaped in page
  assert page.count('<img') == 3 + 2
  with np.load(tmp_path / 'explanations.npz') as arrays:
    assert arrays['images'].shape == (6, 4, 4, 3)
    assert arrays['index'].tolist() == [7] * 6
    assert np.isnan(arrays['saliency'][3:]).all()
    np.testing.assert_array_equal(
      arrays['cam'][3], explained['other'].cases[0].maps['clean', 0]['cam']
    )
