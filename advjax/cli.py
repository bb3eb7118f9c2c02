"""Flags, error messages and exit codes of commands and experiments."""

import contextlib
import errno
import inspect
import io
import logging
import os
import pathlib
import re
import runpy
import signal
import sys
import traceback
from collections.abc import Callable, Sequence

import jax

from advjax._extras import absl, ml_collections  # noqa: F401  # isort: skip
from absl import flags
from ml_collections import config_dict, config_flags

from advjax import compile_cache
from advjax.config import choose
from advjax.devices import select_devices
from advjax.fields import add_fields, describe
from advjax.files import expand
from advjax.fractions import expand_fractions
from advjax.processes import distributed
from advjax.processes.signals import Interrupted, stop_on_signals
from advjax.processes.topology import Place, find_place, gpus_of
from advjax.training.loop import Diverged

logger = logging.getLogger('advjax')

# Folders of Python's own modules and of installed ones.
_STANDARD = pathlib.Path(os.__file__).parent.name
_LIBRARIES = {_STANDARD, 'site-packages', 'dist-packages'}
# Paths that are wrong from the beginning; other errors of files are not.
_WRONG_PATHS = (
  FileExistsError,
  FileNotFoundError,
  IsADirectoryError,
  NotADirectoryError,
  PermissionError,
)
# A full disk, a used up quota, a file larger than its limit.
_DISK_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)

_PLATFORM = flags.DEFINE_enum(
  'platform', None, ['cpu', 'gpu', 'tpu'], 'Where to run; must be available.'
)
_DEVICES = flags.DEFINE_integer(
  'devices',
  None,
  'Number of devices per process; default: all. On the CPU, virtual devices.',
)


def define_config_flags() -> None:
  """Defines --config and --workdir, both required, and --print_model."""
  # The flag of the file, which `run` replaces by what the file returns.
  flags.DEFINE_string('config', None, 'configs/FILE.py[:variant]')
  flags.DEFINE_bool('print_model', False, 'Print the layers of each network.')
  define_workdir()


def define_workdir() -> None:
  """Defines --workdir, required."""
  flags.DEFINE_string('workdir', None, 'Folder for the output.', required=True)
  # The empty path would be the folder that one happens to be in.
  flags.register_validator(
    'workdir', lambda path: path != '', 'allowed: a folder'
  )


def define_checkpoint_flags() -> None:
  """Defines what programs on trained networks share, --workdir included."""
  flags.DEFINE_list(
    'checkpoint',
    None,
    "A run's workdir, or its folder checkpoints/best or checkpoints/last; "
    'several separated by commas.',
    required=True,
  )
  flags.DEFINE_enum(
    'report_checkpoint',
    None,
    ['last', 'best'],
    "Which checkpoint of a workdir; default: its config's report_checkpoint.",
  )
  flags.DEFINE_string('norm', 'linf', 'linf, l2 or l1.')
  flags.DEFINE_integer('seed', 0, 'Seed of images, attacks and noise.')
  flags.DEFINE_string(
    'data_dir', None, 'Folder of the data set; default: as in training.'
  )
  define_workdir()


def devices_from_flags() -> list[jax.Device]:
  """Returns the devices of --platform and --devices, and logs them."""
  if _PLATFORM.value == 'cpu':
    # Else JAX would reserve the memory of an accelerator too.
    jax.config.update('jax_platforms', 'cpu')
  devices = select_devices(_PLATFORM.value, _DEVICES.value)
  kinds = sorted({device.device_kind for device in devices})
  logger.info(
    'devices: %d x %s (%s), pmap over %d, process %d of %d',
    len(devices),
    devices[0].platform,
    ', '.join(kinds),
    len(devices),
    jax.process_index(),
    jax.process_count(),
  )
  return devices


def config_arguments(arguments: Sequence[str]) -> list[str]:
  """Returns `--config` and `--config.field` of them, with `=` and a value."""
  return [a for a in _joined(arguments) if re.match(_CONFIG_FLAG, a)]


_CONFIG_FLAG = r'--?(no)?config(\.[^=]*)?(=|$)'


def _joined(arguments: Sequence[str]) -> list[str]:
  """The arguments, `--config.field value` as `--config.field=value`."""
  joined: list[str] = []
  for argument in arguments:
    before = joined[-1] if joined else ''
    open_flag = re.match(_CONFIG_FLAG, before) and '=' not in before
    if open_flag and not argument.startswith('-'):
      joined[-1] += f'={argument}'
    else:
      joined.append(argument)
  return joined


