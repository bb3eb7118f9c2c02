"""Whatever a file or a text holds: a result, or an error with a message.

Valid files and texts with one to three changes each, drawn by a generator that
the name of the reader and the number of the case seed. 10,000 cases of each:

  ./launch.sh test tests/fuzz --hypothesis-profile=fuzz

A failure names a case of each kind; `show('npz', 7)` returns what it reads.
"""

import atexit
import contextlib
import functools
import io
import json
import logging
import pathlib
import shutil
import tempfile
import zipfile
import zlib
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np
import pytest
from PIL import Image

import advjax
from advjax import data
from advjax.attacks.specs import parse_attacks
from advjax.callables import import_function
from advjax.config import config_to_json, default_config
from advjax.data import cache, decode
from advjax.evaluation.autoattack import saved
from advjax.evaluation.autoattack.saved import AttackRecord, Progress
from advjax.fields import add_fields
from advjax.fractions import expand_fractions, parse_number
from advjax.jobs.sweep import sweep
from advjax.jobs.workdir import prepare_workdir
from advjax.processes.topology import find_place, gpus_of
from advjax.sweeps import create_trials, parse_sweep, shard_trials
from advjax.training.checkpoint import restore_checkpoint, save_checkpoint
from advjax.training.loop import read_metrics
from advjax.training.trained import load_trained
from tests.data.image_folders import class_folders, picture, tiny_imagenet
from tests.fuzz import mutate
from tests.fuzz.outcomes import Faults, num_cases
from tests.training import runs

resource = pytest.importorskip('resource')  # Not on Windows.


# ------------------------------------------------------------------ valid files


def npz(**arrays):
  stream = io.BytesIO()
  np.savez(stream, **arrays)
  return stream.getvalue()


def zipped(files):
  stream = io.BytesIO()
  with zipfile.ZipFile(stream, 'w') as archive:
    for name, content in files.items():
      archive.writestr(name, content)
  return stream.getvalue()


@functools.cache
def npz_sets():
  grey = {
    'train_images': picture(0, 6, 8),
    'train_labels': np.arange(6) % 3,
    'test_images': picture(1, 4, 8),
    'test_labels': np.arange(4) % 3,
  }
  colours = {
    **grey,
    'train_images': np.float32(np.full((6, 4, 4, 3), 0.5)),
    'test_images': np.float16(np.full((4, 4, 4, 3), 0.25)),
    'class_names': np.array(['ant', 'bee', 'cat']),
  }
  return [npz(**grey), npz(**colours)]


@functools.cache
def pictures():
  rgb = Image.fromarray(picture(0, 9, 7))
  found = []
  for kind, options in (
    ('PNG', {}),
    ('JPEG', {}),
    ('BMP', {}),
    ('GIF', {}),
    ('WEBP', {'lossless': True}),
    ('TIFF', {}),
    ('PPM', {}),
    (
      'JPEG',
      {'exif': b'Exif\0\0II*\0\x08\0\0\0\x01\0\x12\x01\x03\0\x01\0\0\0'},
    ),
    ('GIF', {'save_all': True, 'append_images': [rgb.rotate(90)]}),
    ('WEBP', {'save_all': True, 'append_images': [rgb.rotate(180)]}),
  ):
    stream = io.BytesIO()
    rgb.save(stream, kind, **options)
    found.append(stream.getvalue())
  for mode in ('1', 'L', 'LA', 'P', 'RGBA', 'I;16'):
    stream = io.BytesIO()
    rgb.convert('I' if mode == 'I;16' else mode).convert(mode).save(
      stream, 'PNG'
    )
    found.append(stream.getvalue())
  return found


@functools.cache
def zips():
  return [
    zipped(class_folders(('train/', 'val/'))[0]),
    zipped(class_folders()[0]),
    zipped(tiny_imagenet()[0]),
  ]


@functools.cache
def label_files():
  return [
    npz(
      labels=np.int32([0, 1, 2]),
      shape=[3, 4, 4, 3],
      info=json.dumps({'done': {'grey': 1}, 'num_bad': 1, 'bad': ['a said b']}),
    )
  ]


