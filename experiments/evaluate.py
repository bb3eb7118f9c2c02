"""Attack trained networks with attacks given by flags, and report.

  ./launch.sh evaluate --checkpoint=runs/nsl_digits/base \\
    --attacks=fgsm,pgd-50-10,autoattack --norm=linf \\
    --epsilons=2/255,8/255,0.1 --workdir=runs/base_evaluated

Several checkpoints, separated by commas, are attacked side by side, with
transfer attacks between them.
"""

from absl import flags

from advjax import cli
from advjax.fractions import parse_number
from advjax.jobs.evaluate import evaluate


def define_flags() -> None:
  """Defines the flags; not on import, which others may do for `evaluate`."""
  cli.define_checkpoint_flags()
  flags.DEFINE_list(
    'attacks',
    ['fgsm', 'pgd-40'],
    'NAME[-STEPS[-RESTARTS]], autoattack, apgd-t, deepfool, ...',
  )
  flags.DEFINE_list(
    'epsilons',
    ['0.1'],
    'Radii such as 8/255; the evaluation epsilon last.',
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


def main() -> None:
  flag = flags.FLAGS
  step_size = flag.step_size
  if step_size is not None:
    step_size = parse_number(step_size, '--step_size')
  evaluate(
    flag.checkpoint,
    flag.attacks,
    [parse_number(text, '--epsilons') for text in flag.epsilons],
    flag.workdir,
    cli.devices_from_flags(),
    norm=flag.norm,
    step_size=step_size,
    batch_size=flag.batch_size,
    seed=flag.seed,
    num_images=flag.num_images,
    corruptions=flag.corruptions,
    data_dir=flag.data_dir,
    report_checkpoint=flag.report_checkpoint,
  )


if __name__ == '__main__':
  define_flags()
  cli.run(main, processes='together', keep_compiled=True)
