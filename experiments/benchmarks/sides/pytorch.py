"""The side of PyTorch, torchattacks and foolbox.

It runs in a venv with these, and neither imports nor needs anything of this
project but `serve.py`. No test runs it, since PyTorch is not among this
project's dependencies.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from typing import Any

import foolbox
import numpy as np
import torch
import torchattacks
from serve import serve
from torch.nn import functional

Arrays = dict[str, Any]
Step = Callable[[torch.Tensor, torch.Tensor], None]

# Prepared steps and attacks, by name.
_PREPARED: dict[str, Any] = {}
_NORMS = {'linf': 'Linf', 'l2': 'L2'}


def tensors(
  arrays: Arrays, prefix: str = ''
) -> tuple[torch.Tensor, torch.Tensor]:
  images = torch.from_numpy(arrays[f'{prefix}images']).permute(0, 3, 1, 2)
  labels = torch.from_numpy(arrays[f'{prefix}labels']).long()
  return images.contiguous(), labels


def timed(run: Callable[[], Any]) -> tuple[Any, np.ndarray]:
  start = time.perf_counter()
  found = run()
  return found, np.asarray(time.perf_counter() - start)


# ------------------------------------------------------------- training steps


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
      loss = functional.cross_entropy(network(attacked), labels)
      (gradient,) = torch.autograd.grad(loss, attacked)
      moved = attacked.detach() + step_size * gradient.sign()
      attacked = images + (moved - images).clamp_(-epsilon, epsilon)
      attacked = attacked.clamp_(0, 1)
    return attacked

  return attack


def make_loss(network: Any, job: dict[str, Any]) -> Callable[..., torch.Tensor]:
  """The objective of a step."""
  cross_entropy = functional.cross_entropy

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

  _PREPARED[job['name']] = step, *tensors(arrays, 'train_')
  return {}


def run_steps(job: dict[str, Any], arrays: Arrays) -> Arrays:
  """Takes so many steps on random batches; the seconds per step."""
  del arrays
  step, images, labels = _PREPARED[job['name']]
  size = job['batch_size']

  def steps() -> None:
    order = torch.randperm(len(labels))
    for index in range(job['num_steps']):
      begin = index * size % (len(labels) - size + 1)
      rows = order[begin : begin + size]
      step(images[rows].float() / 255, labels[rows])

  return {'seconds': timed(steps)[1] / job['num_steps']}


# ------------------------------------------------- attacks on a batch of images


def by_torchattacks(network: Tutorial, job: dict[str, Any]) -> Any:
  epsilon, step_size = job['epsilon'], job['step_size']
  steps = {'alpha': step_size, 'steps': job['num_steps']}
  if job['attack'] == 'fgsm':
    return torchattacks.FGSM(network, eps=epsilon)
  if job['attack'] == 'bim':
    return torchattacks.BIM(network, eps=epsilon, **steps)
  return torchattacks.PGD(network, eps=epsilon, **steps)


def by_foolbox(network: Tutorial, job: dict[str, Any]) -> Any:
  attacks = foolbox.attacks
  steps = {'abs_stepsize': job['step_size'], 'steps': job['num_steps']}
  attack: Any
  if job['attack'] == 'fgsm':
    attack = attacks.FGSM()
  elif job['attack'] == 'bim':
    attack = attacks.LinfBasicIterativeAttack(**steps)
  else:
    attack = attacks.LinfPGD(**steps)
  model = foolbox.PyTorchModel(network, bounds=(0, 1), device='cpu')
  return lambda images, labels: attack.run(
    model, images, labels, epsilon=job['epsilon']
  )


def run_prepare_attack(job: dict[str, Any], arrays: Arrays) -> Arrays:
  """Makes an attack on a batch and returns what it finds."""
  network = Tutorial(arrays).eval()
  makers = {'torchattacks': by_torchattacks, 'foolbox': by_foolbox}
  attack = makers[job['library']](network, job)
  images, labels = tensors(arrays)

  def run() -> torch.Tensor:
    return attack(images, labels)

  _PREPARED[job['name']] = run
  return {'perturbed': run().detach().permute(0, 2, 3, 1).numpy()}


def run_attack(job: dict[str, Any], arrays: Arrays) -> Arrays:
  """Runs it; the seconds."""
  del arrays
  return {'seconds': timed(_PREPARED[job['name']])[1]}


# --------------------------------------------------- the attacks of AutoAttack


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
    hidden = torch.relu(functional.conv2d(images, self.conv1))
    hidden = functional.max_pool2d(hidden, 2)
    hidden = torch.relu(functional.conv2d(hidden, self.conv2))
    hidden = functional.max_pool2d(hidden, 2)
    hidden = torch.relu(functional.conv2d(hidden, self.conv3))
    hidden = hidden.permute(0, 2, 3, 1).flatten(1)
    return torch.relu(hidden @ self.dense1) @ self.dense2


def make_attack(network: Network, job: dict[str, Any]) -> Any:
  """One of the four attacks of the standard version.

  torchattacks' own AutoAttack takes 10 steps, its default for each attack, and
  not the 100 of the paper: so every attack is made here.
  """
  common = {
    'norm': _NORMS[job['norm']],
    'eps': job['epsilon'],
    'seed': job['seed'],
  }
  if job['attack'] == 'square':
    queries = job['num_queries']
    return torchattacks.Square(network, n_queries=queries, **common)
  common['steps'] = job['num_steps']
  if job['attack'] == 'apgd-ce':
    return torchattacks.APGD(network, loss='ce', **common)
  if job['attack'] == 'apgd-t':
    return torchattacks.APGDT(network, n_classes=10, **common)
  return torchattacks.FAB(network, multi_targeted=True, n_classes=10, **common)


def sizes(perturbation: torch.Tensor, norm: str) -> torch.Tensor:
  flat = perturbation.double().flatten(1)
  return flat.abs().amax(1) if norm == 'linf' else flat.norm(dim=1)


def run_flags(job: dict[str, Any], arrays: Arrays) -> Arrays:
  """One attack on all images: which are robust, and how long it took."""
  network = Network(arrays).eval()
  images, labels = tensors(arrays)
  attack = make_attack(network, job)
  with torch.no_grad():
    clean = network(images).argmax(1) == labels
  perturbed, seconds = timed(lambda: attack(images, labels))
  with torch.no_grad():
    correct = network(perturbed).argmax(1) == labels
  # A float32 sum of squares is off by some 1e-6: more is not inside the ball.
  size = sizes(perturbed - images, job['norm'])
  flat = perturbed.flatten(1)
  outside = size > job['epsilon'] * (1 + 1e-5)
  outside |= (flat.amin(1) < 0) | (flat.amax(1) > 1)
  return {
    'robust': (clean & (correct | outside)).numpy(),
    'clean': clean.numpy(),
    'outside': outside.numpy(),
    'seconds': seconds,
  }


def main() -> None:
  # Those that the program that started it left to it.
  torch.set_num_threads(len(os.sched_getaffinity(0)))
  serve(
    {
      'flags': run_flags,
      'prepare': run_prepare,
      'steps': run_steps,
      'prepare_attack': run_prepare_attack,
      'attack': run_attack,
    },
    f'PyTorch {torch.__version__}, torchattacks {torchattacks.__version__}, '
    f'foolbox {foolbox.__version__}',
  )


if __name__ == '__main__':
  main()
