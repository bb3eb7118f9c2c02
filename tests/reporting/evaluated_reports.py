"""A synthetic report of three members, as `evaluate` writes it."""

import copy
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from advjax.reporting.sanity.findings import RULES, sanity_findings

from advjax.reporting.values import accuracy_interval

NUM_TEST = 1000
CLASSES = [f'digit {number}' for number in range(10)]
EPSILONS = (0.05, 0.1, 0.2, 0.5)
HEADLINE = 0.1
ATTACKS = {
  'fgsm': ('fgsm', 1, 1),
  'pgd-10': ('pgd-10', 10, 1),
  'pgd-40-5': ('pgd-40-5', 40, 5),
  'square': ('square-1000', 1000, 1),
}
CLEAN = {'base': 0.984, 'single_step': 0.982, 'pgd_at': 0.971}
# White-box accuracy at EPSILONS. The second one masks its gradients.
WHITE_BOX = {
  'base': {
    'fgsm': (0.78, 0.41, 0.14, 0.16),
    'pgd-10': (0.66, 0.10, 0.01, 0.0),
    'pgd-40-5': (0.64, 0.08, 0.0, 0.0),
    'square': (0.70, 0.15, 0.02, 0.0),
  },
  'single_step': {
    'fgsm': (0.93, 0.9, 0.88, 0.71),
    'pgd-10': (0.72, 0.21, 0.03, 0.0),
    'pgd-40-5': (0.7, 0.16, 0.01, 0.0),
    'square': (0.73, 0.14, 0.01, 0.0),
  },
  'pgd_at': {
    'fgsm': (0.94, 0.87, 0.61, 0.2),
    'pgd-10': (0.93, 0.85, 0.47, 0.01),
    'pgd-40-5': (0.93, 0.84, 0.45, 0.0),
    'square': (0.94, 0.86, 0.55, 0.01),
  },
}
# Accuracy of a member on images made on any other one, at the headline.
TRANSFER = {'base': 0.7, 'single_step': 0.82, 'pgd_at': 0.94}
NOISE = {
  'base': (0.975, 0.96, 0.93),
  'single_step': (0.98, 0.975, 0.95),
  'pgd_at': (0.971, 0.97, 0.965),
}
KINDS = (
  *('gaussian_noise', 'shot_noise', 'impulse_noise', 'defocus_blur'),
  *('glass_blur', 'motion_blur', 'zoom_blur', 'snow', 'frost', 'fog'),
  *('brightness', 'contrast', 'elastic_transform', 'pixelate'),
  'jpeg_compression',
)
AUTOATTACK = ('apgd-ce', 'apgd-t', 'fab-t', 'square')


def accuracy(name: str, value: float, count: int = NUM_TEST) -> dict[str, Any]:
  return {name: value, f'{name}_ci': list(accuracy_interval(value, count))}


def transferred(names: Sequence[str], source: str, up: float) -> dict[str, Any]:
  values = {
    name: min(CLEAN.get(name, 0.97), TRANSFER.get(name, 0.9) + up)
    for name in names
    if name != source
  }
  return {
    'transfer': values,
    'transfer_ci': {
      name: list(accuracy_interval(value, NUM_TEST))
      for name, value in values.items()
    },
  }


def attacked(
  names: Sequence[str], source: str, attack: str, curve: Sequence[float]
) -> dict[str, Any]:
  spec, num_steps, num_restarts = ATTACKS[attack]
  points = [
    {
      'epsilon': epsilon,
      **accuracy('white_box', value),
      **transferred(names, source, 0.5 * (HEADLINE - epsilon)),
    }
    for epsilon, value in zip(EPSILONS, curve, strict=True)
  ]
  return {
    **points[EPSILONS.index(HEADLINE)],
    'attack': spec,
    'norm': 'linf',
    'num_steps': num_steps,
    'num_restarts': num_restarts,
    'step_size': {'fgsm': HEADLINE, 'square': None}.get(
      attack, 2.5 * HEADLINE / num_steps
    ),
    'bounds': [0.0, 1.0],
    'max_perturbation': HEADLINE,
    'curve': points,
    'curve_num_images': NUM_TEST,
  }


def classwise(value: float, num_classes: int, seed: int) -> list[float]:
  rng = np.random.default_rng(seed)
  spread = min(value, 1 - value)
  return (value + spread * rng.uniform(-0.8, 0.8, num_classes)).tolist()


def trace(value: float, clean: float, steps: int, seed: int) -> dict[str, Any]:
  falling = np.exp(-4 * np.arange(steps + 1) / steps)
  rng = np.random.default_rng(seed)
  return {
    'loss': (0.1 + 5 * (1 - value) * (1 - falling)).tolist(),
    'accuracy': (value + (clean - value) * falling).tolist(),
    'zero_gradients': round(0.002 * float(rng.random()), 4),
    'not_finite_gradients': 0.0,
  }


def attacked_in_full(
  names: Sequence[str], source: str, value: float
) -> dict[str, Any]:
  """AutoAttack as one of the attacks: it says nothing of its steps."""
  point = {
    'epsilon': HEADLINE,
    **accuracy('white_box', value),
    **transferred(names, source, 0.0),
  }
  return {
    **point,
    'attack': 'autoattack',
    'version': 'standard',
    'norm': 'linf',
    'bounds': [0.0, 1.0],
    'max_perturbation': HEADLINE,
    'curve': [point],
    'curve_num_images': NUM_TEST,
  }


