"""Objectives: standard training, NSL's regularizations, adversarial training.

An objective is a pure function

    objective(apply, params, model_state, batch, hparams, key)
      -> (loss, (model_state, metrics))

over `batch['image']` `[B, ...]`, `batch['label']`, int `[B]` or shares of the
classes, float `[B, K]`, and, optionally, `batch['weight']` `[B]`, the share of
every example in the loss (default 1 / B each, the mean). The trainer passes
mask / count there, so that padding counts nothing and the losses of all
devices add up to the mean of the global batch. `hparams` maps names to traced
scalars, `key` holds one key per example, and `metrics` has one number per
example, `[B]`.

The factories close over the static choices; every number comes from
`hparams`, so that a sweep over them is a `vmap`.
"""

import functools
import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jax.tree_util import Partial

from advjax import norms
from advjax._arguments import check_mask
from advjax.attacks import bim, pgd
from advjax.config import check_range, choose, find, parameters_of
from advjax.data import Split, to_float
from advjax.devices import Batching, map_examples
from advjax.losses import cross_entropy, dlr, kl, margin
from advjax.types import Array, Bounds, Images, LogitsFn, LossFn

Metrics = dict[str, Array]
Objective = Callable[..., tuple[Array, tuple[Any, Metrics]]]
_Arrays = Mapping[str, Array]
# `perturb(logits_fn, batch, hparams, key) -> images`; batches have weights.
_Perturb = Callable[[LogitsFn, _Arrays, _Arrays, Array], Any]

_Function = TypeVar('_Function', bound=Callable)

# ------------------------------------------------------------ what they share


def reads(
  *required: str, **optional: float | None
) -> Callable[[_Function], _Function]:
  """Declares which hparams an objective, or those of a factory, read.

  A config is checked by it, and flags `--config.hparams.NAME` know the names.

  Args:
    *required: Names of the numbers that a run has to give.
    **optional: Names of others, with their defaults; None: it may be absent.

  Returns:
    A decorator of an objective, or of a factory, whose objectives read them.

  Example:
    >>> @reads('epsilon', beta=6.0)
    ... def robust(*, norm='linf'):
    ...   return standard()
    >>> robust.hparams['beta']
    6.0
  """

  empty = inspect.Parameter.empty
  numbers = {n: v if v is None else float(v) for n, v in optional.items()}
  hparams = {**dict.fromkeys(required, empty), **numbers}

  def declare(function: _Function) -> _Function:
    @functools.wraps(function)
    def declared(*args: Any, **options: Any) -> Any:
      found = function(*args, **options)
      if not callable(found):
        return found

      def objective(*args: Any) -> Any:
        return found(*args)

      objective.__dict__.update(hparams=hparams, __wrapped__=found)
      objective.__name__ = getattr(function, '__name__', 'objective')
      return objective

    declared.hparams = hparams  # type: ignore[attr-defined]
    return declared  # type: ignore[return-value]

  return declare


def _shares(batch: _Arrays) -> Array:
  """The share of every example in the loss, `[B]`; by default the mean's."""
  if 'weight' in batch:
    return batch['weight']
  batch_size = batch['label'].shape[0]
  return jnp.full((batch_size,), 1.0 / batch_size)


def _accuracy(logits: Array, labels: Array) -> Array:
  """1 where the prediction is the label, else 0, `[B]`.

  Of labels that are shares of the classes, `[B, K]`, the largest counts.
  """
  if labels.ndim == 2:
    labels = labels.argmax(-1)
  return (logits.argmax(-1) == labels).astype(jnp.float32)


def _attacked_logits(
  apply: Callable, params: Any, model_state: Any, batch_norm: str
) -> LogitsFn:
  """The network as attacks see it while training: statistics never move."""
  params = jax.lax.stop_gradient(params)
  train = batch_norm == 'train'
  return lambda images: apply(params, model_state, images, train=train)[0]


def _clean_metrics(logits: Array, labels: Array) -> Metrics:
  return {
    'clean_loss': cross_entropy(logits, labels),
    'clean_accuracy': _accuracy(logits, labels),
  }


