"""Measure training steps and attacks, against plain nn.Conv in the same run.

  ./launch.sh benchmark --workdir=runs/benchmark

Every number is the median over rounds in which all variants take turns, so
that a noisy machine disturbs all of them alike; compare ratios, not times.
"""

import logging
import pathlib
import resource
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from absl import flags
from flax import linen as nn

from advjax import cli, data
from advjax.attacks.specs import Attack, parse_attack
from advjax.callables import Callee
from advjax.config import check_range, choose, default_config
from advjax.devices import parallelize, replicate
from advjax.files import write_json
from advjax.models import Model, create_model, from_linen
from advjax.models.logits import eval_logits_fn
from advjax.reporting.report import environment
from advjax.training.objectives import create_objective
from advjax.training.optimizers import create_optimizer, create_schedule
from advjax.training.step import (
  RunInputs,
  StepPlan,
  create_state,
  make_train_step,
  make_train_steps,
)

logger = logging.getLogger('advjax')

_OBJECTIVES: dict[str, dict[str, float]] = {
  'standard': {},
  'adversarial_regularization': {'multiplier': 0.2, 'step_size': 0.2},
  'virtual_adversarial_regularization': {
    'multiplier': 1.0,
    'step_size': 2.0,
    'approx_difference': 2.0,
  },
  'fgsm_at': {'epsilon': 0.1, 'step_size': 0.125},
  'noisy_fgsm_at': {'noise_size': 0.2, 'step_size': 0.1},
  'pgd_at': {'epsilon': 0.1, 'step_size': 0.025},
  'trades': {'epsilon': 0.1, 'step_size': 0.025, 'beta': 6.0},
}
_BATCH_SIZE = flags.DEFINE_integer('batch_size', 32, 'Rows of a train step.')
_ATTACK_BATCH_SIZE = flags.DEFINE_integer(
  'attack_batch_size', 128, 'Images of an attack.'
)
_ROUNDS = flags.DEFINE_integer('rounds', 7, 'Rounds of which the median is.')
_TRAIN_STEPS = flags.DEFINE_integer('steps', 20, 'Train steps in a round.')
_NAMES = flags.DEFINE_list(
  'objectives', list(_OBJECTIVES), 'Objectives to measure.'
)
_ATTACKS = flags.DEFINE_list(
  'attacks', ['fgsm', 'bim-20', 'mifgsm-10', 'pgd-40'], 'Attacks to measure.'
)
_WORKDIR = flags.DEFINE_string(
  'workdir', None, 'Folder that benchmark.json is written to.', required=True
)


class PlainCNN(nn.Module):
  """The NSL network with Flax's own layers; the same params fit it."""

  num_classes: int = 10

  @nn.compact
  def __call__(self, images: jax.Array, *, train: bool = False) -> jax.Array:
    del train
    hidden = images
    for index, filters in enumerate((32, 64, 64)):
      if index:
        hidden = nn.max_pool(hidden, (2, 2), (2, 2))
      hidden = nn.relu(nn.Conv(filters, (3, 3), padding='VALID')(hidden))
    hidden = nn.relu(nn.Dense(64)(hidden.reshape(hidden.shape[0], -1)))
    return nn.Dense(self.num_classes)(hidden)


class Program(NamedTuple):
  """Something to time.

  Attributes:
    run: Does it once and waits for the result.
    work: How many steps or images one run does.
    compile_seconds: Of its program, tracing included.
    temporary_mib: Memory that the program needs besides its arguments.
  """

  run: Callable[[], Any]
  work: int
  compile_seconds: float
  temporary_mib: float


def compile_program(function: Any, *arguments: Any) -> tuple[Any, float, float]:
  """Compiles a jitted or pmapped function; returns seconds and MiB too."""
  start = time.perf_counter()
  compiled = function.lower(*arguments).compile()
  seconds = time.perf_counter() - start
  memory = compiled.memory_analysis().temp_size_in_bytes / 2**20
  return compiled, seconds, memory


def train_program(
  model: Model,
  objective: str,
  dataset: data.Dataset,
  devices: Sequence[jax.Device],
  batch_size: int,
  num_steps: int,
) -> Program:
  """Compiles the training loop of one objective, as training runs it."""
  config = default_config()
  optimizer = create_optimizer(config.optimizer)
  plan = StepPlan(len(dataset.train.labels), batch_size, len(devices))
  loop = make_train_steps(
    make_train_step(
      model.apply,
      create_objective({'name': objective}),
      optimizer,
      create_schedule(config.schedule, num_steps),
      microbatches=devices[0].platform == 'cpu',
    ),
    plan,
  )
  images = jnp.zeros((1, *dataset.train.images.shape[1:]))
  state = create_state(model, optimizer, images, jax.random.key(0))
  split = {'image': dataset.train.images, 'label': dataset.train.labels}
  hparams = {
    name: jnp.float32(value)
    for name, value in (
      {'learning_rate': 1e-3} | _OBJECTIVES[objective]
    ).items()
  }
  train_steps = parallelize(loop, devices, num_args=4)
  rows = jnp.arange(plan.num_examples, dtype=jnp.int32)
  inputs = RunInputs(rows, hparams, jax.random.key(0))
  state, *arguments = replicate((state, split, inputs), devices)
  arguments.append(np.int32(min(num_steps, plan.steps_per_epoch)))
  compiled, seconds, memory = compile_program(
    train_steps.func, *train_steps.args, state, *arguments
  )
  holder = [state]

  def run() -> None:
    holder[0], history = compiled(*train_steps.args, holder[0], *arguments)
    jax.block_until_ready(history)

  return Program(run, int(arguments[-1]), seconds, memory)


