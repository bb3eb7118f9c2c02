"""The harness of all comparisons: sides alternate, tables have medians.

A side prepares itself and returns a run, which does the work once and returns
its seconds. All sides of a case alternate, round by round, so that a busy
machine slows all of them equally; ratios are taken within a round. A library
that fails, or exceeds its time limit, is named below the table, and the others
continue.
"""

import contextlib
import math
import pathlib
import statistics
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
from absl import flags

from advjax.config import check_range, choose
from advjax.environment import environment
from advjax.files import expand, write_json
from experiments.benchmarks import peers

# Flags defined here belong to the program that calls define_flags.
flags.disclaim_key_flags()

OURS = 'advjax'

Row = Mapping[str, Any]
TimedRun = Callable[[], float]
Side = Callable[[], TimedRun]
# The title of a column, its key in a row or a function of the row, its format.
Column = tuple[str, str | Callable[[Row], Any], str]


class Times(NamedTuple):
  """What sides took, by side."""

  seconds: dict[str, list[float]]  # Of every round.
  first: dict[str, float]  # Of the first run, which may compile.
  failures: dict[str, str]  # Why a side has no seconds.


def timed(function: Callable[[], Any]) -> tuple[Any, float]:
  """Returns a function's result, and the seconds until it was computed."""
  start = time.perf_counter()
  result = jax.block_until_ready(function())
  return result, time.perf_counter() - start


def in_turns(sides: Mapping[str, Side], rounds: int) -> Times:
  """Prepares all sides, runs each once, and takes rounds of all in turns."""
  runs: dict[str, TimedRun] = {}
  times = Times({}, {}, {})

  def start(name: str) -> None:
    runs[name] = sides[name]()
    times.first[name] = runs[name]()
    times.seconds[name] = []

  def take(name: str) -> None:
    times.seconds[name].append(runs[name]())

  for index in range(rounds + 1):
    for name in list(times.seconds if index else sides):
      try:
        (take if index else start)(name)
      except peers.PeerError as error:
        times.failures[name] = str(error)
        times.seconds.pop(name, None)
  return times


def peer_side(
  run_job: peers.RunJob,
  job: Mapping[str, Any],
  arrays: Mapping[str, np.ndarray],
  task: str = 'steps',
) -> Side:
  """The side of a peer: it prepares a job, and each run does its task."""

  def prepare() -> TimedRun:
    run_job({**job, 'task': 'prepare'}, arrays)
    return lambda: float(run_job({**job, 'task': task}, {})['seconds'])

  return prepare


def spread(seconds: Sequence[float]) -> tuple[float, float, float]:
  """Returns the first quartile, the median and the third of some rounds."""
  if len(seconds) == 1:
    return seconds[0], seconds[0], seconds[0]
  low, median, high = statistics.quantiles(seconds, n=4, method='inclusive')
  return low, median, high


def times_as_fast(times: Times, name: str) -> float:
  """How often our time goes into a side's: the median of ratios by round."""
  pairs = zip(times.seconds[name], times.seconds[OURS], strict=True)
  return statistics.median(theirs / ours for theirs, ours in pairs)


def compare(times: Times, num_images: int, **fields: Any) -> list[dict]:
  """Returns a row per side, those that failed last, all with `fields`.

  Rows have `name`, `milliseconds`, `quartiles`, `images_per_second` for
  num_images a run, `times_as_fast` and `rounds`, or `name` and `error`.
  """
  rows: list[dict[str, Any]] = []
  for name, seconds in times.seconds.items():
    low, median, high = spread(seconds)
    rows.append(
      {
        **fields,
        'name': name,
        'milliseconds': 1e3 * median,
        'quartiles': [1e3 * low, 1e3 * high],
        'images_per_second': num_images / median,
        'times_as_fast': times_as_fast(times, name),
        'rounds': seconds,
      }
    )
  for name, text in times.failures.items():
    rows.append({**fields, 'name': name, 'error': text})
  return rows


# --------------------------------------------------------------------- tables


def cell(value: Any, form: str = '.1e') -> str:
  """Writes a value of a table; None is left empty, a list is a range."""
  if value is None or isinstance(value, str):
    return value or ''
  if isinstance(value, (list, tuple)):
    return ' to '.join(cell(each, form) for each in value)
  return f'{value:{form}}'.replace('%', ' %')


