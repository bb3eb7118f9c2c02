"""Sets that TFDS has to prepare, and those that take TensorFlow to read."""

import http.server
import os
import threading

import numpy as np
import pytest
import tensorflow_datasets

from advjax.data import records, tfds
from tests.data import tfds_sets

needs_tensorflow = pytest.mark.skipif(
  not records.has_tensorflow(), reason='TensorFlow is not installed'
)
pytestmark = pytest.mark.usefixtures('home')


class AdvjaxMadeUp(tensorflow_datasets.core.GeneratorBasedBuilder):
  """A set that TFDS knows by name and that takes no TensorFlow to prepare."""

  code_path = None
  VERSION = tensorflow_datasets.core.Version('2.0.0')

  def _info(self):
    return tensorflow_datasets.core.DatasetInfo(
      builder=self,
      features=tensorflow_datasets.features.FeaturesDict(
        tfds_sets.default_features()
      ),
    )

  def _split_generators(self, dl_manager):
    if 'offline' in str(self.data_dir):
      raise ConnectionError('no route to host')
    return {
      split: enumerate(tfds_sets.examples(tfds_sets.pixels(6)))
      for split in ('train', 'test')
    }

  def _generate_examples(self):
    raise NotImplementedError


def test_a_set_that_is_not_there_is_prepared(sets, monkeypatch, decoded):
  monkeypatch.setattr(records, 'has_tensorflow', lambda: True)
  before = tfds_sets.contents(sets)
  for _ in range(2):
    dataset = tfds.load('advjax_made_up', str(sets))
    assert len(dataset.train.labels) == 6
  assert decoded == ['train', 'test']
  folder = sets / 'advjax_made_up' / '2.0.0'
  assert len(list(folder.glob('*.array_record*'))) == 2
  assert {path: tfds_sets.contents(sets)[path] for path in before} == before


def test_a_set_that_cannot_be_prepared(tmp_path, monkeypatch):
  monkeypatch.setattr(records, 'has_tensorflow', lambda: True)
  offline = tmp_path / 'offline'
  offline.mkdir()
  with pytest.raises(
    ValueError,
    match=r'could not prepare it \(no route to host\)\. Two ways out: point',
  ):
    tfds.load('advjax_made_up', str(offline))
  assert not [path for path in offline.rglob('*') if path.is_file()]


def test_without_a_network_no_time_is_spent(tmp_path, monkeypatch):
  """An address of this machine that nobody listens on stands for the net."""
  monkeypatch.setattr(records, 'has_tensorflow', lambda: True)
  for name in ('http_proxy', 'HTTP_PROXY', 'all_proxy', 'ALL_PROXY'):
    monkeypatch.delenv(name, raising=False)
  urls = {'http://127.0.0.1:9/images': None, 'ftp://127.0.0.1/images': None}
  monkeypatch.setattr(AdvjaxMadeUp, 'url_infos', urls)
  with pytest.raises(
    ValueError, match=r'could not prepare it \(cannot reach 127\.0\.0\.1:9\)'
  ):
    tfds.load('advjax_made_up', str(tmp_path))
  assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize('status', [200, 404])
def test_one_host_in_reach_is_enough(tmp_path, monkeypatch, status):
  monkeypatch.setattr(records, 'has_tensorflow', lambda: True)
  for name in ('http_proxy', 'HTTP_PROXY', 'all_proxy', 'ALL_PROXY'):
    monkeypatch.delenv(name, raising=False)

  class Handler(http.server.BaseHTTPRequestHandler):
    def do_HEAD(self):
      self.send_response(status)
      self.end_headers()

    def log_message(self, *args):
      pass

  with http.server.HTTPServer(('127.0.0.1', 0), Handler) as server:
    thread = threading.Thread(target=server.handle_request)
    thread.start()
    urls = {
      'http://127.0.0.1:9/images': None,
      f'http://127.0.0.1:{server.server_port}/images': None,
    }
    monkeypatch.setattr(AdvjaxMadeUp, 'url_infos', urls)
    dataset = tfds.load('advjax_made_up', str(tmp_path))
    thread.join()
  assert len(dataset.train.labels) == 6


def test_a_name_that_tfds_does_not_know(sets, monkeypatch):
  monkeypatch.setattr(records, 'has_tensorflow', lambda: True)
  with pytest.raises(ValueError, match='TFDS knows no set of this name'):
    tfds.load('no_such_set', str(sets))


def test_tfrecord_takes_tensorflow(sets, monkeypatch):
  tfds_sets.no_tensorflow(monkeypatch)
  info = sets / 'pets' / '1.0.0' / 'dataset_info.json'
  info.write_text(info.read_text().replace('array_record', 'tfrecord'))
  tfds_sets.check_refused(
    sets,
    r'prepared as tfrecord, which takes TensorFlow to read\. Two ways out: '
    r"install it \(.*tensorflow-cpu.*\); or prepare .*file_format='array_rec",
  )


@needs_tensorflow
@pytest.mark.parametrize('num_shards', [1, 3])
def test_tfrecord_gives_the_same(tmp_path, num_shards):
  for name in ('tfrecord', 'array_record'):
    tfds_sets.prepare_pets(
      tmp_path / name, file_format=name, num_shards=num_shards
    )
  for split in ('train', 'train[5:20]+test[:3]'):
    one, other = (
      tfds.load('pets', str(tmp_path / name), train_split=split)
      for name in ('tfrecord', 'array_record')
    )
    np.testing.assert_array_equal(one.train.images, other.train.images)
    np.testing.assert_array_equal(one.train.labels, other.train.labels)
    assert one.class_names == other.class_names


@needs_tensorflow
def test_a_tfrecord_that_was_cut_off(tmp_path):
  folder = tfds_sets.prepare_pets(tmp_path, file_format='tfrecord')
  (file,) = folder.glob('pets-train*')
  os.truncate(file, file.stat().st_size - 50)
  with pytest.raises(
    ValueError, match=r"files of split 'train' cannot be read"
  ):
    tfds_sets.load_pets(tmp_path)
