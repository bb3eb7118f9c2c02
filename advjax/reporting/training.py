"""Curves of training: losses, accuracies, and how well it generalises."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator, PercentFormatter

from advjax.reporting.charts import INK, STYLE, own_color, percent_axis, plain
from advjax.reporting.summary import gap_of
from advjax.reporting.values import Report, finite, members_of

_MAX_POINTS = 5000
_MAX_COLUMNS = 3
_WATCHED: dict[str, Any] = {'ls': (0, (5, 2))}
_PGD: dict[str, Any] = {'ls': (0, (1.5, 1.5))}

# What an epoch may hold, as (key, label, line style), in order of preference.
_LOSSES = (
  ('clean_loss', 'clean loss', '-'),
  ('adversarial_loss', 'adversarial loss, unscaled', (0, (5, 2))),
)
_ACCURACIES = (
  ('clean_accuracy', 'clean, training', '-'),
  ('adversarial_accuracy', 'adversarial, training', (0, (5, 2))),
  ('monitor_robust_accuracy', 'PGD, monitored', (0, (1.5, 1.5))),
)


def training_curves(histories: Mapping[str, Mapping[str, Any]]) -> Figure:
  """Draws the loss of every iteration and the metrics of every epoch.

  Args:
    histories: for every member, in the report's order, `losses` (the loss of
      every iteration, `[num_steps]`) and `epochs` (one mapping per epoch with
      any of loss, clean_loss, adversarial_loss, accuracy or clean_accuracy,
      adversarial_accuracy, monitor_robust_accuracy). Either may be missing.

  Returns:
    The figure: iterations above; losses and accuracies of epochs below.

  Raises:
    ValueError: if no member has a loss or an epoch.
  """
  has_losses = any(len(h.get('losses', ())) for h in histories.values())
  has_epochs = any(len(h.get('epochs', ())) for h in histories.values())
  if not has_losses and not has_epochs:
    raise ValueError('histories has neither losses nor epochs')
  mosaic: list[Any] = [['iterations', 'iterations']] if has_losses else []
  if has_epochs:
    mosaic.append(['losses', 'rates'])
  with matplotlib.rc_context(STYLE):
    figure = Figure(figsize=(11, 3.7 * len(mosaic)), layout='constrained')
    axes = figure.subplot_mosaic(mosaic)
    if has_losses:
      _iterations(axes['iterations'], histories)
    if has_epochs:
      _epochs(axes['losses'], histories, _LOSSES)
      axes['losses'].set_ylabel('mean loss')
      _epochs(axes['rates'], histories, _ACCURACIES)
      axes['rates'].set_ylabel('accuracy')
      axes['rates'].yaxis.set_major_formatter(
        PercentFormatter(1.0, decimals=0, symbol=' %')
      )
    figure.legend(
      [
        Line2D([], [], color=own_color(i), lw=2.5)
        for i in range(len(histories))
      ],
      [plain(name) for name in histories],
      loc='outside upper left',
      ncols=6,
    )
  return figure


def generalisation_curves(report: Report) -> Figure:
  """Draws training accuracy against that of images not trained on.

  Args:
    report: the content of report.json; of every member `epochs` is read, and
      `num_validation`: without any the images watched are training images.

  Returns:
    The figure, a panel per member that was watched; the gap is shaded.

  Raises:
    ValueError: if no member was watched in training.
  """
  members = watched(report)
  if not members:
    raise ValueError('report has no member with monitor_clean_accuracy')
  columns = min(len(members), _MAX_COLUMNS)
  rows = -(-len(members) // columns)
  with matplotlib.rc_context(STYLE):
    figure = Figure(
      figsize=(max(6.5, 3.7 * columns), 3.4 * rows), layout='constrained'
    )
    axes = figure.subplots(rows, columns, sharey=True, squeeze=False).ravel()
    for ax, (name, member) in zip(axes, members.items(), strict=False):
      color = own_color(list(members_of(report)).index(name))
      _generalisation(ax, name, member, color)
    for ax in axes[len(members) :]:
      ax.set_axis_off()
    for ax in axes[::columns]:
      ax.set_ylabel('accuracy')
    kinds = [('training images', '-'), ('watched images', _WATCHED['ls'])]
    kinds.append(('watched images, PGD', _PGD['ls']))
    figure.legend(
      [Line2D([], [], color=INK, ls=style, lw=1.6) for _, style in kinds],
      [label for label, _ in kinds],
      loc='outside upper left',
      ncols=3,
    )
  return figure


def watched(report: Report) -> dict[str, Mapping[str, Any]]:
  """Returns the members whose clean accuracy was watched in training."""
  return {
    name: member
    for name, member in members_of(report).items()
    if any(
      finite(epoch.get('monitor_clean_accuracy')) is not None
      for epoch in member.get('epochs', ())
    )
  }


def _generalisation(
  ax: Axes, name: str, member: Mapping[str, Any], color: str
) -> None:
  """Draws one member's accuracies over the epochs, and shades the gap."""
  lines = {}
  for key, style in (
    ('clean_accuracy', {'ls': '-'}),
    ('monitor_clean_accuracy', _WATCHED),
    ('monitor_robust_accuracy', _PGD),
  ):
    values = [_metric(epoch, key) for epoch in member['epochs']]
    lines[key] = {x: y for x, y in enumerate(values, 1) if y is not None}
    x, y = list(lines[key]), list(lines[key].values())
    ax.plot(x, y, color=color, marker='.', lw=1.6, **style)
  training, other = lines['clean_accuracy'], lines['monitor_clean_accuracy']
  both = [x for x in training if x in other]
  ax.fill_between(
    both,
    [training[x] for x in both],
    [other[x] for x in both],
    color=color,
    alpha=0.15,
    lw=0,
  )
  gap = gap_of(member)
  if gap is not None and gap.held_out:
    note = f'gap {100 * gap.value:.1f} points'
  else:
    # Without held-out images the monitor watches some of the training images.
    note = 'no images held out'
  ax.set_title(f'{plain(name)}: {note}')
  ax.set_xlabel('epoch')
  ax.xaxis.set_major_locator(MaxNLocator(integer=True))
  percent_axis(ax)


