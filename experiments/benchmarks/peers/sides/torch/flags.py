"""The four attacks of AutoAttack by torchattacks, and who stands them."""

from __future__ import annotations

import time
from typing import Any

import numpy as np
import torch
import torchattacks

Arrays = dict[str, Any]

_NORMS = {'linf': 'Linf', 'l2': 'L2'}


class Network(torch.nn.Module):
  """Three convolutions and two dense layers without biases."""

  def __init__(self, arrays: Arrays) -> None:
    super().__init__()
    for name in ('conv1', 'conv2', 'conv3', 'dense1', 'dense2'):
      kernel = torch.from_numpy(arrays[f'{name}_kernel'])
      if name.startswith('conv'):  # Height, width, in, out to PyTorch's order.
        kernel = kernel.permute(3, 2, 0, 1)
      # Without gradients of their own: FAB would compute them for nothing.
      parameter = torch.nn.Parameter(kernel.contiguous(), requires_grad=False)
      self.register_parameter(name, parameter)

  def forward(self, images: torch.Tensor) -> torch.Tensor:
    functional = torch.nn.functional
    hidden = torch.relu(functional.conv2d(images, self.conv1))
    hidden = functional.max_pool2d(hidden, 2)
    hidden = torch.relu(functional.conv2d(hidden, self.conv2))
    hidden = functional.max_pool2d(hidden, 2)
    hidden = torch.relu(functional.conv2d(hidden, self.conv3))
    hidden = hidden.permute(0, 2, 3, 1).flatten(1)
    return torch.relu(hidden @ self.dense1) @ self.dense2


def make_attack(
  network: Network,
  name: str,
  norm: str,
  epsilon: float,
  seed: int,
  num_steps: int,
  num_queries: int,
) -> Any:
  """One of the four attacks of the standard version.

  torchattacks' own AutoAttack takes 10 steps, its default for each attack, and
  not the 100 of the paper: so every attack is made here.
  """
  common = {'norm': _NORMS[norm], 'eps': epsilon, 'seed': seed}
  if name == 'apgd-ce':
    return torchattacks.APGD(network, steps=num_steps, loss='ce', **common)
  if name == 'apgd-t':
    return torchattacks.APGDT(network, steps=num_steps, n_classes=10, **common)
  if name == 'fab-t':
    return torchattacks.FAB(
      network, steps=num_steps, multi_targeted=True, n_classes=10, **common
    )
  if name == 'square':
    return torchattacks.Square(network, n_queries=num_queries, **common)
  raise ValueError(f'no such attack: {name}')


def sizes(perturbation: torch.Tensor, norm: str) -> torch.Tensor:
  flat = perturbation.double().flatten(1)
  return flat.abs().amax(1) if norm == 'linf' else flat.norm(dim=1)


def run_flags(job: dict[str, Any], arrays: Arrays) -> Arrays:
  """One attack on all images: who stands it, and how long it took."""
  network = Network(arrays).eval()
  images, labels = tensors(arrays)
  with torch.no_grad():
    right = network(images).argmax(1) == labels
  attack = make_attack(
    network,
    job['attack'],
    job['norm'],
    job['epsilon'],
    job['seed'],
    job['num_steps'],
    job['num_queries'],
  )
  start = time.perf_counter()
  perturbed = attack(images, labels)
  seconds = time.perf_counter() - start
  with torch.no_grad():
    still = network(perturbed).argmax(1) == labels
  # A float32 sum of squares is off by some 1e-6: more is not inside the ball.
  size = sizes(perturbed - images, job['norm'])
  outside = size > job['epsilon'] * (1 + 1e-5)
  outside |= (perturbed.flatten(1).amin(1) < 0) | (
    perturbed.flatten(1).amax(1) > 1
  )
  return {
    'robust': (right & (still | outside)).numpy(),
    'clean': right.numpy(),
    'outside': outside.numpy(),
    'seconds': np.asarray(seconds),
  }


def tensors(arrays: Arrays) -> tuple[torch.Tensor, torch.Tensor]:
  images = torch.from_numpy(arrays['images']).permute(0, 3, 1, 2).contiguous()
  return images, torch.from_numpy(arrays['labels']).long()
