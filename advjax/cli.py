"""What the mains in experiments/ share: flags, errors, exit codes.

Bad input ends a program with one clear message and exit code 2, before
anything is computed or written; a run that a signal stops exits with
128 + the signal's number, after a checkpoint; a full disk ends it with 1.
"""

import errno
import logging
import pathlib
import re
import runpy
import sys
import traceback
from collections.abc import Callable, Sequence

import jax
from absl import flags
from ml_collections import config_dict, config_flags

from advjax import compile_cache
from advjax.config import choose
from advjax.devices import select_devices
from advjax.fractions import expand_fractions
from advjax.processes.orphan import end_with_launcher
from advjax.processes.peers import Peers, join
from advjax.processes.signals import Interrupted
from advjax.processes.topology import Place, find_place, gpus_of
from advjax.training.loop import Diverged

logger = logging.getLogger('advjax')

# A full disk, a used up quota, a file larger than its limit.
_DISK_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)

_PLATFORM = flags.DEFINE_enum(
  'platform', None, ['cpu', 'gpu', 'tpu'], 'Where to run; an error if absent.'
)
_DEVICES = flags.DEFINE_integer(
  'devices',
  None,
  'How many devices, of each process where there are several; default: all. On '
  'the CPU, virtual ones.',
)


def define_config_flags() -> None:
  """Defines --config and --workdir, both required, and --print_model."""
  config_flags.DEFINE_config_file(
    'config', None, 'configs/FILE.py[:variant]', lock_config=True
  )
  flags.DEFINE_string('workdir', None, 'Folder that the run writes to.')
  flags.DEFINE_bool('print_model', False, 'Print the layers of each network.')
  flags.mark_flag_as_required('workdir')
  # The empty path would be the folder that one happens to be in.
  flags.register_validator('workdir', lambda path: path != '', 'is empty')


def devices_from_flags() -> list[jax.Device]:
  """Returns the devices that --platform and --devices ask for, and says so.

  Returns:
    The devices.

  Raises:
    ValueError: if they are not there.
  """
  if _PLATFORM.value == 'cpu':
    # Nor does an accelerator draw the weights, or give memory away.
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


def _check_config_flags(arguments: Sequence[str]) -> None:
  """Finds a wrong config file, variant or field before absl meets it.

  ml_collections reports these by a traceback inside a message, or not
  before the config is used.
  """
  named = {}
  for argument, following in zip(
    arguments[1:], [*arguments[2:], ''], strict=True
  ):
    name, equals, value = argument.partition('=')
    if re.match(r'--?(no)?config(\.|$)', name):
      name = name.lstrip('-').removeprefix('no')
      named[name] = value if equals else following
  path, _, variant = named.pop('config', '').partition(':')
  if not path:
    raise ValueError('--config=configs/FILE.py[:variant] is missing')
  if not pathlib.Path(path).is_file():
    raise ValueError(f"--config: there is no file '{path}'")
  get_config = runpy.run_path(path).get('get_config')
  if get_config is None:
    raise ValueError(f"--config: '{path}' has no function get_config")
  config = get_config(*[variant] if variant else [])
  for field in named:
    section = config
    for name in field.removeprefix('config.').split('.'):
      if not isinstance(section, config_dict.ConfigDict):
        raise ValueError(f"--{field}: there is no '{name}' in a plain value")
      choose(f'config field in {field!r}:', name, section)
      section = section[name]


def config_arguments(arguments: Sequence[str]) -> list[str]:
  """Returns those of the arguments that speak of the config.

  Args:
    arguments: A command line.

  Returns:
    `--config`, `--config.field` and their values, in order.

  Example:
    >>> config_arguments(['a.py', '--config', 'b.py', '--config.c=1', '--d=2'])
    ['--config', 'b.py', '--config.c=1']
  """
  found, value_follows = [], False
  for argument in arguments:
    named = re.match(r'--?(no)?config(\.|=|$)', argument)
    if named or value_follows:
      found.append(argument)
      value_follows = bool(named) and '=' not in argument
  return found


