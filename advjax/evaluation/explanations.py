"""Explanation maps of trained networks, on clean and on adversarial images."""

import dataclasses
import functools
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from advjax.callables import Callee
from advjax.config import choose
from advjax.data import Dataset, Split, to_float
from advjax.devices import Batching, map_examples
from advjax.evaluation.logits import compute_logits, full_precision
from advjax.evaluation.noise import Noise
from advjax.evaluation.robustness import attack_and_predict
from advjax.explain import Network, activation_maximization, explain
from advjax.results import ClassProbability, ExplainedCase, Similarity
from advjax.types import Array

# The classes that "Adversarially-Trained Classifiers for Generalizable Real
# World Applications" (Alan Chen, 2020) shows, as WordNet calls them.
_SHOWN = ('cockroach', 'broom', 'syringe', 'oboe', 'beer bottle')
_NUM_DEFAULT = 5
KINDS = ('right', 'wrong', 'fooled')
# Images of a class of interest that cases are chosen from, the first ones.
_MAX_PER_CLASS = 200
# Images per device of a program with all maps.
_BATCH_SIZE = 16
# Most probable classes that a report names.
_TOP = 5


def choose_classes(
  dataset: Dataset, names: Sequence[str] | None = None
) -> list[int]:
  """Returns the labels of classes given by name, first name or WordNet id.

  By default those of `_SHOWN` that are there, else the first five.
  """
  known: dict[str, int] = {}
  firsts = [name.split(',')[0].strip() for name in dataset.class_names]
  # Two classes may share a name ('crane'): then only the whole name, or the
  # id, tells them apart.
  for all_names in (firsts, dataset.class_names, dataset.class_ids):
    for label, name in enumerate(all_names):
      if list(all_names).count(name) == 1:
        known[name] = label
  if names is None:
    there = [known[name] for name in _SHOWN if name in known]
    return there or list(range(min(_NUM_DEFAULT, dataset.num_classes)))
  labels = [known[choose('classes', name.strip(), known)] for name in names]
  if not labels or len(set(labels)) < len(labels):
    raise ValueError(
      f'classes = {list(names)!r}; allowed: one class or more, each once'
    )
  return labels


class Sample(NamedTuple):
  """The images that all networks are explained on."""

  images: np.ndarray  # float32 [N, H, W, C]
  labels: np.ndarray  # int [N]
  rows: np.ndarray  # their places in the test split, [N]
  measured: np.ndarray  # indices to compare maps on, in random order
  shown: np.ndarray  # indices to choose cases from
  classes: Sequence[int]  # of interest


def choose_sample(
  split: Split, classes: Sequence[int], num_images: int, seed: int
) -> Sample:
  """Chooses random test images, and the first of each class of interest."""
  # RandomState's streams are frozen; those of default_rng may change.
  order = np.random.RandomState(seed).permutation(len(split.labels))
  measured = order[:num_images]
  shown = np.concatenate(
    [np.flatnonzero(split.labels == c)[:_MAX_PER_CLASS] for c in classes]
  )
  rows = np.union1d(measured, shown)
  return Sample(
    np.asarray(to_float(split.images[rows])),
    np.asarray(split.labels[rows]),
    rows,
    np.searchsorted(rows, measured),
    np.searchsorted(rows, np.sort(shown)),
    classes,
  )


class Case(NamedTuple):
  """An image that one network is explained on."""

  kind: str  # one of KINDS
  position: int  # among the images of the sample
  row: int  # in the test split
  label: int
  images: dict[str, np.ndarray]  # 'clean', 'adversarial' -> [H, W, C]
  probabilities: dict[str, np.ndarray]  # version -> [K]
  # (version, class) -> method -> map.
  maps: dict[tuple[str, int], dict[str, np.ndarray]]

  def predicted(self, version: str) -> int:
    """Returns the class predicted for a version."""
    return int(self.probabilities[version].argmax())

  def result(self, name: str, dataset: Dataset) -> ExplainedCase:
    """Returns its part of report.json."""

    def of_class(label: int, share: float | None = None) -> ClassProbability:
      wnid = dataset.class_ids[label] if dataset.class_ids else ''
      return ClassProbability(
        label=label,
        id=wnid,
        name=dataset.class_names[label],
        probability=share,
      )

    return ExplainedCase(
      name=name,
      kind=self.kind,
      index=self.row,
      class_=of_class(self.label),
      predictions={
        version: [
          of_class(label, float(shares[label]))
          for label in np.argsort(-shares, kind='stable')[:_TOP].tolist()
        ]
        for version, shares in self.probabilities.items()
      },
    )


