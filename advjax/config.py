"""Configs: the common fields, those of models and seeds, and checks.

A config is inert: numbers, strings and tuples in a `ml_collections.ConfigDict`.
The loaders, models, objectives and optimizers build objects from their part of
it after all flags have been parsed.
"""

import copy
import difflib
import json
import math
from collections.abc import Iterable, Mapping
from typing import Any

from advjax._extras import ml_collections  # noqa: F401  # isort: skip
from ml_collections import config_dict


def choose(field: str, name: str, allowed: Iterable[str]) -> str:
  """Returns `name` if it is allowed, else raises a ValueError that suggests."""
  allowed = sorted(allowed)
  if name in allowed:
    return name
  close = difflib.get_close_matches(str(name), allowed, n=1, cutoff=0.4)
  hint = f' (did you mean {close[0]!r}?)' if close else ''
  names = ', '.join(repr(item) for item in allowed)
  raise ValueError(f'{field} = {name!r}; allowed: {names}{hint}')


def check_range(
  field: str,
  value: float,
  low: float,
  high: float = math.inf,
  *,
  integer: bool = False,
) -> None:
  """Raises a ValueError unless `low <= value <= high`."""
  is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
  whole = isinstance(value, int) or not integer
  if is_number and whole and low <= value <= high and math.isfinite(value):
    return
  kind = 'an integer' if integer else 'a number'
  span = f'>= {low}' if math.isinf(high) else f'from {low} to {high}'
  raise ValueError(f'{field} = {value!r}; allowed: {kind} {span}')


# What the models of a comparison have in common.
_SHARED = frozenset({'dataset', 'evaluation', 'seeds'})
# Those of a config, and the least that each may be.
_WHOLE_NUMBERS = {
  'seed': 0,
  'num_validation': 0,
  'batch_size': 1,
  'num_epochs': 1,
  'log_every_steps': 0,
  'checkpoint_every_epochs': 1,
  'monitor.every_epochs': 1,
  'monitor.num_images': 1,
  'monitor.num_steps': 1,
  'evaluation.batch_size': 1,
  'evaluation.top_k': 1,
}
# Those of jax.default_matmul_precision that all platforms have.
MATMUL_PRECISIONS = ('default', 'high', 'highest')


def default_config() -> config_dict.ConfigDict:
  """Returns the fields that every experiment has, with their defaults.

  Returns:
    A `ConfigDict`. Config files start from it and set what they change;
    `objective` and `hparams` are theirs to fill.

  Example:
    >>> default_config().batch_size
    32
  """
  config = config_dict.ConfigDict()
  config.seed = 0
  # Several seeds: every model is trained once with each, instead of `seed`.
  config.seeds = ()
  # Which of these fields a data set has: docs/datasets.md.
  config.dataset = config_dict.create(
    name='digits',
    path=config_dict.placeholder(str),
    builder=config_dict.placeholder(str),
    data_dir=config_dict.placeholder(str),
    train_split=config_dict.placeholder(str),
    test_split=config_dict.placeholder(str),
    cache_dir=config_dict.placeholder(str),
    image_size=config_dict.placeholder(int),
    test_fraction=config_dict.placeholder(float),
    classes=config_dict.placeholder(tuple),
  )
  # Images held out of the training split to choose the best checkpoint by.
  config.num_validation = 0
  config.model = config_dict.create(name='cnn')
  config.objective = config_dict.create(name='standard')
  # The traced numbers: learning_rate, and those that the objective reads.
  config.hparams = config_dict.create(learning_rate=1e-3)
  # Of training images, on the device; 0 is off: docs/augmentation.md.
  config.augmentation = config_dict.create(
    crop_padding=0,
    resized_crop=0.0,
    resized_crop_ratio=4 / 3,
    horizontal_flip=0.0,
    vertical_flip=0.0,
    brightness=0.0,
    contrast=0.0,
    saturation=0.0,
    hue=0.0,
    gaussian=0.0,
    poisson=0.0,
    salt_and_pepper=0.0,
    cutout=0,
    mixup=0.0,
    cutmix=0.0,
  )
  # How hparams.multiplier falls: see advjax.training.optimizers.create_decay.
  config.multiplier_decay = config_dict.create(
    name='constant',
    decay_steps=1000,
    decay_rate=0.96,
    min_value=0.0,
  )
  config.optimizer = config_dict.create(
    name='adam',
    b1=0.9,
    b2=0.999,
    eps=1e-8,
    momentum=0.9,
    nesterov=False,
    weight_decay=0.0,
  )
  # A schedule is a shape in [0, 1] times hparams.learning_rate.
  config.schedule = config_dict.create(
    name='constant', warmup=0.0, boundaries=(0.5, 0.75), factor=0.1
  )
  # Fine-tuning from the head backwards: see advjax.training.setup.
  config.unfreezing = config_dict.create(
    name='none', patience=2, min_improvement=0.01, rate_factor=0.5
  )
  config.batch_size = 32
  config.num_epochs = 5
  config.ema_decay = 0.0
  # A checkpoint whose params (and batch statistics) training starts from.
  config.init_from = ''
  # A log record every so many steps; 0: at the end of every epoch.
  config.log_every_steps = 0
  config.checkpoint_every_epochs = 1
  # Which checkpoint is evaluated at the end: 'last', or 'best' by robust
  # accuracy on the held-out images.
  config.report_checkpoint = 'last'
  # PGD accuracy during training: finds the best checkpoint, and collapses.
  config.monitor = config_dict.create(
    every_epochs=1, num_images=256, epsilon=0.1, num_steps=10
  )
  config.evaluation = config_dict.create(
    epsilon=0.1,
    epsilons=(0.05, 0.1, 0.15, 0.2, 0.3),
    attacks=('fgsm', 'bim-20', 'pgd-40'),
    norm='linf',
    # The pixel range that perturbed images are clipped to; None: no clip.
    bounds=(0.0, 1.0),
    # Of float32 products on accelerators: a name of
    # jax.default_matmul_precision. Training keeps JAX's default.
    matmul_precision='highest',
    batch_size=64,
    # Above 1: accuracy is also counted among the k likeliest classes.
    top_k=1,
    # What compare measures besides attacks: noise, corruptions, pasted objects.
    shifts=(),
  )
  return config