def autoattack(clean: float, epsilon: float, value: float) -> dict[str, Any]:
  after, attacks = clean, []
  for number, name in enumerate(AUTOATTACK):
    before, after = after, value + (0.02, 0.004, 0.001, 0.0)[number]
    attacks.append(
      {
        'name': name,
        'accuracy': after,
        'fooled': round(NUM_TEST * (before - after)),
        'seconds': (31.2, 210.9, 84.0, 55.3)[number],
        'forward': (98_400, 612_000, 301_000, 1_180_000)[number],
        'backward': (98_400, 612_000, 288_000, 0)[number],
      }
    )
  return {
    'epsilon': epsilon,
    'norm': 'linf',
    'version': 'standard',
    'clean_accuracy': clean,
    'num_images': NUM_TEST,
    **accuracy('accuracy', after),
    'attacks': attacks,
    'warnings': [],
  }


def corruptions(clean: float, seed: int) -> dict[str, list[float]]:
  rng = np.random.default_rng(seed)
  fall = np.linspace(0.02, 0.3, 5)[None] * rng.uniform(0.2, 2.2, (15, 1))
  values = np.clip(clean - fall, 0.05, 1).tolist()
  return dict(zip(KINDS, values, strict=True))


def member(
  names: Sequence[str],
  name: str,
  curves: Mapping[str, Sequence[float]],
  num_classes: int,
) -> dict[str, Any]:
  clean, seed = CLEAN[name], sorted(CLEAN).index(name)
  place = EPSILONS.index(HEADLINE)
  at = {attack: curve[place] for attack, curve in curves.items()}
  corrupted = corruptions(clean, seed)
  at['autoattack'] = strongest = min(at.values()) - 0.01
  return {
    'num_params': 93322,
    **accuracy('clean_accuracy', clean),
    'robust_accuracy': {
      attack: attacked(names, name, attack, curve)
      for attack, curve in curves.items()
    }
    | {'autoattack': attacked_in_full(names, name, strongest)},
    'per_class': {
      'clean': classwise(clean, num_classes, seed),
      **{a: classwise(v, num_classes, seed + 1) for a, v in at.items()},
    },
    'noise': {
      kind: {
        **accuracy('accuracy', value),
        'epsilon': HEADLINE,
        'norm': 'linf',
      }
      for kind, value in zip(
        ('uniform', 'gaussian', 'salt_and_pepper'), NOISE[name], strict=True
      )
    },
    'corruptions': corrupted,
    'corruption_accuracy': float(np.mean(list(corrupted.values()))),
    'rounded': {attack: value + 0.001 for attack, value in at.items()},
    'traces': {
      attack: trace(at[attack], clean, ATTACKS[attack][1], seed)
      for attack in at
      if attack not in ('square', 'autoattack')
    },
    'minimal': {
      'deepfool': {'median_epsilon': 0.8, 'found': 0.999, 'norm': 'l2'},
      'cw': {'median_epsilon': 0.55, 'found': 1.0, 'norm': 'l2'},
      'fmn': {'median_epsilon': 0.061, 'found': 1.0, 'norm': 'linf'},
    },
    'autoattack': [autoattack(clean, HEADLINE, strongest)],
  }


def build(num_classes: int = 10) -> dict[str, Any]:
  """The report without its sanity section."""
  names = list(WHITE_BOX)
  report = {
    'dataset': {
      'name': 'digits',
      'num_train': 1437,
      'num_test': NUM_TEST,
      'image_shape': [28, 28, 1],
      'largest_class_share': 0.104,
    },
    'seeds': [0],
    'classes': (CLASSES + [f'class {i}' for i in range(10, num_classes)])[
      :num_classes
    ],
    'members': {
      name: member(names, name, curves, num_classes)
      for name, curves in WHITE_BOX.items()
    },
    'command': './launch.sh evaluate --checkpoint=runs/base',
    'environment': {'date': '2025-01-02', 'jax': '0.10.2'},
  }
  # What takes long was left out for the last one.
  for part in ('autoattack', 'minimal', 'corruptions', 'corruption_accuracy'):
    del report['members']['pgd_at'][part]
  for part in ('robust_accuracy', 'per_class', 'rounded'):
    del report['members']['pgd_at'][part]['autoattack']
  return copy.deepcopy(report)


def evaluated(num_classes: int = 10) -> dict[str, Any]:
  """The report whole."""
  report = build(num_classes)
  return report | {'sanity': sanity_findings(report)}


def find(
  report: dict[str, Any], check: str, member: str = 'base'
) -> tuple[bool | None, str]:
  """Returns verdict and sentence of a check."""
  return RULES[check](report, member)


def drop_autoattack(report: dict[str, Any], member: str = 'base') -> None:
  """Takes AutoAttack away, its runs and what it is as an attack."""
  entry = report['members'][member]
  del entry['autoattack'], entry['robust_accuracy']['autoattack']


def set_curve(
  report: dict[str, Any],
  attack: str,
  values: Sequence[float],
  member: str = 'base',
) -> None:
  """Sets white-box accuracies at EPSILONS, the second is the headline."""
  entry = report['members'][member]['robust_accuracy'][attack]
  for point, value in zip(entry['curve'], values, strict=True):
    point |= accuracy('white_box', value)
  entry |= {
    key: entry['curve'][1][key] for key in ('white_box', 'white_box_ci')
  }