class Explained(NamedTuple):
  """The explanations of one network."""

  cases: list[Case]
  # From `compare_maps`; empty if it is correct on no image.
  similarity: dict[str, dict[str, Similarity]]
  correct: np.ndarray  # on the measured images, bool [N]
  robust: np.ndarray  # on their adversarial examples, bool [N]
  maximizing: np.ndarray  # the logits of the classes, [K, H, W, C]
  probabilities: np.ndarray  # of the class on each of these, [K]


def explain_network(
  network: Network,
  methods: Sequence[str],
  sample: Sample,
  attack: Any,
  epsilon: float,
  *,
  num_cases: int,
  preferred: Sequence[int],
  batching: Batching,
) -> Explained:
  """Attacks a network, chooses images (`preferred` first) and computes maps."""
  images, labels, shown = sample.images, sample.labels, sample.shown
  logits_fn = network.logits_fn
  kind = 'salt_and_pepper' if attack.norm == 'linf' else 'gaussian'
  noise = Noise(kind, attack.norm, attack.bounds)
  adversarial, noisy = (
    attack_and_predict(
      logits_fn, {}, each, images, labels, [epsilon], batching
    ).images
    for each in (attack, noise)
  )
  clean_shares, shares = (
    np.asarray(jax.nn.softmax(compute_logits(logits_fn, each, batching)))
    for each in (images, adversarial)
  )
  maps = functools.partial(
    compute_maps, network, methods=methods, batching=batching
  )
  chosen = choose_cases(
    labels[shown],
    clean_shares[shown],
    shares[shown],
    sample.classes,
    num_cases,
    np.flatnonzero(np.isin(shown, preferred)).tolist(),
  )
  cases = [
    Case(
      kind,
      position,
      int(sample.rows[position]),
      int(labels[position]),
      {'clean': images[position], 'adversarial': adversarial[position]},
      {'clean': clean_shares[position], 'adversarial': shares[position]},
      {},
    )
    for kind in chosen
    for position in shown[chosen[kind]].tolist()
  ]
  _add_maps(cases, maps)
  correct = clean_shares.argmax(-1) == labels
  robust = shares.argmax(-1) == labels
  rows = sample.measured[correct[sample.measured]]
  similarity = {}
  if len(rows):
    similarity = compare_maps(
      maps(images[rows], labels[rows]),
      maps(noisy[rows], labels[rows]),
      maps(adversarial[rows], labels[rows]),
      maps(adversarial[rows], shares[rows].argmax(-1)),
      ~robust[rows],
    )
  classes = np.array(sample.classes)
  maximizing = np.asarray(
    activation_maximization(
      logits_fn, jnp.asarray(classes), images.shape[1:], key=batching.key
    )
  )
  probabilities = jax.nn.softmax(compute_logits(logits_fn, maximizing))
  return Explained(
    cases,
    similarity,
    correct[sample.measured],
    robust[sample.measured],
    maximizing,
    np.asarray(probabilities)[np.arange(len(classes)), classes],
  )


def _add_maps(cases: Sequence[Case], maps: Callable[..., Any]) -> None:
  """Computes the maps that are shown, of all cases at once."""
  wanted = [
    (case, version, label)
    for case in cases
    for version in case.images
    for label in dict.fromkeys((case.predicted(version), case.label))
  ]
  if wanted:
    images = np.stack([case.images[version] for case, version, _ in wanted])
    found = maps(images, np.array([label for *_, label in wanted]))
    for row, (case, version, label) in enumerate(wanted):
      case.maps[version, label] = {m: each[row] for m, each in found.items()}


def choose_cases(
  labels: np.ndarray,
  clean: np.ndarray,
  adversarial: np.ndarray,
  classes: Sequence[int],
  num_cases: int,
  preferred: Sequence[int] = (),
) -> dict[str, list[int]]:
  """Chooses images of each kind, in turns from the classes of interest.

  Right: correct clean and attacked; wrong: incorrect clean; fooled: incorrect
  under attack alone. Within a class preferred images come first, then those of
  the highest probability on the clean image. Probabilities are `[N, K]`.
  """
  before = clean.argmax(-1) == labels
  after = adversarial.argmax(-1) == labels
  kinds = {
    'right': before & after,
    'wrong': ~before,
    'fooled': before & ~after,
  }
  confidence = clean.max(-1)
  chosen = {}
  for kind in KINDS:
    turns = []
    for place, label in enumerate(classes):
      rows = np.flatnonzero(kinds[kind] & (labels == label)).tolist()
      rows.sort(key=lambda row: (row not in preferred, -confidence[row], row))
      turns += [(turn, place, row) for turn, row in enumerate(rows)]
    # The first of each class, then the second of each, and so on.
    chosen[kind] = [row for *_, row in sorted(turns)][:num_cases]
  return chosen


