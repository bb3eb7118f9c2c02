"""What is minimised: standard, NSL's regularization, adversarial training.

An objective is a pure function

    objective(apply, params, model_state, batch, hparams, key)
      -> (loss, (model_state, metrics))

over `batch['image']` `[B, ...]`, `batch['label']` `[B]` and, optionally,
`batch['weight']` `[B]`, the share of every example in the loss (default
1 / B each, the mean). The trainer passes mask / count there, so that padding
counts nothing and the losses of all devices add up to the mean of the global
batch. `hparams` maps names to traced scalars, `key` holds one key per
example, and `metrics` has one number per example, `[B]`.

The factories close over the static choices; every number comes from
`hparams`, so that a sweep over them is a `vmap`.
"""

import inspect
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
from jax.tree_util import Partial

from advjax import norms
from advjax.attacks import bim
from advjax.config import choose
from advjax.losses import cross_entropy, kl
from advjax.types import Array, LogitsFn

Metrics = dict[str, Array]
Objective = Callable[..., tuple[Array, tuple[Any, Metrics]]]
Bounds = tuple[float | None, float | None] | None


def _weight(batch: Mapping[str, Array]) -> Array:
  if 'weight' in batch:
    return batch['weight']
  batch_size = batch['label'].shape[0]
  return jax.numpy.full((batch_size,), 1.0 / batch_size)


def _accuracy(logits: Array, labels: Array) -> Array:
  return (logits.argmax(-1) == labels).astype('float32')


def _adversarial_metrics(
  images: Array,
  adversarial: Array,
  labels: Array,
  logits: Array,
  norm: norms.Norm,
) -> Metrics:
  delta = adversarial.astype('float32') - images.astype('float32')
  return {
    'adversarial_loss': cross_entropy(logits, labels),
    'adversarial_accuracy': _accuracy(logits, labels),
    'perturbation_size': norm.size(delta),
  }


def _attacked_logits(
  apply: Callable, params: Any, model_state: Any, batch_norm: str
) -> LogitsFn:
  """The network as attacks see it while training: statistics never move."""
  train = batch_norm == 'train'

  def logits_fn(images: Array) -> Array:
    return apply(params, model_state, images, train=train)[0]

  return logits_fn


def _weighted_cross_entropy(weight: Array, logits: Array, labels: Any) -> Array:
  return weight * cross_entropy(logits, labels)


def standard() -> Objective:
  """Plain training: minimises the cross-entropy of the clean images.

  loss = mean_i CE(f(x_i), y_i)

  Returns:
    An objective that reads no hparams.

  Example:
    >>> import jax.numpy as jnp
    >>> def apply(params, model_state, images, *, train):
    ...   return images @ params, model_state
    >>> batch = {'image': jnp.ones((4, 3)), 'label': jnp.zeros(4, int)}
    >>> loss, _ = standard()(apply, jnp.zeros((3, 2)), {}, batch, {}, None)
    >>> round(float(loss), 4)
    0.6931
  """

  def objective(
    apply: Callable,
    params: Any,
    model_state: Any,
    batch: Mapping[str, Array],
    hparams: Mapping[str, Array],
    key: Array,
  ) -> tuple[Array, tuple[Any, Metrics]]:
    del hparams, key  # Unused: nothing is drawn and there is no perturbation.
    labels = batch['label']
    logits, model_state = apply(params, model_state, batch['image'], train=True)
    loss = cross_entropy(logits, labels)
    metrics = {
      'loss': loss,
      'clean_loss': loss,
      'clean_accuracy': _accuracy(logits, labels),
    }
    return (_weight(batch) * loss).sum(), (model_state, metrics)

  return objective


