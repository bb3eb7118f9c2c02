"""Synthetic reports of `evaluate` and `compare`, small but with every part."""

import dataclasses
import functools
from typing import Any

import numpy as np

from advjax.evaluation.corruptions import KINDS
from advjax.reporting.sanity import sanity_findings
from advjax.results import (
  AtEpsilon,
  AttackResult,
  AutoAttackStage,
  AutoAttackSummary,
  DatasetSummary,
  Estimate,
  MinimalDistance,
  ModelResult,
  Report,
  ShiftResult,
  Trace,
  Training,
  accuracy_interval,
)

NUM_TEST = 1000
EPSILONS = (0.05, 0.1, 0.2, 0.5)
EPSILON = 0.1
STEPS = {
  'fgsm': (1, 1),
  'pgd-10': (10, 1),
  'pgd-40-5': (40, 5),
  'square': (1000, 1),
}
# Accuracy clean, by transfer, and white box at EPSILONS. The gradients of
# `single_step` are masked.
MODELS = {
  'base': (0.984, 0.7, {
    'fgsm': (0.78, 0.41, 0.14, 0.16),
    'pgd-10': (0.66, 0.10, 0.01, 0.0),
    'pgd-40-5': (0.64, 0.08, 0.0, 0.0),
    'square': (0.70, 0.15, 0.02, 0.0),
  }),
  'single_step': (0.982, 0.82, {
    'fgsm': (0.93, 0.9, 0.88, 0.71),
    'pgd-10': (0.72, 0.21, 0.03, 0.0),
    'pgd-40-5': (0.7, 0.16, 0.01, 0.0),
    'square': (0.73, 0.14, 0.01, 0.0),
  }),
  'pgd_at': (0.971, 0.94, {
    'fgsm': (0.94, 0.87, 0.61, 0.2),
    'pgd-10': (0.93, 0.85, 0.47, 0.01),
    'pgd-40-5': (0.93, 0.84, 0.45, 0.0),
    'square': (0.94, 0.86, 0.55, 0.01),
  }),
}  # fmt: skip


@functools.cache
def estimate(value: float, count: int = NUM_TEST) -> Estimate:
  return Estimate(value, accuracy_interval(value, count))


def attack(values: Any, transfer: Any = None, **fields: Any) -> AttackResult:
  """White-box accuracies at EPSILONS; the second one is the evaluation's."""
  others = {name: estimate(value) for name, value in (transfer or {}).items()}
  curve = [
    AtEpsilon(epsilon=epsilon, white_box=estimate(value), transfer=others)
    for epsilon, value in zip(EPSILONS, values, strict=True)
  ]
  result = {'epsilon': EPSILON, 'norm': 'linf', 'bounds': [0.0, 1.0]}
  result |= {'white_box': curve[1].white_box, 'transfer': others}
  result |= {'curve': curve, 'curve_num_images': NUM_TEST, 'attack': 'pgd'}
  result |= {'max_perturbation': EPSILON, 'step_size': 0.025}
  result |= {'num_steps': 10, 'num_restarts': 1}
  return AttackResult(**result | fields)


def autoattack(
  clean: float, after: Any, count: int = NUM_TEST, **fields: Any
) -> AutoAttackSummary:
  """Accuracies after each attack of AutoAttack."""
  before = (clean, *after[:-1])
  names = ('apgd-ce', 'apgd-t', 'fab-t', 'square')[-len(after) :]
  cost = {'seconds': 31.25, 'compile_seconds': 2.0}
  cost |= {'forward': 98_400, 'backward': 0}
  stages = [
    AutoAttackStage(
      name=name, accuracy=left, fooled=round(count * (start - left)), **cost
    )
    for name, start, left in zip(names, before, after, strict=True)
  ]
  values = {'epsilon': EPSILON, 'norm': 'linf', 'version': 'standard'}
  values |= {'num_images': count, 'clean_accuracy': clean, 'warnings': []}
  values |= {'accuracy': estimate(after[-1], count), 'attacks': stages}
  return AutoAttackSummary(**values | fields)


