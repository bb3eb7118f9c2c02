"""The sections of a page on what was measured, in their order."""

from collections.abc import Iterator, Sequence
from html import escape
from typing import NamedTuple

from advjax.reporting import page, summary
from advjax.reporting.efficiency import efficiency_chart
from advjax.reporting.evaluated import charts, matrices, sanity, shading, tables
from advjax.reporting.evaluated.autoattack import (
  autoattack_lines,
  autoattack_steps,
)
from advjax.reporting.gallery import Picture, draw
from advjax.reporting.sanity.findings import findings_of, suspicions
from advjax.reporting.shifted import (
  noises_in_training,
  pasted_in_training,
  seen_of,
)
from advjax.reporting.tables import Row, accuracy_text, format_html
from advjax.reporting.values import (
  Report,
  attack_label,
  attacks_of,
  finite,
  is_evaluated,
  members_of,
  short,
)

_MAX_TRANSFER = 4  # Attacks; the others are folded.
_MAX_RUNS = 6  # Of AutoAttack; more are folded.
_UNSEEN = 'Mean over the kinds that no member has seen in training'

STYLE = shading.STYLE + sanity.STYLE


class Part(NamedTuple):
  """A section of the page.

  Attributes:
    name: its anchor.
    title: its heading.
    html: what stands in it, every text escaped.
    pictures: the figures in it, which are files too.
  """

  name: str
  title: str
  html: str
  pictures: tuple[Picture, ...] = ()


def evaluated_parts(report: Report) -> list[Part]:
  """Returns a part for everything that was measured.

  Args:
    report: The content of report.json.

  Returns:
    The parts in the order of the page.
  """
  checks = list(_sanity(report))
  return [
    *(checks if is_evaluated(report) else []),
    *_summary(report),
    *_efficiency(report),
    *_autoattack(report),
    *_transfer(report),
    *_noise(report),
    *_minimal(report),
    *_classes(report),
    *_traces(report),
    *_rounding(report),
    *_corruptions(report),
    *_pasted(report),
    *([] if is_evaluated(report) else checks),
  ]


def evaluated_lines(report: Report) -> Iterator[str]:
  """Yields what the terminal shows of it: AutoAttack and the suspicions."""
  lines = list(autoattack_lines(report))
  findings = report.get('sanity', ())
  if findings:
    lines += [
      f'sanity: {sanity.sanity_line(findings)}',
      *(f'warning: {text}' for text in suspicions(findings)),
    ]
  if lines:
    yield ''
    yield from lines


def section(part: Part) -> str:
  """Returns a part as a section of the page."""
  return (
    f'<section id="{part.name}"><h2>{part.title}</h2>\n{part.html}</section>'
  )


def _sanity(report: Report) -> Iterator[Part]:
  """Yields the checks; those of a comparison are folded, at the end."""
  fold = not is_evaluated(report)
  listed = sanity.sanity_html(findings_of(report), fold=fold)
  if listed:
    note = _note(
      'Suspicious: more than chance in the test images explains, by the 95 % '
      'interval of the difference. Passed is no proof of robustness: it says '
      'that this check found nothing.'
    )
    if fold:
      note += _note('The evaluate command measures what more checks need.')
    yield Part('sanity', 'Can these numbers be trusted?', listed + note)


def _summary(report: Report) -> Iterator[Part]:
  """Yields what the members of a comparison are asked about first."""
  rows = summary.summary_rows(report)
  if not rows or is_evaluated(report):
    return
  first = next(iter(members_of(report)))
  attack, sample = next(iter(attacks_of(report).items()))
  epsilon = finite(sample.get('epsilon'))
  where = '' if epsilon is None else f' at epsilon {short(epsilon)}'
  note = _note(
    f'Accuracy on the test images. Perturbed with '
    f'{attack_label(attack, sample)}{where}: transfer, made on {first}; white '
    'box, made on the member itself. Corruptions and pasted objects are means '
    'over all kinds and severities, unseen ones over the kinds that no member '
    'was trained with. Intervals stand in the other tables.'
  )
  table = _table(rows, 'Members at a glance')
  yield Part('summary', 'Members at a glance', table + note)


def _efficiency(report: Report) -> Iterator[Part]:
  rows = summary.efficiency_rows(report)
  if not rows:
    return
  picture = draw(
    'efficiency',
    'Accuracy over the number of parameters',
    'Hollow: clean accuracy. Filled: white box at the headline epsilon, under '
    'the attack that leaves the member the least. With 95 % intervals.',
    efficiency_chart(report),
  )
  note = _note(
    'White box: under the attack that leaves the least. Points per '
    'million: clean accuracy in per cent over millions of parameters. The last '
    'column is the accuracy in training (of the last epoch, on images as '
    'augmented), and that on held-out or else test images: where it is far '
    'below, the network overfits.'
  )
  table = _table(rows, 'Accuracy per parameter')
  yield Part(
    'efficiency',
    'Accuracy per parameter',
    f'{table}{note}{page.picture_html(picture)}',
    (picture,),
  )


def _autoattack(report: Report) -> Iterator[Part]:
  rows = autoattack_steps(report)
  if rows:
    note = _note(
      'Each attack runs on the images that those above it left standing; what '
      'stands after all of them is right on the clean image and under every '
      'attack. Forward and backward count images through the network.'
    )
    text = _table(rows, 'Attacks of AutoAttack')
    num_runs = sum(not row.cells for row in rows)
    if num_runs > _MAX_RUNS:
      text = f'<details><summary>All {num_runs} runs</summary>{text}</details>'
    yield Part('autoattack', 'AutoAttack, attack by attack', text + note)


