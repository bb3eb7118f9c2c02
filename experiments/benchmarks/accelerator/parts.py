"""The parts of the accelerator benchmark, each a generator of its results.

A part yields dicts as soon as it has results; those of one part are merged.
Each runs in a process of its own (`child.py`).
"""

import contextlib
import functools
import importlib.metadata
import json
import os
import pathlib
import pickle
import runpy
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple
from xml.etree import ElementTree

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import config_dict

import advjax
from advjax import compile_cache, data
from advjax.callables import Callee
from advjax.config import default_config
from advjax.devices import Batching, replicate, select_devices
from advjax.environment import environment
from advjax.evaluation.models import parse_attacks
from advjax.losses import cross_entropy
from advjax.models import create_model
from advjax.models.logits import eval_logits_fn
from advjax.training.setup import create_run
from experiments.benchmarks import (
  autoattack,
  harness,
  peers,
  roofline,
  runs,
  sweep,
)
from experiments.benchmarks.accelerator import child
from experiments.benchmarks.harness import OURS, TimedRun, timed
from experiments.benchmarks.roofline import Rates, Work
from experiments.benchmarks.time_to_robust import attack as attack_network

ROOT = pathlib.Path(__file__).parents[3]
EPSILON = 8 / 255
Results = Iterator[dict[str, Any]]


class Sizes(NamedTuple):
  """How much of everything is measured."""

  matmul: int = 8192
  copy_mib: int = 1024
  check_model: Mapping[str, Any] = {'name': 'cnn'}
  check_images: int = 256
  cifar_train: int | None = None
  cifar_changes: Mapping[str, Any] = {}
  pgd_images: int = 1000
  autoattack_images: int = 512
  nsl_batch_sizes: tuple[int, ...] = (128, 1024, 8192)
  # Network, attack steps and batch size of two trainings.
  pgd_trainings: tuple[tuple[Mapping[str, Any], int, int], ...] = (
    ({'name': 'preact_resnet18'}, 7, 256),
    ({'name': 'wide_resnet28_10'}, 10, 128),
  )
  # Batch size and attack steps of a training, attack steps beside it.
  torch: tuple[int, int, int] = (256, 7, 10)
  pgd_steps: int = 50
  pgd_batch_size: int = 512
  members: tuple[int, ...] = (1, 16, 64, 256)
  tutorial: str = 'nsl_digits.py'
  # The others import what a bare machine may lack.
  tests: tuple[str, ...] = (
    'tests/attacks',
    'tests/evaluation',
    'tests/training',
  )
  rounds: int = 5
  steps: int = 20


FULL = Sizes()
# Of a machine without an accelerator: that everything runs, and nothing else.
TINY = Sizes(
  matmul=256,
  copy_mib=1,
  check_model={'name': 'mlp', 'hidden_units': (16,)},
  check_images=16,
  cifar_train=256,
  cifar_changes={'model': {'name': 'small_resnet', 'widths': (4,)}},
  pgd_images=16,
  autoattack_images=8,
  nsl_batch_sizes=(32,),
  pgd_trainings=(
    ({'name': 'small_resnet', 'widths': (4,)}, 1, 8),
    ({'name': 'small_resnet', 'widths': (8,)}, 1, 8),
  ),
  torch=(2, 1, 1),
  pgd_steps=2,
  pgd_batch_size=4,
  members=(1, 2),
  tutorial='nsl_digits.py:smoke',
  tests=('tests/attacks/test_gradient.py',),
  rounds=3,
  steps=8,
)


