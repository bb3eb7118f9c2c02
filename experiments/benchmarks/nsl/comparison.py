"""Our numbers of NSL's options beside NSL's: how far apart they are.

Differences are relative to the largest magnitude of the array.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from experiments.benchmarks import harness
from experiments.benchmarks.nsl import parity
from experiments.benchmarks.nsl.cases import NORMS, Case

TOLERANCE = 1e-5
# Rounding may decide the sign where a gradient is next to nothing, and there
# alone: so many pixels, and so much of the example's largest gradient.
_FLIPS = {'share': 1e-3, 'gradient': 1e-4}
_STANDARD_ERRORS = 5.0
# The second is compared with the first too.
DTYPES = ('float64', 'float32')
DECAY_STEPS = (0, 1, 7, 10, 25, 100)
_LOSSES = ('clean_loss', 'adversarial_loss', 'total_loss')
_TREES = ('gradient', 'statistics')
_COLUMNS = ('perturbation', *_LOSSES, *_TREES)
# The biases before BatchNorm: their gradient is zero but for rounding.
_ZERO = [f'Conv_{index}/bias' for index in range(3)]

Arrays = Mapping[str, np.ndarray]
Row = Mapping[str, Any]


# ------------------------------------------------------------- differences


def difference(ours: Any, theirs: Any) -> float:
  """Returns max |ours - theirs| / max |theirs|; 0 where both are all zero."""
  ours, theirs = np.asarray(ours, float), np.asarray(theirs, float)
  if ours.shape != theirs.shape:
    raise ValueError(f'shapes differ: ours {ours.shape}, NSL {theirs.shape}')
  largest = np.abs(theirs).max(initial=0.0)
  distance = np.abs(ours - theirs).max(initial=0.0)
  return float(distance / largest) if largest else float(distance)


def tree_difference(
  ours: Arrays, theirs: Arrays, zero: Sequence[str] = ()
) -> float:
  """Returns the largest difference among arrays of the same names.

  Arrays that are zero but for rounding are relative to the largest array.
  """
  if set(ours) != set(theirs):
    raise ValueError(f'names differ: {sorted(set(ours) ^ set(theirs))}')
  largest = max((float(np.abs(x).max()) for x in theirs.values()), default=0.0)
  distances = [0.0]
  for name in ours:
    if name not in zero:
      distances.append(difference(ours[name], theirs[name]))
    elif largest:
      distance = np.abs(ours[name] - theirs[name]).max()
      distances.append(float(distance) / largest)
  return max(distances)


def perturbation_difference(
  ours: np.ndarray, theirs: np.ndarray, step_size: float, norm: str
) -> tuple[float, np.ndarray]:
  """Compares perturbations, flips apart.

  Flips are pixels that are perturbed differently by more than 1e-3 of a step,
  in 'infinity' and 'l1': there the direction jumps where a gradient changes
  its sign or another pixel's becomes the largest, so that rounding decides.
  """
  flipped = np.abs(ours - theirs) > 1e-3 * step_size
  if norm == 'l2':
    flipped = np.zeros_like(flipped)
  return difference(np.where(flipped, theirs, ours), theirs), flipped


def over(quantities: Row, tolerance: float = TOLERANCE) -> list[str]:
  """Returns the quantities above a tolerance; NaN is above any."""
  return [n for n, value in quantities.items() if not value <= tolerance]


# ------------------------------------------------------------- a case


def _part(arrays: Arrays, prefix: str) -> dict[str, np.ndarray]:
  return {
    name.removeprefix(prefix): value
    for name, value in arrays.items()
    if name.startswith(prefix)
  }


def excluded(case: Case, dtype: str) -> tuple[str, list[str]]:
  """Returns which quantities are shown but may differ, and why."""
  virtual, batch_norm = case.kind == 'virtual', case.network == 'cnn_bn'
  steps = case.config.get('pgd_iterations', 1)
  if batch_norm and case.kind == 'adversarial' and steps > 1:
    note = "NSL's attack steps move the statistics too, ours never do"
    return note, ['statistics']
  if batch_norm and virtual:
    note = 'which passes move the statistics is up to the caller of NSL'
    return note, ['statistics']
  if virtual and case.approx_difference < 1e-3 and dtype == 'float32':
    note = 'a difference of 1e-6 is lost in float32: the directions are noise'
    return note, [name for name in _COLUMNS if name != 'clean_loss']
  return '', []


def compare_case(
  case: Case,
  arrays: Arrays,
  theirs: Arrays,
  dtype: str,
  exact: Arrays | None = None,
) -> dict[str, Any]:
  """Runs our side of a case from the same arrays and compares it with NSL's.

  Where rounding decided some pixels differently (flips), or moved the images
  over a kink of the network, losses and gradients are compared at NSL's
  perturbed images. `exact` are NSL's results in float64, to tell whose
  rounding a difference is.
  """
  theirs, exact = (_part(x, f'{case.name}/') for x in (theirs, exact or {}))
  row: dict[str, Any] = {'name': case.name, 'dtype': dtype, 'note': ''}
  if 'error' in theirs:
    return row | {'quantities': {}, 'note': f'NSL: {theirs["error"]}'}
  ours = parity.run(case, arrays)

  def compare(theirs: Arrays) -> tuple[dict[str, float], dict[str, float]]:
    """The differences of all quantities, and the flips if there are any."""
    worst, flips = _perturbations(case, arrays, ours, theirs)
    found = _quantities(case, ours, theirs)
    if case.kind != 'perturb' and (flips or over(found)):
      given: Any = parity.cast(_part(theirs, 'perturbed/'), dtype)
      if set(given) == {'image'}:
        given = given['image']
      found = _quantities(case, parity.run(case, arrays, given), theirs)
    return {'perturbation': worst, **found}, flips

  row['quantities'], row['flips'] = compare(theirs)
  row['note'], row['excluded'] = excluded(case, dtype)
  # Random starts differ between the dtypes, flipped images may.
  if exact and 'error' not in exact and not row['flips'] and not case.start:
    row['to_float64'], _ = compare(exact)
  return row


def _quantities(case: Case, ours: Arrays, theirs: Arrays) -> dict[str, float]:
  found = {n: difference(ours[n], theirs[n]) for n in _LOSSES if n in theirs}
  zero = _ZERO if case.network == 'cnn_bn' else ()
  for name in _TREES:
    own, other = _part(ours, f'{name}/'), _part(theirs, f'{name}/')
    if own and other:
      found[name] = tree_difference(own, other, zero)
  return found


def _perturbations(
  case: Case, arrays: Arrays, ours: Arrays, theirs: Arrays
) -> tuple[float, dict[str, float]]:
  """The largest difference over the features, and their flips if any.

  Flips are given by their share of the pixels and their largest gradient over
  the example's largest.
  """
  # The direction of the virtual ones does not jump.
  norm = 'l2' if case.kind == 'virtual' else case.config['adv_grad_norm']
  step_size = case.config['adv_step_size']
  worst, flips = 0.0, dict.fromkeys(_FLIPS, 0.0)
  clean = parity.named(parity.batch_of(case, arrays)['image'])
  for name, images in clean.items():
    own, other = ours[name] - images, theirs[name] - images
    distance, flipped = perturbation_difference(own, other, step_size, norm)
    worst = max(worst, distance)
    if flipped.any():
      size = np.abs(parity.input_gradient(case, arrays)[name])
      largest = size.max(axis=tuple(range(1, size.ndim)), keepdims=True)
      relative = size / np.where(largest > 0, largest, 1)
      flips['share'] = max(flips['share'], float(flipped.mean()))
      gradient = float(relative[flipped].max())
      flips['gradient'] = max(flips['gradient'], gradient)
  return worst, flips if flips['share'] else {}


def compare_decay(item: Row, theirs: Arrays) -> dict[str, Any]:
  """Compares a decay over time at several steps."""
  value = difference(parity.decayed(item, DECAY_STEPS), theirs[item['name']])
  row = {'name': item['name'], 'dtype': 'float32', 'note': ''}
  return row | {'quantities': {'value': value}}


def compare_draws(theirs: Arrays, count: int) -> list[dict[str, Any]]:
  """Compares how random starts are distributed, since no draw is the same."""
  rows = []
  for norm in NORMS:
    order = {'infinity': np.inf, 'l2': 2, 'l1': 1}[norm]
    draws = {
      'NSL': theirs[f'draws/{norm}'].astype(float),
      'advjax': parity.draws(norm, count).astype(float),
    }
    for what, measure in (
      ('size', lambda x, order=order: np.linalg.norm(x, order, axis=1)),
      ('magnitude', lambda x: np.abs(x).mean(axis=1)),
    ):
      values = {name: measure(x) for name, x in draws.items()}
      means = {name: float(v.mean()) for name, v in values.items()}
      spread = sum(v.var(ddof=1) / len(v) for v in values.values())
      apart = float(abs(means['NSL'] - means['advjax']) / np.sqrt(spread))
      row = {'norm': norm, 'mean': what, **means, 'standard_errors': apart}
      rows.append(row)
  return rows


# ------------------------------------------------------------- the report


def failing(row: Row) -> tuple[list[str], list[str]]:
  """The quantities over the tolerance, and those that are NSL's own rounding.

  These are within the tolerance of NSL's results in float64.
  """
  bad: list[str] = []
  rounding: list[str] = []
  for name in over(row['quantities']):
    explained = row.get('to_float64', {}).get(name, np.inf) <= TOLERANCE
    if name not in row.get('excluded', ()):
      (rounding if explained else bad).append(name)
  return bad, rounding


def failures(rows: Sequence[Row], draws: Sequence[Row] = ()) -> list[str]:
  """Returns a line for everything that does not agree.

  In float32 a quantity also passes that is within the tolerance of what NSL
  gives in float64: what is apart then is NSL's rounding.
  """
  lines = []
  for row in rows:
    label = f'{row["name"]} ({row["dtype"]})'
    bad = [f'{name} {row["quantities"][name]:.1e}' for name in failing(row)[0]]
    if bad:
      lines.append(f'over {TOLERANCE:g}: {label}: {", ".join(bad)}')
    flips = row.get('flips') or {}
    if any(not flips[what] <= most for what, most in _FLIPS.items() if flips):
      lines.append(
        f'flips: {label}: {flips["share"]:.1e} of the pixels, with gradients '
        f'up to {flips["gradient"]:.1e} of the largest'
      )
  return lines + [
    f'random start, {draw["norm"]}: the mean {draw["mean"]} is '
    f'{draw["standard_errors"]:.1f} standard errors apart'
    for draw in draws
    if not draw['standard_errors'] <= _STANDARD_ERRORS
  ]


def summary(row: Row) -> str:
  """Returns a row as one line for the log."""
  numbers = ' '.join(f'{k} {v:.1e}' for k, v in row['quantities'].items())
  flips = f' flips {row["flips"]}' if row.get('flips') else ''
  return f'{row["name"]} ({row["dtype"]}): {numbers}{flips} {row["note"]}'


def table(rows: Sequence[Row], draws: Sequence[Row]) -> str:
  """Returns the parity tables; numbers in brackets may differ."""
  titles = [name.replace('_', ' ') for name in _COLUMNS]
  header = ['option', *titles, 'flips', 'note']
  text = []
  for dtype in DTYPES:
    cells = [
      _cells(row)
      for row in rows
      if row['dtype'] == dtype and 'value' not in row['quantities']
    ]
    text.append(f'\nLargest relative difference, {dtype}.\n')
    text.append(harness.markdown(header, cells))
  value = 'difference', lambda row: row['quantities']['value'], '.1e'
  text += [
    '\nDecay over time.\n',
    harness.table(
      [row for row in rows if 'value' in row['quantities']],
      ('option', 'name', ''),
      value,
    ),
    '\nRandom starts in the unit ball: means over the draws.\n',
    harness.table(
      draws,
      ('norm', 'norm', ''),
      ('mean', 'mean', ''),
      ('NSL', 'NSL', '.6f'),
      ('advjax', 'advjax', '.6f'),
      ('standard errors apart', 'standard_errors', '.1f'),
    ),
  ]
  return '\n'.join(text)


def _cells(row: Row) -> list[str]:
  cells = [row['name']]
  for name in _COLUMNS:
    text = harness.cell(row['quantities'].get(name))
    cells.append(f'({text})' if name in row.get('excluded', ()) else text)
  notes = [row['note']] if row['note'] else []
  notes += [
    f'{name}: NSL rounds, ours is within {row["to_float64"][name]:.1e} of '
    "NSL's float64"
    for name in failing(row)[1]
  ]
  shown = '0' if row['quantities'] else ''
  if row.get('flips'):
    share, gradient = row['flips']['share'], row['flips']['gradient']
    shown = f'{share:.1e} of the pixels, gradient there at most {gradient:.1e}'
  return [*cells, shown, '; '.join(notes)]