IDENTITY = {
  'norm': np.array('linf'),
  'epsilon': np.array('0.1'),
  'digest of images': np.array('0123456789abcdef'),
  'logits of the network': np.eye(3),
}
NOTHING = Progress(np.zeros((3, 2), np.float32), np.ones(3, bool), {})
ATTACKS = ('apgd-ce', 'square')


@functools.cache
def states():
  found = []
  with tempfile.TemporaryDirectory() as folder:
    path = pathlib.Path(folder) / 'state.npz'
    record = AttackRecord(np.array([True, False, True]), 1, 10, 5, 1.5, 2.5)
    for records in ({ATTACKS[0]: record}, dict.fromkeys(ATTACKS, record)):
      saved.save(path, IDENTITY, NOTHING._replace(records=records))
      found.append(path.read_bytes())
  return found


def tiny_config():
  """The config of a run on `set.npz` in the current folder."""
  return runs.config(dataset={'name': 'npz', 'path': 'set.npz'})


@functools.cache
def configs():
  return [json.dumps(config_to_json(tiny_config())).encode()]


@functools.cache
def trial_results():
  """A result.json of a sweep."""
  row = {
    'status': 'done',
    'checkpoint': {'name': 'last', 'steps': [6]},
    'attacks': {'fgsm': 0.5},
    'loss': 0.5,
    'train_seconds': 1.0,
    'step_milliseconds': 1.0,
    'warnings': [],
    'clean_accuracy': 0.5,
    'clean_accuracy_ci': [0.4, 0.6],
    'robust_accuracy': 0.5,
    'robust_accuracy_ci': [0.4, 0.6],
  }
  chunk = {'first': 'seed=0', 'members': 1, 'how': 'alone'}
  chunk |= {'seconds': 1.0, 'compiles': 2}
  done = {
    'row': row,
    'curve': {'epsilons': [0.1], 'fgsm': [0.5]},
    'devices_per_run': 1,
    'chunk': chunk,
  }
  failed = {'row': {'status': 'diverged', 'reason': 'nan', 'warnings': []}}
  return [json.dumps(each).encode() for each in (done, {**done, **failed})]


@functools.cache
def metrics():
  lines = (
    {'kind': 'step', 'step': 1, 'epoch': 0, 'loss': 1.5},
    {'kind': 'epoch', 'step': 6, 'epoch': 1, 'loss': 0.5, 'accuracy': 0.7},
  )
  return [''.join(json.dumps(line) + '\n' for line in lines).encode()]


# --------------------------------------------------------------------- readers


def read_npz(path):
  found = data.load({'name': 'npz', 'path': str(path)})
  for split in (found.train, found.test):
    assert split.images.shape[1:] == found.train.images.shape[1:]
    assert split.images.ndim == 4 and len(split.labels) == len(split.images)
    assert 0 <= split.labels.min() <= split.labels.max() < found.num_classes


def read_picture(path):
  encoded = path.read_bytes()
  with decode.quiet_pillow():
    for read, check in (
      (functools.partial(decode.decode_image, channels=3), True),
      (functools.partial(decode.decode_image, channels=1), True),
      (functools.partial(decode.decode_rgb, size=(5, 6)), True),
      (decode.image_size, False),
    ):
      with contextlib.suppress(decode.NoImage):
        found = read(encoded)
        if check:
          pixels = found[0] if isinstance(found, tuple) else found
          assert pixels.dtype == np.uint8 and pixels.ndim == 3


def read_zip(path):
  found = data.load(
    {'name': 'folder', 'path': str(path), 'cache_dir': f'{path}.cache'}
  )
  assert len(found.class_names) == found.num_classes >= 2
  assert found.train.images.shape[3] == 3


def read_folder(path):
  folder = path.with_suffix('')
  shutil.rmtree(folder, ignore_errors=True)
  with contextlib.suppress(Exception), zipfile.ZipFile(path) as archive:
    archive.extractall(folder)
  read_zip(folder)


