"""The side of PyTorch, torchattacks and foolbox.

It runs in a venv with these, and neither imports nor needs anything of this
project but what is in this folder. No test runs it, since PyTorch is not among
this project's dependencies.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Callable, Sequence
from typing import Any

import foolbox
import foolbox_attacks
import numpy as np
import torch
import torchattacks
from serve import serve, timed
from torch.nn import functional
from torch_pgd import pgd

Arrays = dict[str, Any]

# Prepared steps and attacks, by name.
_PREPARED: dict[str, Any] = {}
_NORMS = {'linf': 'Linf', 'l2': 'L2'}
_TUTORIAL = ('Conv_0', 'Conv_1', 'Conv_2', 'Dense_0', 'Dense_1')
_DIGITS = ('conv1', 'conv2', 'conv3', 'dense1', 'dense2')


def tensors(
  arrays: Arrays, prefix: str = ''
) -> tuple[torch.Tensor, torch.Tensor]:
  images = torch.from_numpy(arrays[f'{prefix}images']).permute(0, 3, 1, 2)
  labels = torch.from_numpy(arrays[f'{prefix}labels']).long()
  return images.contiguous(), labels


class Network(torch.nn.Module):
  """Three convolutions with pools between and two dense layers.

  Weights are in Flax's order of axes; biases may be missing.
  """

  def __init__(
    self, kernels: Sequence[np.ndarray], biases: Sequence[np.ndarray | None]
  ) -> None:
    super().__init__()
    for index, kernel in enumerate(map(torch.from_numpy, kernels)):
      # Height, width, in, out to PyTorch's order.
      weight = kernel.permute(3, 2, 0, 1) if kernel.ndim == 4 else kernel.T
      parameter = torch.nn.Parameter(weight.clone().contiguous())
      self.register_parameter(f'weight_{index}', parameter)
    for index, bias in enumerate(biases):
      given = None if bias is None else torch.from_numpy(bias).clone()
      parameter = None if given is None else torch.nn.Parameter(given)
      self.register_parameter(f'bias_{index}', parameter)

  def forward(self, images: torch.Tensor) -> torch.Tensor:
    hidden = functional.conv2d(images, self.weight_0, self.bias_0)
    hidden = torch.relu(functional.max_pool2d(hidden, 2))
    hidden = functional.conv2d(hidden, self.weight_1, self.bias_1)
    hidden = torch.relu(functional.max_pool2d(hidden, 2))
    hidden = functional.conv2d(hidden, self.weight_2, self.bias_2)
    hidden = torch.relu(hidden).permute(0, 2, 3, 1).flatten(1)
    hidden = functional.linear(hidden, self.weight_3, self.bias_3)
    return functional.linear(torch.relu(hidden), self.weight_4, self.bias_4)


def tutorial(arrays: Arrays) -> Network:
  """The network of NSL's tutorial, with weights by the names of Flax."""
  kernels = [arrays[f'{name}/kernel'] for name in _TUTORIAL]
  return Network(kernels, [arrays[f'{name}/bias'] for name in _TUTORIAL])


# ------------------------------------------------------------- training steps


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

  if job['objective'] != 'pgd':
    return {'standard': standard, 'nsl': nsl}[job['objective']]
  epsilon, step_size = job['epsilon'], job['step_size']
  steps = job['attack_steps']
  attack = functools.partial(
    pgd, network, epsilon=epsilon, step_size=step_size, num_steps=steps
  )
  if job['attack'] == 'torchattacks':
    attack = torchattacks.PGD(network, epsilon, step_size, steps)
  return lambda images, labels: standard(attack(images, labels), labels)


def run_prepare(job: dict[str, Any], arrays: Arrays) -> Arrays:
  """Builds a network from weights, its optimizer, and images in memory."""
  network: Any = tutorial(arrays).train()
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


def by_torchattacks(network: Network, job: dict[str, Any]) -> Any:
  epsilon, step_size = job['epsilon'], job['step_size']
  if job['attack'] == 'fgsm':
    return torchattacks.FGSM(network, epsilon)
  kind = torchattacks.BIM if job['attack'] == 'bim' else torchattacks.PGD
  return kind(network, epsilon, step_size, job['num_steps'])


def by_foolbox(network: Network, job: dict[str, Any]) -> Any:
  model = foolbox.PyTorchModel(network, bounds=(0, 1), device='cpu')
  return functools.partial(
    foolbox_attacks.make(job).run, model, epsilon=job['epsilon']
  )


def run_prepare_attack(job: dict[str, Any], arrays: Arrays) -> Arrays:
  """Makes an attack on a batch and returns what it finds."""
  makers = {'torchattacks': by_torchattacks, 'foolbox': by_foolbox}
  attack = makers[job['library']](tutorial(arrays).eval(), job)
  run = functools.partial(attack, *tensors(arrays))
  _PREPARED[job['name']] = run
  return {'perturbed': run().detach().permute(0, 2, 3, 1).numpy()}


def run_attack(job: dict[str, Any], arrays: Arrays) -> Arrays:
  """Runs it; the seconds."""
  del arrays
  return {'seconds': timed(_PREPARED[job['name']])[1]}


# --------------------------------------------------- the attacks of AutoAttack


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


def run_flags(job: dict[str, Any], arrays: Arrays) -> Arrays:
  """One attack on all images: which are robust, and how long it took."""
  kernels = [arrays[f'{name}_kernel'] for name in _DIGITS]
  # Without gradients of its own: FAB would compute them for nothing.
  network = Network(kernels, [None] * len(kernels)).eval()
  network.requires_grad_(False)
  images, labels = tensors(arrays)
  attack = make_attack(network, job)
  perturbed, seconds = timed(lambda: attack(images, labels))
  clean, correct = (network(x).argmax(1) == labels for x in (images, perturbed))
  size = (perturbed - images).double().flatten(1)
  size = size.abs().amax(1) if job['norm'] == 'linf' else size.norm(dim=1)
  # A float32 sum of squares is off by some 1e-6: more is not inside the ball.
  outside = size > job['epsilon'] * (1 + 1e-5)
  flat = perturbed.flatten(1)
  outside |= (flat.amin(1) < 0) | (flat.amax(1) > 1)
  return {'robust': (clean & (correct | outside)).numpy(), 'seconds': seconds}


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
