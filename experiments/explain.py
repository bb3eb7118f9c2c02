"""Show why trained networks see what they see, on clean and attacked images.

  ./launch.sh explain --checkpoint=runs/nsl_digits/base \\
    --attack=fgsm --epsilon=0.1 --classes=3,8 --workdir=runs/base_explained

Several checkpoints, separated by commas, are explained one after the other,
each attacked with its own gradients.
"""

import logging
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np
from absl import flags
from ml_collections import config_dict

from advjax import cli, data
from advjax.attacks.specs import replace_bounds
from advjax.config import check_range, config_to_json
from advjax.evaluation.members import parse_attacks
from advjax.explain import Network, find_methods, network_of
from advjax.fractions import parse_number
from advjax.jobs.workdir import prepare_workdir
from advjax.reporting.explained.ask import Asked, explain_network, plan
from advjax.reporting.explained.cases import choose_classes
from advjax.reporting.explained.run import Explained, write_explained
from advjax.reporting.report import command_line, environment
from advjax.reporting.values import accuracy_interval, attack_label, short
from advjax.training.trained import Trained, load_trained

logger = logging.getLogger('advjax')

# The methods of a network, and why others are left out.
_Found = tuple[Sequence[str], Mapping[str, str]]


def define_flags() -> None:
  """Defines the flags; not on import, which others may do for `explain`."""
  flags.DEFINE_list(
    'checkpoint',
    None,
    "A run's workdir (its last checkpoint), or a folder checkpoints/best in "
    'it; several between commas.',
    required=True,
  )
  flags.DEFINE_string('attack', 'fgsm', 'NAME[-STEPS[-RESTARTS]], as evaluate.')
  flags.DEFINE_string('norm', 'linf', 'linf, l2 or l1.')
  flags.DEFINE_string('epsilon', '4/255', 'Radius of the attack.')
  flags.DEFINE_list(
    'classes',
    None,
    'Names or ids of the classes to show; default: cockroach, broom, syringe, '
    'oboe, beer bottle where they are there, else the first five.',
  )
  flags.DEFINE_integer(
    'num_images', 100, 'Random test images that maps are compared on.'
  )
  flags.DEFINE_integer(
    'num_cases', 3, 'Images to show of each kind: right, wrong, fooled.'
  )
  flags.DEFINE_list(
    'methods',
    None,
    'saliency, guided_backprop, integrated_gradients, smooth_grad, grad_cam, '
    'cam; default: all that a network allows.',
  )
  flags.DEFINE_integer('seed', 0, 'Seeds all that is drawn.')
  flags.DEFINE_string(
    'data_dir', None, 'Where the data set lies; default: where it lay.'
  )
  flags.DEFINE_string(
    'workdir', None, 'Folder that the report is written to.', required=True
  )
  flags.register_validator('workdir', lambda path: path != '', 'is empty')


def explain(
  checkpoints: Sequence[str],
  workdir: str | pathlib.Path,
  devices: Sequence[jax.Device],
  *,
  attack: str = 'fgsm',
  norm: str = 'linf',
  epsilon: float = 4 / 255,
  classes: Sequence[str] | None = None,
  num_images: int = 100,
  num_cases: int = 3,
  methods: Sequence[str] | None = None,
  seed: int = 0,
  data_dir: str | None = None,
) -> dict[str, Any]:
  """Explains what trained networks see, and what an attack does to that.

  Args:
    checkpoints: Each as `checkpoint_directory` takes it.
    workdir: The folder to write to.
    devices: The devices.
    attack: As `parse_attack` takes it; each network is attacked with its own
      gradients.
    norm: 'linf', 'l2' or 'l1'.
    epsilon: Radius of the attack.
    classes: As `choose_classes` takes them.
    num_images: Random test images that maps are compared on.
    num_cases: Images to show of each kind, at most.
    methods: Of `advjax.explain.METHODS`; None: all that a network allows.
    seed: Seeds all that is drawn.
    data_dir: Where the data set lies now; None: where it lay in training.

  Returns:
    The content of report.json.

  Raises:
    ValueError: for anything wrong, before anything is written.
  """
  _check(checkpoints, epsilon, num_images, num_cases, seed)
  attacks = parse_attacks([attack], norm=norm)
  (attack_name,) = attacks
  trained, dataset = load_trained(checkpoints, devices, data_dir)
  labels = choose_classes(dataset, classes)
  networks = _networks(trained)
  shape = dataset.test.images.shape[1:]
  example = jax.ShapeDtypeStruct((1, *shape), np.float32)
  found = {
    name: find_methods(network, example, methods)
    for name, network in networks.items()
  }
  settings = config_dict.create(
    checkpoint=tuple(str(e.directory.resolve()) for e in trained.values()),
    attack=attack,
    norm=norm,
    epsilon=epsilon,
    classes=tuple(labels),
    num_images=num_images,
    num_cases=num_cases,
    methods=None if methods is None else tuple(methods),
    seed=seed,
  )
  path = prepare_workdir(workdir, settings)
  bounds = next(iter(trained.values())).config.evaluation.bounds
  asked = plan(
    dataset.test,
    replace_bounds(attacks, bounds and tuple(bounds))[attack_name],
    epsilon,
    labels,
    num_images=num_images,
    num_cases=num_cases,
    seed=seed,
    devices=devices,
  )
  explained = _explain_each(networks, found, asked)
  report = _report(trained, dataset, explained, asked, attack, found, seed)
  print(write_explained(path, report, explained, dataset, labels))
  print(f'\nreport: {path / "report.html"}')
  return report


