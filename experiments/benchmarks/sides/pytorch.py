"""The side of PyTorch: training steps, attacks, and those of AutoAttack.

It runs in a venv with PyTorch, and neither imports nor needs anything of this
project but what is in this folder. torchattacks and foolbox are imported by the
jobs that use them. On a GPU images stay on the device, nothing in a loop waits
for it, and attacks compute no gradient of weights.
"""

from __future__ import annotations

import collections
import contextlib
import functools
import importlib.metadata
import os
import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from serve import serve, timed
from torch import nn
from torch.nn import functional

Arrays = dict[str, Any]
Job = dict[str, Any]

_NORMS = {'linf': 'Linf', 'l2': 'L2'}
_ATTACK = ('epsilon', 'step_size', 'random_start')
_WIDTHS = (64, 128, 256, 512)

# ------------------------------------------------------------------- networks


class CNN(nn.Module):
  """Three convolutions with pools between and two dense layers."""

  def __init__(self, widths: Sequence[int], *, bias: bool) -> None:
    super().__init__()
    first, second, third, hidden, num_classes = widths
    self.Conv_0 = nn.Conv2d(1, first, 3, bias=bias)
    self.Conv_1 = nn.Conv2d(first, second, 3, bias=bias)
    self.Conv_2 = nn.Conv2d(second, third, 3, bias=bias)
    self.Dense_0 = nn.Linear(9 * third, hidden, bias=bias)
    self.Dense_1 = nn.Linear(hidden, num_classes, bias=bias)

  def forward(self, images: torch.Tensor) -> torch.Tensor:
    hidden = torch.relu(functional.max_pool2d(self.Conv_0(images), 2))
    hidden = torch.relu(functional.max_pool2d(self.Conv_1(hidden), 2))
    hidden = torch.relu(self.Conv_2(hidden)).permute(0, 2, 3, 1).flatten(1)
    return self.Dense_1(torch.relu(self.Dense_0(hidden)))


def normalize(channels: int) -> Any:
  """BatchNorm, which does not count the batches that it has seen."""
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


class ResNet(nn.Module):
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


def by_flax_name(network: Any) -> dict[str, torch.Tensor]:
  """Views of all parameters and statistics in Flax's order of axes."""
  found = {}
  for name, tensor in network.state_dict().items():
    *path, leaf = name.split('.')
    if leaf == 'weight':
      leaf = 'scale' if tensor.ndim == 1 else 'kernel'
    if tensor.ndim > 1:
      tensor = tensor.permute(2, 3, 1, 0) if tensor.ndim == 4 else tensor.T
    found['/'.join((*path, leaf.removeprefix('running_')))] = tensor
  return found


def load(network: Any, arrays: Arrays) -> Any:
  """Sets everything, each from one array; returns the network."""
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
  return network


def load_cnn(arrays: Arrays) -> Any:
  """The network of NSL's tutorial, or one without biases, from its arrays."""
  widths = [arrays[n].shape[-1] for n in sorted(arrays) if 'kernel' in n]
  return load(CNN(widths, bias='Dense_1/bias' in arrays), arrays)


# --------------------------------------------------------------------- attacks


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
  """The last iterate in the linf ball, as one would write it for speed."""
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


def library_attack(network: CNN, job: Job) -> Callable[..., torch.Tensor]:
  """FGSM, BIM or PGD of foolbox or torchattacks."""
  epsilon, step_size = job['epsilon'], job['step_size']
  if job['library'] == 'foolbox':
    import foolbox
    import foolbox_attacks

    model = foolbox.PyTorchModel(network, bounds=(0, 1), device='cpu')
    attack = foolbox_attacks.make(job)
    return functools.partial(attack.run, model, epsilon=epsilon)
  import torchattacks

  if job['attack'] == 'fgsm':
    return torchattacks.FGSM(network, epsilon)
  kind = torchattacks.BIM if job['attack'] == 'bim' else torchattacks.PGD
  return kind(network, epsilon, step_size, job['num_steps'])


def standard_attack(network: CNN, job: Job) -> Callable[..., torch.Tensor]:
  """One of the four attacks of AutoAttack's standard version.

  torchattacks' own AutoAttack takes 10 steps, its default for each attack, and
  not the 100 of the paper: so every attack is made here.
  """
  import torchattacks

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


