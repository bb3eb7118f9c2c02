"""What the numbers of an explanation mean, in plain sentences."""

from collections.abc import Iterator, Mapping
from typing import Any

from advjax.reporting.explained.pictures import NAMES
from advjax.reporting.tables import Row
from advjax.reporting.values import Report, interval_of, members_of, percent

_HEADS = {
  'noise': 'noise',
  'stood': 'still right',
  'fooled': 'fooled',
  'fooled_predicted': 'fooled, as predicted',
  'other': 'another image',
}


def sentences(report: Report) -> list[str]:
  """Returns what a report of explanations says, one network after the other.

  A difference between the maps of images that are fooled and those after noise,
  or those of another image, is stated only where their 95 % intervals do not
  overlap; where they do, it is said that none is shown.

  Args:
    report: The content of report.json.

  Returns:
    Sentences.
  """
  return [
    sentence
    for name, member in members_of(report).items()
    for sentence in _of_member(name, member, report)
  ]


def _of_member(
  name: str, member: Mapping[str, Any], report: Report
) -> Iterator[str]:
  attack = report['attack']['label']
  yield (
    f'{name} is right on {percent(member["clean_accuracy"])} of '
    f'{report["num_images"]} test images, and on '
    f'{percent(member["white_box"])} once {attack} has perturbed them with its '
    'own gradients.'
  )
  verdicts: dict[str, list[str]] = {}
  for method, groups in member['similarity'].items():
    found = groups['fooled']['cosine']
    value = '' if found is None else f' {found:.2f}'
    verdicts.setdefault(_verdict(groups), []).append(NAMES[method] + value)
  texts = {
    'inverted': 'maps of its true class are turned round: what spoke for it '
    'speaks against it',
    'farther': 'maps of its true class differ more from those of the clean '
    'image than those of another image do',
    'random': 'maps of its true class differ more from those of the clean '
    'image than after noise of the same size, and no difference from another '
    'image is shown',
    'distorted': 'maps of its true class differ more from those of the clean '
    'image than after noise of the same size, but less than those of another '
    'image',
    'as noise': 'maps of its true class differ less from those of the clean '
    'image than those of another image; that the attack changes them more than '
    'noise of the same size does is not shown',
    'unclear': 'too few images to tell what that does to maps of its true '
    'class: neither that they differ more than after noise of the same size is '
    'shown, nor a difference from another image',
  }
  for verdict, text in texts.items():
    if verdict in verdicts:
      listed = ', '.join(verdicts[verdict])
      yield f'{name}, where an image is fooled: {text} (cosine: {listed}).'
  if 'unknown' in verdicts:
    yield (
      f'{name}: too few images are fooled to say what that does to the maps.'
    )


def _verdict(groups: Mapping[str, Mapping[str, Any]]) -> str:
  fooled, noise, other = (
    interval_of(groups[name], 'cosine') for name in ('fooled', 'noise', 'other')
  )
  if fooled is None or noise is None or other is None:
    return 'unknown'
  if fooled[1] < 0:
    return 'inverted'
  if fooled[1] < other[0]:
    return 'farther'
  unlike_other = fooled[0] > other[1]
  if fooled[1] < noise[0]:
    return 'distorted' if unlike_other else 'random'
  return 'as noise' if unlike_other else 'unclear'


def similarity_rows(report: Report, measure: str) -> list[Row]:
  """Returns the table of similarities: a row per network and method.

  Args:
    report: The content of report.json.
    measure: 'cosine' or 'rank'.

  Returns:
    Rows, the first one the head.
  """
  rows = [Row('', tuple(_HEADS.values()))]
  for name, member in members_of(report).items():
    if not member['similarity']:
      rows.append(Row(f'{name} (right on no image)'))
      continue
    counts = next(iter(member['similarity'].values()))
    numbers = ', '.join(
      f'{counts[group]["num_images"]} {what}'
      for group, what in (('noise', 'right'), ('fooled', 'of them fooled'))
    )
    rows.append(Row(f'{name} ({numbers})'))
    rows += [
      Row(
        f'  {NAMES[method]}',
        tuple(_cell(groups[group], measure) for group in _HEADS),
      )
      for method, groups in member['similarity'].items()
    ]
  return rows


def _cell(entry: Mapping[str, Any], measure: str) -> str:
  if entry[measure] is None:
    return '-'
  ends = entry[f'{measure}_ci']
  interval = f' [{ends[0]:.2f}, {ends[1]:.2f}]' if ends else ''
  return f'{entry[measure]:.2f}{interval}'
