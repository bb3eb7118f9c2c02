"""Rows of the parity table: our numbers of a case beside NSL's."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from experiments.benchmarks.nsl import parity as nsl_parity
from experiments.benchmarks.nsl.cases import Case
from experiments.benchmarks.nsl.table import (
  difference,
  gradient_at,
  over,
  perturbation_difference,
  tree_difference,
)
from experiments.benchmarks.nsl.verdicts import TOLERANCE, judge
from experiments.benchmarks.tables import markdown

# The second is judged by the first too.
DTYPES = ('float64', 'float32')
DECAY_STEPS = (0, 1, 7, 10, 25, 100)
_COLUMNS = (
  'perturbation',
  'clean_loss',
  'adversarial_loss',
  'total_loss',
  'gradient',
  'statistics',
)
_TREES = ('gradient', 'statistics')

Arrays = Mapping[str, np.ndarray]


def _part(arrays: Arrays, prefix: str) -> dict[str, np.ndarray]:
  return {
    name.removeprefix(prefix): value
    for name, value in arrays.items()
    if name.startswith(prefix)
  }


def not_judged(case: Case, dtype: str) -> tuple[str, list[str]]:
  """Returns why some quantities of a case are shown and not judged, and which.

  Args:
    case: The case.
    dtype: 'float32' or 'float64'.

  Returns:
    A sentence and the names of the quantities; both empty in most cases.

  Example:
    >>> case = Case('a', 'adversarial', 'cnn_bn', {'pgd_iterations': 2})
    >>> not_judged(case, 'float32')[1]
    ['statistics']
  """
  steps = case.config.get('pgd_iterations', 1)
  if case.network == 'cnn_bn' and case.kind == 'adversarial' and steps > 1:
    return (
      "NSL's attack steps move the statistics too, ours never do",
      ['statistics'],
    )
  if case.kind == 'virtual' and case.network == 'cnn_bn':
    return (
      'which passes move the statistics is up to the caller of NSL',
      ['statistics'],
    )
  lost = case.approx_difference < 1e-3 and dtype == 'float32'
  if case.kind == 'virtual' and lost:
    return (
      'a difference of 1e-6 is lost in float32: the directions are noise',
      [name for name in _COLUMNS if name != 'clean_loss'],
    )
  return '', []


def compare_case(
  case: Case,
  arrays: Arrays,
  theirs: Arrays,
  dtype: str,
  exact: Arrays | None = None,
) -> dict[str, Any]:
  """Runs our side of a case and compares it with NSL's.

  Where rounding decided some pixels differently (flips), or moved the images
  over a kink of the network, losses and gradients are compared at NSL's
  perturbed images.

  Args:
    case: The case.
    arrays: What both sides started from.
    theirs: NSL's results, of all cases.
    dtype: Of both.
    exact: NSL's results in float64, to tell whose rounding a difference is.

  Returns:
    A row of the table.
  """
  theirs = _part(theirs, f'{case.name}/')
  row: dict[str, Any] = {'name': case.name, 'dtype': dtype, 'note': ''}
  if 'error' in theirs:
    return row | {'quantities': {}, 'note': f'NSL: {theirs["error"]}'}
  ours = nsl_parity.run(case, arrays)
  worst, flips = _perturbations(case, arrays, ours, theirs)
  found = _quantities(case, ours, theirs)
  note, kept_out = not_judged(case, dtype)
  if case.kind != 'perturb' and (flips or over(found, TOLERANCE)):
    found = _quantities(case, _run_at(case, arrays, theirs), theirs)
  row |= {
    'quantities': {'perturbation': worst, **found},
    'flips': flips,
    'note': note,
    'not_judged': kept_out,
  }
  # Random starts differ between the dtypes, flipped images may.
  theirs = _part(exact or {}, f'{case.name}/')
  if theirs and 'error' not in theirs and not flips and not case.start:
    worst, _ = _perturbations(case, arrays, ours, theirs)
    found = _quantities(case, ours, theirs)
    if case.kind != 'perturb' and over(found, TOLERANCE):
      found = _quantities(case, _run_at(case, arrays, theirs), theirs)
    row['to_float64'] = {'perturbation': worst, **found}
  return row


def _run_at(case: Case, arrays: Arrays, theirs: Arrays) -> Arrays:
  """Our side at NSL's perturbed images, in the dtype of ours."""
  dtype = str(arrays['image'].dtype)
  given: Any = nsl_parity.cast(_part(theirs, 'perturbed/'), dtype)
  if set(given) == {'image'}:
    given = given['image']
  return nsl_parity.run(case, arrays, given)


def _quantities(case: Case, ours: Arrays, theirs: Arrays) -> dict[str, float]:
  found = {
    name: difference(ours[name], theirs[name])
    for name in ('clean_loss', 'adversarial_loss', 'total_loss')
    if name in theirs
  }
  for name in _TREES:
    own, other = _part(ours, f'{name}/'), _part(theirs, f'{name}/')
    if own and other:
      found[name] = tree_difference(own, other, _without_effect(case))
  return found


def _without_effect(case: Case) -> tuple[str, ...]:
  """The biases before BatchNorm: their gradient is zero but for rounding."""
  if case.network != 'cnn_bn':
    return ()
  return tuple(f'Conv_{index}/bias' for index in range(3))


