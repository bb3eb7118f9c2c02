"""Train, attack and explain image classifiers.

  advjax COMMAND --flag=value ...
  advjax --processes=N COMMAND --flag=value ...    in N processes

`advjax COMMAND --help` shows the flags of a command. Paths are relative to the
current folder; a --config that it lacks is one that comes with advjax, such as
configs/digits.py:trades. Modules of your own are imported from that folder too.
"""

import inspect
import runpy
import sys
from collections.abc import Callable, Sequence
from typing import Any

from advjax._extras import absl, ml_collections  # noqa: F401  # isort: skip
from absl import flags
from ml_collections import config_dict

from advjax import cli, sweeps
from advjax.config import choose
from advjax.environment import command_line
from advjax.fractions import parse_number
from advjax.processes.launcher import launch

# Each imports its job when it runs: the start of one does not wait for others.


def train() -> None:
  """Train one network under any objective, attack it, and write its report."""
  from advjax.jobs import train as jobs

  _run(jobs.train)


def compare() -> None:
  """Train several networks side by side, attack each, and compare them."""
  from advjax.jobs import train as jobs

  _run(jobs.compare)


def _run(job: Callable[..., object], **others: Any) -> None:
  """Calls a job with the flags that its parameters are named by, and others."""
  devices, flag = cli.devices_from_flags(), flags.FLAGS
  names = [name for name in inspect.signature(job).parameters if name in flag]
  given = {name: flag[name].value for name in names}
  job(**{**given, 'devices': devices, **others})


def _define_evaluate_flags() -> None:
  cli.define_checkpoint_flags()
  flags.DEFINE_list(
    'attacks',
    ['fgsm', 'pgd-40'],
    'NAME[-STEPS[-RESTARTS]], autoattack, apgd-t, deepfool, ...',
  )
  flags.DEFINE_list(
    'epsilons', ['0.1'], 'Radii such as 8/255; the evaluation epsilon last.'
  )
  flags.DEFINE_string(
    'step_size', None, 'Step size of bim, mifgsm and pgd; default: by attack.'
  )
  flags.DEFINE_integer(
    'batch_size',
    None,
    'Images per device; default: 64, for AutoAttack as memory allows.',
  )
  flags.DEFINE_integer(
    'num_images', None, 'Number of test images, the first ones; default: all.'
  )
  flags.DEFINE_bool(
    'corruptions',
    True,
    'Whether to measure 15 corruptions and pasted objects at 5 severities.',
  )


def evaluate() -> None:
  """Attack trained networks with attacks given by flags, and report.

    advjax evaluate --checkpoint=runs/nsl_digits/base \\
      --attacks=fgsm,pgd-50-10,autoattack --norm=linf \\
      --epsilons=2/255,8/255,0.1 --workdir=runs/base_evaluated

  Several checkpoints, separated by commas, are attacked side by side, with
  transfer attacks between them.
  """
  from advjax.jobs import evaluate as job

  flag = flags.FLAGS
  size = flag.step_size
  _run(
    job.evaluate,
    checkpoints=flag.checkpoint,
    attack_names=flag.attacks,
    epsilons=[parse_number(text, '--epsilons') for text in flag.epsilons],
    step_size=None if size is None else parse_number(size, '--step_size'),
  )


def _define_sweep_flags() -> None:
  cli.define_config_flags()
  flags.DEFINE_string(
    'sweep',
    None,
    'What to sweep over, "FIELD=V1,V2;FIELD=V1,V2": all combinations. Also '
    'zip(FIELD=V1,V2;FIELD=V1,V2) and list(FIELD=V,FIELD=V;...). Default: the '
    "config file's sweep(add).",
  )
  flags.DEFINE_string(
    'shard',
    '0/1',
    'i/n: train the i-th of n shards, divided further among the processes of '
    'the command.',
  )


def sweep() -> None:
  """Train a grid of configurations in few programs, attack and plot each."""
  from advjax.jobs import sweep as job

  flag = flags.FLAGS
  # By ./launch.sh or by advjax, as this was.
  train = [command_line().split()[0], 'train']
  _run(
    job.sweep,
    rows=_sweep_rows(flag.config, flag.sweep),
    train_command=[*train, *cli.config_arguments(sys.argv)],
  )