class Context(NamedTuple):
  """What a part is given."""

  platform: str | None  # The one that was asked for; None: any accelerator.
  kind: str | None  # What was found: 'cpu', 'gpu' or 'tpu'; None before.
  sizes: Sizes
  path: str  # The npz with images of 32 x 32 pixels in three channels.
  folder: pathlib.Path  # For files that parts share.
  rates: Mapping[str, float] | None  # From the first part; None before.
  torch_python: pathlib.Path
  deadline: float  # Of `time.monotonic`.

  @property
  def device(self) -> jax.Device:
    """The accelerator, or the CPU where that was asked for.

    A part that only starts other programs does not take it.
    """
    (device,) = select_devices(self.platform, 1)
    if device.platform == 'cpu' and self.platform != 'cpu':
      raise ValueError(
        'there is no accelerator: JAX finds CPUs alone; --platform=cpu tries '
        'everything at tiny sizes'
      )
    return device

  def dataset(self) -> data.Dataset:
    """Returns the images, of which a tiny run takes the first."""
    found = data.load({'name': 'npz', 'path': self.path})
    shape = found.train.images.shape[1:]
    if shape != (32, 32, 3):
      raise ValueError(
        f'--data: {self.path} holds images of shape {shape}; allowed: '
        '(32, 32, 3), as CIFAR-10'
      )
    train = first(found.train, self.sizes.cifar_train)
    return found._replace(train=train)

  def shares(
    self, work: Work, seconds: float, bound: str = 'bfloat16'
  ) -> dict[str, float]:
    """Returns what work reached of the rates, one of which bounds it."""
    assert self.rates is not None
    rate = work.flops / seconds
    least = work.seconds(Rates(self.rates[bound], self.rates['bytes']))
    return {
      'teraflops_per_second': rate / 1e12,
      'share_of_matmul': rate / self.rates['bfloat16'],
      'share_of_roofline': least / seconds,
    }


def first(split: data.Split, count: int | None) -> data.Split:
  return data.Split(*(array[:count] for array in split))


def difference(found: np.ndarray, expected: np.ndarray) -> float:
  """Returns the largest difference, relative to the largest number."""
  return float(np.abs(found - expected).max() / np.abs(expected).max())


# ---------------------------------------------------------------- the machine


def machine(context: Context) -> Results:
  """What the machine is, and its rates: products of matrices, copies."""
  device, sizes = context.device, context.sizes
  memory = (device.memory_stats() or {}).get('bytes_limit')
  here = environment([device])
  versions = {n: here[n] for n in ('jax', 'jaxlib', 'flax', 'optax', 'numpy')}
  versions['torch'] = driver = None
  with contextlib.suppress(importlib.metadata.PackageNotFoundError):
    versions['torch'] = importlib.metadata.version('torch')
  with contextlib.suppress(OSError, subprocess.TimeoutExpired):
    command = ['nvidia-smi', '--query-gpu=driver_version']
    command.append('--format=csv,noheader')
    found = subprocess.run(command, capture_output=True, text=True, timeout=20)
    driver = found.stdout.split('\n')[0].strip() or None
  yield {
    'platform': device.platform,
    'device': device.device_kind,
    'num_devices': len(jax.devices(device.platform)),
    'memory_gib': memory and memory / 2**30,
    'driver': driver,
    'cpu_cores': len(os.sched_getaffinity(0)),
    'python': here['python'],
    'versions': versions,
  }
  rates = {}
  for name, dtype, precision in (
    ('bfloat16', jnp.bfloat16, 'default'),
    ('float32', jnp.float32, 'highest'),
    ('float32_default', jnp.float32, 'default'),
  ):
    how = [sizes.matmul] * 3, dtype, precision
    rates[name] = roofline.matmul_rate([device], *how, repeats=20)
  rates['bytes'] = roofline.copy_rate([device], sizes.copy_mib, repeats=20)
  yield {'rates': rates}


# --------------------------------------------------------------- the numerics


