"""Explanations: what is chosen, measured, drawn and said."""

import copy

import numpy as np
import pytest

from advjax.data import Dataset, Split
from advjax.explain import METHODS
from advjax.reporting.explained import pictures, words
from advjax.reporting.explained.page import write_page
from advjax.reporting.gallery import draw
from tests.reporting.pages import Page

NAMES = ('cockroach, roach', 'crane', 'crane', 'broom', 'oboe')
IDS = ('n02233338', 'n02012849', 'n03126707', 'n02906734', 'n03838899')
RNG = np.random.default_rng(0)


def dataset(names=NAMES, ids=IDS):
  split = Split(np.zeros((1, 2, 2, 3), np.uint8), np.zeros(1, np.int32))
  return Dataset('birds', split, split, len(names), names, ids)


# --------------------------------------------------------------- what is said


def entry(cosine, half=0.05, num_images=9):
  ends = [cosine - half, cosine + half]
  return {
    'num_images': num_images,
    'cosine': cosine,
    'cosine_ci': ends,
    'rank': cosine,
    'rank_ci': ends,
  }


def similarity(fooled):
  return {
    'noise': entry(0.9),
    'stood': entry(0.8),
    'fooled': fooled,
    'fooled_predicted': entry(0.1),
    'other': entry(0.2),
  }


def report(**methods):
  return {
    'dataset': {'name': 'birds', 'num_train': 10, 'num_test': 12},
    'num_images': 12,
    'attack': {'label': 'FGSM at 0.1 (linf)'},
    'left_out': ['Left out: cam needs <pooling>.'],
    'members': {
      'base <b>': {
        'clean_accuracy': 0.75,
        'white_box': 0.25,
        'similarity': {
          name: similarity(value) for name, value in methods.items()
        },
        'cases': [],
      }
    },
  }


@pytest.mark.parametrize(
  ('fooled', 'text'),
  [
    (entry(-0.3), 'are turned round'),
    (entry(0.08, 0.02), 'than those of another image do (cosine'),
    (
      entry(0.15),
      'size, and no difference from another image is shown (cosine',
    ),
    (entry(0.5), 'same size, but less than those of another image (cosine'),
    (entry(0.88), 'noise of the same size does is not shown (cosine'),
    (entry(0.5, 0.4), 'fooled: too few images to tell'),
    (entry(0.5) | {'cosine_ci': None}, 'too few images are fooled'),
  ],
)
def test_sentences_say_what_the_intervals_show(fooled, text):
  first, second = words.sentences(report(cam=fooled))
  assert first.startswith('base <b> is right on 75.0 % of 12 test images')
  assert text in second


def test_methods_of_one_verdict_share_a_sentence():
  found = words.sentences(report(cam=entry(-0.3), saliency=entry(-0.4)))
  assert len(found) == 2 and '(cosine: CAM -0.30, saliency -0.40)' in found[1]


def test_a_network_that_is_never_right_has_no_numbers():
  _, only = words.similarity_rows(report(), 'cosine')
  assert only.label == 'base <b> (right on no image)' and not only.cells


# --------------------------------------------------------------------- drawing


def row(channels, heading='clean', methods=METHODS):
  image = RNG.uniform(size=(8, 8, channels))
  shape = {'grad_cam': (8, 8), 'cam': (8, 8)}
  maps = {m: RNG.normal(size=shape.get(m, image.shape)) for m in methods}
  return pictures.Row(heading, image, 0.1 * image, 'a $5 bill', True, maps)


@pytest.mark.parametrize('channels', [1, 3])
def test_every_image_and_map_has_its_place(channels):
  rows = [row(channels), row(channels, '', METHODS[:1])]
  (ax,) = pictures.maps_figure(rows).axes
  # Image, perturbation and seven maps; perturbation and the two of saliency.
  assert len(ax.images) == 9 + 3
  places = [tuple(image.get_extent()) for image in ax.images]
  assert len(set(places)) == len(places)


def test_a_note_stands_where_no_perturbation_is():
  first = row(3)
  note = first._replace(perturbation=None, note='seen by pgd_at')
  for line, shown in ((first._replace(note=note.note), False), (note, True)):
    (ax,) = pictures.maps_figure([line]).axes
    texts = [text.get_text() for text in ax.texts]
    assert ('seen by pgd at' in texts) == shown


def test_no_row_is_an_error():
  with pytest.raises(ValueError, match='rows is empty'):
    pictures.maps_figure([])


def test_a_map_is_red_where_it_is_positive_and_blue_where_negative():
  values = np.array([[1.0, -1.0, 0.0]])
  red, blue, gray = pictures.overlay(np.full((1, 3, 3), 0.5), values)[0]
  assert red[0] > red[2] + 0.3 and blue[2] > blue[0] + 0.3
  assert gray.tolist() == [0.625] * 3


def test_maps_without_values_are_drawn():
  blank = row(3)
  blank = blank._replace(maps={m: 0 * v for m, v in blank.maps.items()})
  pictures.maps_figure([blank])


def test_the_chart_shows_methods_that_only_one_network_has():
  members = copy.deepcopy(report(saliency=entry(0.5))['members'])
  members['other'] = report(saliency=entry(0.5), cam=entry(-0.5))['members'][
    'base <b>'
  ]
  first, second = pictures.similarity_figure(members).axes
  labels = [label.get_text() for label in first.get_yticklabels()]
  assert labels == ['saliency', 'CAM']
  assert second.get_xlim()[0] < -0.5


def test_the_page_escapes_names_and_loads_nothing(tmp_path):
  content = report(cam=entry(0.5))
  prediction = {'label': 0, 'id': 'n02', 'name': 'a <i>', 'probability': 0.625}
  content['members']['base <b>']['cases'] = [
    {
      'name': 'one',
      'kind': 'fooled',
      'index': 7,
      'class': {'label': 0, 'id': 'n02', 'name': 'a <i>'},
      'predictions': {'clean': [prediction]},
    }
  ]
  picture = draw('one', 'a', '', pictures.maps_figure([row(3, methods=())]))
  path = tmp_path / 'report.html'
  write_page(path, content, [picture], {'one': picture}, 'Title')
  page = Page(path.read_text())
  assert not page.all('i') and not page.all('b')
  for text in ('base <b>', 'a <i>', 'n02', '62.5 %', 'test image 7'):
    assert text in page.text
  assert 'cam needs <pooling>' in page.text
  assert len(page.all('img')) == 2
  assert 'There is no such image' in page.text
