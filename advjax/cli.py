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
from collections.abc import Callable, Sequence

import jax
from absl import flags
from ml_collections import config_dict, config_flags

from advjax.config import choose
from advjax.fractions import expand_fractions
from advjax.training.parallel import select_devices
from advjax.training.run import Diverged
from advjax.training.signals import Interrupted

logger = logging.getLogger('advjax')

# A full disk, a used up quota, a file larger than its limit.
_DISK_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)

_PLATFORM = flags.DEFINE_enum(
  'platform', None, ['cpu', 'gpu', 'tpu'], 'Where to run; an error if absent.'
)
_DEVICES = flags.DEFINE_integer(
  'devices', None, 'How many devices; default: all. On the CPU, virtual ones.'
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


def run(main: Callable[[], None], argv: Sequence[str] | None = None) -> None:
  """Parses the flags, runs `main` and turns errors into exit codes.

  Args:
    main: The program, without arguments; it reads the flags.
    argv: The command line; default: `sys.argv`.

  Raises:
    SystemExit: 2 for bad input, 1 for a diverged run or a full disk,
      128 + signal for a stopped one.
  """
  logging.basicConfig(stream=sys.stderr, format='%(message)s', force=True)
  logger.setLevel(logging.INFO)
  try:
    arguments = expand_fractions(sys.argv if argv is None else argv)
    if _wants_help(arguments):
      print(sys.modules['__main__'].__doc__)
      for module in (sys.argv[0], __name__):
        print(flags.FLAGS.module_help(module))
      return
    if 'config' in flags.FLAGS:
      _check_config_flags(arguments)
    rest = flags.FLAGS(arguments)
    if len(rest) > 1:
      raise ValueError(f'arguments not understood: {" ".join(rest[1:])}')
    main()
  except Interrupted as stop:
    logger.warning('%s: run the same command again to go on', stop)
    sys.exit(128 + stop.signum)
  except Diverged as error:
    logger.error('error: %s', error)
    sys.exit(1)
  except (ValueError, FileNotFoundError, flags.Error) as error:
    logger.error('error: %s', error)
    sys.exit(2)
  except OSError as error:
    if error.errno not in _DISK_FULL:
      raise
    logger.error(
      'error: %s cannot be written: %s; free some space and run the same '
      'command again to go on',
      error.filename or 'a file',
      error.strerror,
    )
    sys.exit(1)


def _wants_help(arguments: Sequence[str]) -> bool:
  return any(argument in ('--help', '-h', '-help') for argument in arguments)
