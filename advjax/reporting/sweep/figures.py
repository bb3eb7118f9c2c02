"""All figures of a sweep, each with a title and a caption that says it."""

from collections.abc import Sequence

from advjax.reporting.gallery import Picture, draw
from advjax.reporting.sweep import curves, front, heatmaps
from advjax.reporting.sweep.settings import (
  Axis,
  Setting,
  axis_values,
  find_axes,
  rank,
  split_panels,
)
from advjax.reporting.values import Report

_MAX_PANELS = 6
_MAX_BEST = 6


def sweep_pictures(
  report: Report, settings: Sequence[Setting]
) -> list[Picture]:
  """Draws every figure that a sweep allows.

  Heatmaps and curves need fields that were swept besides the seed; with more
  than two of them there is a pair per combination of the others, up to six.

  Args:
    report: the content of sweep.json.
    settings: from `read_settings`.

  Returns:
    The pictures in the order of the page.
  """
  ranked = rank(settings)
  if not ranked:
    return []
  axes = find_axes(settings)
  panels = split_panels(settings, axes)
  maps, lines = [], []
  for number, (label, inside) in enumerate(panels[:_MAX_PANELS], 1):
    suffix = f'_{number}' if label else ''
    note = _left_out(panels) if number == 1 else ''
    if len(axes) > 1:
      maps.append(_map(f'heatmap{suffix}', label, inside, axes, settings, note))
    if curves.has_curves(inside, axes):
      lines.append(_lines(f'curves{suffix}', label, inside, axes, note))
  drawn = maps + lines
  if len(ranked) > 1:
    drawn.append(_front(settings))
  best = [s for s in ranked if curves.has_attack_curves(report, s)][:_MAX_BEST]
  if best:
    drawn.append(_attacks(report, best, len(ranked)))
  return drawn


def _left_out(panels: Sequence[tuple[str, list[Setting]]]) -> str:
  if len(panels) <= _MAX_PANELS:
    return ''
  return (
    f' Drawn are the first {_MAX_PANELS} of {len(panels)} combinations of the '
    'other fields; left out: '
    + '; '.join(label for label, _ in panels[_MAX_PANELS:])
    + '.'
  )


def _map(
  name: str,
  label: str,
  inside: Sequence[Setting],
  axes: Sequence[Axis],
  settings: Sequence[Setting],
  note: str,
) -> Picture:
  x, y = axes[:2]
  best = rank(settings)[0]
  ranges = heatmaps.color_ranges(settings)
  title = f'Accuracy over {x.label} and {y.label}{_where(label)}'
  several = any(len(setting.rows) > 1 for setting in inside)
  over_seeds = ', means over the seeds' if several else ''
  if heatmaps.is_sparse(inside, x, y):
    caption = (
      f'A point per setting, its colour the accuracy{over_seeds}; ringed: the '
      'best by robust accuracy, if it is here. Crosses: no accuracy (diverged).'
    )
    figure = heatmaps.points_chart(inside, x, y, ranges, best, label)
    return draw(name, title, caption + note, figure)
  caption = f'Accuracy on the test images in per cent{over_seeds}'
  if several:
    caption += ' ± the standard deviation over them'
  caption += (
    '. Each of the two has its own colours; a frame marks the best by robust '
    'accuracy, if it is here.'
  )
  cells = heatmaps.make_grid(inside, x, y, heatmaps.METRICS['robust accuracy'])
  if (cells.num_diverged > 0).any():
    caption += (
      ' Hatched: all members there diverged; an asterisk: some did, and are '
      'not in the mean.'
    )
  if (cells.num_rows == 0).any():
    caption += ' A dash: nothing is done there.'
  figure = heatmaps.heatmap_chart(inside, x, y, ranges, best, label)
  return draw(name, title, caption + note, figure)


def _lines(
  name: str,
  label: str,
  inside: Sequence[Setting],
  axes: Sequence[Axis],
  note: str,
) -> Picture:
  x, lines = axes[0], axes[1] if len(axes) > 1 else None
  caption = 'Accuracy on the test images; the two scales differ.'
  if any(len(setting.rows) > 1 for setting in inside):
    caption += (
      ' Lines are means over the seeds, shades reach from the lowest seed to '
      'the highest.'
    )
  if any(s.num_diverged == len(s.rows) for s in inside):
    caption += ' Crosses on the lower edge: all members diverged.'
  if lines is not None:
    values = axis_values(inside, lines)
    shown = curves.shown_values(values)
    if len(shown) < len(values):
      caption += f' Shown are {len(shown)} of {len(values)} {lines.label}.'
  figure = curves.field_curves(inside, x, lines, label)
  title = f'Accuracy over {x.label}{_where(label)}'
  return draw(name, title, caption + note, figure)


def _where(label: str) -> str:
  return f': {label}' if label else ''


def _front(settings: Sequence[Setting]) -> Picture:
  caption = (
    'A point per setting'
    + (
      ', the mean over its seeds'
      if any(len(setting.rows) > 1 for setting in settings)
      else ''
    )
    + '. The numbered ones are the front: no other setting is at least as good '
    'in both and better in one. Points closer than the 95 % intervals of the '
    'test images (see the table) may change places on other images.'
  )
  return draw(
    'pareto_front',
    'Clean against robust accuracy',
    caption,
    front.front_chart(settings),
  )


def _attacks(
  report: Report, best: Sequence[Setting], num_ranked: int
) -> Picture:
  which = 'every setting'
  if len(best) < num_ranked:
    which = f'the {len(best)} best of {num_ranked} settings'
  caption = (
    f'{which[0].upper()}{which[1:]} under each attack, white box, over the '
    "attack's epsilon; epsilon 0 is the clean accuracy, the dashed line the "
    'epsilon of all other numbers here.'
  )
  if any(len(setting.rows) > 1 for setting in best):
    caption += (
      ' Lines are means over the seeds, shades reach from the lowest seed to '
      'the highest.'
    )
  return draw(
    'attack_curves',
    "Accuracy over the attack's epsilon",
    caption,
    curves.attack_curves(report, best),
  )
