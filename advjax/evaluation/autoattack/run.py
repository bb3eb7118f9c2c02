"""AutoAttack: the worst case over several attacks, without knobs to turn."""

import contextlib
import functools
import logging
import pathlib
from collections.abc import Callable, Iterator, Sequence

import jax
import numpy as np

from advjax.callables import Callee
from advjax.evaluation.autoattack import saved, versions
from advjax.evaluation.autoattack.arguments import check_arguments
from advjax.evaluation.autoattack.pool import Items, Outcome, run_items
from advjax.evaluation.autoattack.result import AutoAttackResult, doubts
from advjax.evaluation.autoattack.rounds import Shared
from advjax.evaluation.autoattack.saved import Progress
from advjax.evaluation.autoattack.versions import Component
from advjax.evaluation.batches import check_images
from advjax.evaluation.logits import (
  Devices,
  compute_logits,
  full_precision,
  own_devices,
)
from advjax.processes.collectives import (
  from_main,
  is_main,
  merge_rows,
  sum_over_processes,
)
from advjax.types import Array, Bounds, LogitsFn

logger = logging.getLogger(__name__)

# On a CPU what fits into its caches; elsewhere halved until memory suffices.
_BATCH_SIZE = {'cpu': 32}
_LARGEST_BATCH_SIZE = 1024


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
  devices: Devices | None = None,
  path: str | pathlib.Path | None = None,
  progress: bool = False,
) -> AutoAttackResult:
  """AutoAttack: four attacks in turn, each on what the others left standing.

  `robust_i = [f(x_i) = y_i] and, for every attack a, [f(a(x_i)) = y_i]`

  'standard' is APGD-CE, APGD-T (9 targets), FAB-T (9 targets) and Square (5,000
  queries); 'plus' has APGD-DLR, the untargeted FAB and 5 restarts besides; for
  networks that draw at random, 'rand' runs APGD-CE and APGD-DLR on the mean of
  20 draws. With 2 or 3 classes the margin loss stands in for DLR.

  It works on the host, with a few compiled programs, on all devices of all
  processes. Batches stay full: an example that is fooled makes room for the
  next one, and targets of one example may share a batch. Example i draws from
  its own key: which examples are robust does not depend on the batch size or
  the devices, but for the rounding of the network. Where several targets fool
  an example, which of the images is returned, and how many passes it took, is a
  matter of the batch.

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
    path: A file to save to after each attack; if it holds a part of this very
      run, that part is not run again.
    progress: Whether to draw a progress bar.

  Returns:
    Flags, adversarial images, a record per attack, and warnings.

  Raises:
    ValueError: if an argument is not as described, if called on traced values,
      if logits_fn returns probabilities or logits that are not finite
      (`NotFinite`), or if path holds something else.

  Example:
    >>> import jax
    >>> import numpy as np
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
  images, labels, shared = check_arguments(
    logits_fn, images, labels, epsilon, norm, version, bounds, key
  )
  devices = tuple(devices or jax.local_devices())
  if batch_size is None:
    batch_size = _BATCH_SIZE.get(devices[0].platform, _LARGEST_BATCH_SIZE)
  check_images(images, batch_size)
  ask = functools.partial(
    compute_logits,
    logits_fn,
    batch_size=batch_size,
    devices=devices,
    key=shared.key,
    eot_samples=versions.eot_samples(version),
  )
  logits = ask(images)
  clean = logits.argmax(-1) == labels
  run = Progress(images, clean, {})
  if path is not None:
    path = pathlib.Path(path)
    identity = saved.identity(
      logits_fn,
      images,
      labels,
      shared,
      norm=norm,
      version=version,
      gradients=names != ['square'],
    )
    before = from_main(lambda: saved.load(path, identity, names, run))
    run = run if before is None else before
  for name in names[len(run.records) :]:
    component = versions.make_component(name, version, norm, logits.shape[1])
    with _progress_bar(name, progress) as show:
      outcome = _attack(
        component,
        Callee.of(logits_fn),
        images,
        labels,
        _items(component, logits, labels, run.robust),
        shared,
        batch_size=batch_size,
        devices=devices,
        progress=show,
      )
    run = saved.add(run, component, outcome)
    logger.info(
      '%s (%s, epsilon %g) leaves %d of %d',
      name,
      norm,
      epsilon,
      run.robust.sum(),
      len(labels),
    )
    if path is not None:
      from_main(functools.partial(saved.save, path, identity, run))
  return AutoAttackResult(
    images=run.images,
    robust=run.robust,
    clean=clean,
    per_attack=run.records,
    # In the version rand the draws would be others.
    warnings=tuple(
      doubts(
        run,
        clean,
        labels,
        None if version == 'rand' else ask(run.images, check=False),
      )
    ),
  )


def _items(
  component: Component,
  logits: np.ndarray,
  labels: np.ndarray,
  standing: np.ndarray,
) -> Items:
  """One item for each example that stands, restart and target.

  The first target of all examples comes before the second of any: most that can
  be fooled are so by the first.
  """
  examples = np.flatnonzero(standing).astype(np.int32)
  num_targets = component.num_targets or 1
  tries = np.arange(component.num_restarts * num_targets, dtype=np.uint32)
  numbers = np.repeat(tries, len(examples))
  targets = None
  if component.num_targets is not None:
    # Behind the label, which has the highest logit: the example stands.
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
  *,
  batch_size: int,
  devices: Devices,
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
    batch_size=batch_size,
    devices=own_devices(devices),
    progress=progress,
  )
  return outcome._replace(
    fooled=merge_rows(outcome.fooled, owners),
    images=merge_rows(outcome.images, owners),
    num_steps=int(sum_over_processes(outcome.num_steps)),
  )


@contextlib.contextmanager
def _progress_bar(name: str, wanted: bool) -> Iterator[Callable[[int], None]]:
  """A bar over the items of one attack, if wanted."""
  if not wanted or not is_main():
    yield lambda _: None
    return
  from tqdm import tqdm  # Not among what the attacks alone need.

  with tqdm(desc=name, unit='item') as bar:

    def show(num_left: int) -> None:
      bar.total = bar.total or num_left
      bar.update(bar.total - num_left - bar.n)

    yield show
