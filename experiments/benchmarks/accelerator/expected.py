"""Print the predicted roofline of the accelerator benchmark.

  python -m experiments.benchmarks.accelerator.expected \\
    --bfloat16=989e12 --tf32=494e12 --float32=67e12 --bandwidth=4.8e12 \\
    --platform=cpu

from the project's folder, on any machine: operations are counted, programs are
not run. The rates are the data-sheet values of an NVIDIA H200, in operations
and bytes per second.
"""

import functools
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from absl import flags
from ml_collections import config_dict

from advjax import cli, data
from advjax.callables import Callee
from advjax.models import Model, create_model
from advjax.models.logits import eval_logits_fn
from advjax.training.setup import create_run
from experiments.benchmarks import harness, roofline
from experiments.benchmarks.accelerator import parts
from experiments.benchmarks.roofline import Rates, Work


def workloads(device: jax.Device) -> Iterator[tuple[str, int, str, Work]]:
  """Yields name, images, the rate that bounds the products, and the work."""
  sizes = parts.FULL
  split = data.Split(
    np.zeros((1024, 32, 32, 3), np.uint8), np.arange(1024, dtype=np.int32) % 10
  )
  dataset = data.Dataset('zeros', split, split, 10, tuple('0123456789'))

  def step(config: config_dict.ConfigDict) -> Work:
    return roofline.step_work(create_run(config, dataset, [device]))

  recipe = parts.cifar_config(sizes)
  yield 'cifar10_fast: a step', recipe.batch_size, 'bfloat16', step(recipe)
  for batch_size in sizes.nsl_batch_sizes:
    work = roofline.least_work('nsl', batch_size)
    yield 'NSL CNN: a step', batch_size, 'tf32', work
  for fields, steps, batch_size in sizes.pgd_trainings:
    config = parts.pgd_config(fields, steps, batch_size)
    name = f'{fields["name"]}: a step with PGD-{steps}'
    yield name, batch_size, 'bfloat16', step(config)
  fields, _, _ = sizes.pgd_trainings[0]
  images = jnp.zeros((sizes.pgd_batch_size, 32, 32, 3))
  labels = jnp.zeros(len(images), jnp.int32)

  def attacked(model: Model, variables: Any, key: jax.Array) -> jax.Array:
    network = Callee.of(eval_logits_fn(model, *variables))
    return parts.pgd(sizes.pgd_steps)(network, images, labels, key)

  for dtype in ('bfloat16', 'float32'):
    model = create_model({**fields, 'dtype': dtype}, 10)
    key = jax.random.key(0)
    variables = jax.eval_shape(model.init, key, images[:1])
    attack = functools.partial(attacked, model)
    name = f'{fields["name"]}: PGD-{sizes.pgd_steps} in {dtype}'
    yield name, len(images), dtype, roofline.work_of(attack, variables, key)


def main() -> None:
  flag = flags.FLAGS
  rows = []
  for name, images, bound, work in workloads(cli.devices_from_flags()[0]):
    rates = Rates(getattr(flag, bound), flag.bandwidth)
    seconds = work.seconds(rates)
    row = {'name': name, 'images': images, 'bound': work.bound(rates)}
    row |= {
      'gigaflops': work.flops / 1e9,
      'gigabytes': work.bytes / 1e9,
      'intensity': work.flops / work.bytes,
      'milliseconds': 1e3 * seconds,
      'images_per_second': images / seconds,
    }
    rows.append(row)
  print(
    harness.table(
      rows,
      ('', 'name', ''),
      ('images', 'images', 'd'),
      ('GFLOP', 'gigaflops', ',.0f'),
      ('GB', 'gigabytes', ',.2f'),
      ('FLOP per byte', 'intensity', ',.0f'),
      ('bound by', 'bound', ''),
      ('minimum ms', 'milliseconds', ',.3f'),
      ('maximum images/s', 'images_per_second', ',.0f'),
    )
  )


if __name__ == '__main__':
  flags.DEFINE_float('bfloat16', 989e12, 'Operations in bfloat16.')
  flags.DEFINE_float('tf32', 494e12, 'Operations in TF32.')
  flags.DEFINE_float('float32', 67e12, 'Operations in float32.')
  flags.DEFINE_float('bandwidth', 4.8e12, 'Bytes of the memory.')
  cli.run(main)
