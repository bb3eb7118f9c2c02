"""Maps of many images over all devices, and how alike two maps are."""

import functools
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import numpy as np

from advjax.callables import Callee
from advjax.evaluation.logits import full_precision
from advjax.explain import Network, explain
from advjax.types import Array

# What is compared with the map of the clean image for its true class.
GROUPS = ('noise', 'stood', 'fooled', 'fooled_predicted', 'other')


@functools.lru_cache(maxsize=64)
def _program(
  methods: tuple[str, ...], devices: tuple[jax.Device, ...]
) -> Callable:
  def maps_of(
    images: Array, labels: Array, indices: Array, network: Any, key: Array
  ) -> dict[str, Array]:
    keys = jax.vmap(jax.random.fold_in, (None, 0))(key, indices)
    return explain(Network('', *network), images, labels, methods, key=keys)

  return jax.pmap(maps_of, in_axes=(0, 0, 0, None, None), devices=list(devices))


@full_precision
def compute_maps(
  network: Network,
  images: np.ndarray,
  labels: np.ndarray,
  methods: Sequence[str],
  *,
  key: Array,
  devices: Sequence[jax.Device],
  batch_size: int = 16,
) -> dict[str, np.ndarray]:
  """Explains many images, in batches over all devices.

  Args:
    network: The network.
    images: float32 `[N, H, W, C]`.
    labels: The classes to explain, int `[N]`.
    methods: As `advjax.explain.explain` takes them.
    key: Example i gets `fold_in(key, i)`.
    devices: Those of this process.
    batch_size: Images per device and call.

  Returns:
    Method -> maps, float32 `[N, ...]`.

  Example:
    >>> network = Network('linear', lambda images: images.sum((1, 2)))
    >>> maps = compute_maps(
    ...   network,
    ...   np.ones((3, 2, 2, 1), np.float32),
    ...   np.zeros(3, np.int32),
    ...   ['saliency'],
    ...   key=jax.random.key(0),
    ...   devices=jax.devices(),
    ... )
    >>> maps['saliency'].shape
    (3, 2, 2, 1)
  """
  _, logits_fn, features_fn, head_fn, weights = network
  parts = (
    Callee.of(logits_fn),
    features_fn and Callee.of(features_fn),
    head_fn and Callee.of(head_fn),
    weights,
  )
  program = _program(tuple(methods), tuple(devices))
  found: dict[str, list[np.ndarray]] = {method: [] for method in methods}
  labels = np.asarray(labels, np.int32)
  # Batches are full, the last one too: its rows begin anew. So all calls share
  # one program, however many images they bring.
  shape = (len(devices), batch_size)
  for start in range(0, len(images), math.prod(shape)):
    order = (start + np.arange(math.prod(shape))) % len(images)
    indices = order.reshape(shape).astype(np.int32)
    maps = program(images[indices], labels[indices], indices, parts, key)
    for method, values in maps.items():
      rows = np.asarray(values, np.float32)
      rows = rows.reshape(-1, *rows.shape[2:])
      found[method].append(rows[: len(images) - start])
  return {method: np.concatenate(rows) for method, rows in found.items()}


def cosines(first: np.ndarray, second: np.ndarray) -> np.ndarray:
  """The cosine between the maps of each row, signs included.

  `<a, b> / (|a| |b|)` over all values of a map; 0 where one is all 0.

  Args:
    first: `[N, ...]`.
    second: The same shape.

  Returns:
    float64 `[N]` in [-1, 1].

  Example:
    >>> cosines(np.array([[1.0, 0.0]]), np.array([[3.0, 4.0]]))
    array([0.6])
  """
  a, b = (x.reshape(len(x), -1).astype(np.float64) for x in (first, second))
  sizes = np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1)
  return (a * b).sum(1) / np.where(sizes > 0, sizes, 1)


def rank_correlations(first: np.ndarray, second: np.ndarray) -> np.ndarray:
  """Spearman's rank correlation between the maps of each row.

  Args:
    first: `[N, ...]`.
    second: The same shape.

  Returns:
    float64 `[N]` in [-1, 1]; 0 where one is constant.

  Example:
    >>> rank_correlations(np.array([[1, 2, 9]]), np.array([[0, 5, 6]]))
    array([1.])
  """
  from scipy import stats  # Slow to import: not at the top.

  centred = []
  for x in (first, second):
    ranks = stats.rankdata(x.reshape(len(x), -1), axis=1)
    centred.append(ranks - ranks.mean(1, keepdims=True))
  return cosines(*centred)


def compare_maps(
  clean: Mapping[str, np.ndarray],
  noisy: Mapping[str, np.ndarray],
  adversarial: Mapping[str, np.ndarray],
  predicted: Mapping[str, np.ndarray],
  fooled: np.ndarray,
) -> dict[str, dict[str, dict[str, Any]]]:
  """Compares the maps of clean images with those of others.

  All are images that the network is right on as they are; method -> maps
  `[N, ...]`.

  Args:
    clean: Of the clean images, for their true classes.
    noisy: Of the same with noise of the size of the attack.
    adversarial: Of the same after the attack.
    predicted: After the attack, for the classes predicted then.
    fooled: Which images the attack fools, bool `[N]`.

  Returns:
    Method -> group -> mean `cosine` and `rank` (correlation), each with its 95
    % interval over the images as `..._ci`, and `num_images`. Groups: 'noise';
    'stood' and 'fooled', the images that stand the attack and the others;
    'fooled_predicted', these for the class predicted; 'other', each clean
    image with the next one.
  """
  everything = np.ones(len(fooled), bool)
  result = {}
  for method, maps in clean.items():
    pairs = {
      'noise': (noisy[method], everything),
      'stood': (adversarial[method], ~fooled),
      'fooled': (adversarial[method], fooled),
      'fooled_predicted': (predicted[method], fooled),
      'other': (np.roll(maps, 1, axis=0), everything & (len(fooled) > 1)),
    }
    result[method] = {
      group: _summary(maps[rows], others[rows])
      for group, (others, rows) in pairs.items()
    }
  return result


def _summary(first: np.ndarray, second: np.ndarray) -> dict[str, Any]:
  entry: dict[str, Any] = {'num_images': len(first)}
  for name, measure in (('cosine', cosines), ('rank', rank_correlations)):
    entry[name], entry[f'{name}_ci'] = _mean(
      measure(first, second) if len(first) else np.zeros(0)
    )
  return entry


def _mean(values: np.ndarray) -> tuple[float | None, list[float] | None]:
  """The mean and its 95 % interval (Student's t), None where there is none."""
  if not len(values):
    return None, None
  mean = float(values.mean())
  if len(values) < 2:
    return mean, None
  from scipy import stats  # Slow to import: not at the top.

  factor = float(stats.t.ppf(0.975, len(values) - 1))
  half = factor * float(values.std(ddof=1)) / len(values) ** 0.5
  return mean, [mean - half, mean + half]
