"""The least work of a training step of the tutorial's network."""

import jax
import numpy as np

from experiments.benchmarks.floor import Work

# Places of the output that the next layer reads, inputs of one, outputs: the
# two pools read 26 x 26 and 10 x 10.
LAYERS = (
  (26 * 26, 9 * 1, 32),
  (10 * 10, 9 * 32, 64),
  (3 * 3, 9 * 64, 64),
  (1, 576, 64),
  (1, 64, 10),
)
PARAMETERS = sum((inputs + 1) * outputs for _, inputs, outputs in LAYERS)
_ADAM_ARRAYS = 7  # Parameters and two moments read and written, one gradient.


def forward_flops() -> int:
  """Operations of a forward pass for one image.

  Returns:
    Two to a multiplication and its addition.

  Example:
    >>> forward_flops()
    4814336
  """
  return sum(2 * places * ins * outs for places, ins, outs in LAYERS)


def least_work(objective: str, batch_size: int, attack_steps: int = 7) -> Work:
  """Returns what a training step cannot do without.

  With F operations in a forward pass, F1 of them in the first layer, the
  gradient of the weights takes F, that of the images F, and that of the
  weights alone leaves F1 of it out:

    standard  3 F - F1
    nsl       6 F - F1, for the clean pass gives both gradients
    pgd       2 F per attack step, and 3 F - F1

  Args:
    objective: 'standard', 'nsl' or 'pgd'.
    batch_size: Images.
    attack_steps: Of PGD.

  Returns:
    Operations and bytes.

  Example:
    >>> least_work('standard', 1).flops / forward_flops()
    2.9
  """
  forward = forward_flops()
  places, inputs, outputs = LAYERS[0]
  first = 2 * places * inputs * outputs
  passes = {
    'standard': 3 * forward - first,
    'nsl': 6 * forward - first,
    'pgd': (2 * attack_steps + 3) * forward - first,
  }
  # Forward, backward: each reads and writes every activation once.
  sweeps = {'standard': 2, 'nsl': 4, 'pgd': 2 * attack_steps + 2}
  activations = 784 + sum(places * outs for places, _, outs in LAYERS)
  moved = sweeps[objective] * 2 * activations * batch_size
  item = np.dtype(jax.numpy.float32).itemsize
  return Work(
    float(passes[objective] * batch_size),
    float(item * (moved + _ADAM_ARRAYS * PARAMETERS)),
  )
