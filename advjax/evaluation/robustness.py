"""Attacks on whole data sets: robust accuracy, and logits of several models."""

import dataclasses
import functools
import pathlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

from advjax import norms
from advjax._arguments import check_key, error
from advjax._arguments import number as check_number
from advjax.attacks.specs import Attack, parse_attacks
from advjax.callables import Callee
from advjax.devices import Batching, map_examples
from advjax.evaluation.autoattack import autoattack, summarise
from advjax.evaluation.checks import check_images, check_labels
from advjax.evaluation.logits import compute_logits, full_precision
from advjax.results import AutoAttackSummary
from advjax.types import Array, LogitsFn

# attack(logits_fn, images, labels, epsilon, keys) -> images, pure, or what
# `parse_attack` returns.
AttackFn = Any


class Attacked(NamedTuple):
  """Adversarial examples of a source model, and logits of target models."""

  logits: dict[str, np.ndarray]  # target model -> [E, N, K]
  sizes: np.ndarray  # of the perturbations, float32 [E, N]
  images: np.ndarray  # at one of the epsilons, [N, ...]
  autoattack: tuple[AutoAttackSummary, ...] = ()  # at each epsilon

  @property
  def predictions(self) -> dict[str, np.ndarray]:
    """Target model -> predicted classes, int `[E, N]`."""
    return {name: values.argmax(-1) for name, values in self.logits.items()}


def _is_minimal(attack: AttackFn) -> bool:
  return isinstance(attack, Attack) and attack.is_minimal


def _attack(
  attack: AttackFn,
  norm: str | norms.Norm,
  images: Array,
  labels: Array,
  keys: Array,
  source: Callee,
  epsilon: Array,
) -> tuple[Array, Array]:
  """Attacks `[B, ...]` images; returns images and sizes of perturbations."""
  radius = () if _is_minimal(attack) else (epsilon, keys)
  perturbed = attack(source, images, labels, *radius)
  if jnp.shape(perturbed) != images.shape:
    raise error('attack(...).shape', jnp.shape(perturbed), str(images.shape))
  delta = perturbed.astype(jnp.float32) - images.astype(jnp.float32)
  return perturbed, norms.get(norm).size(delta)