def read_entry(path):
  folder = path.parent / 'entry'
  folder.mkdir(exist_ok=True)
  shutil.copy(path, folder / 'labels.npz')
  (folder / 'images.bin').write_bytes(bytes(3 * 4 * 4 * 3))
  found = cache.read(folder)
  if found is not None:
    assert found.images.shape[1:] == (4, 4, 3)
    assert len(found.images) == len(found.labels)


def read_state(path):
  found = saved.load(path, IDENTITY, ATTACKS, NOTHING)
  assert found.images.shape == (3, 2)
  assert found.robust.shape == (3,) and found.robust.dtype == bool
  for record in found.records.values():
    assert record.robust.shape == (3,) and record.robust.dtype == bool
    assert record.seconds >= 0


@functools.cache
def trained_folder():
  """The folder of a run with one checkpoint, without its config."""
  folder = pathlib.Path(tempfile.mkdtemp(prefix='advjax-tests-')) / 'run'
  atexit.register(shutil.rmtree, folder.parent)
  run = runs.run()
  record = {'image_shape': [3, 3, 1], 'num_classes': 3, 'sources': {}}
  state = jax.tree.map(np.asarray, run.init_state())
  save_checkpoint(folder / 'checkpoints' / 'last', state, record, keep=1)
  return folder


def read_config(path):
  """What evaluate and explain read, of a run whose config.json this is."""
  folder = trained_folder()
  shutil.copy(path, folder / 'config.json')
  load_trained([str(folder)])


def read_workdir(path):
  """What train does where a run of this config.json is."""
  folder = path.parent / 'work'
  folder.mkdir(exist_ok=True)
  shutil.copy(path, folder / 'config.json')
  prepare_workdir(folder, tiny_config())


def read_trial_result(path):
  """What sweep does where a trial is done."""
  shutil.rmtree('sweep', ignore_errors=True)
  config, rows = tiny_config(), [{'seed': 0}]
  (trial,) = create_trials(config, rows)
  folder = prepare_workdir(f'sweep/members/{trial.name}', trial.config)
  shutil.copy(path, folder / 'result.json')
  with pytest.MonkeyPatch.context() as patch:
    # What takes seconds: pages and figures, and a trial that has no result.
    patch.setattr('advjax.jobs.sweep.write_sweep', lambda *_: '')
    patch.setattr('advjax.jobs.sweep.create_run', lambda *_: None)
    patch.setattr(
      'advjax.jobs.sweep._run_group',
      lambda *_: (folder / 'result.json').unlink(),
    )
    with contextlib.redirect_stdout(None):
      report = sweep(config, rows, 'sweep')
  json.dumps(report.to_json())


def read_checkpoint(path):
  """One file of a checkpoint becomes another."""
  source = trained_folder() / 'checkpoints' / 'last'
  folder = path.parent / 'last'
  shutil.rmtree(folder, ignore_errors=True)
  shutil.copytree(source, folder)
  shutil.copy(path, next(folder.glob('*.sha256')))
  restore_checkpoint(folder)


def digests():
  folder = trained_folder() / 'checkpoints' / 'last'
  return [next(folder.glob('*.sha256')).read_bytes()]


class Reader(NamedTuple):
  """Valid files, and what reads a file."""

  valid: Callable[[], list[bytes]]
  read: Callable[[pathlib.Path], Any]
  suffix: str = ''
  share: float = 1.0  # of the cases of the suite: what takes long has fewer


READERS = {
  'npz': Reader(npz_sets, read_npz, '.npz'),
  'picture': Reader(pictures, read_picture),
  'zip': Reader(zips, read_zip, '.zip', 0.3),
  'folder': Reader(zips, read_folder, '.zip', 0.3),
  'cache': Reader(label_files, read_entry, '.npz'),
  'autoattack': Reader(states, read_state, '.npz'),
  'config.json': Reader(configs, read_config, '.json', 0.3),
  'config.json of a workdir': Reader(configs, read_workdir, '.json', 0.3),
  'result.json': Reader(trial_results, read_trial_result, '.json', 0.1),
  'metrics.jsonl': Reader(metrics, read_metrics, '.jsonl'),
  'digest': Reader(digests, read_checkpoint, '', 0.2),
}