def numerics(context: Context) -> Results:
  """One network on the accelerator, and on the CPU in float32 and float64.

  Differences of arrays are the largest, relative to the largest number of
  the CPU's float32: what float64 differs by is what rounding alone does.
  """
  digits = data.load({'name': 'digits'})
  cpu = jax.devices('cpu')[0]
  config = runs.tutorial_config('standard')
  config.model = context.sizes.check_model
  training = create_run(config, digits, [context.device])
  params = runs.train_timed(training).params
  # On the host: training takes the arrays of a state for its own.
  start = jax.tree.map(
    np.asarray, create_run(config, digits, [cpu]).init_state()
  )
  test = first(digits.test, context.sizes.check_images)
  images = np.asarray(data.to_float(test.images))
  on_host = functools.partial(jax.tree.map, lambda x: np.asarray(x, np.float64))

  def update(device: jax.Device) -> np.ndarray:
    """The change of the parameters in one training step."""
    here = create_run(config, digits, [device])
    given = runs.step_arguments(here, 1, replicate(start, here.devices))
    state, _ = here.train_steps.func(*given)
    new, old = (jax.tree.leaves(on_host(s.params)) for s in (state, start))
    return np.concatenate(
      [(a - b).ravel() for a, b in zip(new, old, strict=True)]
    )

  def compute(device: jax.Device, precision: str, dtype: Any) -> Any:
    """Arrays, adversarial images by attack, and accuracies."""
    with (
      jax.enable_x64(dtype == np.float64),
      jax.default_device(device),
      jax.default_matmul_precision(precision),
    ):
      cast = jax.tree.map(lambda leaf: jnp.asarray(leaf, dtype), params)
      network = eval_logits_fn(training.model, cast, {}, None)
      x, y = jnp.asarray(images, dtype), jnp.asarray(test.labels)

      @jax.jit
      def gradient(images: jax.Array) -> Any:
        def summed(images: jax.Array) -> Any:
          logits = network(images)
          losses = cross_entropy(logits, y)
          return losses.sum(), (logits, losses)

        return jax.grad(summed, has_aux=True)(images)

      gradients, (logits, losses) = gradient(x)
      assert logits.devices() == {device}
      given, key = (network, x, y, runs.EPSILON), jax.random.key(0)
      adversarial = {
        'fgsm': advjax.fgsm(*given),
        'bim-20': advjax.bim(*given, 0.01, num_steps=20),
        'apgd-50': advjax.apgd(*given, num_steps=50, key=key),
      }
      accuracy = {
        name: float((gradient(each)[1][0].argmax(-1) == y).mean())
        for name, each in {'clean': x, **adversarial}.items()
      }
      arrays = {'logits': logits, 'loss': losses, 'gradient': gradients}
      arrays = on_host(arrays)
      if dtype == np.float32:
        arrays['update'] = update(device)
      return arrays, on_host(adversarial), accuracy

  expected, reference, accuracy = compute(cpu, 'highest', np.float32)
  rows: list[dict[str, Any]] = [{'name': 'CPU, float32', 'accuracy': accuracy}]
  kind = context.device.platform.upper()
  for name, device, precision, dtype in (
    (f'{kind}, highest precision', context.device, 'highest', np.float32),
    (f'{kind}, default precision', context.device, 'default', np.float32),
    ('CPU, float64', cpu, 'highest', np.float64),
  ):
    arrays, adversarial, accuracy = compute(device, precision, dtype)
    signs = {}
    for attack, found in adversarial.items():
      moved, other = (np.sign(x - images) for x in (found, reference[attack]))
      signs[attack] = float((moved != other).mean())
    differences = {k: difference(x, expected[k]) for k, x in arrays.items()}
    row = {'name': name, 'differences': differences, 'other_signs': signs}
    rows.append(row | {'accuracy': accuracy})
    yield {'num_images': len(images), 'epsilon': runs.EPSILON, 'rows': rows}


# ------------------------------------------------------------------- CIFAR-10


def cifar_config(sizes: Sizes) -> config_dict.ConfigDict:
  """Returns configs/cifar10_fast.py; of a tiny run, what little it trains."""
  path = ROOT / 'configs' / 'cifar10_fast.py'
  config = runpy.run_path(str(path))['get_config']()
  with config.unlocked():
    for field, value in sizes.cifar_changes.items():
      config[field] = value
  if sizes.cifar_train:  # Then nothing of it is meant to be good.
    config.num_epochs, config.batch_size = 1, 32
  return config


def _train_cifar(
  context: Context, seed: int, attack: str
) -> Iterator[tuple[dict[str, Any], runs.Trained]]:
  """Trains a network, then attacks it in float32."""
  config = cifar_config(context.sizes)
  config.seed = seed
  dataset = context.dataset()
  training = create_run(config, dataset, [context.device])
  trained = runs.train_timed(training)
  seconds = trained.costs['step_milliseconds'] / 1e3
  work = roofline.step_work(training)
  row = {'seed': seed, **trained.costs, **context.shares(work, seconds)}
  yield row, trained
  test = first(dataset.test, context.sizes.pgd_images)
  (parsed,) = parse_attacks([attack], step_size=2 / 255).values()
  network = runs.float32_network(training, trained)
  batching = Batching(config.evaluation.batch_size, [context.device])
  found = attack_network(network, {attack: parsed}, test, EPSILON, batching)
  yield row | found | {'num_images': len(test.labels)}, trained


