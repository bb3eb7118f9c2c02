"""What AutoAttack returns, in numbers too, and when to doubt it."""

from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np

from advjax.evaluation.autoattack.saved import AttackRecord, Progress

# What Square finds after the gradients may be chance; more images and a larger
# share than this are a sign that the gradients are no good.
_FEW_IMAGES, _FEW = 2, 0.002


class AutoAttackResult(NamedTuple):
  """What AutoAttack leaves standing.

  Attributes:
    images: `[N, ...]`: adversarial where one was found, else the originals.
    robust: bool `[N]`: classified correctly, clean and under every attack. Its
      mean is the robust accuracy.
    clean: bool `[N]`: classified correctly without an attack.
    per_attack: What each attack found and cost, in the order they ran in; each
      was given only what the ones before it left standing.
    warnings: What casts doubt on the result, in plain sentences.
  """

  images: np.ndarray
  robust: np.ndarray
  clean: np.ndarray
  per_attack: dict[str, AttackRecord]
  warnings: tuple[str, ...]


def summarise(
  result: AutoAttackResult, epsilon: float, norm: str, version: str
) -> dict[str, Any]:
  """Returns a result as a report has it: numbers instead of flags.

  Args:
    result: From `autoattack`.
    epsilon: The radius that it was given.
    norm: Likewise.
    version: Likewise.

  Returns:
    Accuracies as fractions, cost per attack, warnings.
  """
  return {
    'epsilon': float(epsilon),
    'norm': norm,
    'version': version,
    'num_images': len(result.clean),
    'clean_accuracy': float(result.clean.mean()),
    'accuracy': float(result.robust.mean()),
    'attacks': [
      {
        'name': name,
        'accuracy': float(record.robust.mean()),
        'fooled': record.num_fooled,
        'seconds': record.seconds,
        'compile_seconds': record.compile_seconds,
        'forward': record.num_forward,
        'backward': record.num_backward,
      }
      for name, record in result.per_attack.items()
    ],
    'warnings': list(result.warnings),
  }


def doubts(
  run: Progress,
  clean: np.ndarray,
  labels: np.ndarray,
  logits: np.ndarray | None,
) -> Iterator[str]:
  """Says what casts doubt on a result.

  Args:
    run: All attacks done.
    clean: bool `[N]`: classified correctly without an attack.
    labels: int `[N]`.
    logits: Those of the images found, `[N, K]`; None: they say nothing.

  Yields:
    Plain sentences.
  """
  names = list(run.records)
  before = names[: names.index('square')] if 'square' in names else []
  found = run.records['square'].num_fooled if before else 0
  if found > max(_FEW_IMAGES, _FEW * len(labels)):
    yield (
      f'Square, which sees no gradients, fooled {found} of {len(labels)} '
      f'images that {", ".join(before)} had not: the gradients may be masked. '
      'Attack the network with something made for it.'
    )
  if logits is None:
    return
  fooled = clean & ~run.robust
  missed = int((fooled & (logits.argmax(-1) == labels)).sum())
  if missed:
    yield (
      f'{missed} images fooled the network only within the attack and not when '
      'they were classified again: it rounds differently in another batch, or '
      'it draws at random (then version must be rand).'
    )
  infinite = int((~np.isfinite(logits).all(-1)).sum())
  if infinite:
    yield (
      f'{infinite} of the images found have logits that are not finite: the '
      'network overflows there, which no attack should need.'
    )
