"""Training steps of PyTorch, with attacks of torchattacks or written out."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
import torchattacks

Arrays = dict[str, Any]
Step = Callable[[torch.Tensor, torch.Tensor], None]

# What run_prepare leaves for run_steps: a step, images, labels, by name.
_PREPARED: dict[str, tuple[Step, torch.Tensor, torch.Tensor]] = {}


class Tutorial(torch.nn.Module):
  """The network of NSL's tutorial, with weights by the names of Flax."""

  def __init__(self, arrays: Arrays) -> None:
    super().__init__()
    nn = torch.nn
    self.Conv_0 = nn.Conv2d(1, 32, 3)
    self.Conv_1 = nn.Conv2d(32, 64, 3)
    self.Conv_2 = nn.Conv2d(64, 64, 3)
    self.Dense_0 = nn.Linear(576, 64)
    self.Dense_1 = nn.Linear(64, 10)
    with torch.no_grad():
      for name, layer in self.named_children():
        kernel = torch.from_numpy(arrays[f'{name}/kernel'])
        # Height, width, in, out to PyTorch's order.
        kernel = kernel.permute(3, 2, 0, 1) if kernel.ndim == 4 else kernel.T
        layer.weight.copy_(kernel)
        layer.bias.copy_(torch.from_numpy(arrays[f'{name}/bias']))

  def forward(self, images: torch.Tensor) -> torch.Tensor:
    functional = torch.nn.functional
    hidden = torch.relu(functional.max_pool2d(self.Conv_0(images), 2))
    hidden = torch.relu(functional.max_pool2d(self.Conv_1(hidden), 2))
    hidden = torch.relu(self.Conv_2(hidden))
    hidden = hidden.permute(0, 2, 3, 1).flatten(1)
    return self.Dense_1(torch.relu(self.Dense_0(hidden)))


def pgd(
  network: Any, job: dict[str, Any]
) -> Callable[[torch.Tensor, torch.Tensor], torch.Tensor]:
  """PGD from a random start, as one would write it out."""
  epsilon, step_size = job['epsilon'], job['step_size']

  def attack(images: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    noise = torch.empty_like(images).uniform_(-epsilon, epsilon)
    attacked = (images + noise).clamp_(0, 1)
    for _ in range(job['attack_steps']):
      attacked.requires_grad_()
      loss = torch.nn.functional.cross_entropy(network(attacked), labels)
      (gradient,) = torch.autograd.grad(loss, attacked)
      moved = attacked.detach() + step_size * gradient.sign()
      attacked = images + (moved - images).clamp_(-epsilon, epsilon)
      attacked = attacked.clamp_(0, 1)
    return attacked

  return attack


def make_loss(network: Any, job: dict[str, Any]) -> Callable[..., torch.Tensor]:
  """The objective of a step."""
  cross_entropy = torch.nn.functional.cross_entropy

  def standard(images: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    return cross_entropy(network(images), labels)

  def nsl(images: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    images = images.requires_grad_()
    clean = cross_entropy(network(images), labels)
    (gradient,) = torch.autograd.grad(clean, images, retain_graph=True)
    moved = images.detach() + job['step_size'] * gradient.sign()
    return clean + job['multiplier'] * cross_entropy(network(moved), labels)

  if job['objective'] == 'standard':
    return standard
  if job['objective'] == 'nsl':
    return nsl
  if job['attack'] == 'torchattacks':
    attack = torchattacks.PGD(
      network,
      eps=job['epsilon'],
      alpha=job['step_size'],
      steps=job['attack_steps'],
    )
  else:
    attack = pgd(network, job)
  return lambda images, labels: standard(attack(images, labels), labels)


def run_prepare(job: dict[str, Any], arrays: Arrays) -> Arrays:
  """Builds a network from weights, its optimizer, and images in memory."""
  network: Any = Tutorial(arrays).train()
  # Keras' and our epsilon.
  optimizer = torch.optim.Adam(network.parameters(), lr=1e-3, eps=1e-7)
  if job['compile']:
    network = torch.compile(network)
  loss_fn = make_loss(network, job)

  def step(images: torch.Tensor, labels: torch.Tensor) -> None:
    optimizer.zero_grad()
    loss_fn(images, labels).backward()
    optimizer.step()

  images = torch.from_numpy(arrays['train_images']).permute(0, 3, 1, 2)
  labels = torch.from_numpy(arrays['train_labels']).long()
  _PREPARED[job['name']] = step, images.contiguous(), labels
  return {}


def run_steps(job: dict[str, Any], arrays: Arrays) -> Arrays:
  """Takes so many steps on random batches; the seconds per step."""
  del arrays
  step, images, labels = _PREPARED[job['name']]
  start = time.perf_counter()
  order = torch.randperm(len(labels))
  for index in range(job['num_steps']):
    begin = index * job['batch_size'] % (len(labels) - job['batch_size'] + 1)
    rows = order[begin : begin + job['batch_size']]
    step(images[rows].float() / 255, labels[rows])
  seconds = time.perf_counter() - start
  return {'seconds': np.asarray(seconds / job['num_steps'])}