def history_of(records: Iterable[Mapping[str, Any]]) -> dict[str, list[Any]]:
  """Returns the history of a run from the records of its metrics.jsonl.

  Args:
    records: mappings; those of kind 'steps' hold `losses`, those of kind
      'epoch' the metrics of an epoch.

  Returns:
    `losses` and `epochs`, as `training_curves` takes them.

  Example:
    >>> history_of([{'kind': 'steps', 'losses': [2.3, 2.1]}])
    {'losses': [2.3, 2.1], 'epochs': []}
  """
  history: dict[str, list[Any]] = {'losses': [], 'epochs': []}
  for record in records:
    if record.get('kind') == 'steps':
      history['losses'].extend(record['losses'])
    elif record.get('kind') == 'epoch':
      history['epochs'].append(dict(record))
  return history


def smooth(values: np.ndarray, window: int) -> np.ndarray:
  """Returns the centred running mean, over fewer values at both ends.

  Args:
    values: `[N]`; values that are not finite are left out of the means.
    window: the number of values in a mean, made odd.

  Returns:
    `[N]` float64, NaN where a window holds no finite value.

  Example:
    >>> smooth(np.array([0.0, 3.0, 6.0, 0.0]), 3)
    array([1.5, 3. , 3. , 3. ])
  """
  values = np.asarray(values, np.float64)
  half = window // 2
  good = np.isfinite(values)
  sums = np.cumsum(np.r_[0.0, np.where(good, values, 0.0)])
  counts = np.cumsum(np.r_[0.0, good])
  index = np.arange(len(values))
  low = np.maximum(index - half, 0)
  high = np.minimum(index + half + 1, len(values))
  count = counts[high] - counts[low]
  total = sums[high] - sums[low]
  return np.where(count > 0, total / np.maximum(count, 1), np.nan)


def _iterations(ax: Axes, histories: Mapping[str, Mapping[str, Any]]) -> None:
  positive = True
  for i, history in enumerate(histories.values()):
    losses = np.asarray(history.get('losses', ()), np.float64)
    if not losses.size:
      continue
    smoothed = smooth(losses, max(1, len(losses) // 50))
    steps = np.arange(1, len(losses) + 1)
    thin = slice(None, None, -(-len(losses) // _MAX_POINTS))
    raw = np.where(np.isfinite(losses), losses, np.nan)
    ax.plot(steps[thin], raw[thin], color=own_color(i), lw=0.7, alpha=0.3)
    ax.plot(steps[thin], smoothed[thin], color=own_color(i), lw=2)
    positive &= not np.any(raw[np.isfinite(raw)] <= 0)
  if positive:
    ax.set_yscale('log')
  ax.set_xmargin(0.01)
  ax.set_xlabel('iteration')
  ax.set_ylabel('loss of the batch')
  ax.set_title('Every iteration (thin) and its running mean (thick)')


def _epochs(
  ax: Axes,
  histories: Mapping[str, Mapping[str, Any]],
  kinds: Sequence[tuple[str, str, Any]],
) -> None:
  """Draws the metrics of every epoch, one line style per kind."""
  drawn = set()
  for i, history in enumerate(histories.values()):
    epochs = history.get('epochs', ())
    for key, label, style in kinds:
      values = [_metric(epoch, key) for epoch in epochs]
      points = [(x, y) for x, y in enumerate(values, 1) if y is not None]
      if not points:
        continue
      drawn.add(label)
      ax.plot(
        *zip(*points, strict=True),
        color=own_color(i),
        ls=style,
        marker='.',
        lw=1.6,
      )
  shown = [kind for kind in kinds if kind[1] in drawn]
  ax.legend(
    [Line2D([], [], color=INK, ls=style, lw=1.6) for _, _, style in shown],
    [label for _, label, _ in shown],
    fontsize=9,
  )
  ax.set_xlabel('epoch')
  ax.xaxis.set_major_locator(MaxNLocator(integer=True))


def _metric(epoch: Mapping[str, Any], key: str) -> float | None:
  """Returns a metric, under the shorter name that a plain run gives it."""
  value = finite(epoch.get(key))
  if value is None and key.startswith('clean_'):
    value = finite(epoch.get(key.removeprefix('clean_')))
  return value
