"""Which process this is, from what launchers leave in the environment."""

import pytest

from advjax.processes.topology import Place, find_place, gpus_of, which_process

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


def test_which_process_reads_this_process(monkeypatch):
  assert which_process() == (0, 1)
  for name, value in SLURM_STEP.items():
    monkeypatch.setenv(name, value)
  assert which_process() == (3, 7)


@pytest.mark.parametrize('text', ['2/2', '1', '-1/2', 'a/b', '', '1/2/3'])
def test_process_that_makes_no_sense(text):
  with pytest.raises(ValueError, match=r'ADVJAX_PROCESS = .*allowed: i/n'):
    find_place({'ADVJAX_PROCESS': text})


def test_tasks_that_make_no_sense():
  with pytest.raises(ValueError, match=r"'two' is not understood"):
    find_place({**SLURM_STEP, 'SLURM_STEP_TASKS_PER_NODE': 'two'})


def test_how_a_place_is_named():
  assert find_place(OPEN_MPI).name == 'process 5 of 8'


def at(local_id, num_local, launcher='launch.sh'):
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
  with pytest.raises(ValueError, match=r'2 processes .* cannot share its \d'):
    gpus_of(at(0, 2), {'CUDA_VISIBLE_DEVICES': visible})
