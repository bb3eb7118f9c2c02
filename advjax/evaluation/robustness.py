"""Attacks on whole data sets: robust accuracy, and logits of several models."""

import functools
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

from advjax import norms
from advjax.attacks.specs import FullAttack, MinimalAttack
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
  if isinstance(attack, MinimalAttack):
    perturbed = attack(source, images, labels)
  else:
    perturbed = attack(source, images, labels, epsilon, keys)
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
  images = np.asarray(images)
  check_images(images, getattr(attack, 'bounds', None))
  labels = check_labels(labels, images, source)
  if not min(epsilons, default=-1) >= 0:
    raise ValueError(
      f'epsilons = {list(epsilons)}; allowed: one number >= 0 or more'
    )
  if not 0 <= kept < len(epsilons):
    raise ValueError(f'kept = {kept}; allowed: an index into epsilons')
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
  if isinstance(attack, MinimalAttack):
    nearest, distances = run(np.float32(0))
  for index, epsilon in enumerate(epsilons):
    if isinstance(attack, MinimalAttack):
      # It ran once, and counts wherever its perturbation is within the radius.
      within = distances <= np.float32(epsilon)
      mask = within.reshape(-1, *[1] * (images.ndim - 1))
      perturbed = np.where(mask, nearest, images)
      sizes = np.where(within, distances, 0)
    elif isinstance(attack, FullAttack):
      result = autoattack(
        source,
        images,
        labels,
        epsilon,
        key=batching.key,
        norm=attack.norm,
        version=attack.version,
        attacks=attack.attacks,
        bounds=attack.bounds,
        batch_size=batching.batch_size,
        devices=batching.devices,
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
  images: np.ndarray,
  labels: np.ndarray,
  attacks: Mapping[str, AttackFn],
  epsilon: float,
  *,
  key: Array,
  batch_size: int = 64,
  devices: Sequence[Any] | None = None,
) -> RobustAccuracy:
  """Attacks a network with several attacks; worst case per example.

  correct_i = [f(x_i) = y_i] and, for every attack a, [f(a(x_i)) = y_i]

  Float32 products are computed in float32 on accelerators too, unless
  `jax.default_matmul_precision` says otherwise.

  Args:
    logits_fn: Images `[B, ...]` to logits `[B, K]`.
    images: `[N, ...]`, floating, in the pixel range.
    labels: int `[N]`.
    attacks: By name, in the form that `attack_and_predict` takes.
    epsilon: Radius, in the units of the pixels.
    key: Example i gets `fold_in(key, i)`.
    batch_size: Images per device and call.
    devices: Default: all local ones.

  Returns:
    A table of booleans per example.

  Raises:
    ValueError: as `compute_logits` and `attack_and_predict`.

  Example:
    >>> import jax
    >>> from advjax.attacks.specs import parse_attack
    >>> table = robust_accuracy(
    ...   lambda x: 10 * x,
    ...   np.eye(3, dtype=np.float32),
    ...   np.arange(3),
    ...   {'fgsm': parse_attack('fgsm')},
    ...   0.9,
    ...   key=jax.random.key(0),
    ... )
    >>> float(table.clean.mean()), float(table.worst_case.mean())
    (1.0, 0.0)
  """
  batching = Batching(batch_size, devices or (), key)
  images = np.asarray(images)
  check_images(images)
  labels = check_labels(labels, images, logits_fn)
  if not attacks or not all(
    callable(each) or isinstance(each, FullAttack) for each in attacks.values()
  ):
    raise ValueError(
      f'attacks = {dict(attacks)}; allowed: one attack or more, as '
      'parse_attack returns them, or functions (logits_fn, images, labels, '
      'epsilon, keys) -> images'
    )
  if not epsilon >= 0:
    raise ValueError(f'epsilon = {epsilon}; allowed: a number >= 0')
  clean = compute_logits(logits_fn, images, batching).argmax(-1) == labels
  attacked = {}
  for name, attack in attacks.items():
    result = attack_and_predict(
      logits_fn, {'': logits_fn}, attack, images, labels, [epsilon], batching
    )
    attacked[name] = clean & (result.predictions[''][0] == labels)
  worst_case = functools.reduce(np.logical_and, attacked.values(), clean)
  return RobustAccuracy(clean, attacked, worst_case)
