"""PyTorch's side: PGD adversarial training of PreAct ResNet-18, and PGD.

It is what one would write by hand for speed on a GPU: images stay on the
device, nothing in a loop waits for it, attacks compute no gradient of weights.
It needs PyTorch and NumPy, and nothing of this project but this folder.
"""

from __future__ import annotations

import collections
import os
import time
from typing import Any

import numpy as np
import torch
from serve import serve
from torch import nn
from torch.nn import functional
from torch_pgd import pgd

Arrays = dict[str, Any]
Job = dict[str, Any]

_ATTACK = ('epsilon', 'step_size', 'random_start')
_WIDTHS = (64, 128, 256, 512)


def normalize(channels: int) -> Any:
  """BatchNorm; the batches that it has seen are not counted."""
  norm: Any = nn.BatchNorm2d(channels, eps=1e-5, momentum=0.1)
  norm.num_batches_tracked = None
  return norm


def convolve(before: int, width: int, size: int, stride: int) -> Any:
  return nn.Conv2d(before, width, size, stride, size // 2, bias=False)


class Block(nn.Module):
  """A pre-activation block, its layers by the names of the arrays."""

  def __init__(self, before: int, width: int, stride: int) -> None:
    super().__init__()
    self.norm_1 = normalize(before)
    self.conv_1 = convolve(before, width, 3, stride)
    self.norm_2 = normalize(width)
    self.conv_2 = convolve(width, width, 3, 1)
    if before != width:
      self.conv_0 = convolve(before, width, 1, stride)
    self.changes_shape = before != width

  def forward(self, images: torch.Tensor) -> torch.Tensor:
    active = functional.relu(self.norm_1(images), inplace=True)
    hidden = self.norm_2(self.conv_1(active))
    hidden = self.conv_2(functional.relu(hidden, inplace=True))
    hidden += self.conv_0(active) if self.changes_shape else images
    return hidden


class Network(nn.Module):
  """PreAct ResNet-18 for images `[B, 3, H, W]` in [0, 1]."""

  def __init__(self, num_classes: int) -> None:
    super().__init__()
    named = collections.OrderedDict
    self.stem = nn.Sequential(named(conv=convolve(3, _WIDTHS[0], 3, 1)))
    before = _WIDTHS[0]
    for index, width in enumerate(_WIDTHS):
      first = Block(before, width, 2 if index else 1)
      blocks = named(block_1=first, block_2=Block(width, width, 1))
      self.add_module(f'stage_{index + 1}', nn.Sequential(blocks))
      before = width
    self.head = nn.Linear(before, num_classes)

  def forward(self, images: torch.Tensor) -> torch.Tensor:
    hidden = self.stem((images - 0.5) / 0.25)
    for index in range(len(_WIDTHS)):
      hidden = getattr(self, f'stage_{index + 1}')(hidden)
    # As in Flax: logits are float32, from float32 means.
    with torch.autocast(hidden.device.type, enabled=False):
      return self.head(hidden.float().mean((2, 3)))


def by_flax_name(network: Network) -> dict[str, torch.Tensor]:
  """Views of all parameters and statistics in Flax's order of axes."""
  found = {}
  for name, tensor in network.state_dict().items():
    *path, leaf = name.split('.')
    kind = 'batch_stats' if leaf.startswith('running_') else 'params'
    if leaf == 'weight':
      leaf = 'scale' if tensor.ndim == 1 else 'kernel'
    if tensor.ndim > 1:
      tensor = tensor.permute(2, 3, 1, 0) if tensor.ndim == 4 else tensor.T
    found['/'.join((kind, *path, leaf.removeprefix('running_')))] = tensor
  return found


def load(network: Network, arrays: Arrays) -> None:
  """Sets everything, each from one array."""
  views = by_flax_name(network)
  wanted = {(name, tuple(view.shape)) for name, view in views.items()}
  given = {(name, array.shape) for name, array in arrays.items()}
  if wanted != given:
    raise ValueError(
      f'arrays that fit nothing: {sorted(given - wanted)}; without an array: '
      f'{sorted(wanted - given)}'
    )
  for name, view in views.items():
    view.copy_(torch.from_numpy(arrays[name]))


class Training:
  """A network, its optimizer and its images, on the device."""

  def __init__(self, job: Job, arrays: Arrays) -> None:
    self.job = job
    self.device = torch.device(job['device'])
    self.mixed = {'bfloat16': True, 'float32': False}[job['dtype']]
    self.train_mode = {'train': True, 'eval': False}[job['attack_batch_norm']]
    layouts = torch.contiguous_format, torch.channels_last
    self.layout = layouts[job['channels_last']]
    self.images = self.put(arrays.pop('train_images'))
    self.labels = self.put(arrays.pop('train_labels')).long()
    network: Any = Network(len(arrays['params/head/bias']))
    load(network, arrays)
    self.network = network.to(self.device, memory_format=self.layout)
    # It shares weights and modes with the network.
    self.call: Any = (
      torch.compile(network, dynamic=False) if job['compile'] else network
    )
    options = {n: job[n] for n in ('momentum', 'nesterov', 'weight_decay')}
    self.optimizer = torch.optim.SGD(
      network.parameters(), job['learning_rate'], fused=True, **options
    )

  def put(self, array: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(array).to(self.device)

  def to_float(self, images: torch.Tensor) -> torch.Tensor:
    """`[B, 3, H, W]` in float32 from NHWC; uint8 is scaled by 1 / 255."""
    moved = images.permute(0, 3, 1, 2)
    floats = moved.to(torch.float32, memory_format=self.layout)
    return floats.mul_(1 / 255) if images.dtype == torch.uint8 else floats

  def logits(self, images: torch.Tensor) -> torch.Tensor:
    with torch.autocast(self.device.type, torch.bfloat16, enabled=self.mixed):
      return self.call(images)

  def set_mode(self, *, train: bool, attack: bool) -> None:
    """Under attack, weights need no gradient and statistics never move."""
    self.network.train(train).requires_grad_(not attack)
    for module in self.network.modules():
      if isinstance(module, nn.BatchNorm2d):
        # Without, a batch in training mode is normalized by its own and
        # updates none; evaluation mode uses the running ones all the same.
        module.track_running_stats = not attack

  def step(self, images: torch.Tensor, labels: torch.Tensor) -> None:
    """One step of adversarial training on uint8 images."""
    self.set_mode(train=self.train_mode, attack=True)
    attacked = pgd(
      self.logits,
      self.to_float(images),
      labels,
      num_steps=self.job['attack_steps'],
      **{name: self.job[name] for name in _ATTACK},
    )
    self.set_mode(train=True, attack=False)
    self.optimizer.zero_grad(set_to_none=True)
    functional.cross_entropy(self.logits(attacked), labels).backward()
    self.optimizer.step()

  def wait(self) -> float:
    """The time when the device has nothing left to do."""
    if self.device.type == 'cuda':
      torch.cuda.synchronize()
    return time.perf_counter()


_PREPARED: dict[str, Training] = {}


def prepared(job: Job) -> Training:
  """What run_prepare left by that name, with its precision switched on."""
  training = _PREPARED[job['name']]
  tf32 = training.job['tf32']
  torch.set_float32_matmul_precision('high' if tf32 else 'highest')
  torch.backends.cudnn.allow_tf32 = tf32
  torch.backends.cudnn.benchmark = True
  return training


def run_prepare(job: Job, arrays: Arrays) -> Arrays:
  """Builds a network from weights, its optimizer, and images on the device."""
  _PREPARED[job['name']] = Training(job, arrays)
  return {}


def run_logits(job: Job, arrays: Arrays) -> Arrays:
  """Logits of images in evaluation mode."""
  self = prepared(job)
  self.set_mode(train=False, attack=True)
  with torch.no_grad():
    logits = self.logits(self.to_float(self.put(arrays['images'])))
  return {'logits': logits.cpu().numpy()}


def run_steps(job: Job, arrays: Arrays) -> Arrays:
  """Steps on random rows: seconds per step and, on GPUs, the peak of memory."""
  del arrays
  self = prepared(job)
  on_gpu = self.device.type == 'cuda'
  if on_gpu:
    torch.cuda.reset_peak_memory_stats()
  size = (self.job['batch_size'],)
  start = self.wait()
  for _ in range(job['num_steps']):
    rows = torch.randint(len(self.labels), size, device=self.device)
    self.step(self.images[rows], self.labels[rows])
  seconds = (self.wait() - start) / job['num_steps']
  peak = torch.cuda.max_memory_allocated() if on_gpu else 0
  return {'seconds': np.asarray(seconds), 'peak_bytes': np.asarray(peak)}


def run_update(job: Job, arrays: Arrays) -> Arrays:
  """One step on this batch: all parameters and statistics after it."""
  self = prepared(job)
  self.step(self.put(arrays['images']), self.put(arrays['labels']).long())
  views = by_flax_name(self.network)
  return {name: view.cpu().numpy() for name, view in views.items()}


def run_attack(job: Job, arrays: Arrays) -> Arrays:
  """PGD in evaluation mode, some times: the seconds and the last images."""
  self = prepared(job)
  images = self.to_float(self.put(arrays['images']))
  labels = self.put(arrays['labels']).long()
  self.set_mode(train=False, attack=True)
  sizes = {name: job[name] for name in ('epsilon', 'step_size', 'num_steps')}
  seconds = []
  for _ in range(job['rounds']):
    start = self.wait()
    attacked = pgd(self.logits, images, labels, **sizes)
    seconds.append(self.wait() - start)
  adversarial = attacked.permute(0, 2, 3, 1).cpu().numpy()
  return {'seconds': np.asarray(seconds), 'adversarial': adversarial}


def main() -> None:
  # Those that the program that started it left to it.
  torch.set_num_threads(len(os.sched_getaffinity(0)))
  serve(
    {
      'prepare': run_prepare,
      'logits': run_logits,
      'steps': run_steps,
      'update': run_update,
      'attack': run_attack,
    },
    f'PyTorch {torch.__version__}, CUDA {torch.version.cuda}, '
    f'cuDNN {torch.backends.cudnn.version()}',
  )


if __name__ == '__main__':
  main()
