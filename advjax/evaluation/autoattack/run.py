"""AutoAttack: the worst case over several attacks, without hyperparameters."""

import contextlib
import functools
import logging
import pathlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from advjax import _arguments as arguments
from advjax import norms
from advjax.callables import Callee
from advjax.devices import Batching, own_devices
from advjax.evaluation.autoattack import saved, versions
from advjax.evaluation.autoattack.pool import Items, Outcome, Shared, run_items
from advjax.evaluation.autoattack.saved import AttackRecord, Progress
from advjax.evaluation.autoattack.versions import Component
from advjax.evaluation.checks import check_images, check_labels
from advjax.evaluation.logits import compute_logits, full_precision
from advjax.files import expand
from advjax.processes.collectives import (
  from_main,
  is_main,
  merge_rows,
  sum_over_processes,
)
from advjax.results import (
  AutoAttackStage,
  AutoAttackSummary,
  Estimate,
)
from advjax.types import Array, Bounds, LogitsFn

logger = logging.getLogger(__name__)

# What fits into the caches of a CPU; elsewhere halved until memory suffices.
_BATCH_SIZE_CPU, _LARGEST_BATCH_SIZE = 32, 1024
# Successes of Square after the gradient attacks may be chance; more images and
# a larger share than this indicate masked gradients.
_FEW_IMAGES, _FEW = 2, 0.002


class AutoAttackResult(NamedTuple):
  """The outcome of AutoAttack.

  Attributes:
    images: `[N, ...]`: adversarial examples where found, else the originals.
    robust: bool `[N]`: classified correctly, clean and under every attack. Its
      mean is the robust accuracy.
    clean: bool `[N]`: classified correctly without an attack.
    per_attack: The result and cost of each attack, in the order they ran in;
      each ran only on the images still robust after the ones before it.
    warnings: Reasons to doubt the result, in sentences.
  """

  images: np.ndarray
  robust: np.ndarray
  clean: np.ndarray
  per_attack: dict[str, AttackRecord]
  warnings: tuple[str, ...]


def summarise(
  result: AutoAttackResult, epsilon: float, norm: str, version: str
) -> AutoAttackSummary:
  """Returns a result as a report has it: accuracies instead of flags."""
  return AutoAttackSummary(
    epsilon=float(epsilon),
    norm=norm,
    version=version,
    num_images=len(result.clean),
    clean_accuracy=float(result.clean.mean()),
    accuracy=Estimate.of_correct([result.robust]),
    attacks=[
      AutoAttackStage(
        name=name,
        accuracy=float(record.robust.mean()),
        fooled=record.num_fooled,
        seconds=record.seconds,
        compile_seconds=record.compile_seconds,
        forward=record.num_forward,
        backward=record.num_backward,
      )
      for name, record in result.per_attack.items()
    ],
    warnings=list(result.warnings),
  )


