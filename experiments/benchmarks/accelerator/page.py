"""accelerator.md, and the summary that ends the log."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from advjax.results import accuracy_interval
from experiments.benchmarks.tables import markdown as table

Entry = Mapping[str, Any]
# A title, and what goes below it, of an entry's row.
Column = tuple[str, Callable[[Entry], str | None]]


def _percent(value: float, digits: int = 1) -> str:
  return f'{100 * value:.{digits}f} %'


def _number(key: str, form: str) -> Callable[[Entry], str | None]:
  """Writes a number of a row, where it is known."""

  def write(row: Entry) -> str | None:
    value = row.get(key)
    return None if value is None else f'{value:{form}}'.replace('%', ' %')

  return write


def _text(key: str) -> Callable[[Entry], str | None]:
  return lambda row: row.get(key)


def _accuracy(key: str) -> Callable[[Entry], str | None]:
  """Writes an accuracy with its 95 % interval."""

  def write(row: Entry) -> str | None:
    if row.get(key) is None:
      return None
    low, high = accuracy_interval(row[key], row['num_images'])
    return f'{_percent(row[key])} [{_percent(low)}, {_percent(high)}]'

  return write


def _rows(columns: Sequence[Column], rows: Sequence[Entry]) -> str:
  return table(
    [title for title, _ in columns],
    [[write(row) for _, write in columns] for row in rows],
  )


_STEP_COLUMNS: list[Column] = [
  ('', _text('name')),
  ('batch', _number('batch_size', 'd')),
  ('ms per step', _number('step_milliseconds', '.2f')),
  ('images/s', _number('images_per_second', ',.0f')),
  ('TFLOP/s', _number('teraflops_per_second', '.1f')),
  ('of bf16 matmul', _number('share_of_matmul', '.1%')),
  ('of roofline', _number('share_of_roofline', '.1%')),
  ('peak MiB', _number('peak_mib', ',.0f')),
  ('s of the first call', _number('first_call_seconds', '.1f')),
]
_ATTACK_COLUMNS: list[Column] = [
  ('', _text('name')),
  ('batch', _number('batch_size', 'd')),
  ('s', _number('seconds', '.3f')),
  ('images/s', _number('images_per_second', ',.0f')),
  ('TFLOP/s', _number('teraflops_per_second', '.1f')),
  ('of roofline', _number('share_of_roofline', '.1%')),
  ('program MiB', _number('program_mib', ',.0f')),
  ('s to compile', _number('compile_seconds', '.1f')),
]
_CIFAR_COLUMNS: list[Column] = [
  ('seed', _number('seed', 'd')),
  ('s of training', _number('train_seconds', '.1f')),
  ('ms per step', _number('step_milliseconds', '.2f')),
  ('images/s', _number('images_per_second', ',.0f')),
  ('TFLOP/s', _number('teraflops_per_second', '.1f')),
  ('of bf16 matmul', _number('share_of_matmul', '.1%')),
  ('peak MiB', _number('peak_mib', ',.0f')),
  ('s to compile', _number('compile_seconds', '.1f')),
  ('attacked', _number('num_images', 'd')),
  ('clean', _accuracy('clean')),
  ('PGD-50-10', _accuracy('pgd-50-10')),
  ('PGD-10', _accuracy('pgd-10')),
]
_TORCH_COLUMNS: list[Column] = [
  ('', _text('name')),
  ('batch', _number('batch_size', 'd')),
  ('advjax, ms', _number('milliseconds', '.2f')),
  ('', _text('torch')),
  ('ms', _number('torch_milliseconds', '.2f')),
  ('its peak MiB', _number('peak_mib', ',.0f')),
  ('advjax is times as fast', _number('times_as_fast', '.2f')),
]
_SWEEP_COLUMNS: list[Column] = [
  ('runs at once', _number('members', 'd')),
  ('ms per step of all', _number('step_milliseconds', '.2f')),
  ('s per run and epoch', _number('seconds_per_member', '.4f')),
  ('s to compile', _number('compile_seconds', '.1f')),
]


def _machine(entry: Entry) -> str:
  lines = [
    f'- {entry["device"]} ({entry["platform"]}), {entry["num_devices"]} of '
    f'them, {_gib(entry["memory_gib"])}, driver {entry["driver"] or "unknown"}',
    f'- {entry["cpu_cores"]} CPU cores, Python {entry["python"]}, '
    + ', '.join(f'{k} {v}' for k, v in entry['versions'].items() if v),
  ]
  rates = entry.get('rates')
  if rates:
    lines.append(
      f'- measured: {rates["bfloat16"] / 1e12:,.1f} TFLOP/s of bfloat16 '
      f'products, {rates["float32_default"] / 1e12:,.1f} of float32 at '
      f'the default precision, {rates["float32"] / 1e12:,.1f} at the highest; '
      f'copies read and write {rates["bytes"] / 1e12:,.2f} TB/s'
    )
  return '\n'.join(lines)


def _gib(memory: float | None) -> str:
  return 'memory unknown' if memory is None else f'{memory:.1f} GiB for JAX'


def _numerics(entry: Entry) -> str:
  kinds = ('logits', 'loss', 'gradient', 'update')
  attacks = ('fgsm', 'bim-20', 'apgd-50')
  header = ['', *kinds, *(f'{a}: other sign' for a in attacks)]
  header += [f'{name}: accuracy' for name in ('clean', *attacks)]
  cells = []
  for row in entry['rows']:
    found, signs = row.get('differences', {}), row.get('other_signs', {})
    cells.append(
      [
        row['name'],
        *(f'{found[k]:.1e}' if k in found else None for k in kinds),
        *(_percent(signs[a], 3) if a in signs else None for a in attacks),
        *(_percent(row['accuracy'][name]) for name in ('clean', *attacks)),
      ]
    )
  return (
    f'{entry["num_images"]} digits, linf {entry["epsilon"]}. Differences from '
    'the CPU in float32: the largest over the largest number; the share of '
    'pixels that are moved the other way.\n\n' + table(header, cells)
  )


def _autoattack(entry: Entry) -> str:
  rows = [
    {'name': name, 'num_images': entry['num_images'], **found}
    for name, found in entry['attacks'].items()
  ]
  seconds = sum(row['seconds'] for row in rows)
  per_thousand = 1000 * seconds / entry['num_images']
  columns: list[Column] = [
    ('', _text('name')),
    ('robust accuracy', _accuracy('robust')),
    ('s', _number('seconds', '.1f')),
    ('s to compile', _number('compile_seconds', '.1f')),
  ]
  return (
    f'{entry["num_images"]} images, float32 at the highest precision; '
    f'{seconds:.1f} s without compiling, {per_thousand:.0f} s per 1,000 '
    f'images.\n\n{_rows(columns, rows)}'
  )


def _torch(entry: Entry) -> str:
  return (
    f'{entry["versions"]}; logits of the two differ by '
    f'{entry["logits_difference"]:.1e} of the largest in float32.\n\n'
    + _rows(_TORCH_COLUMNS, entry.get('rows', ()))
  )


def _tutorial(entry: Entry) -> str:
  rows = [{'name': n, **row} for n, row in entry['members'].items()]
  names = dict.fromkeys(k for row in entry['members'].values() for k in row)
  columns: list[Column] = [('', _text('name'))]
  for key in names:
    form = '.1f' if key.endswith('seconds') else '.1%'
    columns.append((key.replace('_', ' '), _number(key, form)))
  return f'{entry["seconds_to_report"]:.1f} s in all.\n\n{_rows(columns, rows)}'


def _tests(entry: Entry) -> str:
  failed = entry['failed']
  lines = [
    f'{entry["tests"]} tests, {entry["skipped"]} skipped, {len(failed)} failed.'
  ]
  lines += [f'- {name}' for name in failed]
  again = entry.get('deterministic')
  if again:
    lines += [f'\nWith deterministic sums (`tests/training`): {_tests(again)}']
  return '\n'.join(lines)


_BODIES: dict[str, Callable[[Entry], str]] = {
  'machine': _machine,
  'numerics': _numerics,
  'cifar10': lambda entry: _rows(_CIFAR_COLUMNS, entry['rows']),
  'cifar10_autoattack': _autoattack,
  'steps_nsl': lambda entry: _rows(_STEP_COLUMNS, entry['rows']),
  'steps_resnet18': lambda entry: _rows(_STEP_COLUMNS, entry['rows']),
  'steps_wide_resnet': lambda entry: _rows(_STEP_COLUMNS, entry['rows']),
  'attacks': lambda entry: _rows(_ATTACK_COLUMNS, entry['rows']),
  'torch': _torch,
  'torch_compiled': _torch,
  'sweeps': lambda entry: _rows(_SWEEP_COLUMNS, entry['rows']),
  'tutorial': _tutorial,
  'tests': _tests,
  'cifar10_seeds': lambda entry: _rows(_CIFAR_COLUMNS, entry['rows']),
}


def _body(name: str, entry: Entry) -> str | None:
  """What a part has found, or None if that is too little to show."""
  try:
    return _BODIES[name](entry)
  except KeyError:
    if entry['status'] == 'done':
      raise
    return None  # It was ended, or has failed, before it knew.


def _status(entry: Entry) -> str:
  status = entry['status']
  if 'seconds' in entry:
    status += f', {entry["seconds"]:.0f} s'
    if 'estimate_seconds' in entry:
      status += f' of about {entry["estimate_seconds"]:.0f}'
  return status + (f': {entry["reason"]}' if entry.get('reason') else '')


def markdown(report: Mapping[str, Any]) -> str:
  """Returns accelerator.md.

  Args:
    report: What accelerator.json holds.

  Returns:
    The text: date and command, a table of the parts, what each has found.
  """
  parts = report['parts']
  lines = [
    f'# Measured on {_device(report)}, {report["date"]}',
    '',
    f'```sh\n{report["command"]}\n```',
    '',
    *_caveat(report),
    table(
      ['part', 'how it ended'],
      [[entry['title'], _status(entry)] for entry in parts.values()],
    ),
  ]
  for name, entry in parts.items():
    body = _body(name, entry)
    if body:
      lines += ['', f'## {entry["title"]}', '', body]
  return '\n'.join(lines) + '\n'


def _caveat(report: Mapping[str, Any]) -> list[str]:
  if report['parts']['machine'].get('platform') != 'cpu':
    return []
  return ['On a CPU all sizes and networks are tiny: it runs, no more.', '']


def _device(report: Mapping[str, Any]) -> str:
  return report['parts']['machine'].get('device', 'an unknown device')


def summary(report: Mapping[str, Any]) -> str:
  """Returns the most important numbers, for the end of a log.

  Args:
    report: What accelerator.json holds.

  Returns:
    Lines of plain text.
  """
  lines = [f'{_device(report)}, {report["date"]}']
  for name, entry in report['parts'].items():
    lines.append(f'{name}: {_status(entry)}')
    lines += [f'  {line}' for line in _found(entry)]
  return '\n'.join(lines)


def _found(entry: Entry) -> Iterator[str]:
  """Lines that say in short what a part has found."""
  rates = entry.get('rates')
  if rates:
    yield (
      f'{rates["bfloat16"] / 1e12:.0f} TFLOP/s in bfloat16, '
      f'{rates["float32_default"] / 1e12:.0f} in float32 at the default '
      f'precision, {rates["float32"] / 1e12:.0f} at the highest, '
      f'{rates["bytes"] / 1e12:.2f} TB/s'
    )
  for row in entry.get('rows', ()):
    found = [str(row[k]) for k in ('name', 'seed', 'members') if k in row]
    found += [f'batch {row["batch_size"]}'] if 'batch_size' in row else []
    found += [
      f'{row[key]:{form}}{unit}'
      for key, form, unit in _SHOWN
      if row.get(key) is not None
    ]
    if 'differences' in row:
      found += [f'{k} {v:.0e}' for k, v in row['differences'].items()]
    if 'accuracy' in row:
      found += [f'{k} {v:.1%}' for k, v in row['accuracy'].items()]
    yield ', '.join(found)
  for name, each in entry.get('attacks', {}).items():
    yield f'{name}: robust {each["robust"]:.1%}, {each["seconds"]:.1f} s'
  for name, each in entry.get('members', {}).items():
    numbers = ', '.join(f'{k} {v:.3g}' for k, v in each.items())
    yield f'{name}: {numbers}'
  if 'seconds_to_report' in entry:
    yield f'{entry["seconds_to_report"]:.1f} s to the report'
  if 'failed' in entry:
    yield from _tests(entry).splitlines()


_SHOWN = (
  ('train_seconds', '.1f', ' s of training'),
  ('clean', '.1%', ' clean'),
  ('pgd-50-10', '.1%', ' under PGD-50-10'),
  ('pgd-10', '.1%', ' under PGD-10'),
  ('step_milliseconds', '.2f', ' ms per step'),
  ('seconds_per_member', '.3f', ' s per run and epoch'),
  ('images_per_second', ',.0f', ' images/s'),
  ('teraflops_per_second', '.1f', ' TFLOP/s'),
  ('share_of_matmul', '.1%', ' of bf16 matmul'),
  ('share_of_roofline', '.1%', ' of roofline'),
  ('times_as_fast', '.2f', ' times as fast as PyTorch'),
)