def adversarial_regularization(
  *,
  norm: str = 'infinity',
  num_steps: int = 1,
  random_start: bool = False,
  bounds: Bounds = None,
  mask: Any = None,
  adversarial_batch_stats: bool = True,
) -> Objective:
  """NSL's adversarial regularization (Goodfellow et al. 2014, 1412.6572).

  loss = mean_i CE(f(x_i), y_i) + multiplier * mean_i CE(f(x_i + d_i), y_i)

  with d_i made by gradient steps of length `step_size` on the mean loss, as
  Neural Structured Learning makes it: no clip to the pixel range unless
  `bounds` says so, no projection unless `hparams` has an `epsilon` (NSL's
  pgd_epsilon), and the gradient of the batch mean, on whose scale the floor
  of the l2 direction depends. No gradient flows through d_i.

  Args:
    norm: NSL's adv_grad_norm: 'infinity', 'l2' or 'l1'.
    num_steps: NSL's pgd_iterations.
    random_start: NSL's random_init: start uniformly in the ball of radius
      epsilon, or step_size where there is no epsilon.
    bounds: NSL's clip_value_min and clip_value_max; either may be None.
    mask: NSL's feature_mask, values in [0, 1] that broadcast against an
      image and multiply the gradient before its direction is taken.
    adversarial_batch_stats: Whether the adversarial forward pass updates
      the BatchNorm statistics too, as in NSL; the adversarial images are
      made in the BatchNorm mode of training then, else in evaluation mode.

  Returns:
    An objective that reads `multiplier`, `step_size` (NSL's adv_step_size)
    and, if given, `epsilon`.

  Raises:
    ValueError: if norm is unknown.

  Example:
    >>> objective = adversarial_regularization(norm='l2')
  """
  ball = norms.NSL_NORMS[choose('norm', norm, norms.NSL_NORMS)]
  attack_batch_norm = 'train' if adversarial_batch_stats else 'eval'

  def objective(
    apply: Callable,
    params: Any,
    model_state: Any,
    batch: Mapping[str, Array],
    hparams: Mapping[str, Array],
    key: Array,
  ) -> tuple[Array, tuple[Any, Metrics]]:
    images, labels, weight = batch['image'], batch['label'], _weight(batch)
    logits, new_state = apply(params, model_state, images, train=True)
    adversarial = bim(
      _attacked_logits(apply, params, model_state, attack_batch_norm),
      images,
      labels,
      hparams.get('epsilon'),
      hparams['step_size'],
      num_steps=num_steps,
      key=key if random_start else None,
      norm=ball,
      loss_fn=Partial(_weighted_cross_entropy, weight),
      bounds=bounds,
      mask=mask,
    )
    adversarial_logits, adversarial_state = apply(
      params, new_state, adversarial, train=True
    )
    if adversarial_batch_stats:
      new_state = adversarial_state
    metrics = _adversarial_metrics(
      images, adversarial, labels, adversarial_logits, ball
    )
    scaled = hparams['multiplier'] * metrics['adversarial_loss']
    clean_loss = cross_entropy(logits, labels)
    loss = clean_loss + scaled
    metrics |= {
      'loss': loss,
      'clean_loss': clean_loss,
      'clean_accuracy': _accuracy(logits, labels),
      'scaled_adversarial_loss': scaled,
    }
    return (weight * loss).sum(), (new_state, metrics)

  return objective


def pgd_at(
  *,
  norm: str = 'linf',
  num_steps: int = 7,
  random_start: bool = True,
  bounds: Bounds = (0.0, 1.0),
  attack_batch_norm: str = 'eval',
) -> Objective:
  """PGD adversarial training (Madry et al. 2017, arXiv 1706.06083).

  loss = mean_i CE(f(x_i + d_i), y_i), d_i from `num_steps` of PGD

  The perturbed batch replaces the clean one, whose loss and accuracy are
  measured in evaluation mode for the log and not trained on.

  Args:
    norm: 'linf', 'l2' or 'l1'.
    num_steps: Steps of the attack.
    random_start: Whether it starts uniformly in the ball.
    bounds: The pixel range, or None for no clip.
    attack_batch_norm: BatchNorm mode of the attack's passes, 'eval' or
      'train'; they never move the statistics.

  Returns:
    An objective that reads `epsilon` and `step_size`.

  Raises:
    ValueError: if norm or attack_batch_norm is unknown.

  Example:
    >>> objective = pgd_at(num_steps=10)
  """
  choose('attack_batch_norm', attack_batch_norm, ('eval', 'train'))
  ball = norms.NORMS[choose('norm', norm, norms.NORMS)]

  def objective(
    apply: Callable,
    params: Any,
    model_state: Any,
    batch: Mapping[str, Array],
    hparams: Mapping[str, Array],
    key: Array,
  ) -> tuple[Array, tuple[Any, Metrics]]:
    images, labels = batch['image'], batch['label']
    adversarial = bim(
      _attacked_logits(apply, params, model_state, attack_batch_norm),
      images,
      labels,
      hparams['epsilon'],
      hparams['step_size'],
      num_steps=num_steps,
      key=key if random_start else None,
      norm=norm,
      bounds=bounds,
    )
    clean_logits, _ = apply(params, model_state, images, train=False)
    logits, model_state = apply(params, model_state, adversarial, train=True)
    metrics = _adversarial_metrics(images, adversarial, labels, logits, ball)
    loss = metrics['adversarial_loss']
    metrics |= {
      'loss': loss,
      'clean_loss': cross_entropy(clean_logits, labels),
      'clean_accuracy': _accuracy(clean_logits, labels),
    }
    return (_weight(batch) * loss).sum(), (model_state, metrics)

  return objective