@full_precision
def autoattack(
  logits_fn: LogitsFn,
  images: np.ndarray,
  labels: np.ndarray,
  epsilon: float,
  *,
  key: Array,
  norm: str = 'linf',
  version: str = 'standard',
  attacks: Sequence[str] | None = None,
  bounds: Bounds = (0.0, 1.0),
  batch_size: int | None = None,
  devices: Sequence[jax.Device] | None = None,
  first: int = 0,
  path: str | pathlib.Path | None = None,
  progress: bool = False,
) -> AutoAttackResult:
  """AutoAttack: four attacks in turn, each on the images still robust.

  `robust_i = [f(x_i) = y_i] and, for every attack a, [f(a(x_i)) = y_i]`

  'standard' is APGD-CE, APGD-T (9 targets), FAB-T (9 targets) and Square (5,000
  queries); 'plus' has APGD-DLR, the untargeted FAB and 5 restarts besides; for
  randomized networks, 'rand' runs APGD-CE and APGD-DLR on the mean of 20 draws.
  With 2 or 3 classes the margin loss replaces DLR.

  It runs on the host, with a few compiled programs, on all devices of all
  processes. Batches stay full: the slot of a fooled example is given to the
  next one, and targets of one example may share a batch. Example i draws from
  its own key: which examples are robust does not depend on the batch size or
  the devices, except through rounding in the network. Where several targets
  fool an example, which of the images is returned, and how many passes it took,
  depends on the batches.

  Float32 products are computed in float32 on accelerators too, unless
  `jax.default_matmul_precision` says otherwise.

  Croce and Hein 2020, arXiv 2003.01690.

  Args:
    logits_fn: Images `[B, ...]` to logits `[B, K]`; in 'rand', `logits_fn(
      images, key)`.
    images: `[N, ...]`, floating, inside bounds.
    labels: int `[N]`.
    epsilon: Radius, in the units of the pixels.
    key: A key of `jax.random.key`.
    norm: 'linf', 'l2' or 'l1'.
    version: 'standard', 'plus' or 'rand'.
    attacks: Instead of all of the version: some of 'apgd-ce', 'apgd-dlr',
      'apgd-t', 'fab', 'fab-t' and 'square', in the order to run them in.
    bounds: `(lower, upper)`: numbers, arrays that broadcast to one image, None.
    batch_size: Images per device and call; default: 32 on CPUs, elsewhere up to
      1,024 as memory allows.
    devices: Default: all local ones.
    first: Where the images are a part of more: the index of the first of them,
      for example i draws as example `first + i` of all does.
    path: A file to save the state to after each attack; a run resumes from it.
    progress: Whether to draw a progress bar.

  Returns:
    Flags, adversarial examples, a record per attack, and warnings.

  Raises:
    ValueError: if an argument is not as described, if called on traced values,
      if logits_fn returns probabilities or logits that are not finite
      (`NotFinite`), or if path holds the state of another run.

  Example:
    >>> network = lambda x: 10 * x
    >>> result = autoattack(
    ...   network,
    ...   np.array([[0.9, 0.1], [0.6, 0.5]], np.float32),
    ...   np.array([0, 0]),
    ...   0.1,
    ...   key=jax.random.key(0),
    ...   attacks=['apgd-ce'],
    ... )
    >>> result.robust.tolist(), result.per_attack['apgd-ce'].num_fooled
    ([True, False], 1)
  """
  names = versions.attack_names(version, attacks)
  images, labels, shared = _check_arguments(
    logits_fn, images, labels, epsilon, norm, version, bounds, key
  )
  devices = tuple(devices or jax.local_devices())
  if batch_size is None:
    on_cpu = devices[0].platform == 'cpu'
    batch_size = _BATCH_SIZE_CPU if on_cpu else _LARGEST_BATCH_SIZE
  batching = Batching(batch_size, devices, shared.key, first)
  ask = functools.partial(
    compute_logits,
    logits_fn,
    batching=batching,
    eot_samples=versions.eot_samples(version),
  )
  logits = ask(images)
  clean = logits.argmax(-1) == labels
  run = Progress(images, clean, {})
  if path is not None:
    path = expand(path)
    identity = saved.identity(
      logits_fn,
      images,
      labels,
      shared,
      first=first,
      norm=norm,
      version=version,
      gradients=names != ['square'],
    )
    before = from_main(saved.load, path, identity, names, run)
    run = run if before is None else before
  for name in names[len(run.records) :]:
    component = versions.make_component(name, version, norm, logits.shape[1])
    with _progress_bar(name, progress and is_main()) as show:
      outcome = _attack(
        component,
        Callee.of(logits_fn),
        images,
        labels,
        _items(component, logits, run.robust),
        shared,
        batching,
        show,
      )
    fooled = run.robust & outcome.fooled
    robust = run.robust & ~fooled
    perturbed = run.images.copy()
    perturbed[fooled] = outcome.images[fooled]
    record = AttackRecord(
      robust,
      int(fooled.sum()),
      outcome.num_steps * component.search.num_forward,
      outcome.num_steps * component.search.num_backward,
      outcome.seconds,
      outcome.compile_seconds,
    )
    run = Progress(perturbed, robust, {**run.records, name: record})
    logger.info(
      '%s (%s, epsilon %g): %d of %d robust',
      name,
      norm,
      epsilon,
      run.robust.sum(),
      len(labels),
    )
    if path is not None:
      from_main(saved.save, path, identity, run)
  # In the version rand the draws would be others.
  final = None if version == 'rand' else ask(run.images, check=False)
  return AutoAttackResult(
    images=run.images,
    robust=run.robust,
    clean=clean,
    per_attack=run.records,
    warnings=tuple(_warnings(run, clean, labels, final)),
  )


