"""The options of Neural Structured Learning, as cases to compare.

A case holds NSL's own names (`AdvNeighborConfig`, `VirtualAdvConfig`,
`DecayConfig`); `translate` is how each of them is written here. Strings in a
config that name an array of `parity.make_arrays` are replaced by it.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

MULTIPLIER = 0.2
NORMS = ('infinity', 'l2', 'l1')
# Of one step. An l2 or l1 step of NSL's 0.2 is invisible in 784 pixels.
_STEP_SIZES = {'infinity': 0.2, 'l2': 1.0, 'l1': 5.0}
# The virtual step, and the difference of power iteration: as large as an image,
# so that the rounding of small distances in float32 is not what is compared.
_LARGE = {'infinity': 3.0, 'l2': 16.0, 'l1': 300.0}
_DISTANCES = {
  'l2': ('l2', None),
  'l1': ('l1', None),
  'cosine': ('cosine', -1),
  'jensen_shannon': ('jensen_shannon_divergence', -1),
  'kl': ('kl_divergence', -1),
}


class Case(NamedTuple):
  """One set of options.

  Its kind is 'adversarial' (the wrapper's losses), 'perturb' (perturb_on_batch)
  or 'virtual' (virtual_adv_regularizer); its network is 'cnn', 'cnn_bn' or
  'cnn_features' (the cnn on two half images).
  """

  name: str
  kind: str
  network: str
  config: Mapping[str, Any]  # Fields of NSL's AdvNeighborConfig.
  weighted: bool = False  # Whether the examples have weights.
  # Of `virtual_adversarial_regularization`, beside the norm.
  virtual: Mapping[str, Any] = {}
  approx_difference: float = 1e-6

  @property
  def start(self) -> str | None:
    """The name of the array with the random start, if there is one."""
    return f'start_{self.name}' if self.config.get('random_init') else None


def adversarial_cases() -> list[Case]:
  """Returns the cases of the wrapper, and of perturb_on_batch."""
  cases = []
  for norm in NORMS:
    step = {'adv_grad_norm': norm, 'adv_step_size': _STEP_SIZES[norm]}
    # By name: NSL's wrapper silently ignores plain masks and bounds.
    mask = {'feature_mask': {'image': 'mask'}}
    box = {'clip_value_min': {'image': 0.0}, 'clip_value_max': {'image': 1.0}}
    ball = {'pgd_epsilon': 1.5 * _STEP_SIZES[norm]}
    two = {'pgd_iterations': 2}
    variants: dict[str, dict[str, Any]] = {
      'one step': {},
      'small step': {'adv_step_size': _STEP_SIZES[norm] / 4},
      'feature_mask': mask,
      'clip to [0, 1]': box,
      'clip below, per pixel': {'clip_value_min': {'image': 'lower'}},
      '2 iterations': two,
      '3 iterations, clip': {'pgd_iterations': 3, **box},
      '3 iterations, epsilon': {'pgd_iterations': 3, **ball},
      '2 iterations, epsilon, clip, mask': {**two, **mask, **ball, **box},
      'random_init, 2 iterations': {'random_init': True, **two},
      'random_init, epsilon, clip': {'random_init': True, **ball, **box},
    }
    for name, options in variants.items():
      name = f'{norm}: {name}'
      cases.append(Case(name, 'adversarial', 'cnn', {**step, **options}))
    cases += [
      Case(f'{norm}: sample weights', 'adversarial', 'cnn', step, True),
      Case(
        f'{norm}: two features, mask, clip',
        'adversarial',
        'cnn_features',
        {
          **step,
          'feature_mask': {'left': 'mask_left', 'right': None},
          'clip_value_min': {'left': 0.0, 'right': None},
          'clip_value_max': {'left': None, 'right': 1.0},
        },
      ),
      Case(f'{norm}: BatchNorm', 'adversarial', 'cnn_bn', step),
      Case(
        f'{norm}: BatchNorm, 2 iterations, clip',
        'adversarial',
        'cnn_bn',
        {**step, **two, **box},
      ),
      Case(f'{norm}: perturb_on_batch', 'perturb', 'cnn', step),
      Case(f'{norm}: perturb_on_batch, BatchNorm', 'perturb', 'cnn_bn', step),
    ]
  return cases


def virtual_cases() -> list[Case]:
  """Returns the cases of virtual_adv_regularizer."""
  cases = []
  for norm in NORMS:
    step: dict[str, Any] = {'adv_grad_norm': norm}
    step['adv_step_size'] = _LARGE[norm]
    usual = _LARGE[norm]
    variants: dict[str, tuple[dict[str, Any], dict[str, Any], float]] = {
      distance: ({'distance': distance}, {}, usual) for distance in _DISTANCES
    }
    variants |= {
      'l2 of softmax': ({'transform': 'softmax'}, {}, usual),
      'l2, 2 approx steps': ({'num_steps': 2}, {}, usual),
      'l2, feature_mask': ({}, {'feature_mask': 'mask'}, usual),
      'l2, default difference 1e-6': ({}, {}, 1e-6),
      'l2, BatchNorm': ({}, {}, usual),
    }
    for name, (virtual, options, difference) in variants.items():
      network = 'cnn_bn' if 'BatchNorm' in name else 'cnn'
      name = f'virtual, {norm}: {name}'
      case = Case(name, 'virtual', network, {**step, **options})
      case = case._replace(virtual=virtual, approx_difference=difference)
      cases.append(case)
  return cases


def decays() -> list[dict[str, Any]]:
  """Returns the decays: NSL's fields, a name, and the value that decays."""
  return [
    {
      'name': f'decay: {kind}, min_value {low}',
      'decay_type': f'{kind}_decay',
      'decay_steps': 10,
      'decay_rate': 0.9,
      'min_value': low,
      'value': 0.2,
    }
    for kind in ('exponential', 'inverse_time', 'natural_exp')
    for low in (0.0, 0.05)
  ]


def job_of(case: Case) -> dict[str, Any]:
  """Returns a case as NSL's side reads it: JSON, in NSL's names."""
  job = {
    'name': case.name,
    'kind': case.kind,
    'network': case.network,
    'config': dict(case.config),
    'weighted': case.weighted,
    'multiplier': MULTIPLIER,
    'start': case.start,
  }
  if case.kind == 'virtual':
    distance, axis = _DISTANCES[case.virtual.get('distance', 'l2')]
    softmax = axis is not None and distance != 'cosine'
    transform = 'softmax' if softmax else case.virtual.get('transform', 'none')
    job |= {
      'distance': {
        'distance_type': distance,
        'sum_over_axis': axis,
        'transform_fn': transform,
      },
      'num_approx_steps': case.virtual.get('num_steps', 1),
      'approx_difference': case.approx_difference,
    }
  return job


def translate(
  case: Case, arrays: Mapping[str, Any]
) -> tuple[dict[str, Any], dict[str, float]]:
  """Returns NSL's config in our names: options of an objective, and hparams."""

  def resolve(value: Any) -> Any:
    if isinstance(value, Mapping):
      if set(value) == {'image'}:
        return resolve(value['image'])
      return {name: resolve(item) for name, item in value.items()}
    return arrays[value] if isinstance(value, str) else value

  config = dict(case.config)
  hparams = {'multiplier': MULTIPLIER, 'step_size': config['adv_step_size']}
  options: dict[str, Any] = {'norm': config.get('adv_grad_norm', 'l2')}
  if 'feature_mask' in config:
    options['mask'] = resolve(config['feature_mask'])
  if case.kind == 'virtual':
    hparams['approx_difference'] = case.approx_difference
    name = 'virtual_adversarial_regularization'
    return {'name': name, **options, **case.virtual}, hparams
  if config.get('pgd_epsilon') is not None:
    hparams['epsilon'] = config['pgd_epsilon']
  bounds = [resolve(config.get(f'clip_value_{end}')) for end in ('min', 'max')]
  options |= {
    'name': 'adversarial_regularization',
    'num_steps': config.get('pgd_iterations', 1),
    'random_start': config.get('random_init', False),
    'bounds': tuple(bounds),
  }
  return options, hparams
