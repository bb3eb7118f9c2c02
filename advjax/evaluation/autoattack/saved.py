"""The state of an AutoAttack run, and the file it resumes from."""

import hashlib
import json
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from advjax._arguments import example_keys
from advjax.attacks._core.loop import call
from advjax.callables import compile_per_callable
from advjax.evaluation.autoattack.pool import Shared
from advjax.evaluation.logits import matmul_precision
from advjax.files import read_npz, replacing
from advjax.losses import cross_entropy
from advjax.types import Array, LogitsFn

# Images whose logits and gradients identify the network, and the share of the
# largest of them by which rounding may change one.
_NUM_IMAGES = 32
_TOLERANCE = 1e-3


class AttackRecord(NamedTuple):
  """The result of one attack of AutoAttack, and its cost."""

  robust: np.ndarray  # bool [N]: still robust after it
  num_fooled: int  # of the images robust before it
  num_forward: int  # passes, counted per image
  num_backward: int
  seconds: float  # without compiling
  compile_seconds: float


class Progress(NamedTuple):
  """The state of a run: see `AutoAttackResult`."""

  images: np.ndarray
  robust: np.ndarray
  records: dict[str, AttackRecord]


def identity(
  logits_fn: LogitsFn,
  images: np.ndarray,
  labels: np.ndarray,
  shared: Shared,
  *,
  first: int,
  norm: str,
  version: str,
  gradients: bool,
) -> dict[str, np.ndarray]:
  """Returns what identifies a run: only an equal run resumes it.

  The network is identified by logits of some images and, since networks that
  mask gradients may have equal logits, by norms and projections of gradients.
  """

  def digest(*arrays: Any) -> str:
    parts = [np.ascontiguousarray(array).tobytes() for array in arrays]
    return hashlib.sha256(b''.join(parts)).hexdigest()[:16]

  some = jnp.asarray(images[:_NUM_IMAGES])
  keys = example_keys(shared.key, len(some)) if version == 'rand' else None
  logits, gradient = _logits_and_gradients(
    logits_fn, some, jnp.asarray(labels[: len(some)]), keys, gradients=gradients
  )
  network = {'logits of the network': np.asarray(logits, np.float64)}
  if gradient is not None:
    flat = np.asarray(gradient, np.float64).reshape(len(some), -1)
    waves = np.cos(1 + np.arange(flat.shape[1]))
    network['norms of its gradients'] = np.linalg.norm(flat, axis=1)
    network['projections of its gradients'] = flat @ waves
  draws_of = [np.uint32(first)] if first else []
  texts = {
    'norm': norm,
    'version': version,
    'matmul_precision': matmul_precision(),
    'epsilon': f'{float(shared.epsilon):.6g}',
    'digest of bounds': digest(shared.lower, shared.upper),
    'digest of key': digest(jax.random.key_data(shared.key), *draws_of),
    'digest of images': f'{images.dtype}{images.shape} {digest(images)}',
    'digest of labels': digest(labels),
  }
  return network | {name: np.array(str(x)) for name, x in texts.items()}


def _gradients(
  logits_fn: LogitsFn,
  images: Array,
  labels: Array,
  keys: Array | None,
  *,
  gradients: bool,
) -> tuple[Array, Array | None]:
  def loss(images: Array) -> tuple[Array, Array]:
    logits = call(logits_fn, images, keys)
    return cross_entropy(logits, labels).sum(), logits

  if not gradients:
    return loss(images)[1], None
  gradient, logits = jax.grad(loss, has_aux=True)(images)
  return logits, gradient


_logits_and_gradients = compile_per_callable(_gradients)


def save(
  path: pathlib.Path, identity: Mapping[str, np.ndarray], run: Progress
) -> None:
  """Writes the state to a file, atomically."""
  numbers = {name: record[1:] for name, record in run.records.items()}
  arrays: dict[str, Any] = {
    **identity,
    'records': json.dumps(numbers),
    'robust_after': [record.robust for record in run.records.values()],
    'robust': run.robust,
    # As bytes: NumPy alone cannot read a file with bfloat16.
    'perturbed': np.frombuffer(run.images.tobytes(), np.uint8),
  }
  path.parent.mkdir(parents=True, exist_ok=True)
  with replacing(path) as file:
    np.savez(file, **arrays)


def load(
  path: pathlib.Path,
  identity: Mapping[str, np.ndarray],
  names: Sequence[str],
  nothing: Progress,
) -> Progress | None:
  """Returns the state in a file, None without a file, or raises ValueError."""
  if not path.exists():
    return None
  try:
    arrays = read_npz(path)
    numbers = json.loads(str(arrays['records']))
    # A copy can be written to.
    images = np.frombuffer(arrays['perturbed'], nothing.images.dtype).copy()
    images = images.reshape(nothing.images.shape)
    robust, *after = arrays['robust'], *arrays['robust_after']
    if any(
      each.dtype != bool or each.shape != nothing.robust.shape
      for each in (robust, *after)
    ):
      raise ValueError(f'robust: {robust.dtype} {robust.shape}')
    records = {
      name: AttackRecord(each, *entry)
      for (name, entry), each in zip(numbers.items(), after, strict=True)
    }
    differing = [
      f'{name.removeprefix("digest of ")} differ'
      if value.ndim or name.startswith('digest')
      else f'{name}: {arrays.get(name)} there, {value} requested'
      for name, value in identity.items()
      if name not in arrays or not _same(arrays[name], value)
    ]
  except (ValueError, KeyError, TypeError, AttributeError) as error:
    raise ValueError(
      f"path = '{path}' holds no state of AutoAttack ({error}); give another "
      'path, or remove the file'
    ) from error
  if list(numbers) != list(names[: len(numbers)]):
    differing.append(f'attacks: {", ".join(numbers)} there')
  if differing:
    raise ValueError(
      f"path = '{path}' holds the state of another run of AutoAttack "
      f'({"; ".join(differing)}); give another path, or remove the file'
    )
  return Progress(images, robust, records)


def _same(found: np.ndarray, wanted: np.ndarray) -> bool:
  """Equal texts, or numbers of a network that differ by rounding alone."""
  if wanted.dtype.kind != 'f' or found.shape != wanted.shape:
    return bool(found.shape == wanted.shape and found == wanted)
  scale = np.abs(wanted).max(initial=0)
  return np.allclose(
    found, wanted, rtol=0, atol=_TOLERANCE * scale, equal_nan=True
  )