@full_precision
def attack_and_predict(
  source: LogitsFn,
  targets: Mapping[str, LogitsFn],
  attack: AttackFn,
  images: np.ndarray,
  labels: np.ndarray,
  epsilons: Sequence[float],
  batching: Batching | None = None,
  *,
  kept: int = 0,
  norm: str | norms.Norm = 'linf',
  save_as: pathlib.Path | None = None,
  progress: bool = False,
) -> Attacked:
  """Attacks one model at many epsilons; computes the logits of several.

  x'_i(epsilon) = attack(source, x_i, y_i, epsilon);  f(x'_i) for every target f

  Where a target is the source, its accuracy is white box; where it is
  another model, the attack is a transfer attack. All epsilons run in one
  compiled program per attack, which other params of the same network and
  other epsilons do not compile again.

  Args:
    source: The model whose gradients the attack follows.
    targets: The models that predict, by name.
    attack: `attack(logits_fn, images, labels, epsilon, keys) -> images`, a
      pure function, or anything that `parse_attack` returns.
    images: `[N, ...]`, floating, in the pixel range.
    labels: int `[N]`.
    epsilons: Radii, in the units of the pixels.
    batching: Batch size, devices and key; example i gets `fold_in(key, i)`.
    kept: Index of the epsilon whose images are returned.
    norm: Measures the perturbations.
    save_as: Where AutoAttack saves its state, to resume from; a file for each
      epsilon, whose names begin like this.
    progress: Whether AutoAttack draws a progress bar.

  Returns:
    Logits, sizes and images.

  Raises:
    ValueError: if images, labels or epsilons are not as described.

  Example:
    >>> from advjax.attacks.specs import parse_attack
    >>> network = lambda x: 10 * x
    >>> result = attack_and_predict(
    ...   network,
    ...   {'itself': network},
    ...   parse_attack('fgsm'),
    ...   np.eye(3, dtype=np.float32),
    ...   np.arange(3),
    ...   [0.1, 0.9],
    ... )
    >>> (result.predictions['itself'] == np.arange(3)[None]).mean(1).tolist()
    [1.0, 0.0]
  """
  images = check_images(images, getattr(attack, 'bounds', None))
  labels = check_labels(labels, images, source)
  if not min(epsilons, default=-1) >= 0:
    raise error('epsilons', list(epsilons), 'one number >= 0 or more')
  if not 0 <= kept < len(epsilons):
    raise error('kept', kept, 'an index into epsilons')
  batching = batching or Batching()
  run = functools.partial(
    map_examples,
    _attack,
    [images, labels],
    Callee.of(source),
    static=(attack, norm),
    batching=batching,
  )
  logits: dict[str, list[np.ndarray]] = {name: [] for name in targets}
  all_sizes, summaries, kept_images = [], [], images
  if _is_minimal(attack):
    nearest, distances = run(np.float32(0))
  for index, epsilon in enumerate(epsilons):
    if _is_minimal(attack):
      # It ran once, and counts wherever its perturbation is within the radius.
      within = distances <= np.float32(epsilon)
      mask = within.reshape(-1, *[1] * (images.ndim - 1))
      perturbed = np.where(mask, nearest, images)
      sizes = np.where(within, distances, 0)
    elif isinstance(attack, Attack) and attack.function is None:
      result = autoattack(
        source,
        images,
        labels,
        epsilon,
        key=batching.key,
        norm=attack.norm,
        version=attack.version,
        attacks=attack.parts,
        bounds=attack.bounds,
        batch_size=batching.batch_size,
        devices=batching.devices,
        first=batching.first,
        path=save_as
        and save_as.with_name(f'{save_as.name}_{float(epsilon)!r}.npz'),
        progress=progress,
      )
      summaries.append(summarise(result, epsilon, attack.norm, attack.version))
      perturbed = result.images
      delta = perturbed.astype(np.float32) - images.astype(np.float32)
      sizes = np.asarray(norms.get(attack.norm).size(delta))
    else:
      perturbed, sizes = run(np.float32(epsilon))
    for name, target in targets.items():
      logits[name].append(
        compute_logits(target, perturbed, batching, check=False)
      )
    all_sizes.append(sizes)
    if index == kept:
      kept_images = perturbed
  return Attacked(
    {name: np.stack(parts) for name, parts in logits.items()},
    np.stack(all_sizes),
    kept_images,
    tuple(summaries),
  )


class RobustAccuracy(NamedTuple):
  """Which images a network classifies correctly, clean and under attacks.

  Attributes:
    clean: bool `[N]`.
    attacked: For every attack, bool `[N]`: correct on the clean image and on
      the one that this attack makes.
    worst_case: bool `[N]`: correct under all of them. Its mean is the robust
      accuracy.
  """

  clean: np.ndarray
  attacked: dict[str, np.ndarray]
  worst_case: np.ndarray


