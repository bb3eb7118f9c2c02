"""Rows of the table of attacks, and the table."""

from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np

from advjax import losses
from advjax.types import LogitsFn
from experiments.benchmarks.tables import markdown
from experiments.benchmarks.turns import compared

OURS = 'advjax'


def check_perturbed(
  images: np.ndarray, perturbed: np.ndarray, epsilon: float, name: str
) -> None:
  """Raises RuntimeError where what a library returns is no attack in the ball.

  Args:
    images: In [0, 1].
    perturbed: What it returned.
    epsilon: linf radius.
    name: Of the library.
  """
  size = np.abs(perturbed - images).max()
  inside = perturbed.min() >= 0 and perturbed.max() <= 1
  if not inside or not size <= epsilon * (1 + 1e-5):
    raise RuntimeError(
      f'{name} moved a pixel by {size}, into [{perturbed.min()}, '
      f'{perturbed.max()}]; asked for: {epsilon} in [0, 1]'
    )


def make_rows(
  seconds: Mapping[str, Sequence[float]],
  perturbed: Mapping[str, np.ndarray],
  attack: str,
  logits_fn: LogitsFn,
  labels: np.ndarray,
) -> list[dict[str, Any]]:
  """Makes a row per variant, the first being ours.

  Args:
    seconds: Of every round by variant.
    perturbed: What each found, `[B, H, W, C]`.
    attack: For the rows.
    logits_fn: The network that was attacked.
    labels: `[B]`.

  Returns:
    Dicts of JSON, with the mean cross-entropy that each reached.
  """
  ours = seconds[OURS]
  rows = []
  for name, values in seconds.items():
    images = jax.numpy.asarray(perturbed[name])
    loss = losses.cross_entropy(logits_fn(images), jax.numpy.asarray(labels))
    rows.append(
      {
        'attack': attack,
        'batch_size': len(labels),
        'name': name,
        **compared(values, ours, len(labels)),
        'loss': float(loss.mean()),
      }
    )
  return rows


def table(rows: Sequence[Mapping[str, Any]]) -> str:
  """Returns the rows as a table in Markdown.

  Args:
    rows: Of `make_rows`.

  Returns:
    The lines.
  """
  header = ['attack', 'batch', '', 'ms', 'quartiles', 'images/s']
  header += ['ours is times as fast', 'loss reached']
  return markdown(
    header,
    [
      [
        row['attack'],
        row['batch_size'],
        row['name'],
        f'{row["milliseconds"]:.1f}',
        ' to '.join(f'{x:.1f}' for x in row['quartiles']),
        f'{row["images_per_second"]:.0f}',
        f'{row["times_as_fast"]:.2f}',
        f'{row["loss"]:.4f}',
      ]
      for row in rows
    ],
  )
