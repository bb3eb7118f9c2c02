"""Explain trained networks by saliency maps of clean and adversarial images.

  ./launch.sh explain --checkpoint=runs/nsl_digits/base \\
    --attack=fgsm --epsilon=0.1 --classes=3,8 --workdir=runs/base_explained

Several checkpoints, separated by commas, are explained one after the other,
each attacked with its own gradients.
"""

from absl import flags

from advjax import cli
from advjax.fractions import parse_number
from advjax.jobs.explain import explain


def define_flags() -> None:
  """Defines the flags; not on import, which others may do for `explain`."""
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


def main() -> None:
  flag = flags.FLAGS
  explain(
    flag.checkpoint,
    flag.workdir,
    cli.devices_from_flags(),
    attack=flag.attack,
    norm=flag.norm,
    epsilon=parse_number(flag.epsilon, '--epsilon'),
    classes=flag.classes,
    num_images=flag.num_images,
    num_cases=flag.num_cases,
    methods=flag.methods,
    seed=flag.seed,
    data_dir=flag.data_dir,
    report_checkpoint=flag.report_checkpoint,
  )


if __name__ == '__main__':
  define_flags()
  cli.run(main, keep_compiled=True)
