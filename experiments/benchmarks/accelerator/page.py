"""accelerator.md: what each part has measured, as tables."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from advjax.results import accuracy_interval
from experiments.benchmarks.harness import Column, cell, markdown, table

Entry = Mapping[str, Any]

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


_torch_rows = _rows(
  *(_NAME, _BATCH),
  ('advjax, ms', 'milliseconds', '.2f'),
  ('', 'torch', ''),
  ('ms', 'torch_milliseconds', '.2f'),
  ('its peak MiB', 'peak_mib', ',.0f'),
  ('speed-up of advjax', 'times_as_fast', '.2f'),
)


def _torch(entry: Entry) -> str:
  return (
    f'{entry["versions"]}; logits of the two differ by '
    f'{entry["logits_difference"]:.1e} of the largest in float32.\n\n'
    f'{_torch_rows({"rows": entry.get("rows", ())})}'
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
  if 'rates' in entry:
    rates = {name: rate / 1e12 for name, rate in entry['rates'].items()}
    lines.append(
      f'- measured: {rates["bfloat16"]:,.1f} TFLOP/s of bfloat16 products, '
      f'{rates["float32_default"]:,.1f} of float32 at the default precision, '
      f'{rates["float32"]:,.1f} at the highest; copies read and write '
      f'{rates["bytes"]:,.2f} TB/s'
    )
  return '\n'.join(lines)


def _numerics(entry: Entry) -> str:
  def columns(group: str, names: Sequence[str], title: str, form: str) -> Any:
    return [
      (title.format(n), lambda row, n=n: row.get(group, {}).get(n), form)
      for n in names
    ]

  arrays = ('logits', 'loss', 'gradient', 'update')
  attacks = ('fgsm', 'bim-20', 'apgd-50')
  text = table(
    entry['rows'],
    _NAME,
    *columns('differences', arrays, '{}', '.1e'),
    *columns('other_signs', attacks, '{}: other sign', '.3%'),
    *columns('accuracy', ('clean', *attacks), '{}: accuracy', '.1%'),
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
  columns: list[Column] = [
    (key.replace('_', ' '), key, '.1f' if key.endswith('seconds') else '.1%')
    for key in dict.fromkeys(key for row in rows for key in row)
    if key != 'name'
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


_steps = _rows(
  *(_NAME, _BATCH, _STEP, *_RATES, _PEAK),
  ('s of the first call', 'first_call_seconds', '.1f'),
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
BODIES: dict[str, Callable[[Entry], str]] = {
  'machine': _machine,
  'numerics': _numerics,
  'cifar10': _cifar,
  'cifar10_autoattack': _autoattack,
  'steps_nsl': _steps,
  'steps_resnet18': _steps,
  'steps_wide_resnet': _steps,
  'attacks': _rows(
    *(_NAME, _BATCH, ('s', 'seconds', '.3f'), *_RATES),
    ('program MiB', 'program_mib', ',.0f'),
    _COMPILE,
  ),
  'torch': _torch,
  'torch_compiled': _torch,
  'sweeps': _rows(
    ('simultaneous runs', 'members', 'd'),
    ('ms per step of all', 'step_milliseconds', '.2f'),
    ('s per run and epoch', 'seconds_per_member', '.4f'),
    _COMPILE,
  ),
  'tutorial': _tutorial,
  'tests': _tests,
  'cifar10_seeds': _cifar,
}


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
  ended, bodies = [], []
  for name, entry in parts.items():
    status = entry['status']
    if 'seconds' in entry:
      status += f', {entry["seconds"]:.0f} s'
      if 'estimate_seconds' in entry:
        status += f' of about {entry["estimate_seconds"]:.0f}'
    status += f': {entry["reason"]}' if entry.get('reason') else ''
    ended.append([entry['title'], status])
    try:
      bodies += [f'## {entry["title"]}', BODIES[name](entry)]
    except KeyError:  # It was ended, or has failed, before it knew.
      if entry['status'] == 'done':
        raise
  table_of_parts = markdown(['part', 'how it ended'], ended)
  return '\n\n'.join([*lines, table_of_parts, *bodies]) + '\n'
