"""Constructed sweeps, as training one fills them."""

import functools
import math

from advjax.results import (
  DatasetSummary,
  Estimate,
  SweepReport,
  Trial,
  TrialGroup,
  accuracy_interval,
)

NUM_TEST = 360
ATTACKS = ('fgsm', 'pgd')
EPSILONS = (0.05, 0.1, 0.2)


def smooth(fields):
  """Robust accuracy rises with epsilon and multiplier, clean accuracy falls."""
  epsilon = float(fields.get('hparams.epsilon', 0.1))
  multiplier = float(fields.get('hparams.multiplier', 0.2))
  seed = int(fields.get('seed', 0))
  noise = 0.012 * math.sin(7 * seed + 31 * epsilon + 13 * multiplier)
  strength = 1 - math.exp(-9 * epsilon * (0.5 + multiplier))
  robust = 0.12 + 0.6 * strength - 0.9 * max(0.0, epsilon - 0.18)
  return 0.99 - 0.1 * strength**2 + noise / 4, robust + noise


@functools.cache
def estimate(value):
  return Estimate(value, accuracy_interval(value, NUM_TEST))


def make_trial(fields, accuracies, **changes):
  """A trial with these clean and robust accuracies; None: it diverged."""
  name = ','.join(f'{k.rpartition(".")[2]}={v}' for k, v in fields.items())
  values = {
    'member': name,
    'group': 0,
    'fields': fields,
    'warnings': [],
    'devices': 1,
    'folder': f'members/{name}',
    'command': f'./launch.sh train --config.{name}',
  }
  if accuracies is None:
    values |= {'status': 'diverged', 'reason': 'the loss is not finite'}
  else:
    clean, robust = accuracies
    values |= {
      'status': 'done',
      'clean_accuracy': estimate(clean),
      'robust_accuracy': estimate(robust),
      'attacks': {'fgsm': min(1.0, robust + 0.1), 'pgd': robust},
      'loss': 0.1,
      'train_seconds': 12.5,
      'step_milliseconds': 8.25,
    }
  return Trial(**(values | changes))


def make_sweep(trials, **changes):
  curves = {
    trial.member: {'epsilons': list(EPSILONS)}
    | {
      attack: [value ** (epsilon / 0.1) for epsilon in EPSILONS]
      for attack, value in trial.attacks.items()
    }
    for trial in trials
    if trial.attacks
  }
  how = {'how': 'lax.map on 2 devices', 'chunks': [len(trials)]}
  group = TrialGroup(members=len(trials), seconds=12.34, compiles=1, **how)
  values = {
    'title': 'Sweep on digits',
    'dataset': DatasetSummary(name='digits', num_train=1437, num_test=NUM_TEST),
    'objective': 'pgd_at',
    'model': 'cnn',
    'epsilon': 8 / 255,
    'norm': 'linf',
    'attacks': list(ATTACKS),
    'fields': list(trials[0].fields) if trials else ['hparams.epsilon'],
    'rows': trials,
    'curves': curves,
    'num_members': len(trials),
    'pending': [],
    'groups': [group],
    'command': './launch.sh sweep --config=configs/digits.py --sweep=...',
    'environment': {'date': '2025-01-02', 'jax': '0.10.2'},
    'config': {'hparams': {'epsilon': 0.1}, 'seed': 0},
  }
  return SweepReport(**(values | changes))


def grid(num_seeds=2, accuracy=smooth, **changes):
  """3 x 3 configurations."""
  found = [
    {'hparams.epsilon': epsilon, 'hparams.multiplier': multiplier, 'seed': seed}
    for epsilon in (0.05, 0.1, 8 / 255)
    for multiplier in (0.1, 0.2, 0.5)
    for seed in range(num_seeds)
  ]
  return make_sweep([make_trial(f, accuracy(f)) for f in found], **changes)