def _adversarial_metrics(
  images: Images,
  adversarial: Images,
  labels: Array,
  logits: Array,
  norm: norms.Norm,
) -> Metrics:
  """The logged metrics of adversarial examples, given their logits."""
  pairs = zip(
    jax.tree.leaves(images), jax.tree.leaves(adversarial), strict=True
  )
  delta = [
    moved.astype(jnp.float32) - x.astype(jnp.float32)
    for x, moved in pairs
    if jnp.issubdtype(x.dtype, jnp.floating)
  ]
  return {
    'adversarial_loss': cross_entropy(logits, labels),
    'adversarial_accuracy': _accuracy(logits, labels),
    'perturbation_size': norm.size(delta),
  }


def _train_on(
  perturb: _Perturb, norm: str, attack_batch_norm: str, clean_metrics: bool
) -> Objective:
  """The loss of perturbed images in place of the clean ones."""
  choose('attack_batch_norm', attack_batch_norm, ('eval', 'train'))
  ball = norms.NORMS[choose('norm', norm, norms.NORMS)]

  def objective(
    apply: Callable,
    params: Any,
    model_state: Any,
    batch: _Arrays,
    hparams: _Arrays,
    key: Array,
  ) -> tuple[Array, tuple[Any, Metrics]]:
    images, labels, weight = batch['image'], batch['label'], _shares(batch)
    batch = {**batch, 'weight': weight}
    attacked = _attacked_logits(apply, params, model_state, attack_batch_norm)
    adversarial = perturb(attacked, batch, hparams, key)
    metrics = {}
    if clean_metrics:
      logits, _ = apply(params, model_state, images, train=False)
      metrics = _clean_metrics(logits, labels)
    logits, model_state = apply(params, model_state, adversarial, train=True)
    metrics |= _adversarial_metrics(images, adversarial, labels, logits, ball)
    metrics['loss'] = metrics['adversarial_loss']
    return (weight * metrics['loss']).sum(), (model_state, metrics)

  return objective


def _regularize(
  perturb: _Perturb,
  penalty: Callable[[Array, Array, Array], Array],
  factor: str,
  ball: norms.Norm,
  *,
  attack_batch_norm: str,
  adversarial_batch_stats: bool,
  names: tuple[str, ...],
) -> Objective:
  """The clean loss plus hparams[factor] * penalty of perturbed images.

  `penalty(logits, perturbed_logits, labels)` is `[B]`; `names` are those of its
  metrics, unscaled and scaled.
  """

  def objective(
    apply: Callable,
    params: Any,
    model_state: Any,
    batch: _Arrays,
    hparams: _Arrays,
    key: Array,
  ) -> tuple[Array, tuple[Any, Metrics]]:
    images, labels, weight = batch['image'], batch['label'], _shares(batch)
    batch = {**batch, 'weight': weight}
    attacked = _attacked_logits(apply, params, model_state, attack_batch_norm)
    adversarial = perturb(attacked, batch, hparams, key)
    logits, new_state = apply(params, model_state, images, train=True)
    adversarial_logits, adversarial_state = apply(
      params, new_state, adversarial, train=True
    )
    if adversarial_batch_stats:
      new_state = adversarial_state
    metrics = _clean_metrics(logits, labels) | _adversarial_metrics(
      images, adversarial, labels, adversarial_logits, ball
    )
    extra = penalty(logits, adversarial_logits, labels)
    scaled = hparams[factor] * extra
    metrics |= dict(zip(names, (extra, scaled), strict=False))
    metrics['loss'] = metrics['clean_loss'] + scaled
    return (weight * metrics['loss']).sum(), (new_state, metrics)

  return objective


# ------------------------------------- plain training and NSL's regularizations


