"""Checks of a whole config, before anything is computed."""

from collections.abc import Mapping, Sequence
from typing import Any

from advjax.config import check_range, choose

# Those of jax.default_matmul_precision that all platforms know.
MATMUL_PRECISIONS = ('default', 'high', 'highest')


def _check_bounds(bounds: Sequence[float] | None) -> None:
  """Raises a ValueError unless images, in [0, 1], are within the bounds."""
  if bounds is None:
    return
  numbers = [b for b in bounds if isinstance(b, (int, float))]
  if len(numbers) != 2 or len(bounds) != 2 or bounds[0] > 0 or bounds[1] < 1:
    raise ValueError(
      f'evaluation.bounds = {bounds}; allowed: two numbers, at most 0 and at '
      'least 1, for the images are in [0, 1]'
    )


def check_config(config: Mapping[str, Any]) -> None:
  """Checks the fields that training and evaluation share, before computing.

  What only one part knows (models, objectives, data, attacks) is checked by
  that part when it is created, also before anything runs.

  Args:
    config: A training config.

  Raises:
    ValueError: naming the first bad field, its value and what is allowed.

  Example:
    >>> from advjax.config import default_config
    >>> check_config(default_config())
  """
  for field, low in (
    ('seed', 0),
    ('num_validation', 0),
    ('batch_size', 1),
    ('num_epochs', 1),
    ('log_every_steps', 0),
    ('checkpoint_every_epochs', 1),
  ):
    check_range(field, config[field], low, integer=True)
  check_range('ema_decay', config['ema_decay'], 0.0, 1.0)
  monitor, evaluation = config['monitor'], config['evaluation']
  for field in ('num_images', 'num_steps', 'every_epochs'):
    check_range(f'monitor.{field}', monitor[field], 1, integer=True)
  check_range('monitor.epsilon', monitor['epsilon'], 0.0)
  check_range(
    'evaluation.batch_size', evaluation['batch_size'], 1, integer=True
  )
  check_range('evaluation.top_k', evaluation['top_k'], 1, integer=True)
  check_range('evaluation.epsilon', evaluation['epsilon'], 0.0)
  _check_bounds(evaluation['bounds'])
  choose(
    'evaluation.matmul_precision',
    evaluation['matmul_precision'],
    MATMUL_PRECISIONS,
  )
  if not evaluation['epsilons']:
    raise ValueError('evaluation.epsilons = (); allowed: one number or more')
  for index, epsilon in enumerate(evaluation['epsilons']):
    check_range(f'evaluation.epsilons[{index}]', epsilon, 0.0)
  choose('report_checkpoint', config['report_checkpoint'], ('last', 'best'))
  if config['report_checkpoint'] == 'best' and not config['num_validation']:
    raise ValueError(
      "report_checkpoint = 'best' needs num_validation > 0: the best "
      'checkpoint is chosen on images held out of the training split'
    )
