"""Attacks on a batch of images, by torchattacks and by foolbox."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import foolbox
import numpy as np
import torch
import torchattacks
from training import Tutorial

Arrays = dict[str, Any]

# What run_prepare leaves for run_attack, by name.
_PREPARED: dict[str, Callable[[], torch.Tensor]] = {}


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


def run_prepare(job: dict[str, Any], arrays: Arrays) -> Arrays:
  """Makes an attack on a batch and returns what it finds."""
  network = Tutorial(arrays).eval()
  makers = {'torchattacks': by_torchattacks, 'foolbox': by_foolbox}
  attack = makers[job['library']](network, job)
  images = torch.from_numpy(arrays['images']).permute(0, 3, 1, 2).contiguous()
  labels = torch.from_numpy(arrays['labels']).long()

  def run() -> torch.Tensor:
    return attack(images, labels)

  _PREPARED[job['name']] = run
  return {'perturbed': run().detach().permute(0, 2, 3, 1).numpy()}


def run_attack(job: dict[str, Any], arrays: Arrays) -> Arrays:
  """Runs it; the seconds."""
  del arrays
  start = time.perf_counter()
  _PREPARED[job['name']]()
  return {'seconds': np.asarray(time.perf_counter() - start)}