@reads()
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
    >>> objective = jax.jit(standard(), static_argnums=0)
    >>> loss, _ = objective(apply, jnp.zeros((3, 2)), {}, batch, {}, None)
    >>> round(float(loss), 4)
    0.6931
  """

  def objective(
    apply: Callable,
    params: Any,
    model_state: Any,
    batch: _Arrays,
    hparams: _Arrays,
    key: Array,
  ) -> tuple[Array, tuple[Any, Metrics]]:
    del hparams, key  # Unused: nothing is drawn and there is no perturbation.
    labels = batch['label']
    logits, model_state = apply(params, model_state, batch['image'], train=True)
    metrics = _clean_metrics(logits, labels)
    metrics['loss'] = metrics['clean_loss']
    return (_shares(batch) * metrics['loss']).sum(), (model_state, metrics)

  return objective


def _weighted_cross_entropy(weight: Array, logits: Array, labels: Any) -> Array:
  return weight * cross_entropy(logits, labels)


@reads('multiplier', 'step_size', epsilon=None)
def adversarial_regularization(
  *,
  norm: str = 'linf',
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
    norm: NSL's adv_grad_norm: 'linf' (its 'infinity'), 'l2' or 'l1'.
    num_steps: NSL's pgd_iterations.
    random_start: NSL's random_init: start uniformly in the ball of radius
      epsilon, or step_size where there is no epsilon.
    bounds: NSL's clip_value_min and clip_value_max; either may be None, a
      number or an array. Where images are a pytree (NSL's dictionaries of
      features), bounds and mask may be trees as `advjax.bim` takes them.
    mask: NSL's feature_mask, values in [0, 1] that broadcast against an
      image and multiply the gradient before its direction is taken. What has
      mask 0 does not move; NSL moves it at a random start.
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

  def perturb(
    logits_fn: LogitsFn, batch: _Arrays, hparams: _Arrays, key: Array
  ) -> Images:
    return bim(
      logits_fn,
      batch['image'],
      batch['label'],
      hparams.get('epsilon'),
      hparams['step_size'],
      num_steps=num_steps,
      key=key if random_start else None,
      norm=ball,
      loss_fn=Partial(_weighted_cross_entropy, batch['weight']),
      bounds=bounds,
      mask=mask,
    )

  return _regularize(
    perturb,
    lambda logits, moved, labels: cross_entropy(moved, labels),
    'multiplier',
    ball,
    attack_batch_norm='train' if adversarial_batch_stats else 'eval',
    adversarial_batch_stats=adversarial_batch_stats,
    names=('adversarial_loss', 'scaled_adversarial_loss'),
  )


# Both of NSL: its approx_difference, and the least size it divides by.
_APPROX_DIFFERENCE = 1e-6
_FLOOR = 1e-6


def _kl(p: Array, q: Array) -> Array:
  # NSL's guard against log(0). Small divergences feel it, so parity needs it.
  return (p * (jnp.log(p + 1e-7) - jnp.log(q + 1e-7))).sum(-1)


def _jensen_shannon(p: Array, q: Array) -> Array:
  middle = (p + q) / 2
  return (_kl(p, middle) + _kl(q, middle)) / 2


def _cosine(reference: Array, moved: Array) -> Array:
  def unit(x: Array) -> Array:
    squares = jnp.square(x).sum(-1, keepdims=True)
    return x * jax.lax.rsqrt(jnp.maximum(squares, 1e-12))

  return 1 - (unit(reference) * unit(moved)).sum(-1)


# (outputs for the clean images, for the moved ones), `[B, K]` each -> `[B]`.
_DISTANCES: dict[str, Callable[[Array, Array], Array]] = {
  'l2': lambda reference, moved: jnp.square(reference - moved).mean(-1),
  'l1': lambda reference, moved: jnp.abs(reference - moved).mean(-1),
  'cosine': _cosine,
  'jensen_shannon': _jensen_shannon,
  'kl': _kl,
}
_OF_DISTRIBUTIONS = ('jensen_shannon', 'kl')


@reads('multiplier', 'step_size', approx_difference=None)
def virtual_adversarial_regularization(
  *,
  norm: str = 'l2',
  num_steps: int = 1,
  distance: str = 'l2',
  transform: str = 'none',
  mask: Any = None,
  adversarial_batch_stats: bool = True,
) -> Objective:
  """Virtual adversarial training (Miyato et al. 2017, arXiv 1704.03976).

  loss = mean_i CE(f(x_i), y_i) + multiplier * mean_i D(f(x_i), f(x_i + d_i))

  as NSL's virtual_adv_regularizer makes d_i, without the labels: a normal
  draw u per example, then `num_steps` times

    u <- unit(mask * gradient by r of mean_i D(f(x_i), f(x_i + r_i))
              at r = approx_difference * u)

  which is power iteration with a finite difference, and d = step_size * u.
  unit(u) is mask * u / max(|u|, 1e-6) in the norm (NSL's `normalize`: in
  'infinity' it divides by the largest entry and takes no sign). No gradient
  flows through d_i and the clean f(x_i) of the second term.

  Trap: NSL's approx_difference of 1e-6, the default here too, is below the
  rounding of float32 pixels of size 1, and the gradient so close to its zero
  is mostly below the floor of 1e-6: d_i is then noise, shorter than
  step_size. Numbers near step_size give the direction that the paper means.

  Args:
    norm: NSL's adv_grad_norm: 'linf' (its 'infinity'), 'l2' or 'l1'.
    num_steps: NSL's num_approx_steps.
    distance: D of logits a and b: 'l2', mean_k (a_k - b_k)^2; 'l1',
      mean_k |a_k - b_k|; 'cosine', 1 - cos(a, b); and of their softmax
      'kl', KL(a || b), and 'jensen_shannon'. NSL's DistanceConfig, without
      sum_over_axis for 'l2' and 'l1', along the last axis for the others. Or
      'module:function' of your own, `[B, K], [B, K] -> [B]`.
    transform: NSL's transform_fn, 'none' or 'softmax'; 'kl' and
      'jensen_shannon' take the softmax in any case.
    mask: NSL's feature_mask, values in [0, 1] that broadcast against an
      image.
    adversarial_batch_stats: Whether the pass over the perturbed images
      updates the BatchNorm statistics too; they are then made in the
      BatchNorm mode of training, else in evaluation mode.

  Returns:
    An objective that reads `multiplier`, `step_size` (NSL's adv_step_size)
    and, if given, `approx_difference`.

  Raises:
    ValueError: if norm, distance or transform is unknown or the mask is not
      in [0, 1].

  Example:
    >>> objective = virtual_adversarial_regularization(distance='kl')
  """
  ball = norms.NSL_NORMS[choose('norm', norm, norms.NSL_NORMS)]
  function = find('distance', distance, _DISTANCES)
  choose('transform', transform, ('none', 'softmax'))
  softmax = transform == 'softmax' or distance in _OF_DISTRIBUTIONS
  outputs = jax.nn.softmax if softmax else lambda logits: logits

  def distance_fn(reference: Array, moved: Array) -> Array:
    return function(outputs(reference), outputs(moved))

  if mask is not None:
    mask = np.asarray(mask, np.float32)
    check_mask(mask)

  def unit(direction: Array) -> Array:
    if mask is not None:
      lead = (1,) * (direction.ndim - mask.ndim)
      direction = direction * mask.reshape(lead + mask.shape)
    size = jnp.maximum(ball.size(direction), _FLOOR)
    return direction / norms.expand(size, direction)

  def perturb(
    logits_fn: LogitsFn, batch: _Arrays, hparams: _Arrays, key: Array
  ) -> Array:
    images, weight = batch['image'], batch['weight']
    difference = hparams.get('approx_difference', _APPROX_DIFFERENCE)
    # In the mode of the passes below: else the modes would be what differs.
    reference = logits_fn(images)

    def spread(moves: Array) -> Array:
      return (weight * distance_fn(reference, logits_fn(images + moves))).sum()

    direction = unit(_normal(key, images))
    for _ in range(num_steps):
      direction = unit(jax.grad(spread)(difference * direction))
    return images + hparams['step_size'] * direction

  return _regularize(
    perturb,
    lambda logits, moved, labels: distance_fn(
      jax.lax.stop_gradient(logits), moved
    ),
    'multiplier',
    ball,
    attack_batch_norm='train' if adversarial_batch_stats else 'eval',
    adversarial_batch_stats=adversarial_batch_stats,
    names=('virtual_adversarial_loss', 'scaled_virtual_adversarial_loss'),
  )


def _normal(keys: Array, images: Array) -> Array:
  """One draw per example, from its key alone."""
  shape, dtype = images.shape[1:], images.dtype
  return jax.vmap(lambda key: jax.random.normal(key, shape, dtype))(keys)


# --------------------------------------------------------- adversarial training

_ATTACK_LOSSES: dict[str, LossFn] = {
  'cross_entropy': cross_entropy,
  'margin': margin,
  'dlr': dlr,
}


@reads('epsilon', 'step_size')
def pgd_at(
  *,
  norm: str = 'linf',
  num_steps: int = 7,
  random_start: bool = True,
  bounds: Bounds = (0.0, 1.0),
  attack_loss: str = 'cross_entropy',
  attack_batch_norm: str = 'eval',
  clean_metrics: bool = True,
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
    attack_loss: What the attack ascends: 'cross_entropy', 'margin', 'dlr' (of
      `advjax.losses`), or 'module:function' of your own, `(logits, labels) ->
      [B]`.
    attack_batch_norm: BatchNorm mode of the attack's passes, 'eval' or
      'train'; they never move the statistics.
    clean_metrics: Whether clean loss and accuracy are measured, which takes
      a forward pass: a sixth of a step with `num_steps` 1.

  Returns:
    An objective that reads `epsilon` and `step_size`.

  Raises:
    ValueError: if norm, attack_loss or attack_batch_norm is unknown.

  Example:
    >>> objective = pgd_at(num_steps=10)
  """
  loss_fn = find('attack_loss', attack_loss, _ATTACK_LOSSES)

  def perturb(
    logits_fn: LogitsFn, batch: _Arrays, hparams: _Arrays, key: Array
  ) -> Array:
    return bim(
      logits_fn,
      batch['image'],
      batch['label'],
      hparams['epsilon'],
      hparams['step_size'],
      num_steps=num_steps,
      key=key if random_start else None,
      norm=norm,
      loss_fn=loss_fn,
      bounds=bounds,
    )

  return _train_on(perturb, norm, attack_batch_norm, clean_metrics)


@reads('epsilon', 'step_size')
def fgsm_at(
  *,
  norm: str = 'linf',
  random_start: bool = True,
  bounds: Bounds = (0.0, 1.0),
  attack_loss: str = 'cross_entropy',
  attack_batch_norm: str = 'eval',
  clean_metrics: bool = True,
) -> Objective:
  """FGSM training with a random start (Wong et al. 2020, arXiv 2001.03994).

  loss = mean_i CE(f(x_i + d_i), y_i), d_i = project(u + step_size * sign(g))

  with u uniform in the ball. It is `pgd_at` with one step; the usual step
  size is 1.25 epsilon. Without the random start, or with larger steps,
  training can overfit catastrophically: the network is then robust to FGSM
  alone.

  Args:
    norm: 'linf', 'l2' or 'l1'.
    random_start: Whether the attack starts uniformly in the ball.
    bounds: The pixel range, or None for no clip (as MATLAB's example).
    attack_loss: As for `pgd_at`.
    attack_batch_norm: As for `pgd_at`.
    clean_metrics: As for `pgd_at`.

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
    attack_loss=attack_loss,
    attack_batch_norm=attack_batch_norm,
    clean_metrics=clean_metrics,
  )


@reads('noise_size', 'step_size')
def noisy_fgsm_at(
  *,
  norm: str = 'linf',
  bounds: Bounds = (0.0, 1.0),
  attack_batch_norm: str = 'eval',
  clean_metrics: bool = True,
) -> Objective:
  """N-FGSM: FGSM training around noisy images (de Jorge et al. 2022).

  loss = mean_i CE(f(clip(z_i + step_size * sign(g))), y_i),
  z_i = clip(x_i + noise_size * u)

  with u uniform in the unit ball and g the gradient at z_i. Nothing is
  projected: the adversarial examples are up to noise_size + step_size away.
  The paper's step is epsilon, its noise 2 epsilon. It costs as much as
  `fgsm_at`, and did not overfit where that does. arXiv 2202.01181.

  Args:
    norm: 'linf', 'l2' or 'l1'.
    bounds: `(lower, upper)` of the pixels, or None for no clip.
    attack_batch_norm: As for `pgd_at`.
    clean_metrics: As for `pgd_at`.

  Returns:
    An objective that reads `noise_size` and `step_size`.

  Raises:
    ValueError: if norm or attack_batch_norm is unknown.

  Example:
    >>> objective = noisy_fgsm_at(clean_metrics=False)
  """
  ball = norms.NORMS[choose('norm', norm, norms.NORMS)]

  def perturb(
    logits_fn: LogitsFn, batch: _Arrays, hparams: _Arrays, key: Array
  ) -> Array:
    images = batch['image']
    noisy = images + hparams['noise_size'] * ball.sample(key, images)
    if bounds is not None:
      noisy = jnp.clip(noisy, *bounds)
    return bim(
      logits_fn,
      noisy,
      batch['label'],
      None,
      hparams['step_size'],
      num_steps=1,
      norm=norm,
      bounds=bounds,
    )

  return _train_on(perturb, norm, attack_batch_norm, clean_metrics)


@reads('epsilon', 'step_size', beta=6.0)
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
    An objective that reads `epsilon`, `step_size` and `beta` (default: the
    paper's 6).

  Raises:
    ValueError: if norm or attack_batch_norm is unknown.

  Example:
    >>> objective = trades(num_steps=7)
  """
  choose('attack_batch_norm', attack_batch_norm, ('eval', 'train'))
  ball = norms.NORMS[choose('norm', norm, norms.NORMS)]

  def perturb(
    logits_fn: LogitsFn, batch: _Arrays, hparams: _Arrays, key: Array
  ) -> Array:
    images = batch['image']
    return bim(
      logits_fn,
      images,
      jax.lax.stop_gradient(logits_fn(images)),
      hparams['epsilon'],
      hparams['step_size'],
      num_steps=num_steps,
      key=key,
      norm=norm,
      loss_fn=kl,
      bounds=bounds,
    )

  return _regularize(
    perturb,
    lambda logits, moved, labels: kl(moved, logits),
    'beta',
    ball,
    attack_batch_norm=attack_batch_norm,
    adversarial_batch_stats=adversarial_batch_stats,
    names=('kl',),
  )


# --------------------------------------------------------- by their names

# Each returns an objective; its parameters are the fields of
# `config.objective`.
OBJECTIVES: dict[str, Callable[..., Objective]] = {
  'standard': standard,
  'adversarial_regularization': adversarial_regularization,
  'virtual_adversarial_regularization': virtual_adversarial_regularization,
  'fgsm_at': fgsm_at,
  'noisy_fgsm_at': noisy_fgsm_at,
  'pgd_at': pgd_at,
  'trades': trades,
}
# Those that may not be 0.
_POSITIVE = ('approx_difference',)


def create_objective(config: Mapping[str, Any]) -> Objective:
  """Builds the objective that a config names, with its factory's options."""
  fields = dict(config)
  name = fields.pop('name')
  factory = find('objective.name', name, OBJECTIVES)
  for field in fields:
    choose(f'option of {name}', field, parameters_of(factory))
  if 'num_steps' in fields:
    check_range('objective.num_steps', fields['num_steps'], 1, integer=True)
  try:
    inspect.signature(factory).bind(**fields)
  except TypeError as error:
    raise ValueError(
      f'objective.name = {name!r}: {error}; allowed: a factory of objectives, '
      'whose keyword parameters are the fields'
    ) from error
  return factory(**fields)


def hparams_of(objective: str | Callable) -> dict[str, Any] | None:
  """The hparams that an objective reads, with their defaults.

  That of a required one is `inspect.Parameter.empty`, that of one that may be
  absent None. None for an objective that does not declare them.
  """
  if isinstance(objective, str):
    objective = find('objective.name', objective, OBJECTIVES)
  declared = getattr(objective, 'hparams', None)
  required = inspect.Parameter.empty
  return None if declared is None else {'learning_rate': required, **declared}


def read_hparams(
  hparams: Mapping[str, float | None], objective: str | Callable
) -> dict[str, float]:
  """Returns the numbers of a run, checked; None counts as not given.

  `objective` is its name, or an objective itself.
  """
  given = {name: value for name, value in hparams.items() if value is not None}
  reads = hparams_of(objective)
  defaults = dict.fromkeys(given) if reads is None else reads
  called = getattr(objective, '__name__', objective)
  for name, value in given.items():
    if name not in defaults:
      raise ValueError(
        f'hparams.{name} = {value!r} is not read by the objective '
        f'{called!r}; allowed: {", ".join(defaults)}'
      )
    check_range(f'hparams.{name}', value, 0.0)
    if name in _POSITIVE and value == 0:
      raise ValueError(f'hparams.{name} = {value!r}; allowed: a number > 0')
  values = {
    name: given.get(name, default) for name, default in defaults.items()
  }
  for name, number in values.items():
    if number is inspect.Parameter.empty:
      raise ValueError(
        f'hparams.{name} = None; allowed: a number, which the objective '
        f'{called!r} reads'
      )
  return {name: float(v) for name, v in values.items() if v is not None}


# --------------------------------------------------------- measured on a split


@functools.lru_cache(maxsize=32)
def make_evaluate(
  apply: Callable,
  objective: Objective,
  devices: Sequence[jax.Device],
  *,
  batch_size: int,
  matmul_precision: str = 'highest',
) -> Callable[..., dict[str, float]]:
  """Builds a function that averages an objective's metrics over a split.

  `evaluate(params, model_state, split, hparams, key) -> metrics`: the network
  in evaluation mode, at most `batch_size` images per device.
  """

  def apply_eval(
    params: Any, model_state: Any, images: Array, *, train: bool
  ) -> tuple[Array, Any]:
    del train
    with jax.default_matmul_precision(matmul_precision):
      return apply(params, model_state, images, train=False)

  def metrics_of(
    images: Array, labels: Array, weight: Array, keys: Array, *shared: Any
  ) -> Metrics:
    params, model_state, hparams = shared
    batch = {'image': to_float(images), 'label': labels, 'weight': weight}
    _, (_, metrics) = objective(
      apply_eval, params, model_state, batch, hparams, keys
    )
    return metrics

  def evaluate(
    params: Any,
    model_state: Any,
    split: Split,
    hparams: Mapping[str, float],
    key: Array,
  ) -> dict[str, float]:
    count = len(split.labels)
    size = min(batch_size, -(-count // len(devices)))
    rows = size * len(devices)
    # The objective takes the mean over the batch, of which the last is smaller.
    starts = np.arange(count) // rows * rows
    weight = 1 / np.minimum(rows, count - starts).astype(np.float32)
    metrics = map_examples(
      metrics_of,
      [split.images, split.labels, weight],
      params,
      model_state,
      hparams,
      batching=Batching(size, devices, key),
      fill=True,
    )
    return {
      name: float(values.mean(dtype=np.float64))
      for name, values in metrics.items()
    }

  return evaluate


@functools.lru_cache(maxsize=16)
def robust_accuracy_objective(num_steps: int, norm: str = 'linf') -> Objective:
  """Returns PGD accuracy (from a random start) in the form of an objective.

  The step size is 2.5 epsilon / num_steps (Madry et al. 2017, 1706.06083).
  """

  def objective(
    apply: Callable,
    params: Any,
    model_state: Any,
    batch: Mapping[str, Array],
    hparams: Mapping[str, Array],
    key: Array,
  ) -> tuple[Array, tuple[Any, Metrics]]:
    images, labels = batch['image'], batch['label']

    def logits_fn(images: Array) -> Array:
      return apply(params, model_state, images, train=False)[0]

    epsilon = hparams['epsilon']
    adversarial = pgd(
      logits_fn,
      images,
      labels,
      epsilon,
      2.5 * epsilon / num_steps,
      num_steps=num_steps,
      key=key,
      norm=norm,
    )
    # One forward pass for both: half the program to compile.
    both = logits_fn(jnp.concatenate([adversarial, images]))
    robust, clean = (
      (logits.argmax(-1) == labels).astype('float32')
      for logits in jnp.split(both, 2)
    )
    metrics = {'robust_accuracy': robust, 'clean_accuracy': clean}
    return jnp.zeros(()), (model_state, metrics)

  return objective