def _transfer(report: Report) -> Iterator[Part]:
  listed = matrices.transfer_tables(report)
  if listed:
    note = _note(
      'Accuracy in per cent. A row is the member whose gradients made the '
      'images, a column the member that is scored on them. Framed: white box. '
      'All others are transfer, which is no measure of robustness.'
    )
    text = shading.side_by_side(listed[:_MAX_TRANSFER], 'Transfer')
    more = listed[_MAX_TRANSFER:]
    if more:
      several = f'{len(more)} more attack{"" if len(more) == 1 else "s"}'
      folded = shading.side_by_side(more, 'More transfer')
      text += f'<details><summary>{several}</summary>{folded}</details>'
    yield Part('transfer', 'Made on one, scored on another', text + note)


def _noise(report: Report) -> Iterator[Part]:
  rows = tables.noise_rows(report)
  if rows:
    note = (
      'Random perturbations in the same ball, beside attacks (white box). What '
      'does not beat noise has found nothing.'
    )
    trained = noises_in_training(report)
    if trained:
      members = (f'{name} ({", ".join(k)})' for name, k in trained.items())
      note += f' Trained with noise, of any size: {", ".join(members)}.'
    text = _table(rows, 'Noise') + _note(note)
    yield Part('noise', 'Noise of the same size', text)


def _minimal(report: Report) -> Iterator[Part]:
  rows = tables.minimal_rows(report)
  if rows:
    note = _note(
      'Median size of the smallest perturbation found per image, and on how '
      'many images one was found. An upper bound of the distance to the '
      'nearest image of another class.'
    )
    yield Part(
      'minimal',
      'Smallest perturbations',
      _table(rows, 'Smallest perturbations') + note,
    )


def _classes(report: Report) -> Iterator[Part]:
  rows = tables.class_rows(report)
  if not rows:
    return
  shown, count = len(charts.shown_classes(report)), len(rows) - 1
  caption = (
    'Accuracy of each class: hollow on clean images, filled under the attack '
    'that leaves the member the least.'
  )
  if shown < count:
    caption += (
      f' Drawn are the {shown} of {count} classes that the attacks break most.'
    )
  picture = draw(
    'class_accuracy',
    'Accuracy by class, clean and attacked',
    caption,
    charts.class_chart(report),
  )
  folded = _table(rows, 'Classes')
  yield Part(
    'per_class',
    'Class by class',
    f'{page.picture_html(picture)}\n<details><summary>All {count} classes, in '
    f'numbers</summary>{folded}</details>',
    (picture,),
  )


def _traces(report: Report) -> Iterator[Part]:
  rows = tables.gradient_rows(report)
  drawn: tuple[Picture, ...] = ()
  if charts.traced_attacks(report):
    caption = (
      'Mean loss (above) and accuracy (below) after each step of the attacks, '
      'white box; step 0 is where they start, PGD at a random point. Losses '
      'far apart are on a logarithmic scale. A loss '
      'that still climbs at the last step asks for more steps; one that stays '
      'flat from the first is a sign of masked gradients.'
    )
    figure = charts.trace_chart(report)
    drawn = (draw('loss_per_step', 'Loss and accuracy', caption, figure),)
  text = ''.join(page.picture_html(picture) for picture in drawn)
  if rows:
    text += '<h3>Gradients at the clean images</h3>\n'
    text += _table(rows, 'Gradients') + _note(
      'Share of the test images whose gradient is zero in every pixel, or not '
      'finite in any: there, attacks cannot see where to go.'
    )
  if text:
    yield Part('traces', 'Step by step', text, drawn)


def _rounding(report: Report) -> Iterator[Part]:
  rows = tables.rounding_rows(report)
  if rows:
    note = _note(
      'Accuracy on the perturbed images as they are (white box), and once they '
      'are rounded to multiples of 1/255, as an image file does.'
    )
    yield Part('rounding', 'Rounded to 8 bits', _table(rows, 'Rounding') + note)


def _corruptions(report: Report) -> Iterator[Part]:
  listed = matrices.corruption_tables(report)
  if listed:
    text = (
      'Accuracy in per cent on corrupted test images, by severity from 1 to 5.'
    )
    seen = seen_of(report)
    for key, what in (
      ('corruption_accuracy', 'Mean over all of them'),
      *([('unseen_corruption_accuracy', _UNSEEN)] if seen else ()),
    ):
      means = ', '.join(
        f'{name} {accuracy_text(member, key)}'
        for name, member in members_of(report).items()
        if member.get(key) is not None
      )
      text += f' {what}: {means}.' if means else ''
    if seen:
      text += ' Framed: kinds that the member has seen in its own training.'
    note = _note(text)
    # The means of all members have a line of their own.
    first = [] if len(listed) == 1 else listed[:1]
    text = '\n'.join(
      shading.side_by_side(listed_here, label)
      for listed_here, label in (
        (first, 'Mean corruption'),
        (listed[len(first) :], 'Corruptions'),
      )
      if listed_here
    )
    yield Part('corruptions', 'Common corruptions', text + note)


def _pasted(report: Report) -> Iterator[Part]:
  rows = tables.pasted_rows(report)
  if rows:
    note = (
      'Accuracy on test images where an object from an image of another class, '
      'small and elliptic, is pasted at one side; the middle stays as it is. '
      'It covers from 2 % of the image at severity 1 to 10 % at severity 5. '
      'The label remains that of the image.'
    )
    pasting = pasted_in_training(report)
    if pasting:
      note += (
        f' Trained with CutMix, which pastes rectangles: {", ".join(pasting)}.'
      )
    text = _table(rows, 'Pasted objects')
    yield Part('pasted_objects', 'Pasted objects', text + _note(note))


def _table(rows: Sequence[Row], label: str) -> str:
  return page.scroll(format_html(rows), label)


def _note(text: str) -> str:
  return f'<p class="facts"><small>{escape(text)}</small></p>'
