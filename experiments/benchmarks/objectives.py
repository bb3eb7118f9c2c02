"""Training steps of all objectives, and attacks, against Flax's own layers.

The program is `experiments/benchmark.py`.
"""

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
from advjax.models.logits import eval_logits_fn
from advjax.training.setup import Run, create_run
from experiments.benchmarks import harness, runs
from experiments.benchmarks.harness import OURS, Row

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
NETWORKS = {OURS: 'cnn', PLAIN: 'experiments.benchmarks.layers:PlainCNN'}


def check_attack(text: str) -> Attack:
  """Returns the attack that a text names, if it is one of a radius."""
  attack = parse_attack(text)
  if attack.function is None or attack.is_minimal:
    raise ValueError(
      f'--attacks = {text!r}; allowed: attacks of a radius, such as fgsm, '
      'bim-20, pgd-40, apgd-100'
    )
  return attack


def train_program(training: Run, steps: int) -> runs.Program:
  """Compiles the loop of training, whose calls go from state to state."""
  function: Any = training.train_steps.func
  ranks, state, *inputs = runs.step_arguments(training, steps)
  program = runs.compile_program(function, ranks, state, *inputs)
  compiled: Any = program.call

  def call() -> Any:
    nonlocal state
    state, history = compiled.func(ranks, state, *inputs)
    return history

  return program._replace(call=call)


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
  images = jnp.asarray(data.to_float(dataset.train.images[:attack_batch_size]))
  labels = jnp.asarray(dataset.train.labels[:attack_batch_size])
  rows: dict[str, dict[str, Any]] = {}
  for name in (*objectives, *attacks):
    programs = {}
    for layers, network in NETWORKS.items():
      if name in objectives:
        config = default_config()
        config.model = {'name': network}
        config.objective = {'name': name}
        config.hparams.update(OBJECTIVES[name])
        config.batch_size = batch_size
        training = create_run(config, dataset, devices)
        count = min(steps, training.plan.steps_per_epoch)
        num_images = count * batch_size
        programs[layers] = train_program(training, count)
      else:
        model = create_model({'name': network}, dataset.num_classes)
        key, num_images = jax.random.key(0), attack_batch_size
        logits_fn = eval_logits_fn(model, *model.init(key, images[:1]))
        programs[layers] = runs.compile_program(
          *(jax.jit(check_attack(name)), Callee.of(logits_fn)),
          *(images, labels, jnp.float32(0.1), key),
        )
    sides = {n: lambda p=program: p.run for n, program in programs.items()}
    times = harness.in_turns(sides, rounds)
    kind = 'objective' if name in objectives else 'attack'
    row = rows[name] = {'kind': kind}
    for compared in harness.compare(times, num_images):
      program = programs[compared['name']]
      own = row[compared['name']] = {
        'images_per_second': compared['images_per_second'],
        'compile_seconds': program.compile_seconds,
        'temporary_mib': program.temporary_mib,
      }
      if kind == 'objective':
        own['milliseconds_per_step'] = compared['milliseconds'] / count
    row['ratio'] = harness.times_as_fast(times, PLAIN)
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
