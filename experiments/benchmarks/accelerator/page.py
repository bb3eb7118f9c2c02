"""accelerator.md: what each part has measured, as tables."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from advjax.results import accuracy_interval
from experiments.benchmarks.harness import Column, cell, markdown, table

Entry = Mapping[str, Any]
_ARRAYS = ('logits', 'loss', 'gradient', 'update')
_ATTACKS = ('fgsm', 'bim-20', 'apgd-50')

_NAME: Column = ('', 'name', '')
_BATCH: Column = ('batch', 'batch_size', 'd')
_STEP: Column = ('ms per step', 'step_milliseconds', '.2f')
_COMPILE: Column = ('s to compile', 'compile_seconds', '.1f')
_RATES: list[Column] = [
  ('images/s', 'images_per_second', ',.0f'),
  ('TFLOP/s', 'teraflops_per_second', '.1f'),
  ('of bf16 matmul', 'share_of_matmul', '.1%'),
  ('of roofline', 'share_of_roofline', '.1%'),
]
_PEAK: Column = ('peak MiB', 'peak_mib', ',.0f')


def _accuracy(key: str) -> Callable[[Entry], str | None]:
  """Writes an accuracy with its 95 % interval."""

  def write(row: Entry) -> str | None:
    if row.get(key) is None:
      return None
    interval = accuracy_interval(row[key], row['num_images'])
    low, high = (cell(end, '.1%') for end in interval)
    return f'{cell(row[key], ".1%")} [{low}, {high}]'

  return write


def _rows(*columns: Column) -> Callable[[Entry], str]:
  return lambda entry: table(entry['rows'], *columns)


_steps = _rows(
  *(_NAME, _BATCH, _STEP, *_RATES, _PEAK),
  ('s of the first call', 'first_call_seconds', '.1f'),
)
_attacks = _rows(
  *(_NAME, _BATCH, ('s', 'seconds', '.3f'), *_RATES),
  ('program MiB', 'program_mib', ',.0f'),
  _COMPILE,
)
_cifar = _rows(
  ('seed', 'seed', 'd'),
  ('s of training', 'train_seconds', '.1f'),
  *(_STEP, *_RATES, _PEAK, _COMPILE),
  ('attacked', 'num_images', 'd'),
  *(
    (name, _accuracy(name.lower()), '')
    for name in ('clean', 'PGD-50-10', 'PGD-10')
  ),
)
_sweeps = _rows(
  ('simultaneous runs', 'members', 'd'),
  ('ms per step of all', 'step_milliseconds', '.2f'),
  ('s per run and epoch', 'seconds_per_member', '.4f'),
  _COMPILE,
)


def _torch(entry: Entry) -> str:
  text = table(
    entry.get('rows', ()),
    *(_NAME, _BATCH),
    ('advjax, ms', 'milliseconds', '.2f'),
    ('', 'torch', ''),
    ('ms', 'torch_milliseconds', '.2f'),
    ('its peak MiB', 'peak_mib', ',.0f'),
    ('speed-up of advjax', 'times_as_fast', '.2f'),
  )
  return (
    f'{entry["versions"]}; logits of the two differ by '
    f'{entry["logits_difference"]:.1e} of the largest in float32.\n\n{text}'
  )


def _machine(entry: Entry) -> str:
  memory = entry['memory_gib']
  lines = [
    f'- {entry["device"]} ({entry["platform"]}), {entry["num_devices"]} of '
    f'them, memory for JAX: {f"{memory:.1f} GiB" if memory else "unknown"}, '
    f'driver {entry["driver"] or "unknown"}',
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


def _numerics(entry: Entry) -> str:
  def column(group: str, name: str, title: str, form: str) -> Column:
    return title, lambda row: row.get(group, {}).get(name), form

  text = table(
    entry['rows'],
    _NAME,
    *(column('differences', n, n, '.1e') for n in _ARRAYS),
    *(column('other_signs', n, f'{n}: other sign', '.3%') for n in _ATTACKS),
    *(
      column('accuracy', n, f'{n}: accuracy', '.1%')
      for n in ('clean', *_ATTACKS)
    ),
  )
  return (
    f'{entry["num_images"]} digits, linf {entry["epsilon"]}. Differences from '
    'the CPU in float32: the largest over the largest number; the share of '
    f'pixels that are moved the other way.\n\n{text}'
  )


def _autoattack(entry: Entry) -> str:
  rows = [
    {'name': name, 'num_images': entry['num_images'], **found}
    for name, found in entry['attacks'].items()
  ]
  seconds = sum(row['seconds'] for row in rows)
  per_thousand = 1000 * seconds / entry['num_images']
  robust: Column = ('robust accuracy', _accuracy('robust'), '')
  text = table(rows, _NAME, robust, ('s', 'seconds', '.1f'), _COMPILE)
  return (
    f'{entry["num_images"]} images, float32 at the highest precision; '
    f'{seconds:.1f} s without compiling, {per_thousand:.0f} s per 1,000 '
    f'images.\n\n{text}'
  )


def _tutorial(entry: Entry) -> str:
  rows = [{'name': n, **row} for n, row in entry['members'].items()]
  names = dict.fromkeys(k for row in entry['members'].values() for k in row)
  columns: list[Column] = [
    (key.replace('_', ' '), key, '.1f' if key.endswith('seconds') else '.1%')
    for key in names
  ]
  text = table(rows, _NAME, *columns)
  return f'{entry["seconds_to_report"]:.1f} s in all.\n\n{text}'


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


BODIES: dict[str, Callable[[Entry], str]] = {
  'machine': _machine,
  'numerics': _numerics,
  'cifar10': _cifar,
  'cifar10_autoattack': _autoattack,
  'steps_nsl': _steps,
  'steps_resnet18': _steps,
  'steps_wide_resnet': _steps,
  'attacks': _attacks,
  'torch': _torch,
  'torch_compiled': _torch,
  'sweeps': _sweeps,
  'tutorial': _tutorial,
  'tests': _tests,
  'cifar10_seeds': _cifar,
}


def _body(name: str, entry: Entry) -> str | None:
  """What a part has found, or None if that is too little to show."""
  try:
    return BODIES[name](entry)
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


def page(report: Mapping[str, Any]) -> str:
  """Returns accelerator.md: date and command, how parts ended, their tables."""
  parts = report['parts']
  machine = parts['machine']
  device = machine.get('device', 'an unknown device')
  lines = [
    f'# Measured on {device}, {report["date"]}',
    f'```sh\n{report["command"]}\n```',
  ]
  if machine.get('platform') == 'cpu':
    lines.append('On a CPU all sizes and networks are tiny: it runs, no more.')
  ended: Sequence[Sequence[str]] = [
    [entry['title'], _status(entry)] for entry in parts.values()
  ]
  lines.append(markdown(['part', 'how it ended'], ended))
  for name, entry in parts.items():
    body = _body(name, entry)
    if body:
      lines += [f'## {entry["title"]}', body]
  return '\n\n'.join(lines) + '\n'