def cifar10(context: Context) -> Results:
  """Trains configs/cifar10_fast.py with seed 0; PGD-50-10."""
  for row, trained in _train_cifar(context, 0, 'pgd-50-10'):
    kept = trained.params, trained.model_state
    (context.folder / 'cifar10.pickle').write_bytes(pickle.dumps(kept))
    yield {'rows': [row]}


def cifar10_seeds(context: Context) -> Results:
  """The same with seeds 1 and 2; PGD-10."""
  rows: list[dict[str, Any]] = []
  for seed in (1, 2):
    for row, _ in _train_cifar(context, seed, 'pgd-10'):
      yield {'rows': [*rows, row]}
    rows.append(row)


def cifar10_autoattack(context: Context) -> Results:
  """AutoAttack on the network that was trained with seed 0."""
  path = context.folder / 'cifar10.pickle'
  if not path.is_file():
    raise ValueError('there is no network: the part cifar10 has left none')
  variables = jax.device_put(pickle.loads(path.read_bytes()), context.device)
  dataset = context.dataset()
  test = first(dataset.test, context.sizes.autoattack_images)
  fields = cifar_config(context.sizes).model.to_dict() | {'dtype': 'float32'}
  model = create_model(fields, dataset.num_classes)
  images = np.asarray(data.to_float(test.images))
  given = eval_logits_fn(model, *variables), images, test.labels, EPSILON
  options: dict[str, Any] = {'key': jax.random.key(0)}
  options['devices'] = [context.device]
  options['path'] = context.folder / 'autoattack.npz'
  found: dict[str, Any] = {'num_images': len(test.labels), 'attacks': {}}
  names = autoattack.ATTACKS
  for index, name in enumerate(names):
    options['attacks'] = names[: index + 1]  # Earlier ones are in the file.
    result = advjax.autoattack(*given, **options)
    record = result.per_attack[name]
    found['clean'] = float(result.clean.mean())
    found['attacks'][name] = {
      'robust': float(result.robust.mean()),
      'seconds': record.seconds,
      'compile_seconds': record.compile_seconds,
    }
    yield found


# ------------------------------------------------------------- training steps


def _steps(
  context: Context,
  name: str,
  config: config_dict.ConfigDict,
  dataset: data.Dataset,
  work: Work | None = None,
  bound: str = 'bfloat16',
) -> dict[str, Any]:
  """Times training steps, as `train` takes them, at most those of an epoch."""
  training = create_run(config, dataset, [context.device])
  num_steps = min(context.sizes.steps, training.plan.steps_per_epoch - 1)
  run = runs.seconds_per_step(training, num_steps)
  _, compiling = timed(run)
  seconds = statistics.median(run() for _ in range(context.sizes.rounds))
  work = work or roofline.step_work(training)
  return {
    'name': name,
    'batch_size': config.batch_size,
    'step_milliseconds': 1e3 * seconds,
    'steps_per_second': 1 / seconds,
    'images_per_second': config.batch_size / seconds,
    'first_call_seconds': compiling,
    'peak_mib': runs.peak_mib(context.device),
    **context.shares(work, seconds, bound),
  }


def steps_nsl(context: Context) -> Results:
  """NSL's objective on NSL's network, float32, on random images."""
  rng = np.random.default_rng(0)
  count = (context.sizes.steps + 1) * max(context.sizes.nsl_batch_sizes)
  images = rng.integers(0, 256, (count, 28, 28, 1), np.uint8)
  split = data.Split(images, rng.integers(0, 10, count).astype(np.int32))
  dataset = data.Dataset('random', split, split, 10, tuple('0123456789'))
  rows = []
  for batch_size in context.sizes.nsl_batch_sizes:
    config = runs.tutorial_config('nsl', batch_size)
    # XLA computes once what two passes share: counted in closed form.
    work = roofline.least_work('nsl', batch_size)
    row = _steps(context, 'NSL CNN', config, dataset, work, 'float32_default')
    rows.append(row)
    yield {'rows': rows}