@full_precision
def robust_accuracy(
  logits_fn: LogitsFn,
  images: Any,
  labels: Any = None,
  attacks: str | Sequence[str] | Mapping[str, str | AttackFn] = (),
  epsilon: float | None = None,
  *,
  key: Array,
  norm: str = 'linf',
  bounds: tuple[float, float] | None = (0.0, 1.0),
  batch_size: int = 64,
  devices: Sequence[Any] | None = None,
) -> RobustAccuracy:
  """Attacks a network with several attacks; worst case per example.

  correct_i = [f(x_i) = y_i] and, for every attack a, [f(a(x_i)) = y_i]

  In place of arrays it takes batches: a DataLoader of PyTorch, a
  `tf.data.Dataset`, a generator. They are attacked as they come, none is kept,
  and smaller ones, as the last may be, share the compiled programs.

  Float32 products are computed in float32 on accelerators too, unless
  `jax.default_matmul_precision` says otherwise.

  Args:
    logits_fn: Images `[B, ...]` to logits `[B, K]`.
    images: `[N, ...]`, floating, in the pixel range; or, without labels, an
      iterable of pairs (images, labels) of anything that NumPy converts.
    labels: int `[N]`; None where images are batches.
    attacks: Names as `parse_attack` takes them, `['fgsm', 'pgd-40-5']` or one
      string with commas; or a mapping from names of your own to such names, to
      what `parse_attack` returns, or to pure functions `attack(logits_fn,
      images, labels, epsilon, keys) -> images`.
    epsilon: Radius, in the units of the pixels.
    key: Image i of all, whatever its batch, gets `fold_in(key, i)`.
    norm: 'linf', 'l2' or 'l1', of attacks given by name.
    bounds: The pixel range of attacks given by name, or None.
    batch_size: Images per device and call.
    devices: Default: all local ones.

  Returns:
    A table of booleans per example, in the order of the images.

  Raises:
    ValueError: as `parse_attack`, `compute_logits` and `attack_and_predict`; if
      an attack is named twice, if there is none, if there are no batches, or if
      one is no pair or its images are not like those of the first.

  Example:
    >>> import jax
    >>> images, labels = np.eye(3, dtype=np.float32), np.arange(3)
    >>> table = robust_accuracy(
    ...   lambda x: 10 * x,
    ...   images,
    ...   labels,
    ...   ['fgsm', 'pgd-10'],
    ...   0.9,
    ...   key=jax.random.key(0),
    ... )
    >>> float(table.clean.mean()), float(table.worst_case.mean())
    (1.0, 0.0)
  """
  if labels is not None and np.asarray(labels).dtype.kind in 'USO':
    raise ValueError(
      f'labels = {labels!r}; allowed: int [N], or labels=None, where images '
      'are batches (images, labels)'
    )
  attacks = parse_attacks(attacks, norm=norm, bounds=bounds and tuple(bounds))
  epsilon = float(check_number('epsilon', epsilon, np.float64))
  check_key(key, 1)
  batching = Batching(batch_size, devices or (), key)
  batches = [(images, labels)] if labels is not None else _batches_of(images)
  all_clean: list[np.ndarray] = []
  parts: dict[str, list[np.ndarray]] = {name: [] for name in attacks}
  first = size = 0
  for images, labels in batches:
    images = check_images(images)
    labels = check_labels(labels, images, logits_fn)
    count = len(images)
    size = max(size, count)
    if count < size:  # Filled up, so that nothing compiles again.
      order = np.arange(size) % count
      images, labels = images[order], labels[order]
    part = dataclasses.replace(batching, first=first)
    clean = compute_logits(logits_fn, images, part).argmax(-1) == labels
    all_clean.append(clean[:count])
    for name, attack in attacks.items():
      own = getattr(attack, 'norm', norm)  # Minimum-norm attacks count in it.
      given = attack, images, labels, [epsilon], part
      result = attack_and_predict(logits_fn, {'': logits_fn}, *given, norm=own)
      correct = clean & (result.predictions[''][0] == labels)
      parts[name].append(correct[:count])
    first += count
  clean = np.concatenate(all_clean)
  attacked = {name: np.concatenate(each) for name, each in parts.items()}
  worst_case = functools.reduce(np.logical_and, attacked.values(), clean)
  return RobustAccuracy(clean, attacked, worst_case)


def _batches_of(batches: Any) -> Iterator[tuple[np.ndarray, np.ndarray]]:
  """Yields pairs (images, labels) as arrays; all images are alike."""
  if hasattr(batches, 'shape') or not isinstance(batches, Iterable):
    allowed = 'int [N], or batches (images, labels) in place of the images'
    raise error('labels', None, f'{allowed}, not {type(batches).__name__}')
  like = None
  for number, batch in enumerate(batches):
    if not isinstance(batch, tuple | list) or len(batch) != 2:
      kind, allowed = type(batch).__name__, 'a pair (images, labels)'
      raise error(f'batches[{number}]', kind, allowed)
    images, labels = map(np.asarray, batch)
    kind = f'{images.dtype} [B, {", ".join(map(str, images.shape[1:]))}]'
    like = like or kind
    if kind != like:
      raise error(f'batches[{number}][0]', kind, f'{like}, as the first')
    yield images, labels
  if like is None:
    raise error('batches', '()', 'one (images, labels) or more')