def _sweep_rows(
  config: config_dict.ConfigDict, text: str | None
) -> list[dict[str, Any]]:
  """What each trial sets: by the flag, or by the config file."""
  if text is not None:
    return sweeps.parse_sweep(text, config)
  path, _, variant = cli.config_file(sys.argv).partition(':')
  function = runpy.run_path(path).get('sweep')
  if function is None:
    raise ValueError(
      f'--config = {path!r}; allowed: a file with a function sweep(add), as in '
      'configs/sweeps, or --sweep="hparams.epsilon=0.1,0.2;seed=0,1"'
    )
  return sweeps.collect_sweep(function, variant or None)


def _define_explain_flags() -> None:
  cli.define_checkpoint_flags()
  flags.DEFINE_string('attack', 'fgsm', 'NAME[-STEPS[-RESTARTS]], as evaluate.')
  flags.DEFINE_string('epsilon', '4/255', 'Radius of the attack.')
  flags.DEFINE_list(
    'classes',
    None,
    'Names or ids of the classes to show; default: cockroach, broom, syringe, '
    'oboe, beer bottle if the data set has them, else the first five.',
  )
  flags.DEFINE_integer(
    'num_images', 100, 'Random test images for the comparison of maps.'
  )
  flags.DEFINE_integer(
    'num_cases', 3, 'Images to show of each kind: right, wrong, fooled.'
  )
  flags.DEFINE_list(
    'methods',
    None,
    'saliency, guided_backprop, integrated_gradients, smooth_grad, grad_cam, '
    'cam; default: all that a network supports.',
  )


def explain() -> None:
  """Explain trained networks by saliency maps of clean and adversarial images.

    advjax explain --checkpoint=runs/nsl_digits/base \\
      --attack=fgsm --epsilon=0.1 --classes=3,8 --workdir=runs/base_explained

  Several checkpoints, separated by commas, are explained one after the other,
  each attacked with its own gradients.
  """
  from advjax.jobs import explain as job

  flag = flags.FLAGS
  _run(
    job.explain,
    checkpoints=flag.checkpoint,
    epsilon=parse_number(flag.epsilon, '--epsilon'),
  )


_CHECKPOINTS = 'the checkpoints so far'
_TRIALS = 'the trials that are done and the checkpoints so far'
_AUTOATTACK = 'what AutoAttack has done so far'

# The main, whose docstring --help prints; the flags; how several processes run
# it, and what is kept of it where a signal ends it, as cli.run takes them.
COMMANDS = {
  'train': (train, cli.define_config_flags, 'together', _CHECKPOINTS),
  'compare': (compare, cli.define_config_flags, 'together', _CHECKPOINTS),
  'evaluate': (evaluate, _define_evaluate_flags, 'together', _AUTOATTACK),
  'sweep': (sweep, _define_sweep_flags, 'apart', _TRIALS),
  'explain': (explain, _define_explain_flags, 'one', ''),
}


def run(name: str, argv: Sequence[str] | None = None) -> None:
  """Runs a command with the flags of argv, by default sys.argv."""
  main, define_flags, processes, kept = COMMANDS[name]
  define_flags()
  cli.run(main, argv, processes=processes, keep_compiled=True, kept=kept)


def main() -> None:
  """Runs the command that the console script `advjax` is given."""
  counts = [a for a in sys.argv[1:] if a.split('=')[0] == '--processes']
  arguments = [a for a in sys.argv[1:] if a not in counts]
  count = counts[-1].partition('=')[2] if counts else '1'
  try:
    if not count.isdecimal() or int(count) < 1:
      raise ValueError(f'--processes = {count}; allowed: an integer >= 1')
    if not arguments or arguments[0] in ('--help', '-h', '-help'):
      print(f'{__doc__}\nCommands:')
      for name, (job, *_) in COMMANDS.items():
        print(f'  {name:<10} {(job.__doc__ or "").splitlines()[0]}')
      return
    choose('command', arguments[0], COMMANDS)
  except ValueError as error:
    sys.stderr.write(f'error: {error}\n')
    sys.exit(2)
  if int(count) > 1:
    started = [a for a in sys.orig_argv[1:] if a not in counts]
    sys.exit(launch(int(count), [sys.executable, *started]))
  run(arguments[0], arguments)