def pgd_config(
  model: Mapping[str, Any], num_steps: int, batch_size: int
) -> config_dict.ConfigDict:
  """PGD training in bfloat16, no augmentation, no pass on clean images."""
  config = default_config()
  config.model = {**model, 'dtype': 'bfloat16'}
  objective = {'name': 'pgd_at', 'num_steps': num_steps}
  config.objective = {**objective, 'clean_metrics': False}
  config.hparams.update(
    learning_rate=0.1, epsilon=EPSILON, step_size=2.5 * EPSILON / num_steps
  )
  config.optimizer.update(name='sgd', nesterov=True, weight_decay=5e-4)
  config.batch_size = batch_size
  return config


def steps_resnet18(context: Context, index: int = 0) -> Results:
  """PGD training of PreAct ResNet-18 in bfloat16."""
  model, num_steps, batch_size = context.sizes.pgd_trainings[index]
  config = pgd_config(model, num_steps, batch_size)
  name = f'{model["name"]}, PGD-{num_steps}'
  yield {'rows': [_steps(context, name, config, context.dataset())]}


def steps_wide_resnet(context: Context) -> Results:
  """PGD training of WRN-28-10 in bfloat16."""
  return steps_resnet18(context, 1)


# -------------------------------------------------------------------- attacks

# How an attack computes: dtype of the network, precision of float32 products,
# and the rate that bounds it.
_PRECISIONS = {
  'bfloat16': ('bfloat16', 'default', 'bfloat16'),
  'float32, default precision': ('float32', 'default', 'float32_default'),
  'float32, highest precision': ('float32', 'highest', 'float32'),
}


def pgd(num_steps: int) -> Callable[..., Any]:
  """Returns PGD (Madry et al. 2017): a random start, the last iterate."""

  def attacked(network: Callee, images: Any, labels: Any, key: Any) -> Any:
    given = network, images, labels, EPSILON, EPSILON / 4
    return advjax.bim(*given, num_steps=num_steps, key=key)

  return attacked


def _pgd(
  context: Context,
  model: Mapping[str, Any],
  batch: tuple[np.ndarray, np.ndarray],
  variables: tuple[Any, Any],
  precision: str,
  num_steps: int,
) -> tuple[runs.Program, Work]:
  """Compiles PGD; the program, and its work."""
  dtype, matmul, _ = _PRECISIONS[precision]
  made = create_model({**model, 'dtype': dtype}, 10)
  network = Callee.of(eval_logits_fn(made, *variables, matmul))
  arguments = jax.device_put(
    (network, *batch, jax.random.key(0)), context.device
  )
  attacked = pgd(num_steps)
  work = roofline.work_of(attacked, *arguments)
  return runs.compile_program(jax.jit(attacked), *arguments), work


def _test_batch(
  context: Context, dataset: data.Dataset
) -> tuple[np.ndarray, np.ndarray]:
  rows = np.arange(context.sizes.pgd_batch_size) % len(dataset.test.labels)
  images = np.asarray(data.to_float(dataset.test.images[rows]))
  return images, dataset.test.labels[rows]


def attacks(context: Context) -> Results:
  """Images per second of PGD on PreAct ResNet-18, by precision."""
  num_steps = context.sizes.pgd_steps
  fields, _, _ = context.sizes.pgd_trainings[0]
  batch = _test_batch(context, context.dataset())
  variables = create_model(fields, 10).init(jax.random.key(0), batch[0][:1])
  rows = []
  for precision, (_, _, bound) in _PRECISIONS.items():
    program, work = _pgd(
      context, fields, batch, variables, precision, num_steps
    )
    program.run()
    seconds = statistics.median(program.run() for _ in range(3))
    row = {
      'name': f'PGD-{num_steps}, {precision}',
      'seconds': seconds,
      'batch_size': len(batch[1]),
      'images_per_second': len(batch[1]) / seconds,
      **context.shares(work, seconds, bound),
      'compile_seconds': program.compile_seconds,
      'program_mib': program.temporary_mib + program.argument_mib,
    }
    rows.append(row)
    yield {'rows': rows}


# -------------------------------------------------------------------- PyTorch

_TORCH_IMAGES = 10_000


def torch_compiled(context: Context) -> Results:
  """The same with torch.compile."""
  return torch(context, compiled=True)