def shrink_to_smoke(config: config_dict.ConfigDict) -> config_dict.ConfigDict:
  """Shortens a config to a run of seconds, for the `:smoke` variants."""
  config.num_epochs = 1
  config.monitor.num_images = 16
  config.monitor.num_steps = 2
  config.evaluation.attacks = ('fgsm', 'bim-2', 'pgd-2')
  config.evaluation.epsilons = (0.0, config.evaluation.epsilon)
  return config


def member_names(config: Mapping[str, Any]) -> tuple[str, ...]:
  """Returns the names of the compared models.

  A string may hold several, as in the flag --config.members=one,other.
  """
  names = tuple(name for text in config['members'] for name in text.split(','))
  if len(set(names)) < len(names):
    raise ValueError(f'members = {names}; allowed: each member once')
  return names


def member_config(
  config: config_dict.ConfigDict, name: str
) -> config_dict.ConfigDict:
  """Returns the training config of one model of a comparison.

  The section of its name overrides fields, except those that all models
  share. A section with a `name` of its own (an objective, a model)
  replaces the common one; others (hparams) are merged into it.
  """
  choose('member', name, member_names(config))
  choose(
    'section for member', name, [key for key in config if key != 'members']
  )
  resolved = config.copy_and_resolve_references().to_dict()
  common = set(default_config())
  merged = {field: resolved[field] for field in resolved if field in common}
  for field in resolved[name]:
    choose(f'field of {name}', field, common - _SHARED)
  return config_dict.ConfigDict(_merge(merged, resolved[name]))


def saved_config(saved: Mapping[str, Any]) -> config_dict.ConfigDict:
  """Returns the config of a config.json; fields it lacks get their defaults."""
  return config_dict.ConfigDict(_merge(default_config().to_dict(), saved))


def _merge(
  fields: Mapping[str, Any], changes: Mapping[str, Any]
) -> dict[str, Any]:
  """Changes fields; a section with a `name` replaces the one that was there."""
  merged = dict(fields)
  for field, value in changes.items():
    merges = isinstance(value, Mapping) and 'name' not in value
    merged[field] = {**merged.get(field, {}), **value} if merges else value
  return merged


def seed_configs(
  config: config_dict.ConfigDict,
) -> dict[int, config_dict.ConfigDict]:
  """Returns a copy of the config for each of its `seeds`, or its `seed`."""
  for index, seed in enumerate(config.seeds):
    check_range(f'seeds[{index}]', seed, 0, integer=True)
  if len(set(config.seeds)) < len(config.seeds):
    raise ValueError(f'seeds = {config.seeds}; allowed: each seed once')
  configs = {}
  for seed in config.seeds or (config.seed,):
    configs[seed] = copy.deepcopy(config)
    configs[seed].seed = seed
  return configs


def check_one_network(config: Mapping[str, Any], command: str) -> None:
  """Raises a ValueError if the config is one of several networks."""
  if 'members' in config:
    raise ValueError(
      f'members = {config["members"]!r}; allowed: none with {command!r}, whose '
      "config is of one network, as configs/digits.py; 'compare' takes several"
    )


def config_to_json(config: config_dict.ConfigDict) -> dict[str, Any]:
  """Returns a config as plain JSON values, references resolved."""
  return json.loads(config.to_json())


def check_config(config: Mapping[str, Any]) -> None:
  """Checks the fields that training and evaluation share.

  Models, objectives, data and attacks check their own when they are created.
  """
  evaluation, bounds = config['evaluation'], config['evaluation']['bounds']
  for field, low in _WHOLE_NUMBERS.items():
    value: Any = config
    for name in field.split('.'):
      value = value[name]
    check_range(field, value, low, integer=True)
  check_range('ema_decay', config['ema_decay'], 0.0, 1.0)
  check_range('monitor.epsilon', config['monitor']['epsilon'], 0.0)
  check_range('evaluation.epsilon', evaluation['epsilon'], 0.0)
  if bounds is not None:
    numbers = [b for b in bounds if isinstance(b, (int, float))]
    if len(numbers) != 2 or len(bounds) != 2 or bounds[0] > 0 or bounds[1] < 1:
      raise ValueError(
        f'evaluation.bounds = {bounds!r}; allowed: two numbers, at most 0 and '
        'at least 1, since the images are in [0, 1]'
      )
  choose(
    'evaluation.matmul_precision',
    evaluation['matmul_precision'],
    MATMUL_PRECISIONS,
  )
  if not evaluation['epsilons']:
    raise ValueError('evaluation.epsilons = (); allowed: one number or more')
  for index, epsilon in enumerate(evaluation['epsilons']):
    check_range(f'evaluation.epsilons[{index}]', epsilon, 0.0)
  choose('unfreezing.name', config['unfreezing']['name'], ('none', 'plateau'))
  choose('report_checkpoint', config['report_checkpoint'], ('last', 'best'))
  if config['report_checkpoint'] == 'best' and not config['num_validation']:
    raise ValueError(
      "report_checkpoint = 'best' with num_validation = 0; allowed: 'last', or "
      'num_validation > 0, since the best checkpoint is chosen on held-out '
      'images'
    )
