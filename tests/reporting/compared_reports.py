"""Adds to a comparison what a config of Tiny ImageNet asks for."""

from typing import Any

import numpy as np

from advjax.evaluation.corruptions import KINDS
from advjax.reporting.values import accuracy_interval

K = 5
SEEN = ['gaussian_noise', 'brightness']


def measured(name: str, value: float, count: int = 360) -> dict[str, Any]:
  value = round(value, 6)
  return {name: value, f'{name}_ci': list(accuracy_interval(value, count))}


def corruptions(clean: float, seed: int) -> dict[str, list[float]]:
  rng = np.random.default_rng(seed)
  fall = np.linspace(0.03, 0.4, 5)[None] * rng.uniform(0.2, 1.6, (15, 1))
  values = np.clip(clean - fall, 0.02, 1).tolist()
  return dict(zip(KINDS, values, strict=True))


def means(kinds: dict[str, list[float]], ending: str) -> dict[str, float]:
  unseen = [v for kind, v in kinds.items() if kind not in SEEN]
  return {
    f'corruption{ending}_accuracy': float(np.mean(list(kinds.values()))),
    f'unseen_corruption{ending}_accuracy': float(np.mean(unseen)),
  }


def add_top_k(report: dict[str, Any]) -> None:
  """The labels are in the top k half as often wrong as in the top 1."""

  def up(value: float) -> float:
    return 0.5 + value / 2

  for member in report['members'].values():
    clean = up(member['clean_accuracy'])
    member |= {'top_k': K, **measured('clean_top_k_accuracy', clean)}
    for entry in member['robust_accuracy'].values():
      for point in (entry, *entry['curve']):
        point |= measured('white_box_top_k', up(point['white_box']))
        others = {t: up(v) for t, v in point['transfer'].items()}
        point['transfer_top_k'] = others
        point['transfer_top_k_ci'] = {
          name: list(accuracy_interval(value, 360))
          for name, value in others.items()
        }


def add_shifts(report: dict[str, Any]) -> None:
  """Corruptions and pasted objects; the last member was augmented."""
  for seed, member in enumerate(report['members'].values()):
    clean, k = member['clean_accuracy'], 'top_k' in member
    kinds = corruptions(clean, seed)
    member |= {
      'seen_corruptions': [],
      'corruptions': kinds,
      **means(kinds, ''),
    }
    if k:
      kinds = corruptions(min(1.0, clean + 0.2), seed)
      member |= {'corruptions_top_k': kinds, **means(kinds, '_top_k')}
    member['pasted_objects'] = {
      str(severity): {
        **measured('accuracy', clean - 0.05 * severity),
        **(measured('top_k_accuracy', clean - 0.01 * severity) if k else {}),
      }
      for severity in (1, 3, 5)
    }
  member['seen_corruptions'] = SEEN


def add_monitor(report: dict[str, Any], num_validation: int = 100) -> None:
  """Held-out accuracy that falls behind, PGD far below."""
  for member in report['members'].values():
    member['num_validation'] = num_validation
    for number, epoch in enumerate(member['epochs']):
      accuracy = epoch['accuracy'] - 0.01 * number
      epoch['monitor_clean_accuracy'] = accuracy
      epoch['monitor_robust_accuracy'] = accuracy / 2
