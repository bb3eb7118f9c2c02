"""One network, asked why it sees what it sees, clean and attacked."""

import functools
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from advjax.data import Split, to_float
from advjax.evaluation.attacked import attack_and_predict
from advjax.evaluation.logits import compute_logits
from advjax.evaluation.noise import Noise
from advjax.explain import Network, activation_maximization
from advjax.reporting.explained.cases import choose_cases, sample_rows
from advjax.reporting.explained.measure import compare_maps, compute_maps
from advjax.reporting.explained.run import Case, Explained

# Images of a class of interest that cases are chosen from, the first ones.
_MAX_PER_CLASS = 200


class Asked(NamedTuple):
  """What all networks are asked about."""

  attack: Any
  noise: Noise
  epsilon: float
  images: np.ndarray  # Those looked at, float32 [N, H, W, C].
  labels: np.ndarray
  rows: np.ndarray  # Their places in the test split.
  measured: np.ndarray  # Indices into the above: to compare maps on.
  shown: np.ndarray  # Indices into the above: to choose cases from.
  classes: Sequence[int]
  num_cases: int
  key: jax.Array
  devices: Sequence[jax.Device]


def plan(
  split: Split,
  attack: Any,
  epsilon: float,
  classes: Sequence[int],
  *,
  num_images: int,
  num_cases: int,
  seed: int,
  devices: Sequence[jax.Device],
) -> Asked:
  """Chooses the images that all networks are asked about.

  Args:
    split: The test images.
    attack: From `parse_attack`.
    epsilon: Its radius.
    classes: The classes of interest.
    num_images: Images to compare maps on, drawn from all.
    num_cases: Images to show of each kind, at most.
    seed: Seeds all that is drawn.
    devices: The devices.

  Returns:
    What `explain_network` takes.
  """
  measured, shown = sample_rows(
    split.labels, classes, num_images, _MAX_PER_CLASS, seed
  )
  rows = np.union1d(measured, shown)
  kind = 'salt_and_pepper' if attack.norm == 'linf' else 'gaussian'
  return Asked(
    attack,
    Noise(kind, attack.norm, attack.bounds),
    epsilon,
    np.asarray(to_float(split.images[rows])),
    np.asarray(split.labels[rows]),
    rows,
    np.searchsorted(rows, measured),
    np.searchsorted(rows, shown),
    classes,
    num_cases,
    jax.random.key(seed),
    devices,
  )


def explain_network(
  network: Network,
  methods: Sequence[str],
  asked: Asked,
  preferred: Sequence[int],
) -> Explained:
  """Attacks one network, chooses images, and computes all maps."""
  adversarial = _perturb(network, asked, asked.attack)
  noisy = _perturb(network, asked, asked.noise)
  logits = [
    compute_logits(network.logits_fn, images, devices=asked.devices)
    for images in (asked.images, adversarial)
  ]
  clean, attacked = (np.asarray(jax.nn.softmax(each)) for each in logits)
  maps = functools.partial(
    compute_maps, network, methods=methods, key=asked.key, devices=asked.devices
  )
  # Positions among the images of the classes of interest.
  chosen = choose_cases(
    asked.labels[asked.shown],
    clean[asked.shown],
    attacked[asked.shown],
    asked.classes,
    asked.num_cases,
    np.flatnonzero(np.isin(asked.shown, preferred)).tolist(),
  )
  cases = [
    Case(
      kind,
      position,
      int(asked.rows[position]),
      int(asked.labels[position]),
      {'clean': asked.images[position], 'adversarial': adversarial[position]},
      {'clean': clean[position], 'adversarial': attacked[position]},
      {},
    )
    for kind in chosen
    for position in asked.shown[chosen[kind]].tolist()
  ]
  _add_maps(cases, maps)
  right = clean.argmax(-1) == asked.labels
  stood = attacked.argmax(-1) == asked.labels
  rows = asked.measured[right[asked.measured]]
  similarity: dict[str, Any] = {}
  if len(rows):
    labels = asked.labels[rows]
    similarity = compare_maps(
      maps(asked.images[rows], labels),
      maps(noisy[rows], labels),
      maps(adversarial[rows], labels),
      maps(adversarial[rows], attacked[rows].argmax(-1)),
      ~stood[rows],
    )
  example = asked.images[0]
  invented = activation_maximization(
    network.logits_fn,
    jnp.asarray(asked.classes),
    example.shape,
    key=asked.key,
  )
  logits_of = compute_logits(network.logits_fn, np.asarray(invented))
  shares = np.asarray(jax.nn.softmax(logits_of))
  return Explained(
    cases,
    similarity,
    right[asked.measured],
    stood[asked.measured],
    np.asarray(invented),
    shares[np.arange(len(asked.classes)), list(asked.classes)],
  )


def _perturb(network: Network, asked: Asked, attack: Any) -> np.ndarray:
  return attack_and_predict(
    network.logits_fn,
    {},
    attack,
    asked.images,
    asked.labels,
    [asked.epsilon],
    key=asked.key,
    devices=asked.devices,
  ).images


def _add_maps(cases: Sequence[Case], maps: Any) -> None:
  """Computes the maps that pictures show, of all cases at once."""
  wanted = [
    (case, version, label)
    for case in cases
    for version in case.images
    for label in dict.fromkeys((case.predicted(version), case.label))
  ]
  if not wanted:
    return
  images = np.stack([case.images[version] for case, version, _ in wanted])
  found = maps(images, np.array([label for _, _, label in wanted]))
  for row, (case, version, label) in enumerate(wanted):
    case.maps[version, label] = {m: values[row] for m, values in found.items()}
