"""Which process this is, from what launchers leave in the environment."""

import http.server
import threading

import pytest

from advjax.processes.topology import (
  Place,
  _fetch_metadata,
  _tpu_worker,
  find_place,
  gpus_of,
)

OPEN_MPI = {
  'OMPI_COMM_WORLD_RANK': '5',
  'OMPI_COMM_WORLD_SIZE': '8',
  'OMPI_COMM_WORLD_LOCAL_RANK': '1',
  'OMPI_COMM_WORLD_LOCAL_SIZE': '4',
}
SLURM_BATCH = {
  'SLURM_JOB_ID': '7',
  'SLURM_NTASKS': '4',
  'SLURM_PROCID': '0',
  'SLURM_LOCALID': '0',
  'SLURM_NODEID': '0',
}
SLURM_STEP = {
  **SLURM_BATCH,
  'SLURM_STEP_ID': '0',
  'SLURM_STEP_NUM_TASKS': '7',
  'SLURM_STEP_TASKS_PER_NODE': '2(x3),1',
  'SLURM_PROCID': '3',
  'SLURM_LOCALID': '1',
  'SLURM_NODEID': '1',
}
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
  ('variables', 'place'),
  [
    ({}, (0, 1, 0, 1)),
    ({'ADVJAX_PROCESS': '1/2'}, (1, 2, 0, 1)),
    (
      {'ADVJAX_PROCESS': '3/4', 'ADVJAX_LOCAL_PROCESS': '1/2'},
      (3, 4, 1, 2),
    ),
    (OPEN_MPI, (5, 8, 1, 4)),
    (SLURM_BATCH, (0, 1, 0, 1)),
    (SLURM_STEP, (3, 7, 1, 2)),
    ({**SLURM_STEP, 'SLURM_NODEID': '3', 'SLURM_LOCALID': '0'}, (3, 7, 0, 1)),
    # mpirun in a SLURM job: its daemons are the step.
    ({**SLURM_STEP, **OPEN_MPI}, (5, 8, 1, 4)),
    # A launch inside of a step.
    ({**SLURM_STEP, 'ADVJAX_PROCESS': '0/2'}, (0, 2, 0, 1)),
  ],
)
def test_launchers(variables, place):
  assert find_place(variables)[:4] == place


def test_how_jax_finds_process_0():
  assert find_place(OPEN_MPI).method == 'ompi'
  assert find_place(SLURM_STEP).method == 'slurm'
  assert find_place({'ADVJAX_PROCESS': '1/2'}).method == 'deactivate'


def test_the_environment_of_this_process(monkeypatch):
  assert find_place()[:2] == (0, 1)
  for name, value in SLURM_STEP.items():
    monkeypatch.setenv(name, value)
  assert find_place()[:2] == (3, 7)


@pytest.mark.parametrize('text', ['2/2', '1', '-1/2', 'a/b', '', '1/2/3'])
def test_wrong_processes(text):
  with pytest.raises(ValueError, match=r'ADVJAX_PROCESS = .*allowed: i/n'):
    find_place({'ADVJAX_PROCESS': text})


@pytest.mark.parametrize(
  ('variables', 'place'),
  [
    # One process alone needs no rank: an salloc shell, a container.
    ({'SLURM_STEP_NUM_TASKS': '1'}, (0, 1, 0, 1)),
    ({'OMPI_COMM_WORLD_SIZE': '1'}, (0, 1, 0, 1)),
    ({'PMI_SIZE': '1', 'PMI_RANK': '0'}, (0, 1, 0, 1)),
    ({'PMI_SIZE': ''}, (0, 1, 0, 1)),
    ({'PMI_SIZE': '2', 'ADVJAX_PROCESS': '0/1'}, (0, 1, 0, 1)),
  ],
)
def test_half_of_a_launcher_is_one_process(variables, place):
  assert find_place(variables)[:4] == place


WRONG = [
  *[
    (whole, name, text)
    for whole in (
      SLURM_STEP,
      OPEN_MPI | {'OMPI_COMM_WORLD_LOCAL_SIZE': '2'},
    )
    for name in sorted({*whole} - {*SLURM_BATCH, 'SLURM_STEP_ID'})
    for text in (None, '', 'x', '-1')
    if (name, text) != ('SLURM_STEP_NUM_TASKS', None)  # A batch script.
  ],
  (SLURM_STEP, 'SLURM_PROCID', '7'),
  (SLURM_STEP, 'SLURM_PROCID', None),
  (SLURM_STEP, 'SLURM_LOCALID', '2'),
  (SLURM_STEP, 'SLURM_NODEID', '4'),
  (SLURM_STEP, 'SLURM_STEP_NUM_TASKS', '0'),
  (OPEN_MPI, 'OMPI_COMM_WORLD_RANK', '8'),
  (OPEN_MPI, 'OMPI_COMM_WORLD_LOCAL_SIZE', '9'),
  ({}, 'PMI_SIZE', '2'),
]