def generator(name, index):
  return np.random.default_rng([zlib.crc32(name.encode()), index])


def show(name, index):
  """What case `index` of a reader reads; case -1 - i is valid file i."""
  if name in READERS:
    valid = READERS[name].valid()
    if index < 0:
      return valid[-1 - index]
    return mutate.mutate(generator(name, index), valid[index % len(valid)])
  valid = TEXTS[name].valid
  if index < 0:
    return valid[-1 - index]
  return mutate.mutate_text(generator(name, index), valid[index % len(valid)])


@pytest.fixture
def little_memory():
  """At most 2 GiB more than there is: what a header declares is not made."""
  status = pathlib.Path('/proc/self/status')
  if not status.exists():
    yield
    return
  (size,) = (x for x in status.read_text().splitlines() if 'VmSize' in x)
  before = resource.getrlimit(resource.RLIMIT_AS)
  limit = int(size.split()[1]) * 1024 + (2 << 30)
  resource.setrlimit(resource.RLIMIT_AS, (limit, before[1]))
  yield
  resource.setrlimit(resource.RLIMIT_AS, before)


@pytest.fixture(autouse=True)
def quiet():
  """Without the warnings that damaged files are read with."""
  logging.disable(logging.CRITICAL)
  yield
  logging.disable(logging.NOTSET)


@pytest.fixture
def here(tmp_path, monkeypatch):
  """The current folder, with the data set of the configs."""
  monkeypatch.chdir(tmp_path)
  train, test = runs.dataset()[1:3]
  np.savez(
    'set.npz',
    train_images=train.images,
    train_labels=train.labels,
    test_images=test.images,
    test_labels=test.labels,
  )
  return tmp_path


@pytest.mark.parametrize('name', READERS)
def test_file(name, here, little_memory):
  reader, faults = READERS[name], Faults()
  path = here / f'x{reader.suffix}'
  for index in range(-len(reader.valid()), 0):
    path.write_bytes(show(name, index))
    reader.read(path)
  for index in range(num_cases(reader.share)):
    path.write_bytes(show(name, index))
    faults.call(f'show({name!r}, {index})', reader.read, path)
  if faults.kinds:
    pytest.fail(f'{faults}', pytrace=False)


# --------------------------------------------------------------------- hostile


def npy(header, content=b'\0' * 64):
  """A .npy file with this header."""
  header = str(header).encode() + b'\n'
  size = len(header).to_bytes(2, 'little')
  return b'\x93NUMPY\x01\x00' + size + header + content


def with_array(content, name, array):
  """An .npz with another array, or with a member of these bytes."""
  with zipfile.ZipFile(io.BytesIO(content)) as archive:
    members = {n: archive.read(n) for n in archive.namelist()}
  if not isinstance(array, bytes):
    stream = io.BytesIO()
    np.save(stream, array)
    array = stream.getvalue()
  return zipped({**members, f'{name}.npy': array})


def huge(*shape):
  return npy({'descr': '|u1', 'fortran_order': False, 'shape': shape})


HOSTILE = {
  'npz, a petabyte': (
    'npz',
    lambda: with_array(npz_sets()[0], 'train_images', huge(1 << 50, 8, 8)),
  ),
  'npz, more than int64': (
    'npz',
    lambda: with_array(npz_sets()[0], 'train_images', huge(1 << 62, 1 << 62)),
  ),
  'state, a petabyte': (
    'autoattack',
    lambda: with_array(states()[0], 'perturbed', huge(1 << 50)),
  ),
  'state, of fewer images': (
    'autoattack',
    lambda: with_array(states()[0], 'robust', np.ones(2, bool)),
  ),
  'state, of other numbers': (
    'autoattack',
    lambda: with_array(states()[0], 'perturbed', np.zeros(5, np.uint8)),
  ),
  'state, of no numbers': (
    'autoattack',
    lambda: with_array(states()[0], 'records', '{"apgd-ce": [1]}'),
  ),
  'config.json, a list': ('config.json', lambda: b'[]'),
  'metrics.jsonl, a number': ('metrics.jsonl', lambda: b'1e999'),
}


