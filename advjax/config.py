"""Configs: the common fields, those of models and seeds, and checks.

A config is inert: numbers, strings and tuples in a `ml_collections.ConfigDict`.
The loaders, models, objectives and optimizers build objects from their part of
it after all flags have been parsed.
"""

import copy
import dataclasses
import difflib
import functools
import hashlib
import inspect
import json
import logging
import math
import pathlib
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, TypeVar

from advjax._extras import flax, ml_collections  # noqa: F401  # isort: skip
from flax.traverse_util import unflatten_dict
from ml_collections import config_dict

from advjax.callables import import_function

_T = TypeVar('_T')
logger = logging.getLogger('advjax')
_warn_once = functools.cache(logger.warning)

# Parameters of networks that are no fields.
_NO_FIELDS = ('axis_name', 'axis_index_groups', 'parent', 'name', 'rngs')


def choose(
  field: str, name: str, allowed: Iterable[str], also: str = ''
) -> str:
  """Returns `name` if it is allowed, else raises a ValueError that suggests."""
  allowed = sorted(allowed)
  if name in allowed:
    return name
  close = difflib.get_close_matches(str(name), allowed, n=1, cutoff=0.4)
  hint = f' (did you mean {close[0]!r}?)' if close else ''
  names = ', '.join(repr(item) for item in allowed)
  raise ValueError(f'{field} = {name!r}; allowed: {names}{also}{hint}')


def find(field: str, name: str, table: Mapping[str, _T]) -> _T:
  """Returns what a name stands for, or the user's own 'module:function'."""
  if isinstance(name, str) and ':' in name:
    found: _T = import_function(field, name)
    return found
  return table[choose(field, name, table, ', or module:function of your own')]


def parameters_of(function: Callable[..., Any]) -> dict[str, Any]:
  """The parameters of what a name stands for that are a config's fields."""
  call: Any = function
  if isinstance(function, type) and not dataclasses.is_dataclass(function):
    # NNX hides the signature of its classes.
    call = functools.partial(call.__init__, None)
  return {
    name: each
    for name, each in inspect.signature(call).parameters.items()
    if name not in _NO_FIELDS
    and each.kind not in (each.VAR_KEYWORD, each.VAR_POSITIONAL)
  }


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


def box_diameter(
  norm: str,
  bounds: Sequence[float] | None,
  image_shape: Sequence[int] | None = None,
) -> float | None:
  """The largest distance of images within bounds; None if it is not known."""
  if bounds is None or (image_shape is None and norm != 'linf'):
    return None
  size = math.prod(image_shape or ())
  factors = {'linf': 1.0, 'l2': math.sqrt(size), 'l1': size}
  factor = (factors | {'infinity': 1.0, 'slide': size}).get(norm)
  return None if factor is None else (bounds[1] - bounds[0]) * factor


def check_epsilon(
  field: str,
  epsilon: float | None,
  norm: str,
  bounds: Sequence[float] | None,
  image_shape: Sequence[int] | None = None,
) -> None:
  """Raises a ValueError for a radius that reaches every image within bounds.

  Where bounds are None, which clip nothing, it is a warning.
  """
  most = box_diameter(norm, bounds or (0.0, 1.0), image_shape)
  if most is None or epsilon is None or epsilon < most:
    return
  is_linf = norm in ('linf', 'infinity')
  is_unit = bounds is None or tuple(bounds) == (0, 1)
  is_pixels = is_linf and is_unit and epsilon > 1
  hint = f'; did you mean {epsilon:g}/255?' if is_pixels else ''
  text = f'{field} = {epsilon:g} ({norm}) with bounds = {bounds}'
  if bounds is not None:
    allowed = f'a number below {most:g}, the diameter of the box{hint}'
    raise ValueError(f'{text}; allowed: {allowed}')
  _warn_once(f'{text} is not below {most:g}, the diameter of [0, 1]{hint}')


