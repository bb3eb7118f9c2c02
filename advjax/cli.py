"""Flags, error messages and exit codes of the programs in experiments/."""

import errno
import logging
import pathlib
import re
import runpy
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
from advjax.fractions import expand_fractions
from advjax.processes import distributed
from advjax.processes.signals import Interrupted
from advjax.processes.topology import Place, find_place, gpus_of
from advjax.training.loop import Diverged

logger = logging.getLogger('advjax')

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
  config_flags.DEFINE_config_file(
    'config', None, 'configs/FILE.py[:variant]', lock_config=True
  )
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
    "A run's workdir (its last checkpoint), or its folder checkpoints/best; "
    'several separated by commas.',
    required=True,
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
  """Returns `--config`, `--config.field` and their values, in order."""
  found, value_follows = [], False
  for argument in arguments:
    named = re.match(r'--?(no)?config(\.|=|$)', argument)
    if named or value_follows:
      found.append(argument)
      value_follows = bool(named) and '=' not in argument
  return found


def _check_config_flags(arguments: Sequence[str]) -> None:
  """Raises for a wrong config file, variant or field, before absl does.

  ml_collections reports these by a traceback, or not before they are used.
  """
  named, name = {}, ''
  for argument in config_arguments(arguments):
    if not argument.startswith('-'):
      named[name] = argument
      continue
    name, _, value = argument.lstrip('-').removeprefix('no').partition('=')
    named[name] = value
  path, _, variant = named.pop('config', '').partition(':')
  if not path:
    raise ValueError('--config = None; allowed: configs/FILE.py[:variant]')
  if not pathlib.Path(path).is_file():
    raise ValueError(f'--config = {path!r}; allowed: a file that exists')
  get_config = runpy.run_path(path).get('get_config')
  if get_config is None:
    raise ValueError(
      f'--config = {path!r}; allowed: a file with a function get_config'
    )
  config = get_config(*[variant] if variant else [])
  for field in named:
    section, above = config, 'config'
    for name in field.removeprefix('config.').split('.'):
      if not isinstance(section, config_dict.ConfigDict):
        raise ValueError(
          f'--{field}: {section!r} has no fields; allowed: --{above}=...'
        )
      choose(f'config field in --{field}', name, section)
      section, above = section[name], f'{above}.{name}'


def run(
  main: Callable[[], None],
  argv: Sequence[str] | None = None,
  *,
  processes: str = 'one',
  keep_compiled: bool = False,
) -> None:
  """Parses the flags, runs `main` and turns errors into exit codes.

  Several processes that run the same command make one run 'together', each its
  own 'apart', or are refused: 'one'. keep_compiled: use the persistent cache of
  compiled programs; not for measurements of compilation.

  Exits with 2 for bad input, with one message and before anything is computed
  or written; 1 for a diverged run or a full disk; 128 + signal for a stopped
  run, after a checkpoint; 75 where another process of the run is lost.
  """
  logging.basicConfig(stream=sys.stderr, format='%(message)s', force=True)
  logger.setLevel(logging.INFO)
  place, joined, reports_errors = None, False, True
  try:
    place = find_place()
    distributed.end_with_launcher()
    # Errors in a command are reported once on each machine.
    reports_errors = processes == 'apart' or place.local_id == 0
    arguments = expand_fractions(sys.argv if argv is None else argv)
    if {'--help', '-h', '-help'} & set(arguments):
      if reports_errors:
        print(sys.modules['__main__'].__doc__)
        for module in (sys.argv[0], __name__):
          print(flags.FLAGS.module_help(module))
      return
    if 'config' in flags.FLAGS:
      _check_config_flags(arguments)
    rest = flags.FLAGS(arguments)
    if len(rest) > 1:
      raise ValueError(
        f'arguments = {" ".join(rest[1:])!r}; allowed: flags alone'
      )
    if keep_compiled:
      compile_cache.turn_on(warn=place.process_id == 0)
    if place.num_processes > 1:
      joined = _start_process(place, processes)
    main()
    if joined:
      distributed.finish()
  except (KeyboardInterrupt, Exception) as error:
    code, message = _ending(error, place if joined else None)
    if place and joined:
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


def _ending(error: BaseException, joined: Place | None) -> tuple[int, str]:
  """Returns exit code and message for expected errors; raises bugs again."""
  if isinstance(error, Interrupted):
    return 128 + error.signum, f'{error}: run the same command again to resume'
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
  if isinstance(error, (ValueError, FileNotFoundError, flags.Error)):
    return 2, f'error: {error}'
  if not joined:
    raise error
  traceback.print_exception(error)
  code = 130 if isinstance(error, KeyboardInterrupt) else 1
  return code, f'{joined.name} ended by the error above'