@pytest.mark.parametrize(('whole', 'name', 'text'), WRONG)
def test_what_a_launcher_lacks_or_garbles_is_named(whole, name, text):
  variables = {**whole, name: text}
  if text is None:
    del variables[name]
  with pytest.raises(ValueError, match=f'{name} = .*; allowed: '):
    find_place(variables)


def test_wrong_tasks_per_node():
  with pytest.raises(ValueError, match=r"PER_NODE = 'two'; allowed: counts"):
    find_place({**SLURM_STEP, 'SLURM_STEP_TASKS_PER_NODE': 'two'})


def at(local_id, num_local, launcher='--processes'):
  return Place(local_id, num_local, local_id, num_local, launcher, '')


@pytest.mark.parametrize(
  ('place', 'variables', 'gpus'),
  [
    (at(0, 2), {'CUDA_VISIBLE_DEVICES': '0,1,2,3'}, [0, 1]),
    (at(1, 2), {'CUDA_VISIBLE_DEVICES': '4,5,6,7'}, [2, 3]),
    # JAX would leave all but the first to nobody.
    (at(0, 1, 'SLURM'), {'CUDA_VISIBLE_DEVICES': '0,1'}, [0, 1]),
    # Bound by the launcher: each task sees its own as the first.
    (at(1, 2, 'SLURM'), {'CUDA_VISIBLE_DEVICES': '0'}, [0]),
    (
      at(1, 2, 'SLURM'),
      {'CUDA_VISIBLE_DEVICES': '0,1', 'SLURM_GPUS_PER_TASK': '2'},
      [0, 1],
    ),
    (at(3, 4, 'Open MPI'), {'CUDA_VISIBLE_DEVICES': '0,1,2,3'}, [3]),
    (at(0, 2), {'CUDA_VISIBLE_DEVICES': ''}, None),
    (
      at(0, 2),
      {'CUDA_VISIBLE_DEVICES': '0,1,2', 'JAX_PLATFORMS': 'cpu'},
      None,
    ),
  ],
)
def test_gpus_are_shared(place, variables, gpus):
  assert gpus_of(place, variables) == gpus


@pytest.mark.parametrize('visible', ['0', '0,1,2'])
def test_gpus_that_cannot_be_shared(visible):
  with pytest.raises(
    ValueError, match=r'processes = 2 .*allowed: .* its \d GPUs'
  ):
    gpus_of(at(0, 2), {'CUDA_VISIBLE_DEVICES': visible})


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
def test_tpu_workers(variables, attributes, worker):
  assert _tpu_worker(variables, attributes.get) == worker


def test_tpu_addresses_in_a_file(tmp_path):
  (tmp_path / 'addresses').write_text('a:1,b:1,c:1\n')
  path = {'TPU_PROCESS_ADDRESSES_PATH': str(tmp_path / 'addresses')}
  assert _tpu_worker(GKE | path, {}.get) == (2, 3)


@pytest.mark.parametrize(
  ('changes', 'message'),
  [
    ({'TPU_WORKER_ID': 'a'}, r"TPU_WORKER_ID = 'a'; allowed: an integer >= 0"),
    ({'TPU_WORKER_ID': '4'}, r"TPU_WORKER_ID = '4'.*less than the 4 hosts"),
    ({'MEGASCALE_SLICE_ID': '1'}, r'MEGASCALE_SLICE_ID = 1.*the 1 slices'),
    ({'MEGASCALE_NUM_SLICES': '-1'}, r"MEGASCALE_NUM_SLICES = '-1'"),
  ],
)
def test_wrong_tpu_variables(changes, message):
  with pytest.raises(ValueError, match=message):
    _tpu_worker(GKE | changes, {}.get)


def test_a_missing_tpu_worker_id():
  with pytest.raises(ValueError, match='TPU_WORKER_ID = None'):
    _tpu_worker({'TPU_WORKER_HOSTNAMES': 'a,b'}, {}.get)


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
      assert _tpu_worker({}, _fetch_metadata) == (1, 2)
    finally:
      server.shutdown()
      thread.join()


def test_metadata_that_nobody_serves(monkeypatch):
  monkeypatch.setenv('GCE_METADATA_IP', '127.0.0.1:9')
  monkeypatch.setattr('time.sleep', lambda seconds: None)
  with pytest.raises(ValueError, match=r'127\.0\.0\.1:9 does not say.*=HOST'):
    _tpu_worker({}, _fetch_metadata)
