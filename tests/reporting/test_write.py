"""The output files of a run, as a whole."""

import dataclasses
import json
import re
from html.parser import HTMLParser

import numpy as np
import pytest

from advjax.attacks.specs import parse_attack
from advjax.evaluation.models import Evaluation
from advjax.reporting.sanity import sanity_findings
from advjax.reporting.write import write_run
from tests.reporting import reports

NUM = 8
INJECTED = '<script>alert(1)</script>'
VOID = {'meta', 'img', 'br', 'link', 'hr', 'input'}


class Page(HTMLParser):
  """Checks that tags nest; keeps attributes and texts."""

  def __init__(self, text):
    super().__init__()
    self.open, self.tags, self.texts = [], [], []
    self.feed(text)
    self.close()
    assert self.open == []

  def handle_starttag(self, tag, attrs):
    self.tags.append((tag, dict(attrs)))
    if tag not in VOID:
      self.open.append(tag)

  def handle_endtag(self, tag):
    assert self.open.pop() == tag

  def handle_data(self, data):
    if self.open and self.open[-1] not in ('style', 'script'):
      self.texts.append(data)

  @property
  def text(self):
    return ' '.join(self.texts)

  def all(self, tag):
    return [attrs for name, attrs in self.tags if name == tag]


def evaluation(names, shape=(8, 8, 1)):
  rng = np.random.default_rng(0)
  images = rng.uniform(size=(NUM, *shape)).astype(np.float32)
  labels = rng.integers(0, 3, NUM)
  attacks = {'fgsm': parse_attack('fgsm'), 'fmn': parse_attack('fmn')}
  pairs = [(name, attack) for name in names for attack in attacks]
  logits = np.eye(3, dtype=np.float32)[labels]
  found = Evaluation(
    clean_logits=dict.fromkeys(names, logits),
    logits={pair: dict.fromkeys(names, logits[:, ::-1]) for pair in pairs},
    images={pair: np.clip(images + 0.1, 0, 1) for pair in pairs},
    distances={
      (n, 'fmn'): np.r_[np.linspace(0, 1, NUM - 1), np.inf] for n in names
    },
    attacks=attacks,
    epsilon=reports.EPSILON,
    epsilons=reports.EPSILONS,
  )
  return found, images, labels


def write(folder, report, records=None, **options):
  names = list(report.members)
  found, images, labels = evaluation(names, **options)
  text = write_run(
    folder,
    report,
    found,
    images,
    labels,
    {name: (records or {}).get(name, []) for name in names},
    ['zero', 'one', 'two'],
    title=f'Run of {INJECTED}',
  )
  return text, Page((folder / 'report.html').read_text())


def evaluated_report():
  """Two models under two attacks."""
  report = reports.report(['base', 'single_step'])
  for name, model in report.members.items():
    attacks = {key: model.robust_accuracy[key] for key in ('fgsm', 'pgd-10')}
    fields = {'robust_accuracy': attacks, 'corruptions': None}
    report = reports.change(report, name, **fields)
  return dataclasses.replace(report, sanity=sanity_findings(report))


@pytest.fixture(scope='module')
def evaluated(tmp_path_factory):
  """(text, page, folder) of an evaluation."""
  folder = tmp_path_factory.mktemp('evaluated')
  return *write(folder, evaluated_report()), folder


@pytest.fixture(scope='module')
def compared(tmp_path_factory):
  """(text, page, folder) of a comparison, which trained."""
  folder = tmp_path_factory.mktemp('compared')
  report = reports.compared(seeds=(0, 1))
  losses = [2.0, float('nan'), 0.5, 0.1]
  records = {
    name: [
      {'kind': 'steps', 'losses': losses},
      *({'kind': 'epoch', **e} for e in model.training.epochs),
    ]
    for name, model in report.members.items()
  }
  return *write(folder, report, records), folder


def test_names_that_are_not_utf_8_do_not_end_a_report(tmp_path):
  report = evaluated_report()
  config = {'dataset': {'path': '/caf\udce9'}}
  _, page = write(tmp_path, dataclasses.replace(report, config=config))
  assert r'/caf\udce9' in page.text