def config_file(arguments: Sequence[str]) -> str:
  """Returns FILE[:VARIANT] of --config, in the current folder or of advjax.

  The configs of advjax are in the package where it is installed, beside it in a
  clone.
  """
  text = _config_fields(arguments).get('')
  if not text:
    raise ValueError('--config = None; allowed: configs/FILE.py[:variant]')
  path, colon, variant = text.partition(':')
  known: list[str] = []
  for folder in (pathlib.Path(), *pathlib.Path(__file__).parents[:2]):
    for ending in ('', '.py'):
      found = folder / expand(path + ending)
      if found.is_file():
        return f'{found}{colon}{variant}'
    known += [f'configs/{x.name}' for x in folder.glob('configs/*.py')]
  choose('--config', path, {*known}, ', or a file of your own')
  raise FileNotFoundError(path)  # It was there a moment ago.


def _config_fields(arguments: Sequence[str]) -> dict[str, str]:
  """Returns field -> text of all `--config.field=text`; '' is the file."""
  found = {}
  for argument in config_arguments(arguments):
    flag, equals, text = argument.lstrip('-').removeprefix('no').partition('=')
    field = flag.removeprefix('config').removeprefix('.')
    found[field] = text if equals or not field else 'true'
  return found


def _define_config(
  arguments: Sequence[str], found: flags.FlagValues
) -> list[str]:
  """Loads --config, and makes a flag of each field for the rest of arguments.

  A ValueError for a wrong config file, variant, field or chosen name.
  """
  path, _, variant = config_file(arguments).partition(':')
  get_config = runpy.run_path(path).get('get_config')
  if get_config is None:
    raise ValueError(
      f'--config = {path!r}; allowed: a file with a function get_config'
    )
  if variant and not inspect.signature(get_config).parameters:
    raise ValueError(
      f'variant = {variant!r}; allowed: none, as {path} has none'
    )
  config = get_config(*[variant] if variant else [])
  if not isinstance(config, config_dict.ConfigDict):
    raise ValueError(f'get_config of {path} returns no ConfigDict')
  given = _config_fields(arguments)
  left = add_fields(config, {field: given[field] for field in given if field})
  rest = []
  for argument in _joined(arguments):
    field = re.match(r'--?config\.?([^=]*)=', argument)
    if field and field[1] in left:  # The last of its flags counts.
      rest.append(f'--config.{field[1]}={left[field[1]]}')
    elif not field:
      rest.append(argument)
  if 'config' in found:
    delattr(found, 'config')
  config_flags.DEFINE_config_dict(
    'config', config, flag_values=found, sys_argv=rest
  )
  return rest