def markdown(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
  """Returns a table in Markdown of texts."""

  def line(texts: Sequence[str]) -> str:
    return '|' + '|'.join(f' {text} ' if text else ' ' for text in texts) + '|'

  return '\n'.join(
    [line(header), line(['---'] * len(header)), *map(line, rows)]
  )


def table(rows: Sequence[Row], *columns: Column) -> str:
  """Returns rows as a table in Markdown, failures of sides below it."""

  def value(row: Row, key: str | Callable[[Row], Any]) -> Any:
    return row.get(key) if isinstance(key, str) else key(row)

  measured = [row for row in rows if 'error' not in row]
  text = markdown(
    [title for title, _, _ in columns],
    [[cell(value(row, k), form) for _, k, form in columns] for row in measured],
  )
  failures = [f'\n{r["name"]}: {r["error"]}' for r in rows if 'error' in r]
  return '\n'.join([text, *failures])


# Of the rows of `compare`.
SIDE_COLUMNS: list[Column] = [
  ('', 'name', ''),
  ('ms', 'milliseconds', '.2f'),
  ('quartiles', 'quartiles', '.2f'),
  ('images/s', 'images_per_second', '.0f'),
  ('speed-up of advjax', 'times_as_fast', '.2f'),
]


def mean_and_std(values: Sequence[float], form: str = '.4f') -> str:
  """Writes a mean and, of several values, the sample standard deviation."""
  mean = cell(statistics.fmean(values), form)
  if len(values) == 1:
    return mean
  return f'{mean} ± {cell(statistics.stdev(values), form)}'


def environment_line(environment: Row) -> str:
  """Writes the entry `environment` of a result in one line."""
  return ', '.join(f'{name} {value}' for name, value in environment.items())


# ---------------------------------------------------------------------- flags


def define_flags(
  *, rounds: int | None = None, use: Sequence[str] = (), data_dir: bool = False
) -> None:
  """Defines --workdir, --rounds with a default, and the flags of peers."""
  flags.DEFINE_string('workdir', None, 'Folder of the results.', required=True)
  flags.register_validator(
    'workdir', lambda path: path != '', 'allowed: a folder'
  )
  if rounds:
    flags.DEFINE_integer('rounds', rounds, 'Rounds of which the median is.')
  if data_dir:
    text = 'Sets of TensorFlow Datasets, with mnist.'
    flags.DEFINE_string('data_dir', None, text)
  if use:
    define_venv_flags(*use)
    flags.DEFINE_string('python', None, 'Python to make venvs with.')
    flags.DEFINE_float('timeout', 3600.0, "Seconds of a peer's job at most.")


def define_venv_flags(*names: str) -> None:
  """Defines the flags that name the venvs of peers."""
  for name in names:
    peer = peers.PEERS[name]
    default = f"{peer.folder} in the user's cache folder"
    text = f'Venv of {peer.name}; default: {default}.'
    flags.DEFINE_string(f'{name}_venv', None, text)


def chosen(flag: str, allowed: Iterable[str]) -> list[str]:
  """Returns the names in a list flag, all of which must be allowed."""
  names = list(allowed)
  return [choose(f'--{flag}', n, names) for n in getattr(flags.FLAGS, flag)]


def integers(flag: str, low: int = 1, high: int | None = None) -> list[int]:
  """Returns the different integers in a list flag, one or more."""
  texts: list[str] = getattr(flags.FLAGS, flag)
  values = [int(text) for text in texts if text.isdecimal()]
  within = all(low <= v and (high is None or v <= high) for v in values)
  if not values or len(set(values)) < len(texts) or not within:
    span = f'>= {low}' if high is None else f'from {low} to {high}'
    raise ValueError(
      f'--{flag} = {",".join(texts)!r}; allowed: integers {span}, each once'
    )
  return values


def check_counts(*names: str, high: float = math.inf) -> None:
  """Raises a ValueError unless these flags are integers from 1 to `high`."""
  for name in names:
    check_range(f'--{name}', getattr(flags.FLAGS, name), 1, high, integer=True)


def make_workdir() -> pathlib.Path:
  """Returns the folder of --workdir, after a check of --rounds."""
  if 'rounds' in flags.FLAGS:
    check_counts('rounds')
  workdir = expand(flags.FLAGS.workdir)
  if workdir.exists() and not workdir.is_dir():
    raise ValueError(f"--workdir = '{workdir}'; allowed: a folder, not a file")
  workdir.mkdir(parents=True, exist_ok=True)
  return workdir


def save(
  path: pathlib.Path, result: Row, devices: Sequence[jax.Device]
) -> None:
  """Writes a result as JSON, with `environment`."""
  write_json(path, {**result, 'environment': environment(devices)})
  print(f'\nwritten: {path}')


@contextlib.contextmanager
def start_peers(
  names: Sequence[str], devices: Sequence[jax.Device]
) -> Iterator[dict[str, peers.RunJob]]:
  """Starts the sides of peers, in venvs that are made where they are missing.

  Yields what runs a job, by name. Our devices must be CPUs, as theirs are.
  """
  if devices[0].platform != 'cpu' and names:
    raise ValueError(
      f'--platform = {devices[0].platform!r}; allowed: cpu, where the peers '
      'run, unless they are left out'
    )
  flag = flags.FLAGS
  run_jobs: dict[str, peers.RunJob] = {}
  with contextlib.ExitStack() as stack:
    for name in names:
      peer, venv = peers.PEERS[name], getattr(flag, f'{name}_venv')
      python = peers.prepare(peer, venv, flag.python)
      side = peers.started(peer, python, flag.timeout)
      run_jobs[name] = stack.enter_context(side)
    yield run_jobs