def _perturbations(
  case: Case, arrays: Arrays, ours: Arrays, theirs: Arrays
) -> tuple[float, dict[str, float]]:
  """The largest difference over the features, and their flips if any."""
  clean = nsl_parity.named(nsl_parity.batch_of(case, arrays)['image'])
  # The direction of the virtual ones does not jump.
  norm = 'l2' if case.kind == 'virtual' else case.config['adv_grad_norm']
  worst, flips = 0.0, {'share': 0.0, 'gradient': 0.0}
  for name in clean:
    distance, flipped = perturbation_difference(
      ours[name] - clean[name],
      theirs[name] - clean[name],
      case.config['adv_step_size'],
      norm,
    )
    worst = max(worst, distance)
    if flipped.any():
      gradient = nsl_parity.input_gradient(case, arrays)[name]
      flips['share'] = max(flips['share'], float(flipped.mean()))
      flips['gradient'] = max(flips['gradient'], gradient_at(flipped, gradient))
  return worst, flips if flips['share'] else {}


def compare_decay(item: Mapping[str, Any], theirs: Arrays) -> dict[str, Any]:
  """Compares a decay over time at several steps."""
  ours = nsl_parity.decayed(item, DECAY_STEPS)
  distance = difference(ours, theirs[item['name']])
  return {
    'name': item['name'],
    'dtype': 'float32',
    'note': '',
    'quantities': {'value': distance},
  }


def compare_draws(theirs: Arrays, count: int) -> list[dict[str, Any]]:
  """Compares how random starts are distributed, since no draw is the same.

  Args:
    theirs: NSL's results, with draws from the unit balls.
    count: How many there are of each.

  Returns:
    For each norm the mean size, and the mean over pixels of the magnitude, of
    both sides, and how many standard errors they are apart.
  """
  rows = []
  for norm in ('infinity', 'l2', 'l1'):
    sides = {
      'NSL': theirs[f'draws/{norm}'],
      'advjax': nsl_parity.draws(norm, count),
    }
    order = {'infinity': np.inf, 'l2': 2, 'l1': 1}[norm]
    for what, numbers in (
      ('size', lambda x, order=order: np.linalg.norm(x, order, axis=1)),
      ('magnitude', lambda x: np.abs(x).mean(axis=1)),
    ):
      values = {name: numbers(x.astype(float)) for name, x in sides.items()}
      spread = sum(v.var(ddof=1) / len(v) for v in values.values())
      means = {name: float(v.mean()) for name, v in values.items()}
      apart = abs(means['NSL'] - means['advjax']) / np.sqrt(spread)
      rows.append(
        {'norm': norm, 'mean': what, **means, 'standard_errors': float(apart)}
      )
  return rows


def summary(row: Mapping[str, Any]) -> str:
  """Returns a row as one line for the log."""
  numbers = ' '.join(f'{k} {v:.1e}' for k, v in row['quantities'].items())
  flips = f' flips {row["flips"]}' if row.get('flips') else ''
  return f'{row["name"]} ({row["dtype"]}): {numbers}{flips} {row["note"]}'


def table(
  rows: Sequence[Mapping[str, Any]], draws: Sequence[Mapping[str, Any]]
) -> str:
  """Returns the parity tables in Markdown, one for each dtype.

  Args:
    rows: From `compare_case` and `compare_decay`.
    draws: From `compare_draws`.

  Returns:
    The text; numbers in brackets are not judged.
  """
  text = []
  for dtype in DTYPES:
    own = [row for row in rows if row['dtype'] == dtype]
    cells = [_cells(row) for row in own if 'value' not in row['quantities']]
    header = ['option', *(name.replace('_', ' ') for name in _COLUMNS)]
    text += [
      f'\nLargest relative difference, {dtype}.\n',
      markdown([*header, 'flips', 'note'], cells),
    ]
  decays = [row for row in rows if 'value' in row['quantities']]
  text += [
    '\nDecay over time.\n',
    markdown(
      ['option', 'difference'],
      [[row['name'], row['quantities']['value']] for row in decays],
    ),
    '\nRandom starts in the unit ball: means over the draws.\n',
    markdown(
      ['norm', 'mean', 'NSL', 'advjax', 'standard errors apart'],
      [
        [
          row['norm'],
          row['mean'],
          f'{row["NSL"]:.6f}',
          f'{row["advjax"]:.6f}',
          f'{row["standard_errors"]:.1f}',
        ]
        for row in draws
      ],
    ),
  ]
  return '\n'.join(text)


def _cells(row: Mapping[str, Any]) -> list[Any]:
  cells: list[Any] = [row['name']]
  for name in _COLUMNS:
    value = row['quantities'].get(name)
    if value is not None and name in row.get('not_judged', ()):
      value = f'({value:.1e})'
    cells.append(value)
  _, rounding = judge(row)
  notes = [row['note']] if row['note'] else []
  notes += [
    f'{name}: NSL rounds, ours is within {row["to_float64"][name]:.1e} of '
    "NSL's float64"
    for name in rounding
  ]
  flips = row.get('flips')
  shown = '0' if row['quantities'] else None
  if flips:
    shown = (
      f'{flips["share"]:.1e} of the pixels, gradient there at most '
      f'{flips["gradient"]:.1e}'
    )
  return [*cells, shown, '; '.join(notes)]