def _maps(
  methods: tuple[str, ...],
  images: Array,
  labels: Array,
  keys: Array,
  *parts: Any,
) -> dict[str, Array]:
  maps = explain(Network('', *parts), images, labels, methods, key=keys)
  return {method: values.astype('float32') for method, values in maps.items()}


@full_precision
def compute_maps(
  network: Network,
  images: np.ndarray,
  labels: np.ndarray,
  methods: Sequence[str],
  *,
  batching: Batching,
) -> dict[str, np.ndarray]:
  """Explains many images, in batches over all devices."""
  _, logits_fn, features_fn, head_fn, weights = network
  return map_examples(
    _maps,
    [images, np.asarray(labels, np.int32)],
    Callee.of(logits_fn),
    features_fn and Callee.of(features_fn),
    head_fn and Callee.of(head_fn),
    weights,
    batching=dataclasses.replace(
      batching, batch_size=batching.batch_size or _BATCH_SIZE
    ),
    static=(tuple(methods),),
    fill=True,
  )


def cosines(first: np.ndarray, second: np.ndarray) -> np.ndarray:
  """`<a, b> / (|a| |b|)` of the maps of each row; 0 where one is all 0."""
  shape = len(first), math.prod(first.shape[1:])
  a, b = (x.reshape(shape).astype(np.float64) for x in (first, second))
  sizes = np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1)
  return (a * b).sum(1) / np.where(sizes > 0, sizes, 1)


def rank_correlations(first: np.ndarray, second: np.ndarray) -> np.ndarray:
  """Spearman's rank correlation of each row; 0 where one is constant."""
  from scipy import stats  # Slow to import: not at the top.

  centred = []
  for x in (first, second):
    flat = x.reshape(len(x), math.prod(x.shape[1:]))
    ranks = stats.rankdata(flat, axis=1)
    centred.append(ranks - ranks.mean(1, keepdims=True))
  return cosines(*centred)


def compare_maps(
  clean: Mapping[str, np.ndarray],
  noisy: Mapping[str, np.ndarray],
  adversarial: Mapping[str, np.ndarray],
  predicted: Mapping[str, np.ndarray],
  fooled: np.ndarray,
) -> dict[str, dict[str, Similarity]]:
  """Compares maps `[N, ...]` of correct clean images with those of others.

  `predicted` are those of adversarial examples for the class predicted there.
  """
  everything = np.ones(len(fooled), bool)
  result: dict[str, dict[str, Similarity]] = {}
  for method, maps in clean.items():
    result[method] = {}
    for group, others, rows in (
      ('noise', noisy[method], everything),
      ('correct', adversarial[method], ~fooled),
      ('fooled', adversarial[method], fooled),
      ('fooled_predicted', predicted[method], fooled),
      # Each clean image with the next one.
      ('other', np.roll(maps, 1, axis=0), everything & (len(fooled) > 1)),
    ):
      pair = maps[rows], others[rows]
      cosine, cosine_ci = _mean(cosines(*pair))
      rank, rank_ci = _mean(rank_correlations(*pair))
      result[method][group] = Similarity(
        num_images=int(rows.sum()),
        cosine=cosine,
        cosine_ci=cosine_ci,
        rank=rank,
        rank_ci=rank_ci,
      )
  return result


def _mean(values: np.ndarray) -> tuple[float | None, list[float] | None]:
  """Mean and 95 % interval (Student's t, within [-1, 1]), where there are."""
  if not len(values):
    return None, None
  mean = float(values.mean())
  if len(values) < 2:
    return mean, None
  from scipy import stats  # Slow to import: not at the top.

  factor = float(stats.t.ppf(0.975, len(values) - 1))
  half = factor * float(values.std(ddof=1)) / len(values) ** 0.5
  return mean, [max(-1.0, mean - half), min(1.0, mean + half)]