def fgsm_at(
  *,
  norm: str = 'linf',
  random_start: bool = True,
  bounds: Bounds = (0.0, 1.0),
  attack_batch_norm: str = 'eval',
) -> Objective:
  """FGSM training with a random start (Wong et al. 2020, arXiv 2001.03994).

  loss = mean_i CE(f(x_i + d_i), y_i), d_i = project(u + step_size * sign(g))

  with u uniform in the ball. It is `pgd_at` with one step; the usual step
  size is 1.25 epsilon. Without the random start, or with larger steps,
  training can collapse: the network then resists FGSM and nothing else.

  Args:
    norm: 'linf', 'l2' or 'l1'.
    random_start: Whether the attack starts uniformly in the ball.
    bounds: The pixel range, or None for no clip (as MATLAB's example).
    attack_batch_norm: As for `pgd_at`.

  Returns:
    An objective that reads `epsilon` and `step_size`.

  Raises:
    ValueError: if norm or attack_batch_norm is unknown.

  Example:
    >>> objective = fgsm_at(bounds=None)
  """
  return pgd_at(
    norm=norm,
    num_steps=1,
    random_start=random_start,
    bounds=bounds,
    attack_batch_norm=attack_batch_norm,
  )


def trades(
  *,
  norm: str = 'linf',
  num_steps: int = 10,
  bounds: Bounds = (0.0, 1.0),
  attack_batch_norm: str = 'eval',
  adversarial_batch_stats: bool = False,
) -> Objective:
  """TRADES (Zhang et al. 2019, arXiv 1901.08573).

  loss = mean_i CE(f(x_i), y_i) + beta * KL(f(x_i) || f(x_i + d_i))

  with d_i maximising the KL term. The attack starts uniformly in the ball
  (the paper's code: at 0.001 times a normal draw), since the gradient of the
  KL term is zero at the clean image.

  Args:
    norm: 'linf', 'l2' or 'l1'.
    num_steps: Steps of the attack.
    bounds: The pixel range, or None for no clip.
    attack_batch_norm: As for `pgd_at`.
    adversarial_batch_stats: Whether the adversarial forward pass updates
      the BatchNorm statistics after the clean one.

  Returns:
    An objective that reads `epsilon`, `step_size` and `beta`.

  Raises:
    ValueError: if norm or attack_batch_norm is unknown.

  Example:
    >>> objective = trades(num_steps=7)
  """
  choose('attack_batch_norm', attack_batch_norm, ('eval', 'train'))
  ball = norms.NORMS[choose('norm', norm, norms.NORMS)]

  def objective(
    apply: Callable,
    params: Any,
    model_state: Any,
    batch: Mapping[str, Array],
    hparams: Mapping[str, Array],
    key: Array,
  ) -> tuple[Array, tuple[Any, Metrics]]:
    images, labels = batch['image'], batch['label']
    attacked = _attacked_logits(apply, params, model_state, attack_batch_norm)
    adversarial = bim(
      attacked,
      images,
      jax.lax.stop_gradient(attacked(images)),
      hparams['epsilon'],
      hparams['step_size'],
      num_steps=num_steps,
      key=key,
      norm=norm,
      loss_fn=kl,
      bounds=bounds,
    )
    logits, new_state = apply(params, model_state, images, train=True)
    adversarial_logits, adversarial_state = apply(
      params, new_state, adversarial, train=True
    )
    if adversarial_batch_stats:
      new_state = adversarial_state
    clean_loss = cross_entropy(logits, labels)
    divergence = kl(adversarial_logits, logits)
    loss = clean_loss + hparams['beta'] * divergence
    metrics = _adversarial_metrics(
      images, adversarial, labels, adversarial_logits, ball
    )
    metrics |= {
      'loss': loss,
      'clean_loss': clean_loss,
      'clean_accuracy': _accuracy(logits, labels),
      'kl': divergence,
    }
    return (_weight(batch) * loss).sum(), (new_state, metrics)

  return objective


