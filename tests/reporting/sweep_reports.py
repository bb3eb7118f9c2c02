"""Made-up reports of sweeps, as the training of a sweep writes them."""

import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from advjax.reporting.values import accuracy_interval

NUM_TEST = 360
ATTACKS = ('fgsm', 'bim', 'pgd')
EPSILONS = (0.05, 0.1, 0.2, 0.3)

# Fields of a member -> its clean and robust accuracy; None: it diverged.
Accuracy = Callable[[Mapping[str, Any]], tuple[float, float] | None]


def smooth_accuracy(fields: Mapping[str, Any]) -> tuple[float, float]:
  """Robustness rises with epsilon and multiplier, clean accuracy falls."""
  epsilon = float(fields.get('hparams.epsilon', 0.1))
  multiplier = float(fields.get('hparams.multiplier', 0.2))
  seed = int(fields.get('seed', 0))
  luck = 0.012 * math.sin(7 * seed + 31 * epsilon + 13 * multiplier)
  strength = 1 - math.exp(-9 * epsilon * (0.5 + multiplier))
  return (
    0.99 - 0.1 * strength**2 + luck / 4,
    0.12 + 0.6 * strength - 0.9 * max(0.0, epsilon - 0.18) + luck,
  )


def make_rows(
  settings: Sequence[Mapping[str, Any]], accuracy: Accuracy = smooth_accuracy
) -> list[dict[str, Any]]:
  """Returns the rows of members, one per mapping of fields."""
  rows = []
  for fields in settings:
    name = ','.join(
      f'{field.rpartition(".")[2]}={value}' for field, value in fields.items()
    )
    scores = accuracy(fields)
    row = {'member': name, 'group': 0, 'status': 'done', **fields}
    for i, key in enumerate(('clean_accuracy', 'robust_accuracy')):
      value = scores and scores[i]
      ends = accuracy_interval(value, NUM_TEST) if scores else (None, None)
      row |= {key: value, f'{key}_low': ends[0], f'{key}_high': ends[1]}
    for attack, extra in zip(ATTACKS, (0.12, 0.02, 0.0), strict=True):
      row[attack] = scores and min(1.0, scores[1] + extra)
    row |= {
      'loss': scores and 0.1,
      'train_seconds': 12.5,
      'step_milliseconds': 8.25,
      'warnings': [],
      'folder': f'members/{name}',
      'command': './launch.sh train --config=configs/digits.py '
      + ' '.join(f'--config.{f}={v}' for f, v in fields.items()),
    }
    if not scores:
      row |= {'status': 'diverged', 'reason': 'the loss is not finite'}
    rows.append(row)
  return rows


def make_report(
  settings: Sequence[Mapping[str, Any]],
  accuracy: Accuracy = smooth_accuracy,
  **others: Any,
) -> dict[str, Any]:
  """Returns the report of a sweep over members given by their fields."""
  rows = make_rows(settings, accuracy)
  curves = {
    row['member']: {'epsilons': list(EPSILONS)}
    | {
      attack: [row[attack] ** (epsilon / 0.1) for epsilon in EPSILONS]
      for attack in ATTACKS
    }
    for row in rows
    if row['status'] == 'done'
  }
  return {
    'title': 'Sweep on digits',
    'dataset': {'name': 'digits', 'num_train': 1437, 'num_test': NUM_TEST},
    'command': './launch.sh sweep --config=configs/digits.py --sweep=...',
    'environment': {'date': '2025-01-02', 'jax': '0.10.2'},
    'config': {'hparams': {'epsilon': 0.1}, 'seed': 0},
    'objective': 'pgd_at',
    'model': 'cnn',
    'epsilon': 0.1,
    'norm': 'linf',
    'attacks': list(ATTACKS),
    'fields': list(settings[0]) if settings else ['hparams.epsilon'],
    'rows': rows,
    'curves': curves,
    'num_members': len(rows),
    'pending': [],
    'groups': [
      {
        'members': len(rows),
        'how': 'lax.map over 2 devices',
        'chunks': [len(rows)],
        'seconds': 12.34,
        'compiles': 1,
      }
    ],
    'warnings': [],
    **others,
  }


def product(**values: Sequence[Any]) -> list[dict[str, Any]]:
  """Returns every combination; `a__b` stands for the field `a.b`."""
  fields = [name.replace('__', '.') for name in values]
  return [
    dict(zip(fields, each, strict=True))
    for each in itertools.product(*values.values())
  ]


def grid_report(num_seeds: int = 2, **others: Any) -> dict[str, Any]:
  """Returns the report of a grid of 3 x 3 settings."""
  return make_report(
    product(
      hparams__epsilon=(0.05, 0.1, 8 / 255),
      hparams__multiplier=(0.1, 0.2, 0.5),
      seed=tuple(range(num_seeds)),
    ),
    **others,
  )