def run(
  main: Callable[[], None],
  argv: Sequence[str] | None = None,
  *,
  processes: str = 'one',
  keep_compiled: bool = False,
) -> None:
  """Parses the flags, runs `main` and turns errors into exit codes.

  Args:
    main: The program, without arguments; it reads the flags.
    argv: The command line; default: `sys.argv`.
    processes: What several processes that run the same command do: 'together'
      they make one run, 'apart' each makes its own, 'one' refuses.
    keep_compiled: Whether it reads what earlier runs have compiled, and leaves
      it to later ones (`compile_cache`); not for measurements of compiling.

  Raises:
    SystemExit: 2 for bad input, 1 for a diverged run or a full disk,
      128 + signal for a stopped one, and 75 where another process of the run
      is lost.
  """
  logging.basicConfig(stream=sys.stderr, format='%(message)s', force=True)
  logger.setLevel(logging.INFO)
  peers: Peers | None = None
  speaks = True
  try:
    place = find_place()
    end_with_launcher()
    # What is wrong with a command is said once on each machine.
    speaks = processes == 'apart' or place.local_id == 0
    arguments = expand_fractions(sys.argv if argv is None else argv)
    if _wants_help(arguments):
      if speaks:
        _print_help()
      return
    if 'config' in flags.FLAGS:
      _check_config_flags(arguments)
    rest = flags.FLAGS(arguments)
    if len(rest) > 1:
      raise ValueError(f'arguments not understood: {" ".join(rest[1:])}')
    if processes == 'one' and place.num_processes > 1:
      raise ValueError(
        f'this experiment runs in one process; {place.launcher} started '
        f'{place.num_processes}'
      )
    if keep_compiled:
      compile_cache.turn_on(speaks=place.process_id == 0)
    if processes == 'together':
      peers = join(place, _PLATFORM.value)
      logger.setLevel(logging.WARNING if place.process_id else logging.INFO)
    elif place.num_processes > 1:
      _take_own_gpus(place)
    main()
    if peers:
      peers.finish()
  except (KeyboardInterrupt, Exception) as error:
    code, message = _ending(error, peers)
    if peers:
      peers.leave(code, message)
    if speaks:
      logger.error('%s', message)
    sys.exit(code)


def _take_own_gpus(place: Place) -> None:
  """Hides the GPUs of the other processes, which run apart from this one."""
  if _PLATFORM.value in (None, 'gpu'):
    gpus = gpus_of(place)
    if gpus is not None:
      shown = ','.join(str(index) for index in gpus)
      jax.config.update('jax_cuda_visible_devices', shown)


def _ending(error: BaseException, peers: Peers | None) -> tuple[int, str]:
  """Returns exit code and message for what may happen; raises bugs again."""
  if isinstance(error, Interrupted):
    return 128 + error.signum, f'{error}: run the same command again to go on'
  if isinstance(error, Diverged):
    return 1, f'error: {error}'
  if isinstance(error, OSError) and error.errno in _DISK_FULL:
    return 1, (
      f'error: {error.filename or "a file"} cannot be written: '
      f'{error.strerror}; free some space and run the same command again to '
      'go on'
    )
  lost = peers.ending(error) if peers else None
  if lost:
    return lost
  if isinstance(error, (ValueError, FileNotFoundError, flags.Error)):
    return 2, f'error: {error}'
  if not peers:
    raise error
  traceback.print_exception(error)
  code = 130 if isinstance(error, KeyboardInterrupt) else 1
  return code, f'{find_place().name} ended by the error above'


def _print_help() -> None:
  print(sys.modules['__main__'].__doc__)
  for module in (sys.argv[0], __name__):
    print(flags.FLAGS.module_help(module))


def _wants_help(arguments: Sequence[str]) -> bool:
  return any(argument in ('--help', '-h', '-help') for argument in arguments)