def _check(
  checkpoints: Sequence[str],
  epsilon: float,
  num_images: int,
  num_cases: int,
  seed: int,
) -> None:
  check_range('epsilon', epsilon, 0.0)
  check_range('seed', seed, 0, integer=True)
  for name, value in (('num_images', num_images), ('num_cases', num_cases)):
    check_range(name, value, 1, integer=True)
  if not checkpoints or isinstance(checkpoints, str):
    raise ValueError(
      f'checkpoint = {checkpoints!r}; allowed: a list of one or more'
    )


def _networks(trained: Mapping[str, Trained]) -> dict[str, Network]:
  return {
    name: network_of(
      each.model,
      each.params,
      each.model_state,
      f'{name} ({each.config.model.name})',
    )
    for name, each in trained.items()
  }


def _explain_each(
  networks: Mapping[str, Network], found: Mapping[str, _Found], asked: Asked
) -> dict[str, Explained]:
  explained: dict[str, Explained] = {}
  seen: list[int] = []
  for name, network in networks.items():
    logger.info('explaining %s', name)
    explained[name] = explain_network(network, found[name][0], asked, seen)
    seen += [case.position for case in explained[name].cases]
  return explained


def _report(
  trained: Mapping[str, Trained],
  dataset: data.Dataset,
  explained: Mapping[str, Explained],
  asked: Asked,
  attack: str,
  found: Mapping[str, _Found],
  seed: int,
) -> dict[str, Any]:
  """Returns the content of report.json."""
  settings = asked.attack.settings(asked.epsilon)
  name = attack_label(attack, settings)
  members = {
    member: {
      'num_params': each.num_params,
      **_accuracies(explained[member]),
      'methods': list(found[member][0]),
      'similarity': explained[member].similarity,
      'cases': [
        case.entry(f'{member}_{case.kind}_{case.row}', dataset)
        for case in explained[member].cases
      ],
    }
    for member, each in trained.items()
  }
  return {
    'dataset': {
      'name': dataset.name,
      'num_train': len(dataset.train.labels),
      'num_test': len(dataset.test.labels),
    },
    'seeds': [seed],
    'num_images': len(asked.measured),
    'classes': list(dataset.class_names),
    'class_ids': list(dataset.class_ids),
    'attack': {
      **settings,
      'epsilon': asked.epsilon,
      'norm': asked.attack.norm,
      'label': f'{name} at {short(asked.epsilon)} ({asked.attack.norm})',
    },
    'left_out': [
      f'Left out: {reason}.'
      for _, why in found.values()
      for reason in why.values()
    ],
    'members': members,
    'command': command_line(),
    'environment': environment(asked.devices),
    'config': {
      name: config_to_json(each.config) for name, each in trained.items()
    },
  }


def _accuracies(explained: Explained) -> dict[str, Any]:
  entry: dict[str, Any] = {}
  # Every image that is right after the attack counts, as in `evaluate`: also
  # one that was wrong before it.
  for field, right in (
    ('clean_accuracy', explained.right),
    ('white_box', explained.stood),
  ):
    entry[field] = float(right.mean())
    entry[f'{field}_ci'] = list(accuracy_interval(entry[field], len(right)))
  return entry


def main() -> None:
  flag = flags.FLAGS
  explain(
    flag.checkpoint,
    flag.workdir,
    cli.devices_from_flags(),
    attack=flag.attack,
    norm=flag.norm,
    epsilon=parse_number(flag.epsilon),
    classes=flag.classes,
    num_images=flag.num_images,
    num_cases=flag.num_cases,
    methods=flag.methods,
    seed=flag.seed,
    data_dir=flag.data_dir,
  )


if __name__ == '__main__':
  define_flags()
  cli.run(main, keep_compiled=True)