# JAX's keys and NumPy's generators take 32 bits.
MAX_SEED = 2**32 - 1
# What the models of a comparison have in common.
SHARED = frozenset({'dataset', 'evaluation', 'seeds'})
# The fields that are whole numbers, and the least that each may be.
_WHOLE_NUMBERS = {
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
# Every field: its default (a type where there is none), and what it is.
FIELDS: dict[str, tuple[Any, str]] = {
  'seed': (0, 'Seed of initial weights, shuffling, augmentation and attacks.'),
  'seeds': ((), 'Every model is trained once with each, instead of seed.'),
  'dataset.name': ('digits', 'digits, npz, folder, tfds or module:function.'),
  'dataset.path': (str, 'The .npz file, or the folder or archive of images.'),
  'dataset.builder': (str, 'TensorFlow Datasets name, such as cifar10:3.0.2.'),
  'dataset.data_dir': (str, 'Folder of TFDS sets; default: $TFDS_DATA_DIR.'),
  'dataset.train_split': (str, 'TFDS split to train on; default: train.'),
  'dataset.test_split': (str, 'TFDS split to test on; default: test.'),
  'dataset.cache_dir': (str, 'Where decoded images are kept.'),
  'dataset.image_size': (int, 'Resize images of a folder to so many pixels.'),
  'dataset.test_fraction': (float, 'Share of a folder without a test split.'),
  'dataset.classes': (tuple, 'Labels to keep, in their new order.'),
  'num_validation': (
    0,
    'Training images held out to choose the checkpoint by.',
  ),
  'model.name': ('cnn', 'A network (docs/config.md) or module:function.'),
  'objective.name': ('standard', 'An objective or module:function.'),
  'hparams.learning_rate': (1e-3, 'The peak of the schedule.'),
  'augmentation.crop_padding': (0, 'Random crops of images padded so much.'),
  'augmentation.resized_crop': (0.0, 'Least area of random resized crops.'),
  'augmentation.resized_crop_ratio': (4 / 3, 'Their largest aspect ratio.'),
  'augmentation.horizontal_flip': (0.0, 'Probability.'),
  'augmentation.vertical_flip': (0.0, 'Probability.'),
  'augmentation.brightness': (0.0, 's of the factor f ~ U[1 - s, 1 + s].'),
  'augmentation.contrast': (0.0, 's of the factor f ~ U[1 - s, 1 + s].'),
  'augmentation.saturation': (0.0, 's of the factor f ~ U[1 - s, 1 + s].'),
  'augmentation.hue': (0.0, 'Largest angle; 0.5 is half a turn.'),
  'augmentation.gaussian': (0.0, 'Largest standard deviation of the noise.'),
  'augmentation.poisson': (0.0, 'Photons of a white pixel; 0: none.'),
  'augmentation.salt_and_pepper': (0.0, 'Share of the pixels.'),
  'augmentation.cutout': (0, 'Side of the grey square, in pixels.'),
  'augmentation.mixup': (0.0, 'Alpha of the beta distribution.'),
  'augmentation.cutmix': (0.0, 'Alpha of the beta distribution.'),
  'augmentation.custom': ((), 'module:function each, (key, image) -> image.'),
  'multiplier_decay.name': (
    'constant',
    'Of hparams.multiplier: constant, exponential, inverse_time, natural_exp.',
  ),
  'multiplier_decay.decay_steps': (1000, 'Steps of one decay_rate.'),
  'multiplier_decay.decay_rate': (0.96, 'The factor, or the rate.'),
  'multiplier_decay.min_value': (0.0, 'The multiplier stays above it.'),
  'optimizer.name': ('adam', 'sgd, adam or adamw.'),
  'optimizer.b1': (0.9, 'Decay of the first moment (adam, adamw).'),
  'optimizer.b2': (0.999, 'Decay of the second moment (adam, adamw).'),
  'optimizer.eps': (1e-8, 'Added to the root of the second moment.'),
  'optimizer.momentum': (0.9, 'Of sgd.'),
  'optimizer.nesterov': (False, "Nesterov's momentum, of sgd."),
  'optimizer.weight_decay': (0.0, 'An l2 penalty; decoupled in adamw.'),
  'schedule.name': ('constant', 'constant, cosine, one_cycle or piecewise.'),
  'schedule.warmup': (0.0, 'Share of the steps (cosine, one_cycle).'),
  'schedule.boundaries': ((0.5, 0.75), 'Shares of the steps (piecewise).'),
  'schedule.factor': (0.1, 'Of the rate at each boundary (piecewise).'),
  'unfreezing.name': ('none', 'none, or plateau: fine-tune from the head.'),
  'unfreezing.patience': (2, 'Epochs without improvement before a stage.'),
  'unfreezing.min_improvement': (0.01, 'Relative decrease of the loss.'),
  'unfreezing.rate_factor': (0.5, 'Learning rate of a stage to the next.'),
  'batch_size': (32, 'Images per step, over all devices.'),
  'num_epochs': (5, 'Epochs.'),
  'ema_decay': (0.0, 'Of the moving average of the parameters; 0: none.'),
  'init_from': ('', 'A run whose weights training starts from.'),
  'log_every_steps': (0, 'Steps per log record; 0: one per epoch.'),
  'checkpoint_every_epochs': (1, 'Epochs per checkpoint.'),
  'report_checkpoint': (
    'last',
    'Checkpoint to evaluate: last, or best by monitored robust accuracy.',
  ),
  'monitor.every_epochs': (1, 'Epochs per measurement of PGD accuracy.'),
  'monitor.num_images': (256, 'Held-out images, else training images.'),
  'monitor.epsilon': (
    0.1,
    'Radius, in evaluation.norm; default: evaluation.epsilon.',
  ),
  'monitor.num_steps': (10, 'Steps of PGD.'),
  'evaluation.epsilon': (0.1, 'Radius of the attacks, in pixels of [0, 1].'),
  'evaluation.epsilons': ((0.05, 0.1, 0.15, 0.2, 0.3), 'Radii of the curves.'),
  'evaluation.attacks': (
    ('fgsm', 'bim-20', 'pgd-40'),
    'NAME[-STEPS[-RESTARTS]] or module:function.',
  ),
  'evaluation.norm': ('linf', 'linf, l2 or l1.'),
  'evaluation.bounds': ((0.0, 1.0), 'Clip of the pixels; None: no clip.'),
  'evaluation.matmul_precision': (
    'highest',
    'Of float32 products on accelerators: default, high or highest.',
  ),
  'evaluation.batch_size': (64, 'Images per device.'),
  'evaluation.top_k': (1, 'Also count the label among the k likeliest.'),
  'evaluation.shifts': ((), 'noise, corruptions, pasted_objects.'),
}


def default_config() -> config_dict.ConfigDict:
  """Returns the fields that every experiment has, with their defaults.

  Returns:
    A `ConfigDict` of `FIELDS`. Config files start from it and set what they
    change; `objective`, `model` and `hparams` get the fields of what is chosen
    there. `monitor.epsilon` follows `evaluation.epsilon` until it is set.

  Example:
    >>> default_config().batch_size
    32
  """
  fields = {
    name: config_dict.placeholder(default)
    if isinstance(default, type)
    else default
    for name, (default, _) in FIELDS.items()
  }
  config = config_dict.ConfigDict(unflatten_dict(fields, sep='.'))
  # Times 1: the other way round it would be the same value.
  config.monitor.epsilon = config.evaluation.get_ref('epsilon') * 1.0
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
  if len(set(names)) < len(names) or '' in names:
    raise ValueError(f'members = {names}; allowed: names of members, each once')
  return names


def member_config(
  config: config_dict.ConfigDict, name: str
) -> config_dict.ConfigDict:
  """Returns the training config of one model of a comparison.

  The section of its name overrides fields, except those that all models
  share. An objective or a model with a `name` replaces the common one; other
  sections are merged into it.
  """
  choose('member', name, member_names(config))
  choose(
    'section for member', name, [key for key in config if key != 'members']
  )
  resolved = config.copy_and_resolve_references().to_dict()
  common = set(default_config())
  merged = {field: resolved[field] for field in resolved if field in common}
  for field in resolved[name]:
    choose(f'field of {name}', field, common - SHARED)
  return config_dict.ConfigDict(_merge(merged, resolved[name]))


def saved_config(saved: Mapping[str, Any]) -> config_dict.ConfigDict:
  """Returns the config of a config.json; fields it lacks get their defaults."""
  for field, (default, _) in FIELDS.items():
    owner: Any = saved
    *sections, last = field.split('.')
    for section in sections:
      owner = owner.get(section, {})
      if not isinstance(owner, Mapping):
        raise ValueError(f'{section} = {owner!r}; allowed: fields')
    value = owner.get(last)
    if last in owner and (value is not None or isinstance(default, str | int)):
      kind = default if isinstance(default, type) else type(default)
      kinds = {float: (float, int), tuple: (tuple, list)}.get(kind, (kind,))
      odd = isinstance(value, bool) and kind is not bool
      if odd or not isinstance(value, kinds):
        raise ValueError(f'{field} = {value!r}; allowed: {kind.__name__}')
  fields = _merge(default_config().to_dict(), _tuples(saved))
  return config_dict.ConfigDict(fields)


def _tuples(value: Any) -> Any:
  """JSON with tuples for its lists."""
  if isinstance(value, Mapping):
    return {name: _tuples(each) for name, each in value.items()}
  return tuple(map(_tuples, value)) if isinstance(value, list) else value


def _merge(
  fields: Mapping[str, Any], changes: Mapping[str, Any]
) -> dict[str, Any]:
  """Changes fields; what is chosen by another `name` has fields of its own."""
  merged = dict(fields)
  for field, value in changes.items():
    before = merged.get(field, {})
    chosen = field in ('dataset', 'model', 'objective') and 'name' in value
    replaces = chosen and value['name'] != before.get('name')
    merges = isinstance(value, Mapping) and not replaces
    merged[field] = {**before, **value} if merges else value
  return merged


def seed_configs(
  config: config_dict.ConfigDict,
) -> dict[int, config_dict.ConfigDict]:
  """Returns a copy of the config for each of its `seeds`, or its `seed`."""
  for index, seed in enumerate(config.seeds):
    check_range(f'seeds[{index}]', seed, 0, MAX_SEED, integer=True)
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


def own_sources(config: Mapping[str, Any]) -> dict[str, str]:
  """A user's own modules in a config, if imported -> SHA-256 of the files."""
  chosen = [config[name]['name'] for name in ('dataset', 'model', 'objective')]
  found = {}
  for name in (*chosen, *config['augmentation'].get('custom', ())):
    module, colon, _ = name.partition(':')
    path = getattr(sys.modules.get(module), '__file__', None)
    if colon and path:
      source = pathlib.Path(path).read_bytes()
      found[module] = hashlib.sha256(source).hexdigest()
  return found


def warn_of_changes(
  saved: Mapping[str, str], config: Mapping[str, Any], where: pathlib.Path
) -> None:
  """Warns where a user's own modules are not those that a run began with."""
  found = own_sources(config)
  names = ', '.join(n for n in saved if found.get(n, saved[n]) != saved[n])
  if names:
    logger.warning('%s: %s changed after training began', where, names)


def check_config(
  config: Mapping[str, Any], image_shape: Sequence[int] | None = None
) -> None:
  """Checks the fields that training and evaluation share.

  Models, objectives, data and attacks check their own when they are created.
  l2 and l1 radii need the shape of the images.
  """
  evaluation, bounds = config['evaluation'], config['evaluation']['bounds']
  common = default_config()
  for field in config:
    # Config files may have fields of their own, which others refer to.
    if difflib.get_close_matches(field, [*common], n=1, cutoff=0.8):
      choose('field of the config', field, common)
  for section in (
    'optimizer',
    'schedule',
    'unfreezing',
    'monitor',
    'evaluation',
  ):
    for field in config[section]:
      choose(f'field of {section}', field, common[section])
  # First, for others may follow it.
  if config['hparams'].get('epsilon') is not None:
    check_range('hparams.epsilon', config['hparams']['epsilon'], 0.0)
  check_range('seed', config['seed'], 0, MAX_SEED, integer=True)
  for field, low in _WHOLE_NUMBERS.items():
    value: Any = config
    for name in field.split('.'):
      value = value[name]
    check_range(field, value, low, integer=True)
  check_range('ema_decay', config['ema_decay'], 0.0, 1.0)
  check_range('evaluation.epsilon', evaluation['epsilon'], 0.0)
  check_range('monitor.epsilon', config['monitor']['epsilon'], 0.0)
  if bounds is not None:
    numbers = [b for b in bounds if isinstance(b, (int, float))]
    if len(numbers) != 2 or len(bounds) != 2 or bounds[0] > 0 or bounds[1] < 1:
      raise ValueError(
        f'evaluation.bounds = {bounds!r}; allowed: two numbers, at most 0 and '
        'at least 1, since the images are in [0, 1]'
      )
  objective, norm = config['objective'], evaluation['norm']
  # Of those that read it the default is linf; of a user's own it is not known.
  default = 'linf' if objective['name'].isidentifier() else ''
  clipped = objective.get('bounds', bounds) and bounds
  own, others = (objective.get('norm') or default, clipped), (norm, bounds)
  boxes = {'hparams': own, 'evaluation': others, 'monitor': others}
  for section, box in boxes.items():
    epsilon = config[section].get('epsilon')
    check_epsilon(f'{section}.epsilon', epsilon, *box, image_shape)
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
