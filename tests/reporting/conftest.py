"""A synthetic report of two members, as `compare` writes it."""

import copy
from typing import Any

import numpy as np
import pytest

from advjax.reporting.gallery import Examples
from advjax.reporting.values import accuracy_interval

NUM_TEST = 360
EPSILONS = (0.02, 0.05, 0.1, 0.15, 0.2)
ATTACKS = {
  'fgsm': ('fgsm', 1, 0.1),
  'bim': ('bim-20', 20, 0.01),
  'pgd': ('pgd-40', 40, 0.00625),
}

# White-box accuracy of every member and attack at EPSILONS.
WHITE_BOX = {
  'base': {
    'fgsm': (0.93, 0.78, 0.41, 0.22, 0.14),
    'bim': (0.92, 0.62, 0.11, 0.01, 0.0),
    'pgd': (0.92, 0.61, 0.08, 0.0, 0.0),
  },
  'adversarial': {
    'fgsm': (0.97, 0.92, 0.8, 0.74, 0.71),
    'bim': (0.97, 0.88, 0.47, 0.12, 0.0),
    'pgd': (0.97, 0.87, 0.44, 0.09, 0.0),
  },
}
TRANSFER = (0.98, 0.96, 0.86, 0.75, 0.6)


def point(
  epsilon: float, white_box: float, transfer: dict[str, float]
) -> dict[str, Any]:
  return {
    'epsilon': epsilon,
    'white_box': white_box,
    'white_box_ci': accuracy_interval(white_box, NUM_TEST),
    'transfer': transfer,
    'transfer_ci': {
      name: accuracy_interval(value, NUM_TEST)
      for name, value in transfer.items()
    },
  }


def entry(
  attack: str, curve: tuple[float, ...], others: list[str]
) -> dict[str, Any]:
  points = [
    point(epsilon, value, {name: transfer for name in others})
    for epsilon, value, transfer in zip(EPSILONS, curve, TRANSFER, strict=True)
  ]
  spec, num_steps, step_size = ATTACKS[attack]
  return points[2] | {
    'attack': spec,
    'norm': 'linf',
    'num_steps': num_steps,
    'step_size': step_size,
    'curve': points,
  }


def member(
  name: str, curves: dict[str, tuple[float, ...]], others: list[str]
) -> dict[str, Any]:
  rate = np.linspace(0.9, 0.99, 15)
  epochs = [
    {
      'loss': 1.2 * (1 - r) + 0.01,
      'clean_loss': 1 - r,
      'adversarial_loss': 2 * (1 - r),
      'accuracy': r,
      'adversarial_accuracy': r - 0.2,
    }
    for r in rate.tolist()
  ]
  return {
    'num_params': 93322,
    'clean_accuracy': 0.986,
    'clean_accuracy_ci': accuracy_interval(0.986, NUM_TEST),
    'train_seconds': 12.3,
    'step_milliseconds': 9.87,
    'eval_step_milliseconds': 3.2,
    'epochs': epochs,
    'robust_accuracy': {
      attack: entry(attack, curve, others) for attack, curve in curves.items()
    },
  }


def build(white_box: dict[str, dict[str, tuple[float, ...]]]) -> dict[str, Any]:
  return {
    'dataset': {'name': 'digits', 'num_train': 1437, 'num_test': NUM_TEST},
    'seeds': [0],
    'members': {
      name: member(
        name, curves, [other for other in white_box if other != name]
      )
      for name, curves in white_box.items()
    },
  }


@pytest.fixture
def report() -> dict[str, Any]:
  """Base and adversarial; neither masks its gradients at the headline."""
  return copy.deepcopy(build(WHITE_BOX))


@pytest.fixture
def histories(report: dict[str, Any]) -> dict[str, dict[str, Any]]:
  rng = np.random.default_rng(0)
  steps = np.arange(675)
  return {
    name: {
      'losses': (2.3 * np.exp(-steps / (100 + 80 * i)) + 0.02)
      * rng.lognormal(0, 0.4, 675),
      'epochs': report['members'][name]['epochs'],
    }
    for i, name in enumerate(report['members'])
  }


def make_examples(
  names: list[str], num: int = 40, shape: tuple[int, ...] = (28, 28, 1)
) -> Examples:
  rng = np.random.default_rng(1)
  images = np.zeros((num, *shape), np.float32)
  images[:, 6:22, 9:19] = rng.uniform(0.5, 1, (num, 16, 10, shape[-1]))
  labels = rng.integers(0, 10, num)
  wrong = (labels + rng.integers(0, 2, num)) % 10
  return Examples(
    images=images,
    labels=labels,
    predictions={name: labels for name in names},
    adversarial={
      name: np.clip(
        images + 0.1 * np.sign(rng.normal(size=images.shape)), 0, 1
      ).astype(np.float32)
      for name in names
    },
    adversarial_predictions={
      source: {name: wrong if name == source else labels for name in names}
      for source in names
    },
    attack='FGSM',
    epsilon=0.1,
  )


@pytest.fixture
def examples() -> Examples:
  return make_examples(['base', 'adversarial'])