class ObjectiveSpec(NamedTuple):
  """A factory, and the hparams that its objectives read."""

  factory: Callable[..., Objective]
  required: tuple[str, ...] = ()
  optional: tuple[str, ...] = ()


OBJECTIVES: dict[str, ObjectiveSpec] = {
  'standard': ObjectiveSpec(standard),
  'adversarial_regularization': ObjectiveSpec(
    adversarial_regularization, ('multiplier', 'step_size'), ('epsilon',)
  ),
  'fgsm_at': ObjectiveSpec(fgsm_at, ('epsilon', 'step_size')),
  'pgd_at': ObjectiveSpec(pgd_at, ('epsilon', 'step_size')),
  'trades': ObjectiveSpec(trades, ('epsilon', 'step_size', 'beta')),
}


def create_objective(config: Mapping[str, Any]) -> Objective:
  """Builds the objective that a config names.

  Args:
    config: A mapping with `name` and options of that objective's factory.

  Returns:
    The objective.

  Raises:
    ValueError: if the name, an option or an option's value is unknown.

  Example:
    >>> objective = create_objective({'name': 'pgd_at', 'num_steps': 10})
  """
  options = dict(config)
  name = choose('objective', options.pop('name'), OBJECTIVES)
  factory = OBJECTIVES[name].factory
  for option in options:
    choose(f'option of {name}', option, inspect.signature(factory).parameters)
  num_steps = options.get('num_steps', 1)
  if not isinstance(num_steps, int) or num_steps < 1:
    raise ValueError(
      f'objective.num_steps = {num_steps!r}; allowed: an integer >= 1'
    )
  return factory(**options)


def read_hparams(
  hparams: Mapping[str, float | None], objective_name: str
) -> dict[str, float]:
  """Checks the traced numbers of a run against what its objective reads.

  Args:
    hparams: The numbers by name; None counts as not given.
    objective_name: A key of `OBJECTIVES`.

  Returns:
    The numbers given, as floats.

  Raises:
    ValueError: if a number is missing, is not read by the objective, is
      negative or is not finite.

  Example:
    >>> read_hparams({'learning_rate': 0.1}, 'standard')
    {'learning_rate': 0.1}
  """
  choose('objective', objective_name, OBJECTIVES)
  spec = OBJECTIVES[objective_name]
  reads = ('learning_rate', *spec.required, *spec.optional)
  given = {name: value for name, value in hparams.items() if value is not None}
  for name, value in given.items():
    if name not in reads:
      raise ValueError(
        f'hparams.{name} = {value!r} is not read by the objective '
        f'{objective_name!r}, which reads {", ".join(reads)}'
      )
    if not isinstance(value, (int, float)) or not 0 <= value < float('inf'):
      raise ValueError(
        f'hparams.{name} = {value!r}; allowed: a finite number >= 0'
      )
  for name in ('learning_rate', *spec.required):
    if name not in given:
      raise ValueError(
        f'hparams.{name} is missing: the objective {objective_name!r} reads '
        f'{", ".join(reads)}'
      )
  return {name: float(value) for name, value in given.items()}