def model(name: str, names: Any = MODELS) -> ModelResult:
  clean, _, curves = MODELS[name]
  others = {o: MODELS[o][1] for o in names if o != name}
  at = {key: values[1] for key, values in curves.items()}
  lowest = min(at.values()) - 0.01
  kinds = {k: [clean - 0.03 * s for s in range(1, 6)] for k in KINDS}
  return ModelResult(
    num_params=93322,
    clean_accuracy=estimate(clean),
    robust_accuracy={
      key: attack(
        values, others, num_steps=STEPS[key][0], num_restarts=STEPS[key][1]
      )
      for key, values in curves.items()
    },
    per_class={
      'clean': [clean, None, 1.0],
      **{key: [value / 2, None, 1.5 * value / 2] for key, value in at.items()},
    },
    noise={
      kind: ShiftResult(accuracy=estimate(0.965), epsilon=EPSILON, norm='linf')
      for kind in ('uniform', 'gaussian', 'salt_and_pepper')
    },
    corruptions=kinds,
    corruption_accuracy=Estimate(float(np.mean([*kinds.values()]))),
    pasted_objects={
      str(s): ShiftResult(accuracy=estimate(round(clean - 0.05 * s, 3)))
      for s in (1, 3, 5)
    },
    rounded={key: value + 0.001 for key, value in at.items()},
    traces={
      key: Trace(
        loss=[0.1, *(None for _ in range(STEPS[key][0] - 1)), 2.0],
        accuracy=[clean, *(at[key] for _ in range(STEPS[key][0]))],
        zero_gradients=0.001,
        not_finite_gradients=0.0,
      )
      for key in ('fgsm', 'pgd-10')
    },
    minimal={
      'cw': MinimalDistance(median_epsilon=0.55, found=1.0, norm='l2'),
      'fmn': MinimalDistance(median_epsilon=8 / 255, found=0.97, norm='linf'),
    },
    autoattack=[
      autoattack(clean, (lowest + 0.02, lowest + 0.004, lowest + 0.001, lowest))
    ],
  )


def report(names: Any = MODELS, **fields: Any) -> Report:
  """A report of `evaluate` before the sanity checks ran."""
  dataset = DatasetSummary(
    name='digits',
    num_train=1437,
    num_test=NUM_TEST,
    image_shape=[28, 28, 1],
    largest_class_share=0.104,
  )
  values = {
    'dataset': dataset,
    'seeds': [0],
    'classes': ['zero', 'one', 'two'],
    'members': {name: model(name, names) for name in names},
    'command': './launch.sh evaluate --checkpoint=runs/base',
    'environment': {'date': '2026-01-02', 'jax': '0.10.2'},
    'config': {'base': {'model': {'name': 'cnn'}}},
  }
  return Report(**values | fields)


def evaluated(names: Any = MODELS) -> Report:
  """A whole report of `evaluate`."""
  found = report(names)
  return dataclasses.replace(found, sanity=sanity_findings(found))


def compared(num_validation: int = 100, seeds: Any = (0,)) -> Report:
  """A report of `compare`: two trained models, in the top 1 and the top 5."""
  members = {}
  for number, name in enumerate(('base', 'pgd_at')):
    found, epochs = model(name), 4
    top = estimate(0.99)
    attacks = {
      key: dataclasses.replace(
        found.robust_accuracy[key],
        white_box_top_k=top,
        transfer={o: estimate(0.8) for o in ('base', 'pgd_at') if o != name},
        transfer_top_k={o: top for o in ('base', 'pgd_at') if o != name},
      )
      for key in ('fgsm', 'pgd-10')
    }
    members[name] = ModelResult(
      training=Training(
        objective='pgd_at',
        hparams={'epsilon': 0.1},
        num_validation=num_validation,
        train_seconds=12.5 * (1 + number),
        step_milliseconds=9.875,
        eval_step_milliseconds=3.25,
        epochs=[
          {
            'clean_loss': 1 / (1 + i),
            'adversarial_loss': None if number else 2 / (1 + i),
            'clean_accuracy': 0.9 + 0.02 * i,
            'monitor_clean_accuracy': 0.88 + 0.01 * i,
            'monitor_robust_accuracy': 0.5 - 0.15 * i,
          }
          for i in range(epochs)
        ],
        test={'loss': 0.5, 'clean_loss': 0.25, 'adversarial_loss': 1.25}
        | ({} if number else {'scaled_adversarial_loss': 0.25}),
        warnings=['the loss is not finite'] if number else [],
      ),
      num_params=93322 * (1 + 9 * number),
      clean_accuracy=found.clean_accuracy,
      top_k=5,
      clean_top_k_accuracy=top,
      robust_accuracy=attacks,
      seen_corruptions=['gaussian_noise', 'pasted_objects'] if number else [],
      corruptions=found.corruptions if number else None,
      corruptions_top_k=found.corruptions if number else None,
      corruption_accuracy=found.corruption_accuracy,
      unseen_corruption_accuracy=Estimate(0.75, std=0.01),
      corruption_top_k_accuracy=found.corruption_accuracy,
      unseen_corruption_top_k_accuracy=Estimate(0.85),
      pasted_objects=found.pasted_objects,
    )
  return report(members=members, classes=None, seeds=list(seeds), config={})


def change(found: Report, name: str = 'base', **fields: Any) -> Report:
  """A report with fields of a model changed."""
  changed = dataclasses.replace(found.members[name], **fields)
  return dataclasses.replace(found, members={**found.members, name: changed})


def change_attack(found: Report, key: str, *args: Any, **fields: Any) -> Report:
  """A report with an attack on `base` changed: accuracies, other fields."""
  attacks = found.members['base'].robust_accuracy
  result = attacks.get(key) or attacks['pgd-10']
  if args:
    values = attack(*args)
    fields = {'white_box': values.white_box, 'curve': values.curve, **fields}
  result = dataclasses.replace(result, **fields)
  return change(found, robust_accuracy={**attacks, key: result})
