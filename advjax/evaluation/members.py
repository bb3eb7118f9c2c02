"""Several networks, each attacked and each asked about the others' images."""

import functools
import pathlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from advjax.attacks.specs import (
  AnyAttack,
  FullAttack,
  MinimalAttack,
  parse_attack,
)
from advjax.evaluation.attacked import AttackedPredictions, attack_and_predict
from advjax.evaluation.logits import Devices
from advjax.evaluation.top_k import predict_in_top_k
from advjax.types import Array, LogitsFn

# On larger test sets the curves over epsilon are made on so many images; the
# headline epsilon always on all of them.
_MAX_CURVE_IMAGES = 1000


class TopK(NamedTuple):
  """Whether labels are among the k classes that members hold for likeliest.

  Attributes:
    k: How many classes, 2 or more.
    clean: Member -> bool `[N]`, on the clean images.
    headline: (source, attack) -> member -> bool `[N]`, at the headline epsilon.
    curves: (source, attack) -> member -> bool `[E, M]`.
  """

  k: int
  clean: dict[str, np.ndarray]
  headline: dict[tuple[str, str], dict[str, np.ndarray]]
  curves: dict[tuple[str, str], dict[str, np.ndarray]]


class Evaluation(NamedTuple):
  """Predictions of every member on every member's perturbed images.

  Attributes:
    clean: Member -> predictions on the clean images, int `[N]`.
    headline: (source, attack) -> member -> predictions, int `[N]`, at the
      headline epsilon.
    curves: (source, attack) -> member -> predictions, int `[E, M]`, on the
      first M images, 1,000 at most but for AutoAttack.
    images: (source, attack) -> the perturbed images at the headline epsilon.
    max_sizes: (source, attack) -> the largest perturbation at it.
    distances: (source, attack) -> of attacks that look for the nearest
      adversarial image its distance, `[M]`, infinite where none was found; 0
      for images that are misclassified as they are.
    autoattack: (source, attack) -> what AutoAttack found at each epsilon of the
      curve and at the headline epsilon, on all images; empty for others.
    attacks: Attack -> what it is.
    epsilon: The headline epsilon.
    epsilons: Those of the curves.
    in_top_k: The same of the k likeliest classes; None if k is 1.
  """

  clean: dict[str, np.ndarray]
  headline: dict[tuple[str, str], dict[str, np.ndarray]]
  curves: dict[tuple[str, str], dict[str, np.ndarray]]
  images: dict[tuple[str, str], np.ndarray]
  max_sizes: dict[tuple[str, str], float]
  distances: dict[tuple[str, str], np.ndarray]
  autoattack: dict[tuple[str, str], list[dict[str, Any]]]
  attacks: dict[str, AnyAttack]
  epsilon: float
  epsilons: tuple[float, ...]
  in_top_k: TopK | None = None


def parse_attacks(
  texts: Sequence[str],
  *,
  norm: str = 'linf',
  bounds: tuple[float, float] | None = (0.0, 1.0),
  step_size: float | None = None,
) -> dict[str, AnyAttack]:
  """Reads a list of attacks and gives each a short, unique name.

  Args:
    texts: As `parse_attack` takes them; several in one, between commas, are
      what a flag such as --config.evaluation.attacks=fgsm,bim-20 gives.
    norm: 'linf', 'l2' or 'l1'.
    bounds: The pixel range, or None for no clip.
    step_size: An absolute step size for all of them; None: their defaults.

  Returns:
    The attacks by name: 'pgd', or 'pgd-40' where there are several of a kind.

  Raises:
    ValueError: if the list is empty, or an attack is unknown or named twice.

  Example:
    >>> list(parse_attacks(['fgsm', 'pgd-40', 'pgd-50-10']))
    ['fgsm', 'pgd-40', 'pgd-50-10']
  """
  texts = [part for text in texts for part in text.split(',')]
  parsed = {
    text: parse_attack(text, norm=norm, bounds=bounds, step_size=step_size)
    for text in texts
  }
  if not texts or len(parsed) < len(texts):
    raise ValueError(
      f'attacks = {list(texts)}; allowed: one attack or more, each named once'
    )
  kinds = [attack.name for attack in parsed.values()]
  return {
    attack.name if kinds.count(attack.name) == 1 else text: attack
    for text, attack in parsed.items()
  }