def _check_arguments(
  logits_fn: LogitsFn,
  images: Any,
  labels: Any,
  epsilon: Any,
  norm: str,
  version: str,
  bounds: Bounds,
  key: Array,
) -> tuple[np.ndarray, np.ndarray, Shared]:
  """Checks the arguments of `autoattack` before any compute is spent."""
  if any(isinstance(x, jax.core.Tracer) for x in (images, labels, epsilon)):
    raise ValueError(
      'autoattack runs on the host, but was called on traced values; inside '
      'jit, vmap or pmap use advjax.apgd or advjax.pgd'
    )
  norms.get(str(norm), tuple(norms.NORMS))
  if np.ndim(epsilon) != 0:
    raise ValueError(f'epsilon = {epsilon!r}; allowed: one number')
  arguments.check_given(key=key)
  images = check_images(images)
  problem = arguments.check(
    logits_fn,
    images,
    check_labels(labels, images),
    epsilon=epsilon,
    bounds=bounds,
    key=key,
    eot_samples=versions.eot_samples(version),
  )
  box = problem.lower, problem.upper
  if any(len(bound) > 1 for bound in box):
    raise ValueError(
      f'bounds of shapes {[bound.shape for bound in box]}; allowed: what '
      f'broadcasts to one image, {images.shape[1:]}'
    )
  key = arguments.threefry(key)
  if key.ndim:
    raise ValueError(f'key has shape {key.shape}; allowed: one key')
  lower, upper = (np.asarray(bound, problem.dtype) for bound in box)
  return images, problem.labels, Shared(problem.epsilon, lower, upper, key)


def _items(
  component: Component, logits: np.ndarray, robust: np.ndarray
) -> Items:
  """One item for each robust example, restart and target.

  The first target of all examples comes before the second of any: most
  examples that can be fooled are fooled by the first.
  """
  examples = np.flatnonzero(robust).astype(np.int32)
  num_targets = component.num_targets or 1
  tries = np.arange(component.num_restarts * num_targets, dtype=np.uint32)
  numbers = np.repeat(tries, len(examples))
  targets = None
  if component.num_targets is not None:
    # After the label, whose logit is the highest: the example is robust.
    ranks = np.argsort(-logits[examples], axis=1, kind='stable')
    of_try = ranks[:, 1 + tries % num_targets]
    targets = of_try.T.reshape(-1).astype(np.int32)
  return Items(np.tile(examples, len(tries)), targets, numbers)


def _attack(
  component: Component,
  network: Callee,
  images: np.ndarray,
  labels: np.ndarray,
  items: Items,
  shared: Shared,
  batching: Batching,
  progress: Callable[[int], None],
) -> Outcome:
  """Runs one attack; every process takes a share of the examples."""
  place = versions.ATTACKS.index(component.name)
  owners = np.arange(len(labels)) % jax.process_count()
  own = owners[items.examples] == jax.process_index()
  outcome = run_items(
    component.search,
    network,
    images,
    labels,
    jax.tree.map(lambda values: values[own], items),
    shared._replace(key=jax.random.fold_in(shared.key, place)),
    batch_size=batching.batch_size or 1,
    devices=own_devices(batching.devices),
    first=batching.first,
    progress=progress,
  )
  return outcome._replace(
    fooled=merge_rows(outcome.fooled, owners),
    images=merge_rows(outcome.images, owners),
    num_steps=int(sum_over_processes(outcome.num_steps)),
  )


def _warnings(
  run: Progress,
  clean: np.ndarray,
  labels: np.ndarray,
  logits: np.ndarray | None,
) -> Iterator[str]:
  """Reasons to doubt a result; logits are those of its images, if known."""
  names = list(run.records)
  before = names[: names.index('square')] if 'square' in names else []
  found = run.records['square'].num_fooled if before else 0
  if found > max(_FEW_IMAGES, _FEW * len(labels)):
    yield (
      f'Square, a black-box attack, fooled {found} of {len(labels)} images '
      f'that {", ".join(before)} had not: the gradients may be masked. '
      'Evaluate the network with an adaptive attack.'
    )
  if logits is None:
    return
  fooled = clean & ~run.robust
  missed = int((fooled & (logits.argmax(-1) == labels)).sum())
  if missed:
    yield (
      f'{missed} images fooled the network within the attack but not when '
      'classified again: rounding differs between batches, or the network is '
      "randomized (then use version='rand')."
    )
  infinite = int((~np.isfinite(logits).all(-1)).sum())
  if infinite:
    yield (
      f'{infinite} of the adversarial examples have logits that are not '
      'finite: the network overflows there.'
    )


@contextlib.contextmanager
def _progress_bar(name: str, visible: bool) -> Iterator[Callable[[int], None]]:
  """Yields a function that shows how many items of an attack are left."""
  if not visible:
    yield lambda num_left: None
    return
  from advjax._extras import tqdm

  with tqdm.tqdm(desc=name, unit='item') as bar:

    def show(num_left: int) -> None:
      bar.total = bar.total or num_left
      bar.update(bar.total - num_left - bar.n)

    yield show