# -------------------------------------------------------------------- training


class Training:
  """A network, its optimizer and its images, on the device.

  The tutorial's network is trained with Adam by any objective, the ResNet with
  SGD by PGD.
  """

  def __init__(self, job: Job, arrays: Arrays) -> None:
    self.job = job
    self.device = torch.device(job['device'])
    layouts = torch.contiguous_format, torch.channels_last
    self.layout = layouts[job['channels_last']]
    self.images = self.put(arrays.pop('train_images'))
    self.labels = self.put(arrays.pop('train_labels')).long()
    self.is_cnn = job['network'] == 'cnn'
    network: Any = (
      load_cnn(arrays).train()
      if self.is_cnn
      else load(ResNet(len(arrays['head/bias'])), arrays)
    )
    self.network = network.to(self.device, memory_format=self.layout)
    if self.is_cnn:
      # Keras' and our epsilon.
      adam = torch.optim.Adam(network.parameters(), lr=1e-3, eps=1e-7)
      self.optimizer: torch.optim.Optimizer = adam
    else:
      options = {n: job[n] for n in ('momentum', 'nesterov', 'weight_decay')}
      self.optimizer = torch.optim.SGD(
        network.parameters(), job['learning_rate'], fused=True, **options
      )
    # It shares weights and modes with the network.
    dynamic = None if self.is_cnn else False
    self.call: Any = (
      torch.compile(network, dynamic=dynamic) if job['compile'] else network
    )

  def put(self, array: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(array).to(self.device)

  def to_float(self, images: torch.Tensor) -> torch.Tensor:
    """`[B, C, H, W]` in float32 from NHWC; uint8 is scaled by 1 / 255."""
    moved = images.permute(0, 3, 1, 2)
    floats = moved.to(torch.float32, memory_format=self.layout)
    return floats.mul_(1 / 255) if images.dtype == torch.uint8 else floats

  def logits(self, images: torch.Tensor) -> torch.Tensor:
    mixed = self.job['dtype'] == 'bfloat16'
    with torch.autocast(self.device.type, torch.bfloat16, enabled=mixed):
      return self.call(images)

  def set_mode(self, *, train: bool, attack: bool) -> None:
    """Under attack, weights need no gradient and statistics never move."""
    self.network.train(train).requires_grad_(not attack)
    for module in self.network.modules():
      if isinstance(module, nn.BatchNorm2d):
        # Without, a batch in training mode is normalized by its own and
        # updates none; evaluation mode uses the running ones all the same.
        module.track_running_stats = not attack

  def loss(self, images: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """The objective on float32 images."""
    job, cross_entropy = self.job, functional.cross_entropy
    if job['objective'] == 'nsl':
      images = images.requires_grad_()
      clean = cross_entropy(self.call(images), labels)
      (gradient,) = torch.autograd.grad(clean, images, retain_graph=True)
      moved = images.detach() + job['step_size'] * gradient.sign()
      return clean + job['multiplier'] * cross_entropy(self.call(moved), labels)
    if job['objective'] == 'pgd':
      if not self.is_cnn:
        train = job['attack_batch_norm'] == 'train'
        self.set_mode(train=train, attack=True)
      images = self.attack(images, labels)
      if not self.is_cnn:
        self.set_mode(train=True, attack=False)
    return cross_entropy(self.logits(images), labels)

  @functools.cached_property
  def attack(self) -> Callable[..., torch.Tensor]:
    """PGD of a training step."""
    job, num_steps = self.job, self.job['attack_steps']
    options = {name: job[name] for name in _ATTACK}
    if job.get('library') == 'torchattacks':
      import torchattacks

      epsilon, step_size = job['epsilon'], job['step_size']
      return torchattacks.PGD(self.call, epsilon, step_size, num_steps)
    return functools.partial(pgd, self.logits, num_steps=num_steps, **options)

  def step(self, images: torch.Tensor, labels: torch.Tensor) -> None:
    """One step of training on uint8 images."""
    self.optimizer.zero_grad(set_to_none=True)
    self.loss(self.to_float(images), labels).backward()
    self.optimizer.step()

  def wait(self) -> float:
    """The time when the device has nothing left to do."""
    if self.device.type == 'cuda':
      torch.cuda.synchronize()
    return time.perf_counter()


# ------------------------------------------------------------------------ jobs

# Prepared trainings and attacks, by name.
_PREPARED: dict[str, Any] = {}


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
  training = prepared(job)
  training.set_mode(train=False, attack=True)
  with torch.no_grad():
    images = training.to_float(training.put(arrays['images']))
    logits = training.logits(images)
  return {'logits': logits.cpu().numpy()}


def run_steps(job: Job, arrays: Arrays) -> Arrays:
  """Steps on random rows: seconds per step and, on GPUs, the peak of memory."""
  del arrays
  training = prepared(job)
  on_gpu = training.device.type == 'cuda'
  if on_gpu:
    torch.cuda.reset_peak_memory_stats()
  size = (training.job['batch_size'],)
  start = training.wait()
  for _ in range(job['num_steps']):
    rows = torch.randint(len(training.labels), size, device=training.device)
    training.step(training.images[rows], training.labels[rows])
  seconds = (training.wait() - start) / job['num_steps']
  peak = torch.cuda.max_memory_allocated() if on_gpu else 0
  return {'seconds': np.asarray(seconds), 'peak_bytes': np.asarray(peak)}


def run_update(job: Job, arrays: Arrays) -> Arrays:
  """One step on this batch: all parameters and statistics after it."""
  training = prepared(job)
  labels = training.put(arrays['labels']).long()
  training.step(training.put(arrays['images']), labels)
  views = by_flax_name(training.network)
  return {name: view.cpu().numpy() for name, view in views.items()}


def run_pgd(job: Job, arrays: Arrays) -> Arrays:
  """PGD in evaluation mode, some times: the seconds and the last images."""
  training = prepared(job)
  images = training.to_float(training.put(arrays['images']))
  labels = training.put(arrays['labels']).long()
  training.set_mode(train=False, attack=True)
  sizes = {name: job[name] for name in ('epsilon', 'step_size', 'num_steps')}
  seconds = []
  for _ in range(job['rounds']):
    start = training.wait()
    attacked = pgd(training.logits, images, labels, **sizes)
    seconds.append(training.wait() - start)
  adversarial = attacked.permute(0, 2, 3, 1).cpu().numpy()
  return {'seconds': np.asarray(seconds), 'adversarial': adversarial}


def batch(arrays: Arrays) -> tuple[torch.Tensor, torch.Tensor]:
  """Takes images `[B, C, H, W]` and labels out of the arrays."""
  images = torch.from_numpy(arrays.pop('images')).permute(0, 3, 1, 2)
  return images.contiguous(), torch.from_numpy(arrays.pop('labels')).long()


def run_prepare_attack(job: Job, arrays: Arrays) -> Arrays:
  """Makes an attack on a batch and returns what it finds."""
  images, labels = batch(arrays)
  attack = library_attack(load_cnn(arrays).eval(), job)
  run = _PREPARED[job['name']] = functools.partial(attack, images, labels)
  return {'perturbed': run().detach().permute(0, 2, 3, 1).numpy()}


def run_attack(job: Job, arrays: Arrays) -> Arrays:
  """Runs it; the seconds."""
  del arrays
  return {'seconds': timed(_PREPARED[job['name']])[1]}


def run_flags(job: Job, arrays: Arrays) -> Arrays:
  """One attack on all images: which are robust, and how long it took."""
  images, labels = batch(arrays)
  # Without gradients of its own: FAB would compute them for nothing.
  network = load_cnn(arrays).eval().requires_grad_(False)
  attack = standard_attack(network, job)
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
  tasks = {
    'prepare': run_prepare,
    'logits': run_logits,
    'steps': run_steps,
    'update': run_update,
    'pgd': run_pgd,
    'prepare_attack': run_prepare_attack,
    'attack': run_attack,
    'flags': run_flags,
  }
  versions = f'PyTorch {torch.__version__}'
  if torch.version.cuda:
    cudnn = torch.backends.cudnn.version()
    versions += f', CUDA {torch.version.cuda}, cuDNN {cudnn}'
  for package in ('torchattacks', 'foolbox'):
    with contextlib.suppress(importlib.metadata.PackageNotFoundError):
      versions += f', {package} {importlib.metadata.version(package)}'
  serve(tasks, versions)


if __name__ == '__main__':
  main()