def evaluate_members(
  members: Mapping[str, LogitsFn],
  attacks: Mapping[str, AnyAttack],
  images: np.ndarray,
  labels: np.ndarray,
  *,
  epsilon: float,
  epsilons: Sequence[float],
  key: Array,
  batch_size: int | None,
  devices: Devices,
  folder: pathlib.Path | None = None,
  progress: bool = False,
  top_k: int = 1,
) -> Evaluation:
  """Attacks every member, and asks all members about every image made.

  Args:
    members: Networks by name.
    attacks: From `parse_attacks`.
    images: float32 `[N, ...]` in the pixel range.
    labels: int `[N]`.
    epsilon: The headline epsilon, on all images.
    epsilons: Those of the curves, on the first 1,000 images.
    key: Example i gets `fold_in(key, i)`.
    batch_size: Images per device and call; None: 64, of AutoAttack its own.
    devices: The devices.
    folder: Where AutoAttack saves what it has found, to go on from.
    progress: Whether AutoAttack draws progress bars.
    top_k: With k above 1 `in_top_k` is filled, on the same images.

  Returns:
    All predictions.

  Raises:
    ValueError: as `attack_and_predict`.

  Example:
    >>> import jax
    >>> networks = {'one': lambda x: 10 * x}
    >>> result = evaluate_members(
    ...   networks,
    ...   parse_attacks(['fgsm']),
    ...   np.eye(3, dtype=np.float32),
    ...   np.arange(3),
    ...   epsilon=0.1,
    ...   epsilons=(0.9,),
    ...   key=jax.random.key(0),
    ...   batch_size=3,
    ...   devices=jax.devices()[:1],
    ... )
    >>> result.curves['one', 'fgsm']['one'].shape
    (1, 3)
  """
  share: dict[str, Any] = {'batch_size': batch_size, 'devices': devices}
  clean = {
    name: predict_in_top_k(
      fn, images, labels, top_k, batch_size=batch_size or 64, devices=devices
    )
    for name, fn in members.items()
  }
  in_top_k = TopK(
    top_k, {name: each[1] for name, each in clean.items()}, {}, {}
  )
  result = Evaluation(
    {name: each[0] for name, each in clean.items()},
    {}, {}, {}, {}, {}, {}, dict(attacks), epsilon, tuple(epsilons),
    in_top_k if top_k > 1 else None,
  )  # fmt: skip
  for attack_name, attack in attacks.items():
    for source, source_fn in members.items():
      pair = source, attack_name
      run = functools.partial(
        attack_and_predict,
        source_fn,
        members,
        attack,
        key=key,
        norm=attack.norm,
        save_as=folder and folder / f'{source}_{attack_name}',
        progress=progress,
        top_k=top_k,
        **share,
      )
      curve, headline = _curve_and_headline(
        run, attack, images, labels, epsilon, epsilons
      )
      count = len(epsilons)
      result.curves[pair] = _at(curve.predictions, slice(count))
      result.headline[pair] = _at(headline.predictions, 0)
      in_top_k.curves[pair] = _at(curve.in_top_k, slice(count))
      in_top_k.headline[pair] = _at(headline.in_top_k, 0)
      result.images[pair] = headline.images
      result.max_sizes[pair] = float(headline.sizes[0].max())
      result.autoattack[pair] = list(curve.autoattack)
      if isinstance(attack, MinimalAttack):
        wrong = curve.predictions[source][-1] != labels[: len(curve.sizes[-1])]
        result.distances[pair] = np.where(wrong, curve.sizes[-1], np.inf)
  return result


def _at(
  values: Mapping[str, np.ndarray], index: int | slice
) -> dict[str, np.ndarray]:
  return {name: each[index] for name, each in values.items()}


def _curve_and_headline(
  run: Callable[..., AttackedPredictions],
  attack: AnyAttack,
  images: np.ndarray,
  labels: np.ndarray,
  epsilon: float,
  epsilons: Sequence[float],
) -> tuple[AttackedPredictions, AttackedPredictions]:
  """The attack at all epsilons, and at the headline one on all images."""
  radii = list(epsilons)
  many = len(images) > _MAX_CURVE_IMAGES and not isinstance(attack, FullAttack)
  # Where images are few, the headline epsilon is one of the curve's. AutoAttack
  # is asked for by name, so it gets all images.
  if not many and epsilon not in radii:
    radii.append(epsilon)
  kept = radii.index(epsilon) if epsilon in radii else 0
  if isinstance(attack, MinimalAttack):
    radii.append(np.inf)
  count = _MAX_CURVE_IMAGES if many else len(images)
  curve = run(images[:count], labels[:count], radii, kept=kept)
  if many:
    return curve, run(images, labels, [epsilon])
  at = slice(kept, kept + 1)
  return curve, curve._replace(
    predictions=_at(curve.predictions, at),
    sizes=curve.sizes[at],
    in_top_k=_at(curve.in_top_k, at),
  )


def save_examples(
  path: Any,
  evaluation: Evaluation,
  images: np.ndarray,
  labels: np.ndarray,
) -> None:
  """Saves clean and perturbed images and predictions, lossless, as npz.

  Arrays, for N images (at most 1,000), M members and P pairs of a source and
  an attack: `images` float32 `[N, ...]`, `labels` int32 `[N]`, `members`
  `[M]`, `clean_predictions` int32 `[M, N]`, `source`, `attack` and `epsilon`
  `[P]`, `perturbed` float32 `[P, N, ...]`, `predictions` int32 `[P, M, N]`.

  Args:
    path: The file, or one that is open for writing bytes.
    evaluation: From `evaluate_members`.
    images: The clean images given to it.
    labels: Their labels.

  Example:
    >>> save_examples  # doctest: +ELLIPSIS
    <function save_examples at ...>
  """
  count = min(len(images), _MAX_CURVE_IMAGES)
  pairs, names = list(evaluation.headline), list(evaluation.clean)
  predictions = [
    [evaluation.headline[pair][name][:count] for name in names]
    for pair in pairs
  ]
  np.savez_compressed(
    path,
    images=images[:count].astype(np.float32),
    labels=labels[:count].astype(np.int32),
    members=np.array(names),
    clean_predictions=np.stack(
      [evaluation.clean[name][:count] for name in names]
    ),
    source=np.array([source for source, _ in pairs]),
    attack=np.array([attack for _, attack in pairs]),
    epsilon=np.full(len(pairs), evaluation.epsilon, np.float32),
    perturbed=np.stack([evaluation.images[pair][:count] for pair in pairs]),
    predictions=np.array(predictions, np.int32),
  )