@pytest.mark.parametrize('run', ['evaluated', 'compared'])
def test_pages_open_offline_and_escape(run, request):
  _, page, folder = request.getfixturevalue(run)
  html = (folder / 'report.html').read_text()
  assert INJECTED not in html and f'Run of {INJECTED}' in page.texts
  assert not re.findall(r'(?:src|href)="(?!data:image/png;base64,|#)', html)
  assert not re.findall(r'https?://|@import|url\(', html)
  assert not page.all('script') and not page.all('link')
  anchors = {attrs['id'] for _, attrs in page.tags if 'id' in attrs}
  links = [attrs['href'] for attrs in page.all('a')]
  assert len(links) >= 5 and {link[1:] for link in links} <= anchors
  # Every figure has a file, a caption and an alternative text.
  pictures = page.all('img')
  files = {path.stem for path in (folder / 'figures').iterdir()}
  assert len(pictures) == len(page.all('figcaption')) == len(files)
  assert {each['id'] for each in page.all('article')} == files
  assert all(each['alt'] and int(each['width']) <= 1010 for each in pictures)
  assert '' not in page.texts


def test_an_evaluation_has_all_sections(evaluated):
  text, page, _ = evaluated
  anchors = {attrs['id'] for attrs in page.all('section')}
  assert anchors == {
    *('warnings', 'summary', 'results', 'sanity', 'epsilon', 'transfer'),
    *('autoattack', 'distances', 'steps', 'classes', 'shifts', 'examples'),
    'origin',
  }
  (headline,) = [t for t in page.texts if re.match(r'\d+ suspicious, ', t)]
  assert f'sanity checks: {headline}' in text
  assert 'suspicious' in page.texts and './launch.sh evaluate' in page.text
  assert text.startswith('warning: ') and 'warning: Gradient masking' in text
  assert 'accuracy in batch 0: base ' in text
  assert '[97.4, 99.0]' in page.texts  # Of the clean accuracy.


def test_a_comparison_has_training_and_size(compared):
  text, page, folder = compared
  files = {path.stem for path in (folder / 'figures').iterdir()}
  assert files == {
    *('accuracy', 'robustness', 'transfer_curves', 'transfer', 'shifts'),
    *('corruptions', 'efficiency_parameters', 'efficiency_training'),
    *('training_loss', 'epoch_loss', 'training_curves', 'distances'),
    *('nsl_batch', 'predictions_base', 'predictions_pgd_at'),
    *('perturbations_base', 'perturbations_pgd_at'),
  }
  assert 'pgd_at: the loss is not finite' in page.texts
  assert 'of seed 0' in text
  assert 'Means over the seeds.' in page.text and 'Partly seen' in page.text
  assert 'Transfer (hatched)' in page.text


def test_files_hold_what_was_given(evaluated):
  _, _, folder = evaluated
  saved = json.loads((folder / 'report.json').read_text())
  assert saved == json.loads(json.dumps(evaluated_report().to_json()))
  with np.load(folder / 'adversarial_examples.npz') as file:
    found, images, _ = evaluation(['base', 'single_step'])
    np.testing.assert_array_equal(file['images'], images)
    np.testing.assert_array_equal(
      file['perturbed'], np.stack(list(found.images.values()))
    )


def test_one_model_without_attacks_or_epochs(tmp_path):
  absent = (
    *('per_class', 'noise', 'traces', 'minimal', 'autoattack', 'rounded'),
    *('corruptions', 'corruption_accuracy', 'pasted_objects'),
  )
  report = reports.report(['base'], classes=None)
  attacks = {'fgsm': report.members['base'].robust_accuracy['fgsm']}
  report = reports.change(
    report, robust_accuracy=attacks, **dict.fromkeys(absent)
  )
  _, page = write(tmp_path, report, shape=(5,))
  assert {attrs['id'] for attrs in page.all('section')} == {
    *('summary', 'results', 'sanity', 'epsilon', 'distances', 'origin'),
  }
