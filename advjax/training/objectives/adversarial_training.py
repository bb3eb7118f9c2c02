"""Adversarial training: the perturbed batch in place of the clean one."""

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp

from advjax import norms
from advjax.attacks import bim
from advjax.config import choose
from advjax.losses import cross_entropy, kl
from advjax.training.objectives.common import (
  Metrics,
  Objective,
  accuracy,
  adversarial_metrics,
  attacked_logits,
  shares,
)
from advjax.types import Array, Bounds, LogitsFn


def pgd_at(
  *,
  norm: str = 'linf',
  num_steps: int = 7,
  random_start: bool = True,
  bounds: Bounds = (0.0, 1.0),
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
    attack_batch_norm: BatchNorm mode of the attack's passes, 'eval' or
      'train'; they never move the statistics.
    clean_metrics: Whether clean loss and accuracy are measured, which takes
      a forward pass: a sixth of a step with `num_steps` 1.

  Returns:
    An objective that reads `epsilon` and `step_size`.

  Raises:
    ValueError: if norm or attack_batch_norm is unknown.

  Example:
    >>> objective = pgd_at(num_steps=10)
  """

  def perturb(
    logits_fn: LogitsFn,
    images: Array,
    labels: Array,
    hparams: Mapping[str, Array],
    key: Array,
  ) -> Array:
    return bim(
      logits_fn,
      images,
      labels,
      hparams['epsilon'],
      hparams['step_size'],
      num_steps=num_steps,
      key=key if random_start else None,
      norm=norm,
      bounds=bounds,
    )

  return _train_on(perturb, norm, attack_batch_norm, clean_metrics)


def fgsm_at(
  *,
  norm: str = 'linf',
  random_start: bool = True,
  bounds: Bounds = (0.0, 1.0),
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
    attack_batch_norm=attack_batch_norm,
    clean_metrics=clean_metrics,
  )


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
    logits_fn: LogitsFn,
    images: Array,
    labels: Array,
    hparams: Mapping[str, Array],
    key: Array,
  ) -> Array:
    noisy = images + hparams['noise_size'] * ball.sample(key, images)
    if bounds is not None:
      noisy = jnp.clip(noisy, *bounds)
    return bim(
      logits_fn,
      noisy,
      labels,
      None,
      hparams['step_size'],
      num_steps=1,
      norm=norm,
      bounds=bounds,
    )

  return _train_on(perturb, norm, attack_batch_norm, clean_metrics)


def _train_on(
  perturb: Callable[..., Array],
  norm: str,
  attack_batch_norm: str,
  clean_metrics: bool,
) -> Objective:
  """The loss of perturbed images: `perturb(logits_fn, x, y, hparams, key)`."""
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
    attacked = attacked_logits(apply, params, model_state, attack_batch_norm)
    adversarial = perturb(attacked, images, labels, hparams, key)
    clean: Metrics = {}
    if clean_metrics:
      clean_logits, _ = apply(params, model_state, images, train=False)
      clean = {
        'clean_loss': cross_entropy(clean_logits, labels),
        'clean_accuracy': accuracy(clean_logits, labels),
      }
    logits, model_state = apply(params, model_state, adversarial, train=True)
    metrics = adversarial_metrics(images, adversarial, labels, logits, ball)
    loss = metrics['adversarial_loss']
    metrics |= {'loss': loss, **clean}
    return (shares(batch) * loss).sum(), (model_state, metrics)

  return objective


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
    attacked = attacked_logits(apply, params, model_state, attack_batch_norm)
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
    metrics = adversarial_metrics(
      images, adversarial, labels, adversarial_logits, ball
    )
    metrics |= {
      'loss': loss,
      'clean_loss': clean_loss,
      'clean_accuracy': accuracy(logits, labels),
      'kl': divergence,
    }
    return (shares(batch) * loss).sum(), (new_state, metrics)

  return objective
