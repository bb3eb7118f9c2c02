"""PGD in PyTorch, as one would write it by hand for speed."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch.nn import functional


def pgd(
  network: Callable[[torch.Tensor], torch.Tensor],
  images: torch.Tensor,
  labels: torch.Tensor,
  *,
  epsilon: float,
  step_size: float,
  num_steps: int,
  random_start: bool = True,
) -> torch.Tensor:
  """The last iterate in the l-infinity ball, `network` giving logits."""
  lower = (images - epsilon).clamp_(0, 1)
  upper = (images + epsilon).clamp_(0, 1)
  attacked = images.detach()
  if random_start:
    noise = torch.empty_like(images).uniform_(-epsilon, epsilon)
    attacked = noise.add_(images).clamp_(0, 1)
  for _ in range(num_steps):
    attacked.requires_grad_()
    loss = functional.cross_entropy(network(attacked), labels)
    (gradient,) = torch.autograd.grad(loss, attacked)
    # The step, the projection and the clip to pixels.
    attacked = torch.add(
      attacked.detach(), gradient.sign_(), alpha=step_size
    ).clamp_(lower, upper)
  return attacked
