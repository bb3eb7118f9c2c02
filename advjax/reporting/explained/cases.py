"""Which classes and which images a report explains."""

from collections.abc import Sequence

import numpy as np

from advjax.config import choose
from advjax.data import Dataset

# The classes that "Adversarially-Trained Classifiers for Generalizable Real
# World Applications" (Alan Chen, 2020) shows, as WordNet calls them.
_SHOWN = ('cockroach', 'broom', 'syringe', 'oboe', 'beer bottle')
_NUM_DEFAULT = 5
KINDS = ('right', 'wrong', 'fooled')


def choose_classes(
  dataset: Dataset, names: Sequence[str] | None = None
) -> list[int]:
  """Finds classes by name, number of WordNet (wnid) or first name of several.

  Args:
    dataset: The data set.
    names: As in `class_names` ('beer bottle'; of 'cockroach, roach' the first
      is enough) or in `class_ids` ('n02233338'); None: cockroach, broom,
      syringe, oboe and beer bottle, as far as they are there, else the first
      five classes.

  Returns:
    Labels, in the order of the names.

  Raises:
    ValueError: if a class is not there or named twice.

  Example:
    >>> from advjax import data
    >>> choose_classes(data.load({'name': 'digits'}), ['7', '3'])
    [7, 3]
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
  labels = [known[choose('class', name.strip(), known)] for name in names]
  if not labels or len(set(labels)) < len(labels):
    raise ValueError(
      f'classes = {list(names)!r}; allowed: one class or more, each once'
    )
  return labels


def sample_rows(
  labels: np.ndarray,
  classes: Sequence[int],
  num_images: int,
  max_per_class: int,
  seed: int,
) -> tuple[np.ndarray, np.ndarray]:
  """Chooses test images to look at.

  Args:
    labels: Of the test split, int `[N]`.
    classes: The classes of interest.
    num_images: How many images to measure on, of all classes.
    max_per_class: How many of each class of interest to look at, the first.
    seed: Seeds the first choice.

  Returns:
    (rows to measure on, in random order; rows of the classes of interest, in
    the order of the split).

  Example:
    >>> labels = np.array([0, 1, 0, 1, 0])
    >>> sample_rows(labels, [0], 5, 2, seed=0)[1]
    array([0, 2])
  """
  # RandomState's streams are frozen; those of default_rng may change.
  order = np.random.RandomState(seed).permutation(len(labels))
  wanted = [np.flatnonzero(labels == c)[:max_per_class] for c in classes]
  return order[:num_images], np.sort(np.concatenate(wanted))


def choose_cases(
  labels: np.ndarray,
  clean: np.ndarray,
  adversarial: np.ndarray,
  classes: Sequence[int],
  num_cases: int,
  preferred: Sequence[int] = (),
) -> dict[str, list[int]]:
  """Chooses images of each kind, from one class of interest after the other.

  Right: the class is predicted for the clean and for the adversarial image.
  Wrong: another one is predicted for the clean image. Fooled: another one for
  the adversarial image alone. Within a class and a kind, preferred images
  come first, then those with the surest answer on the clean image.

  Args:
    labels: Of the images to choose from, int `[N]`.
    clean: Probabilities of the classes on the clean images, `[N, K]`.
    adversarial: The same on the adversarial images.
    classes: The classes of interest, in the order to take from.
    num_cases: Of each kind, at most.
    preferred: Images to take first, as indices into the above.

  Returns:
    Kind -> indices of images.

  Example:
    >>> clean = np.array([[0.9, 0.1], [0.2, 0.8], [0.6, 0.4]])
    >>> labels = np.array([0, 0, 0])
    >>> choose_cases(labels, clean, clean[::-1], [0], 2)
    {'right': [0, 2], 'wrong': [1], 'fooled': []}
  """
  before = clean.argmax(-1) == labels
  after = adversarial.argmax(-1) == labels
  kinds = {
    'right': before & after,
    'wrong': ~before,
    'fooled': before & ~after,
  }
  sure = clean.max(-1)
  chosen = {}
  for kind in KINDS:
    queues = []
    for label in classes:
      rows = np.flatnonzero(kinds[kind] & (labels == label)).tolist()
      rows.sort(key=lambda row: (row not in preferred, -sure[row], row))
      queues.append(rows)
    # The first of each class, then the second of each, and so on.
    turns = [
      queue[turn]
      for turn in range(max(map(len, queues), default=0))
      for queue in queues
      if turn < len(queue)
    ]
    chosen[kind] = turns[:num_cases]
  return chosen