def attack_program(
  model: Model, name: str, dataset: data.Dataset, batch_size: int
) -> Program:
  """Compiles an attack on a network as it is initialised."""
  attack = parse_attack(name)
  if not isinstance(attack, Attack):
    raise ValueError(
      f'attack {name!r} is not measured here; allowed: attacks of a radius '
      'such as fgsm, bim-20, pgd-40, apgd-100'
    )
  images = jnp.asarray(data.to_float(dataset.train.images[:batch_size]))
  labels = jnp.asarray(dataset.train.labels[:batch_size])
  variables = model.init(jax.random.key(0), images[:1])
  network = Callee.of(eval_logits_fn(model, *variables))
  arguments = (network, images, labels, jnp.float32(0.1), jax.random.key(0))
  compiled, seconds, memory = compile_program(jax.jit(attack), *arguments)

  def run() -> None:
    jax.block_until_ready(compiled(*arguments))

  return Program(run, len(images), seconds, memory)


def measure(programs: Mapping[str, Program], rounds: int) -> dict[str, float]:
  """Times programs in turns; returns the median seconds of a run of each."""
  seconds: dict[str, list[float]] = {name: [] for name in programs}
  for program in programs.values():
    program.run()
  for _ in range(rounds):
    for name, program in programs.items():
      start = time.perf_counter()
      program.run()
      seconds[name].append(time.perf_counter() - start)
  return {name: statistics.median(times) for name, times in seconds.items()}


def benchmark(
  objectives: Sequence[str],
  attacks: Sequence[str],
  devices: Sequence[jax.Device],
  *,
  batch_size: int,
  attack_batch_size: int,
  steps: int,
  rounds: int,
) -> dict[str, Any]:
  """Measures objectives and attacks with our layers and with Flax's.

  Args:
    objectives: Names of objectives.
    attacks: As `parse_attack` takes them.
    devices: The devices to train on; attacks run on the first.
    batch_size: Rows of a train step, over all devices.
    attack_batch_size: Images of an attack.
    steps: Train steps in a round.
    rounds: How many rounds.

  Returns:
    What benchmark.json holds.
  """
  dataset = data.load({'name': 'digits'})
  models = {
    'advjax': create_model({'name': 'cnn'}, dataset.num_classes),
    'plain': from_linen(PlainCNN()),
  }
  rows: dict[str, dict[str, Any]] = {}
  for kind, names in (('objective', objectives), ('attack', attacks)):
    for name in names:
      programs = {
        layers: train_program(model, name, dataset, devices, batch_size, steps)
        if kind == 'objective'
        else attack_program(model, name, dataset, attack_batch_size)
        for layers, model in models.items()
      }
      medians = measure(programs, rounds)
      row: dict[str, Any] = {'kind': kind}
      for layers, program in programs.items():
        per_second = program.work / medians[layers]
        row[layers] = {
          'milliseconds_per_step': 1000 / per_second,
          'images_per_second': per_second,
          'compile_seconds': program.compile_seconds,
          'temporary_mib': program.temporary_mib,
        }
        if kind == 'objective':
          row[layers]['images_per_second'] *= batch_size
        else:
          del row[layers]['milliseconds_per_step']
      row['ratio'] = medians['plain'] / medians['advjax']
      rows[name] = row
      print(format_row(name, row), flush=True)
  peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
  return {
    'rows': rows,
    'batch_size': batch_size,
    'attack_batch_size': attack_batch_size,
    'peak_host_mib': peak,
    'device_memory': devices[0].memory_stats(),
    'environment': environment(devices),
  }


def format_row(name: str, row: Mapping[str, Any]) -> str:
  """Formats one measured row for the terminal."""
  cells = [f'{name:34}']
  for layers in ('advjax', 'plain'):
    cell = row[layers]
    step = cell.get('milliseconds_per_step')
    speed = f'{step:7.2f} ms/step' if step else ' ' * 15
    cells.append(
      f'{layers}: {speed} {cell["images_per_second"]:7.0f} images/s '
      f'compile {cell["compile_seconds"]:4.1f} s '
      f'{cell["temporary_mib"]:6.1f} MiB'
    )
  cells.append(f'{row["ratio"]:.2f} x')
  return ' | '.join(cells)


def main() -> None:
  for name in _NAMES.value:
    choose('objective', name, _OBJECTIVES)
  for name in _ATTACKS.value:
    parse_attack(name)
  for flag in (_BATCH_SIZE, _ATTACK_BATCH_SIZE, _ROUNDS, _TRAIN_STEPS):
    check_range(flag.name, flag.value, 1, integer=True)
  workdir = pathlib.Path(_WORKDIR.value)
  if workdir.exists() and not workdir.is_dir():
    raise ValueError(f"workdir = '{workdir}' is a file; give a folder")
  result = benchmark(
    _NAMES.value,
    _ATTACKS.value,
    cli.devices_from_flags(),
    batch_size=_BATCH_SIZE.value,
    attack_batch_size=_ATTACK_BATCH_SIZE.value,
    steps=_TRAIN_STEPS.value,
    rounds=_ROUNDS.value,
  )
  workdir.mkdir(parents=True, exist_ok=True)
  write_json(workdir / 'benchmark.json', result)
  print(f'peak memory of the process: {result["peak_host_mib"]:.0f} MiB')
  print(f'written: {workdir / "benchmark.json"}')


if __name__ == '__main__':
  cli.run(main)