def run(
  main: Callable[[], None],
  argv: Sequence[str] | None = None,
  *,
  processes: str = 'one',
  keep_compiled: bool = False,
  kept: str = '',
) -> None:
  """Parses the flags, runs `main` and turns errors into exit codes.

  Several processes that run the same command make one run 'together', each its
  own 'apart', or are refused: 'one'. keep_compiled: use the persistent cache of
  compiled programs; not for measurements of compilation. kept: what `main`
  does not do again once a signal has ended it.

  Exits with 2 for bad input, with one message (after a traceback, if a user's
  own file raised it) and before anything is computed or written; 1 for a
  diverged run or a full disk; 128 + signal for a stopped run, where it trains
  after a checkpoint; 75 where another process of the run is lost.
  """
  logging.basicConfig(stream=sys.stderr, format='%(message)s', force=True)
  logger.setLevel(logging.INFO)
  if isinstance(sys.stdout, io.TextIOWrapper):
    # A locale or a name that it cannot write must not end a run.
    sys.stdout.reconfigure(errors='backslashreplace')
  place, joined, reports_errors = find_place({}), False, True
  try:
    arguments = expand_fractions(sys.argv if argv is None else argv)
    asks_for_help = bool({'--help', '-h', '-help'} & {*arguments})
    with contextlib.suppress(*[ValueError] * asks_for_help):
      place = find_place()
    distributed.end_with_launcher()
    # Errors in a command are reported once on each machine.
    reports_errors = processes == 'apart' or place.local_id == 0
    # Modules of the user's own are found after all others.
    own = os.environ.get('ADVJAX_PYTHONPATH', '').split(os.pathsep)
    sys.path += [p for p in (*own, os.getcwd()) if p and p not in sys.path]
    if asks_for_help:
      if reports_errors:
        name = main.__module__
        print(inspect.getdoc(main) or sys.modules[name].__doc__)
        # absl files what a program itself defines under the name of its file.
        for module in (sys.argv[0] if name == '__main__' else name, __name__):
          print(flags.FLAGS.module_help(module))
        if 'config' in flags.FLAGS and config_arguments(arguments):
          fields = flags.FlagValues()
          rest = _define_config(arguments, fields)
          fields([rest[0], *config_arguments(rest)])
          print(f'\n\n{config_arguments(arguments)[0]}:')
          print(describe(fields.config))
      return
    if 'config' in flags.FLAGS:
      arguments = _define_config(arguments, flags.FLAGS)
    rest = flags.FLAGS(arguments)
    for name, value in flags.FLAGS.flag_values_dict().items():
      if isinstance(value, list):  # Of `--attacks=fgsm,pgd-40,` two.
        flags.FLAGS[name].value = [text for text in value if text]
    if len(rest) > 1:
      raise ValueError(
        f'arguments = {" ".join(rest[1:])!r}; allowed: flags alone'
      )
    if keep_compiled:
      compile_cache.turn_on(warn=place.process_id == 0)
    if place.num_processes > 1:
      joined = _start_process(place, processes)
    with stop_on_signals(interrupt=True):
      main()
    if joined:
      distributed.finish()
  except (KeyboardInterrupt, Exception) as error:
    code, message = _ending(error, place if joined else None, kept)
    if code == 2 and reports_errors and _is_of_user(error):
      traceback.print_exception(error)
    if joined:
      distributed.leave(place, code, message)
    if reports_errors:
      logger.error('%s', message)
    sys.exit(code)


def _start_process(place: Place, processes: str) -> bool:
  """Prepares one of several processes; returns whether it joined the others."""
  if processes == 'one':
    raise ValueError(
      f'number of processes = {place.num_processes}, started by '
      f'{place.launcher}; allowed: 1 for this experiment'
    )
  gpus = gpus_of(place) if _PLATFORM.value in (None, 'gpu') else None
  if processes == 'together':
    distributed.join(place, gpus)
    logger.setLevel(logging.WARNING if place.process_id else logging.INFO)
    return True
  if gpus is not None:
    shown = ','.join(str(index) for index in gpus)
    jax.config.update('jax_cuda_visible_devices', shown)
  return False


def _is_of_user(error: BaseException) -> bool:
  """Whether an error is raised in a user's own file, or in a library by it."""
  here = pathlib.Path(__file__).resolve().parent
  project = here, here.parent / 'configs', here.parent / 'experiments'
  for frame in reversed(traceback.extract_tb(error.__traceback__)):
    path = pathlib.Path(frame.filename).resolve()
    if any(path.is_relative_to(folder) for folder in project):
      return False
    if not _LIBRARIES & {*path.parts} and frame.filename[:1] != '<':
      return True
  return False


def _ending(
  error: BaseException, joined: Place | None, kept: str
) -> tuple[int, str]:
  """Returns exit code and message for expected errors; raises bugs again."""
  if isinstance(error, Interrupted):
    return 128 + error.signum, f'{error}: run the same command again to resume'
  if isinstance(error, KeyboardInterrupt):
    signum = next((x for x in error.args if isinstance(x, int)), signal.SIGINT)
    message = f'{Interrupted(signum)}; kept: {kept or "nothing"}; run the same '
    return 128 + signum, f'{message}command again{" to resume" if kept else ""}'
  if isinstance(error, Diverged):
    return 1, f'error: {error}'
  if isinstance(error, OSError) and error.errno in _DISK_FULL:
    return 1, (
      f'error: {error.filename or "a file"} cannot be written: '
      f'{error.strerror}; free some space and run the same command again to '
      'resume'
    )
  lost = distributed.explain_loss(joined, error) if joined else None
  if lost:
    return distributed.EXIT_LOST, lost
  if isinstance(error, _WRONG_PATHS) and error.filename:
    return 2, f'error: {error.filename}: {error.strerror}'
  bad_input = ValueError, FileNotFoundError, ModuleNotFoundError, SyntaxError
  if isinstance(error, (*bad_input, flags.Error)):
    return 2, f'error: {"; ".join(str(error).splitlines())}'
  if not joined:
    raise error
  traceback.print_exception(error)
  return 1, f'{joined.name} ended by the error above'
