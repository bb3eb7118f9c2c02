"""What a run of AutoAttack has found so far, and the file that keeps it."""

import hashlib
import json
import pathlib
import zipfile
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from advjax.evaluation.autoattack.pool import Outcome
from advjax.evaluation.autoattack.rounds import Shared
from advjax.evaluation.autoattack.versions import Component
from advjax.files import replacing

# Logits that tell whether the network is the same; more than rounding differs.
_NUM_LOGITS = 64
_TOLERANCE = 1e-3


class AttackRecord(NamedTuple):
  """What one attack of AutoAttack found, and at what cost.

  Attributes:
    robust: bool `[N]`: what it left standing.
    num_fooled: How many it took of those that the ones before left.
    num_forward: Forward passes, counted per image.
    num_backward: Backward passes, counted per image.
    seconds: Without compiling.
    compile_seconds: Of its programs.
  """

  robust: np.ndarray
  num_fooled: int
  num_forward: int
  num_backward: int
  seconds: float
  compile_seconds: float


class Progress(NamedTuple):
  """A run, as far as it has come: see `AutoAttackResult`."""

  images: np.ndarray
  robust: np.ndarray
  records: dict[str, AttackRecord]


def add(run: Progress, component: Component, outcome: Outcome) -> Progress:
  """Returns the run with one more attack."""
  fooled = run.robust & outcome.fooled
  images = run.images.copy()
  images[fooled] = outcome.images[fooled]
  robust = run.robust & ~fooled
  record = AttackRecord(
    robust,
    int(fooled.sum()),
    outcome.num_steps * component.search.num_forward,
    outcome.num_steps * component.search.num_backward,
    outcome.seconds,
    outcome.compile_seconds,
  )
  return Progress(images, robust, {**run.records, component.name: record})


def identity(
  images: np.ndarray,
  labels: np.ndarray,
  logits: np.ndarray,
  shared: Shared,
  **choices: str,
) -> dict[str, Any]:
  """Returns what two runs have in common if one can go on with the other's."""

  def digest(*arrays: Any) -> str:
    parts = [np.ascontiguousarray(array).tobytes() for array in arrays]
    return hashlib.sha256(b''.join(parts)).hexdigest()[:16]

  return {
    **choices,
    'epsilon': float(shared.epsilon),
    'bounds': digest(shared.lower, shared.upper),
    'key': digest(jax.random.key_data(shared.key)),
    'images': f'{images.dtype}{list(images.shape)} {digest(images)}',
    'labels': digest(labels),
    'network': logits[:_NUM_LOGITS].tolist(),
  }


def save(
  path: pathlib.Path, identity: Mapping[str, Any], run: Progress
) -> None:
  """Writes the run to a file that appears whole or not at all."""
  numbers = {
    name: {k: v for k, v in record._asdict().items() if k != 'robust'}
    for name, record in run.records.items()
  }
  path.parent.mkdir(parents=True, exist_ok=True)
  with replacing(path) as file:
    np.savez(
      file,
      identity=json.dumps(identity),
      records=json.dumps(numbers),
      # As bytes: NumPy alone cannot read a file with bfloat16.
      images=np.frombuffer(run.images.tobytes(), np.uint8),
      robust=run.robust,
      robust_after=[record.robust for record in run.records.values()],
    )


def load(
  path: pathlib.Path,
  identity: Mapping[str, Any],
  names: Sequence[str],
  nothing: Progress,
) -> Progress:
  """Returns the run that a file holds, or `nothing` if there is no file.

  Raises:
    ValueError: if the file holds something else.
  """
  if not path.exists():
    return nothing
  try:
    with path.open('rb') as file:
      arrays = dict(np.load(file))
    found = json.loads(str(arrays['identity']))
    numbers = json.loads(str(arrays['records']))
  except (OSError, ValueError, KeyError, zipfile.BadZipFile) as error:
    raise ValueError(
      f"path = '{path}' holds no run of AutoAttack ({error}); give another "
      'path, or remove the file'
    ) from error
  differing = _differing(found, identity)
  if list(numbers) != list(names[: len(numbers)]):
    differing.append(f'attacks: {", ".join(numbers)} there')
  if differing:
    raise ValueError(
      f"path = '{path}' holds another run of AutoAttack ({'; '.join(differing)}"
      '); give another path, or remove the file'
    )
  images = np.frombuffer(arrays['images'].tobytes(), nothing.images.dtype)
  records = {
    name: AttackRecord(robust=robust, **entry)
    for (name, entry), robust in zip(
      numbers.items(), arrays['robust_after'], strict=True
    )
  }
  return Progress(
    images.reshape(nothing.images.shape), arrays['robust'], records
  )


def _differing(
  found: Mapping[str, Any], wanted: Mapping[str, Any]
) -> list[str]:
  differing = []
  for name, value in wanted.items():
    have: Any = found.get(name)
    if name == 'network':
      logits = np.asarray(have, np.float64)
      if logits.shape != np.shape(value) or not np.allclose(
        logits, value, rtol=_TOLERANCE, atol=_TOLERANCE
      ):
        differing.append('network: its logits differ')
    elif have != value:
      differing.append(f'{name}: {have} there, {value} asked for')
  return differing
