"""Which host of a TPU pod this is, without a pod or a network."""

import http.server
import threading

import pytest

from advjax.processes.topology import find_place
from advjax.processes.tpu import find_worker, has_tpu

GKE = {'TPU_WORKER_ID': '2', 'TPU_WORKER_HOSTNAMES': 'a,b,c,d'}
SECOND_OF_THREE = {'MEGASCALE_SLICE_ID': '1', 'MEGASCALE_NUM_SLICES': '3'}
GCE = {
  'agent-worker-number': '1',
  'worker-network-endpoints': '10.0.0.1,10.0.0.2',
}
OLD_GCE = GCE | {'worker-network-endpoints': 'x:y:10.0.0.1,x:y:10.0.0.2'}
SLICES = {
  'tpu-env': "ZONE: 'z'\nMEGASCALE_NUM_SLICES: '2'\nMEGASCALE_SLICE_ID: '1'\n"
}


@pytest.mark.parametrize(
  ('variables', 'attributes', 'worker'),
  [
    (GKE, {}, (2, 4)),
    (GKE | SECOND_OF_THREE, {}, (6, 12)),
    ({'TPU_WORKER_ID': '0', 'TPU_WORKER_HOSTNAMES': 'localhost'}, {}, (0, 1)),
    (GKE | {'TPU_PROCESS_ADDRESSES': 'a:1,b:1,c:1'}, {}, (2, 3)),
    # What GKE says comes before what the metadata say.
    (GKE, GCE, (2, 4)),
    ({}, GCE, (1, 2)),
    ({}, OLD_GCE, (1, 2)),
    ({}, GCE | SLICES, (3, 4)),
    # The environment comes before the metadata.
    (SECOND_OF_THREE, GCE | SLICES, (3, 6)),
    ({'MEGASCALE_SLICE_ID': '0'}, GCE | SLICES, (1, 4)),
    ({'MEGASCALE_SLICE_ID': '', 'MEGASCALE_NUM_SLICES': ''}, GCE, (1, 2)),
    ({}, {}, None),
    ({'TPU_SKIP_MDS_QUERY': '1'}, GCE, None),
    (GKE | {'TPU_SKIP_MDS_QUERY': '1'}, SLICES, (2, 4)),
  ],
)
def test_workers(variables, attributes, worker):
  assert find_worker(variables, attributes.get) == worker


def test_addresses_in_a_file(tmp_path):
  (tmp_path / 'addresses').write_text('a:1,b:1,c:1\n')
  path = {'TPU_PROCESS_ADDRESSES_PATH': str(tmp_path / 'addresses')}
  assert find_worker(GKE | path, {}.get) == (2, 3)


@pytest.mark.parametrize(
  ('changes', 'message'),
  [
    ({'TPU_WORKER_ID': 'a'}, r"TPU_WORKER_ID = 'a'; allowed: an integer >= 0"),
    ({'TPU_WORKER_ID': '4'}, r"TPU_WORKER_ID = '4'.*less than the 4 hosts"),
    ({'MEGASCALE_SLICE_ID': '1'}, r'MEGASCALE_SLICE_ID = 1.*the 1 slices'),
    ({'MEGASCALE_NUM_SLICES': '-1'}, r"MEGASCALE_NUM_SLICES = '-1'"),
  ],
)
def test_what_makes_no_sense(changes, message):
  with pytest.raises(ValueError, match=message):
    find_worker(GKE | changes, {}.get)


def test_a_missing_worker_id():
  with pytest.raises(ValueError, match='TPU_WORKER_ID = None'):
    find_worker({'TPU_WORKER_HOSTNAMES': 'a,b'}, {}.get)


def test_a_machine_without_tpus_is_alone(monkeypatch):
  if has_tpu():
    pytest.skip('this machine has TPUs')
  for name, value in GKE.items():
    monkeypatch.setenv(name, value)
  assert find_place()[:2] == (0, 1)


class Metadata(http.server.BaseHTTPRequestHandler):
  """A server like Google's; it fails once."""

  failures = 1

  def do_GET(self):
    name = self.path.removeprefix('/computeMetadata/v1/instance/attributes/')
    code = 200 if name in GCE else 404
    if self.headers['Metadata-Flavor'] != 'Google' or Metadata.failures:
      Metadata.failures, code = 0, 503
    self.send_response(code)
    self.end_headers()
    self.wfile.write(GCE.get(name, 'not found').encode())

  def log_message(self, *arguments):
    pass


def test_metadata(monkeypatch):
  with http.server.HTTPServer(('127.0.0.1', 0), Metadata) as server:
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    address = f'127.0.0.1:{server.server_port}'
    monkeypatch.setenv('GCE_METADATA_IP', address)
    monkeypatch.setenv('http_proxy', 'http://127.0.0.1:9')
    try:
      assert find_worker({}) == (1, 2)
    finally:
      server.shutdown()
      thread.join()


def test_metadata_that_nobody_serves(monkeypatch):
  monkeypatch.setenv('GCE_METADATA_IP', '127.0.0.1:9')
  monkeypatch.setattr('time.sleep', lambda seconds: None)
  with pytest.raises(ValueError, match=r'127\.0\.0\.1:9 does not say.*=HOST'):
    find_worker({})