def torch(context: Context, *, compiled: bool = False) -> Results:
  """The same training step and the same PGD in PyTorch, in turns."""
  name = 'PyTorch, compiled' if compiled else 'PyTorch'
  sizes, model = context.sizes, {'name': 'preact_resnet18'}
  batch_size, num_steps, num_attack_steps = sizes.torch
  config = pgd_config(model, num_steps, batch_size)
  dataset = context.dataset()
  training = create_run(config, dataset, [context.device])
  state = training.init_state()
  variables = state.params, state.model_state
  arrays = {
    **runs.by_name(state.params, state.model_state['batch_stats']),
    'train_images': dataset.train.images[:_TORCH_IMAGES],
    'train_labels': dataset.train.labels[:_TORCH_IMAGES],
  }
  hparams, optimizer = config.hparams, config.optimizer
  job = {
    'network': model['name'],
    'objective': 'pgd',
    'device': 'cpu' if context.device.platform == 'cpu' else 'cuda',
    'channels_last': True,
    'compile': compiled,
    'epsilon': EPSILON,
    'attack_steps': num_steps,
    'attack_batch_norm': 'eval',
    'random_start': True,
    **{name: hparams[name] for name in ('learning_rate', 'step_size')},
    **{n: optimizer[n] for n in ('momentum', 'nesterov', 'weight_decay')},
    'batch_size': batch_size,
  }
  batch = _test_batch(context, dataset)
  shown = {'images': batch[0], 'labels': batch[1]}
  rows: list[dict[str, Any]] = []
  with peers.started(peers.PEERS['torch'], context.torch_python) as run_job:

    def prepare(precision: str) -> str:
      dtype, matmul, _ = _PRECISIONS[precision]
      choices = {'name': precision, 'dtype': dtype, 'tf32': matmul == 'default'}
      run_job(job | choices | {'task': 'prepare'}, arrays)
      return precision

    exact = prepare('float32, highest precision')
    theirs = run_job({'task': 'logits', 'name': exact}, {'images': batch[0]})
    float32 = create_model(model, dataset.num_classes)
    ours = np.asarray(jax.jit(eval_logits_fn(float32, *variables))(batch[0]))
    versions = str(theirs['versions'])
    apart = difference(theirs['logits'], ours)
    yield {'versions': versions, 'logits_difference': apart}
    peaks: list[float] = []

    def their_steps() -> TimedRun:
      task = {'task': 'steps', 'name': prepare('bfloat16')}

      def run() -> float:
        out = run_job(task | {'num_steps': sizes.steps}, {})
        peaks.append(float(out['peak_bytes']) / 2**20)
        return float(out['seconds'])

      return run

    def their_attack(precision: str) -> TimedRun:
      task = {'task': 'pgd', 'name': prepare(precision), 'rounds': 1}
      lengths = {'epsilon': EPSILON, 'step_size': EPSILON / 4}
      attack = {**task, **lengths, 'num_steps': num_attack_steps}
      return lambda: float(run_job(attack, shown)['seconds'][-1])

    def our_attack(precision: str) -> TimedRun:
      given = context, model, batch, variables
      return _pgd(*given, precision, num_attack_steps)[0].run

    def beside(ours: harness.Side, theirs: harness.Side) -> dict[str, Any]:
      times = harness.in_turns({OURS: ours, name: theirs}, sizes.rounds)
      if times.failures:
        raise peers.PeerError(times.failures[name])
      own, other = harness.compare(times, 1)
      return {
        'torch': name,
        'milliseconds': own['milliseconds'],
        'torch_milliseconds': other['milliseconds'],
        'times_as_fast': other['times_as_fast'],
      }

    found = beside(
      lambda: runs.seconds_per_step(training, sizes.steps), their_steps
    )
    case = f'{model["name"]}, PGD-{num_steps} training, bfloat16'
    row = {'name': case, 'batch_size': batch_size, **found}
    rows.append(row | {'peak_mib': max(peaks)})
    yield {'rows': rows}
    for precision in ('bfloat16', 'float32, default precision'):
      found = beside(
        functools.partial(our_attack, precision),
        functools.partial(their_attack, precision),
      )
      case = f'{model["name"]}, PGD-{num_attack_steps}, {precision}'
      rows.append({'name': case, 'batch_size': len(batch[1]), **found})
      yield {'rows': rows}


# ---------------------------------------------------- sweep, tutorial and tests