@pytest.mark.parametrize('case', HOSTILE)
def test_hostile_file(case, here, little_memory):
  name, make = HOSTILE[case]
  faults, path = Faults(), here / f'x{READERS[name].suffix}'
  path.write_bytes(make())
  faults.call(case, READERS[name].read, path)
  if faults.kinds:
    pytest.fail(f'{faults}', pytrace=False)


# ----------------------------------------------------------------------- texts


def read_number(text):
  assert np.isfinite(parse_number(text))


def read_sweep(text):
  config = default_config()
  rows = parse_sweep(text, config)
  assert len(create_trials(config, rows)) == len(rows)


def read_flag(text):
  field, _, value = text.removeprefix('--config.').partition('=')
  add_fields(default_config(), {field: value})


def read_place(text):
  """The variables of a launcher, as lines NAME=VALUE."""
  variables = dict(line.partition('=')[::2] for line in text.split('\n'))
  found = find_place(variables)
  assert 0 <= found.process_id < found.num_processes
  assert 0 <= found.local_id < found.num_local
  gpus_of(found, variables)


class Text(NamedTuple):
  """Valid texts, and what reads a text."""

  valid: tuple[str, ...]
  read: Callable[[str], Any]
  share: float = 1.0


PLACES = (
  'ADVJAX_PROCESS=1/2\nADVJAX_LOCAL_PROCESS=0/1\nCUDA_VISIBLE_DEVICES=0,1',
  'OMPI_COMM_WORLD_RANK=1\nOMPI_COMM_WORLD_SIZE=4\n'
  'OMPI_COMM_WORLD_LOCAL_RANK=1\nOMPI_COMM_WORLD_LOCAL_SIZE=2',
  'SLURM_PROCID=3\nSLURM_STEP_NUM_TASKS=4\nSLURM_LOCALID=1\n'
  'SLURM_STEP_TASKS_PER_NODE=2(x2)\nSLURM_NODEID=1\nSLURM_NTASKS=4',
)
TEXTS = {
  'attack': Text(
    ('fgsm', 'bim-20', 'pgd-50-10', 'square-100', 'autoattack', 'apgd-t', 'cw'),
    functools.partial(advjax.parse_attack, norm='l2'),
  ),
  'attacks': Text(('fgsm,bim-20', 'pgd-40 , apgd-10-2', 'fmn'), parse_attacks),
  'number': Text(('8/255', '0.031', '1e-3', ' 4 / 255', '-2'), read_number),
  'fractions': Text(
    ('--config.hparams.epsilon=8/255', '--config.evaluation.epsilons=(1/2,3)'),
    lambda text: expand_fractions(['train', text]),
  ),
  'function': Text(
    ('math:sin', 'os.path:join', 'json:JSONDecoder.decode'),
    functools.partial(import_function, 'attack'),
  ),
  'sweep': Text(
    (
      'seed=1,2;batch_size=3,4',
      'zip(hparams.learning_rate=0.1,1/2;seed=0,1)',
      "list(seed=0,model.name='mlp';seed=1,model.name=cnn)",
      'optimizer.nesterov=true,false;optimizer.name=sgd',
    ),
    read_sweep,
    0.3,
  ),
  'flag': Text(
    (
      '--config.seed=3',
      '--config.model.name=mlp',
      '--config.objective.name=trades',
      '--config.evaluation.bounds=None',
      '--config.dataset.path=None',
      '--config.hparams.learning_rate=None',
    ),
    read_flag,
    0.5,
  ),
  'shard': Text(('0/2', ' 1 / 4'), lambda text: shard_trials([1, 2, 3], text)),
  'place': Text(PLACES, read_place),
}


@pytest.mark.parametrize('name', TEXTS)
def test_text(name):
  reader, faults = TEXTS[name], Faults()
  for text in reader.valid:
    reader.read(text)
  for index in range(num_cases(reader.share)):
    text = show(name, index)
    faults.call(f'show({name!r}, {index}) = {text!r}', reader.read, text)
  if faults.kinds:
    pytest.fail(f'{faults}', pytrace=False)
