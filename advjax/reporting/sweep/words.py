"""Plain sentences about a sweep: the best setting, and how sure that is."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from advjax.reporting.sweep.front import split_front
from advjax.reporting.sweep.settings import (
  SEED,
  Score,
  Setting,
  find_axes,
  is_apart,
  rank,
  short_names,
)
from advjax.reporting.values import (
  Report,
  attack_label,
  finite,
  percent,
  short,
)

_MAX_NAMES = 3
_MASKED = 0.5  # Accuracy after one step from which on a fall is suspicious.


def best_member(settings: Sequence[Setting]) -> Mapping[str, Any] | None:
  """Returns the row of the best member: of the best setting, the first one.

  Args:
    settings: from `read_settings`.

  Returns:
    The row of the first member of the best setting that did not diverge; None
    where no setting has been scored.
  """
  ranked = rank(settings)
  if not ranked:
    return None
  return next(
    row
    for row in ranked[0].rows
    if finite(row.get('robust_accuracy')) is not None
  )


def explain_sweep(report: Report, settings: Sequence[Setting]) -> list[str]:
  """Returns what came of a sweep, in plain sentences.

  Args:
    report: the content of sweep.json.
    settings: from `read_settings`.

  Returns:
    Sentences: the best setting, how far it leads and whether that is more than
    chance, the front, then what to be careful about.
  """
  ranked = rank(settings)
  if not ranked:
    return ['No member has been scored: there is nothing to choose from.']
  return [
    *_best(ranked),
    *_lead(ranked),
    *_front(settings, ranked[0]),
    *_chosen(ranked),
    *_bound(report),
    *_masking(report),
    *_seeds(report, ranked),
    *_moving(settings),
  ]


def sweep_warnings(report: Report) -> list[str]:
  """Returns all warnings of a sweep: its own, and those of its members.

  Args:
    report: the content of sweep.json.

  Returns:
    Texts; one that several members share is there once.
  """
  warnings = [str(text) for text in report.get('warnings', ())]
  pending = list(report.get('pending', ()))
  if pending:
    num_members = report.get('num_members', len(report['rows']) + len(pending))
    warnings.append(
      f'The sweep is not done: {len(pending)} of {num_members} members are '
      f'pending ({_names(pending)}). Start it again to go on.'
    )
  of_members: dict[str, list[str]] = {}
  for row in report['rows']:
    texts = list(row.get('warnings') or ())
    if row.get('status') == 'diverged':
      texts.insert(0, f'diverged: {row.get("reason") or "no reason given"}')
    for text in dict.fromkeys(texts):
      of_members.setdefault(str(text), []).append(str(row['member']))
  for text, names in of_members.items():
    who = names[0]
    if len(names) > 1:
      who = f'{len(names)} members ({_names(names)})'
    warnings.append(f'{who}: {text}')
  return warnings


def sweep_facts(report: Report) -> list[str]:
  """Returns what was swept and how it was scored, in a few words each."""
  rows = report['rows']
  diverged = sum(row.get('status') == 'diverged' for row in rows)
  done = f'{len(rows)} of {report["num_members"]} members done'
  facts = [done + (f', {diverged} diverged' if diverged else '')]
  swept = {field.partition('.')[0] for field in report['fields']}
  for what in ('objective', 'model'):
    if report.get(what) and f'{what}.name' not in report['fields']:
      note = ' and variations' if what in swept else ''
      facts.append(f'{what} {report[what]}{note}')
  names = short_names(report['fields'])
  facts.append(f'swept: {", ".join(names.values())}')
  attacks = ', '.join(attack_label(name, {}) for name in report['attacks'])
  norm = f' ({report["norm"]})' if report.get('norm') else ''
  facts.append(f'attacked at epsilon {short(report["epsilon"])}{norm}')
  return [*facts, attacks] if attacks else facts


def _best(ranked: Sequence[Setting]) -> Iterator[str]:
  best = ranked[0]
  diverged = ''
  if best.num_diverged:
    diverged = (
      f' {best.num_diverged} of its {len(best.rows)} seeds diverged and '
      f'{"is" if best.num_diverged == 1 else "are"} not in these numbers.'
    )
  what = 'Best by robust accuracy'
  if len(ranked) == 1:
    what = 'One setting has been scored'
  scored = len(best.rows) - best.num_diverged
  seeds = f' (mean ± standard deviation over {scored} seeds)'
  if scored == 1:
    seeds = ''
  yield (
    f'{what}: {best.label}{seeds}, with {_accuracy(best.robust)} robust and '
    f'{_accuracy(best.clean)} clean.{diverged}'
  )


def _lead(ranked: Sequence[Setting]) -> Iterator[str]:
  if len(ranked) < 2:
    return
  best, second = ranked[0].robust, ranked[1].robust
  assert best is not None and second is not None
  lead = 100 * (best.mean - second.mean)
  close = [s for s in ranked[1:] if s.robust and not is_apart(best, s.robust)]
  text = (
    f'It leads the next, {ranked[1].label} ({percent(second.mean)}), by '
    f'{lead:.1f} points of robust accuracy.'
  )
  seeds = best.std is not None or any(
    s.robust is not None and s.robust.std is not None for s in close
  )
  if not close:
    yield text + (
      ' That is more than chance in the test images makes: its 95 % interval '
      f'[{100 * best.low:.1f}, {100 * best.high:.1f}] overlaps with no other'
      + (', nor does its range over the seeds.' if seeds else '.')
    )
    return
  others = f'{len(close)} other{"s" if len(close) > 1 else ""}'
  names = _names(s.label for s in close)
  ranges = ', or their ranges over the seeds do' if seeds else ''
  yield (
    f'{text} It is not distinguishable from {others} of {len(ranked) - 1} '
    f'({names}): their 95 % intervals overlap with its own{ranges}.'
  )


def _front(settings: Sequence[Setting], best: Setting) -> Iterator[str]:
  front, rest = split_front(settings)
  if len(front) + len(rest) < 2:
    return
  top = front[-1]
  assert top.clean and top.robust and best.clean
  if top.clean.mean == best.clean.mean:
    yield 'The best setting also has the highest clean accuracy of all.'
    return
  points = 100 * (top.clean.mean - best.clean.mean)
  yield (
    f'{len(front)} of {len(front) + len(rest)} settings are on the front: no '
    'other one is at least as good in clean and in robust accuracy and better '
    f'in one. The highest clean accuracy, {percent(top.clean.mean)}, is that '
    f'of {top.label}, {points:.1f} points above the best by robust accuracy; '
    f'its own robust accuracy is {percent(top.robust.mean)}.'
  )


def _chosen(ranked: Sequence[Setting]) -> Iterator[str]:
  if len(ranked) > 1:
    yield (
      f'The best of {len(ranked)} settings was chosen by the images that it is '
      'scored on, so its accuracy is biased upwards: score it on images that '
      'had no say before quoting it.'
    )


def _bound(report: Report) -> Iterator[str]:
  attacks = ', '.join(attack_label(name, {}) for name in report['attacks'])
  norm = f' ({report["norm"]})' if report.get('norm') else ''
  yield (
    'Robust accuracy is that of the worst case, image by image, over the '
    f'attacks {attacks} at epsilon {short(report["epsilon"])}{norm}, white '
    'box. It is an upper bound: a stronger attack may leave less.'
  )


def _masking(report: Report) -> Iterator[str]:
  """One step leaves half of the images, the worst case less than half of it."""
  found = []
  for row in report['rows']:
    one_step = finite(row.get('fgsm'))
    worst = finite(row.get('robust_accuracy'))
    if one_step is None or worst is None:
      continue
    if one_step >= _MASKED and worst < one_step / 2:
      found.append((worst / one_step, str(row['member']), one_step, worst))
  if found:
    _, name, one_step, worst = min(found)
    who = '1 member masks its'
    if len(found) > 1:
      who = f'{len(found)} members mask their'
    yield (
      f'{who} gradients: {name} is right on {percent(one_step)} after FGSM, '
      f'one step, and on {percent(worst)} in the worst case. FGSM alone would '
      'have called it robust.'
    )


def _seeds(report: Report, ranked: Sequence[Setting]) -> Iterator[str]:
  if len(ranked) < 2:
    return
  num_seeds = {len(setting.rows) for setting in ranked}
  if max(num_seeds) == 1:
    yield (
      'Every setting was trained once: how far another seed would move the '
      f'numbers is not known. Sweep `{SEED}` too to see it.'
    )
  elif len(num_seeds) > 1:
    yield (
      f'The settings have between {min(num_seeds)} and {max(num_seeds)} seeds '
      'each, so their means are not equally sure.'
    )


def _moving(settings: Sequence[Setting]) -> Iterator[str]:
  for axis in find_axes(settings):
    if '(' in axis.label:
      yield (
        f'Fields that move together share an axis in the figures: {axis.label}.'
      )


def _accuracy(score: Score | None) -> str:
  """Writes '44.1 % [39.0, 49.3]', over several seeds '44.1 ± 1.2 % [..]'."""
  if score is None:
    return 'n/a'
  text = percent(score.mean)
  if score.std is not None:
    text = f'{100 * score.mean:.1f} ± {100 * score.std:.1f} %'
  return f'{text} [{100 * score.low:.1f}, {100 * score.high:.1f}]'


def _names(names: Iterable[str]) -> str:
  """Lists a few names and counts the rest."""
  listed = [str(name) for name in names]
  text = '; '.join(listed[:_MAX_NAMES])
  more = len(listed) - _MAX_NAMES
  return f'{text}; and {more} more' if more > 0 else text