def sweeps(context: Context) -> Results:
  """An epoch of so many runs at once, on the embedded digits."""
  digits, devices = data.load({'name': 'digits'}), [context.device]
  at_once = 'map' if devices[0].platform == 'cpu' else 'vmap'
  config = runs.tutorial_config('nsl')
  steps = create_run(config, digits, devices).plan.steps_per_epoch
  rows = []
  for count in context.sizes.members:
    way = at_once if count > 1 else 'in turn'
    taken = sweep.measure(count, [way], digits, devices, steps=steps, rounds=1)
    ((compiling, seconds),) = taken[way]
    row = {'members': count, 'compile_seconds': compiling}
    row['step_milliseconds'] = 1e3 * seconds / steps
    rows.append(row | {'seconds_per_member': seconds / count})
    yield {'rows': rows, 'num_steps': steps}


def tutorial(context: Context) -> Results:
  """NSL's tutorial on the embedded digits, from start to report."""
  workdir = context.folder / 'tutorial'
  start = time.perf_counter()
  subprocess.run(
    [
      *(sys.executable, '-P', '-m', 'experiments.compare'),
      f'--config={ROOT / "configs" / context.sizes.tutorial}',
      f'--workdir={workdir}',
      *(f'--platform={context.kind}', '--devices=1'),
    ],
    check=True,
    stdout=subprocess.DEVNULL,
  )
  seconds = time.perf_counter() - start
  report = json.loads((workdir / 'report.json').read_text())
  members = {
    name: {
      'clean': member['clean_accuracy'],
      'train_seconds': member['train_seconds'],
      **{n: each['white_box'] for n, each in member['robust_accuracy'].items()},
    }
    for name, member in report['members'].items()
  }
  yield {'seconds_to_report': seconds, 'members': members}


def tests(context: Context) -> Results:
  """The tests that are marked for accelerators, once more with fixed sums."""
  found = _pytest(context, 'tests', context.sizes.tests, {})
  yield found
  # XLA aborts on an unknown flag.
  flags = f'{os.environ.get("XLA_FLAGS", "")} --xla_gpu_deterministic_ops=true'
  resumed = _pytest(
    context, 'resumed', ('tests/training/test_loop.py',), {'XLA_FLAGS': flags}
  )
  yield {**found, 'deterministic': resumed}


def _pytest(
  context: Context, name: str, paths: Sequence[str], env: Mapping[str, str]
) -> dict[str, Any]:
  """Runs marked tests, as many as there is time for; counts and failures."""
  path = context.folder / f'{name}.xml'
  process = subprocess.Popen(
    [
      *(sys.executable, '-P', '-m', 'pytest', '-m', 'accelerator', '-q'),
      f'--platform={context.kind}',
      *('-p', 'no:cacheprovider', f'--junitxml={path}', *paths),
    ],
    cwd=ROOT,
    env={**os.environ, **env},
    stdout=sys.stderr,
  )
  try:
    process.wait(max(0.0, context.deadline - time.monotonic() - 10))
  except subprocess.TimeoutExpired:
    process.send_signal(signal.SIGINT)  # It writes down what it has.
    process.wait()
  if not path.is_file():
    raise ValueError('pytest has left no results; its output says why')
  (suite,) = ElementTree.parse(path).getroot().iter('testsuite')
  failed = [
    f'{case.get("classname")}::{case.get("name")}'
    for case in suite.iter('testcase')
    if case.find('failure') is not None or case.find('error') is not None
  ]
  counts = {n: int(suite.get(n, 0)) for n in ('tests', 'skipped')}
  if not counts['tests']:
    raise ValueError('pytest has run no test; its output says why')
  return {**counts, 'failed': failed}


if __name__ == '__main__':

  def run(
    name: str, settings: Mapping[str, Any], folder: pathlib.Path
  ) -> Results:
    """Runs a part by the settings of the program."""
    is_tiny = settings['platform'] == 'cpu'
    if is_tiny:
      jax.config.update('jax_platforms', 'cpu')
    if settings['keep_compiled']:
      compile_cache.turn_on()
    context = Context(
      **{key: settings[key] for key in ('platform', 'kind', 'rates')},
      sizes=TINY if is_tiny else FULL,
      path=settings['data'],
      folder=folder,
      torch_python=pathlib.Path(settings['torch_python']),
      deadline=time.monotonic() + settings['seconds'],
    )
    return globals()[name](context)

  child.run(run)
