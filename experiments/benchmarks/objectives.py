"""Training steps of all objectives, and attacks, against Flax's own layers.

The program is `experiments/benchmark.py`.
"""

import functools
import resource
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp

from advjax import data
from advjax.attacks.specs import Attack, parse_attack
from advjax.callables import Callee
from advjax.config import default_config
from advjax.models import create_model
from advjax.models.create import ARCHITECTURES
from advjax.models.logits import eval_logits_fn
from advjax.training.setup import create_run
from experiments.benchmarks import harness, runs
from experiments.benchmarks.harness import OURS, Row
from experiments.benchmarks.layers import PlainCNN

FILE = 'benchmark.json'
PLAIN = 'plain'
OBJECTIVES: dict[str, dict[str, float]] = {
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
# By side, the network.
NETWORKS = {OURS: 'cnn', PLAIN: 'flax_cnn'}
ARCHITECTURES['flax_cnn'] = PlainCNN


def train_program(
  network: str,
  objective: str,
  dataset: data.Dataset,
  devices: Sequence[jax.Device],
  batch_size: int,
  steps: int,
) -> tuple[runs.Program, int]:
  """Compiles the loop of an objective, as training runs it; and its steps."""
  config = default_config()
  config.model = {'name': network}
  config.objective = {'name': objective}
  config.hparams.update(OBJECTIVES[objective])
  config.batch_size = batch_size
  config.num_validation = 0
  training = create_run(config, dataset, devices)
  steps = min(steps, training.plan.steps_per_epoch)
  function: Any = training.train_steps.func
  ranks, state, *inputs = runs.step_arguments(training, steps)
  program = runs.compile_program(function, ranks, state, *inputs)

  def call() -> Any:
    nonlocal state
    state, history = program.call(ranks, state, *inputs)
    return history

  return program._replace(call=call), steps


def check_attack(text: str) -> Attack:
  """Returns the attack that a text names, if it is one of a radius."""
  attack = parse_attack(text)
  if not isinstance(attack, Attack):
    raise ValueError(
      f'attack {text!r} is not measured here; allowed: attacks of a radius '
      'such as fgsm, bim-20, pgd-40, apgd-100'
    )
  return attack


def attack_program(
  network: str, name: str, dataset: data.Dataset, batch_size: int
) -> runs.Program:
  """Compiles an attack on a network as it is initialised."""
  model = create_model({'name': network}, dataset.num_classes)
  images = jnp.asarray(data.to_float(dataset.train.images[:batch_size]))
  labels = jnp.asarray(dataset.train.labels[:batch_size])
  variables = model.init(jax.random.key(0), images[:1])
  logits_fn = Callee.of(eval_logits_fn(model, *variables))
  arguments = (logits_fn, images, labels, jnp.float32(0.1), jax.random.key(0))
  program = runs.compile_program(jax.jit(check_attack(name)), *arguments)
  return program._replace(call=functools.partial(program.call, *arguments))


def _compare(
  kind: str,
  programs: dict[str, runs.Program],
  steps: int,
  images: int,
  rounds: int,
) -> dict[str, Any]:
  """Times programs with both kinds of layers in turns."""
  sides = {
    name: functools.partial(getattr, each, 'run')
    for name, each in programs.items()
  }
  times = harness.in_turns(sides, rounds)
  row: dict[str, Any] = {'kind': kind}
  for compared in harness.compare(times, images):
    program = programs[compared['name']]
    own = row[compared['name']] = {
      'images_per_second': compared['images_per_second'],
      'compile_seconds': program.compile_seconds,
      'temporary_mib': program.temporary_mib,
    }
    if kind == 'objective':
      own['milliseconds_per_step'] = compared['milliseconds'] / steps
  row['ratio'] = harness.times_as_fast(times, PLAIN)
  return row


def measure(
  objectives: Sequence[str],
  attacks: Sequence[str],
  devices: Sequence[jax.Device],
  *,
  batch_size: int,
  attack_batch_size: int,
  steps: int,
  rounds: int,
) -> dict[str, Any]:
  """Measures objectives and attacks with our layers and with Flax's."""
  dataset = data.load({'name': 'digits'})
  rows: dict[str, dict[str, Any]] = {}
  for name in (*objectives, *attacks):
    if name in objectives:
      compiled = {
        layers: train_program(net, name, dataset, devices, batch_size, steps)
        for layers, net in NETWORKS.items()
      }
      count = compiled[OURS][1]
      programs = {layers: program for layers, (program, _) in compiled.items()}
      row = _compare('objective', programs, count, count * batch_size, rounds)
    else:
      programs = {
        layers: attack_program(net, name, dataset, attack_batch_size)
        for layers, net in NETWORKS.items()
      }
      row = _compare('attack', programs, 1, attack_batch_size, rounds)
    rows[name] = row
    print(table({'rows': {name: row}}), flush=True)
  return {
    'rows': rows,
    'batch_size': batch_size,
    'attack_batch_size': attack_batch_size,
    'peak_host_mib': resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
    'device_memory': devices[0].memory_stats(),
  }


def table(result: Row) -> str:
  """Returns all rows as a table, ours in full."""
  return harness.table(
    [
      {'name': name, 'ratio': row['ratio'], **row[OURS]}
      for name, row in result['rows'].items()
    ],
    ('', 'name', ''),
    ('ms per step', 'milliseconds_per_step', '.2f'),
    ('images/s', 'images_per_second', '.0f'),
    ("Flax's layers: times as long", 'ratio', '.2f'),
    ('s to compile', 'compile_seconds', '.1f'),
    ('MiB beside arguments', 'temporary_mib', '.1f'),
  )
