"""Show FGSM on logistic regression, where it is exact: weights, signs, 3 and 7.

Trains the members of a config as `compare` does, then looks at their weights:
`figures/goodfellow.png`, a table, and `goodfellow` in report.json (Goodfellow
et al. 2014, arXiv 1412.6572, section 5 and figure 2).

  ./launch.sh goodfellow --config=configs/goodfellow.py:digits \\
    --workdir=runs/goodfellow_digits
"""

import pathlib
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from absl import flags
from ml_collections import config_dict

import advjax
from advjax import cli, data
from advjax.config import member_config
from advjax.evaluation.robustness import predict
from advjax.reporting import gallery
from advjax.reporting.linear import LinearMember, linear_figure
from advjax.reporting.values import accuracy_interval, percent, short
from advjax.training.checkpoint import load_params
from advjax.training.setup import create_training, eval_logits_fn
from advjax.training.state import evaluation_params
from advjax.training.workdir import write_json
from advjax.types import Array, LogitsFn
from experiments.compare import compare


class LinearFunction(NamedTuple):
  """`w . x + b`: the first class's logit less the second's.

  Attributes:
    weights: w, float32 `[H, W, C]`.
    bias: b.
  """

  weights: np.ndarray
  bias: float


def linear_function(
  logits_fn: LogitsFn, shape: Sequence[int]
) -> LinearFunction:
  """Reads weights and bias off a linear network, whatever its parameters.

  Args:
    logits_fn: Images `[B, H, W, C]` to logits `[B, 2]`, linear.
    shape: Of an image.

  Returns:
    The function.

  Example:
    >>> logits_fn = lambda x: jnp.stack([2 * x[:, 0], x[:, 0] + 0.5], -1)
    >>> linear_function(logits_fn, (1,))
    LinearFunction(weights=array([1.], dtype=float32), bias=-0.5)
  """

  def difference(image: Array) -> Array:
    first, second = logits_fn(image[None])[0]
    return first - second

  bias, weights = jax.value_and_grad(difference)(jnp.zeros(shape))
  return LinearFunction(np.asarray(weights), float(bias))


def closed_form(
  weights: np.ndarray, images: np.ndarray, labels: np.ndarray, epsilon: float
) -> np.ndarray:
  """The worst perturbation of a linear network, without any gradient.

  x - epsilon * y * sign(w), with y = +1 for label 0, which w speaks for, and
  y = -1 for label 1

  Goodfellow et al. 2014, arXiv 1412.6572, section 5.

  Args:
    weights: `[H, W, C]`, of the first class's logit less the second's.
    images: `[N, H, W, C]`.
    labels: 0 or 1, `[N]`.
    epsilon: Size of the perturbation.

  Returns:
    The perturbed images, not clipped, in the dtype of the images.

  Example:
    >>> closed_form(np.array([3.0, -4.0]), np.zeros((1, 2)), np.array([0]), 0.5)
    array([[-0.5,  0.5]])
  """
  y = (1 - 2 * labels).astype(images.dtype)
  y = y.reshape(-1, *[1] * weights.ndim)
  delta = -epsilon * y * np.sign(weights).astype(images.dtype)
  return images + delta.astype(images.dtype)


class Measured(NamedTuple):
  """A linear network, and FGSM on it beside the closed form.

  Attributes:
    function: The network.
    perturbed: By FGSM, not clipped, `[N, H, W, C]`.
    predictions: For the clean images, int `[N]`.
    perturbed_predictions: For the perturbed ones, int `[N]`.
    entry: Its part of report.json.
  """

  function: LinearFunction
  perturbed: np.ndarray
  predictions: np.ndarray
  perturbed_predictions: np.ndarray
  entry: dict[str, Any]


def measure(
  logits_fn: LogitsFn,
  images: np.ndarray,
  labels: np.ndarray,
  epsilon: float,
  devices: Sequence[jax.Device],
) -> Measured:
  """Attacks a linear network by FGSM, and compares with the closed form.

  Where a network is so sure of an image that the gradient of its loss is 0 in
  float32, FGSM does not move a pixel that has a weight. Such images are
  counted, and left out of the difference between the two.

  Args:
    logits_fn: Images `[B, H, W, C]` to logits `[B, 2]`, linear.
    images: float32 `[N, H, W, C]` in [0, 1].
    labels: 0 or 1, `[N]`.
    epsilon: Size of the perturbation.
    devices: The devices.

  Returns:
    Predictions and numbers.
  """
  function = linear_function(logits_fn, images.shape[1:])
  weights = function.weights
  free = np.asarray(
    advjax.fgsm(logits_fn, images, labels, epsilon, bounds=None)
  )
  boxed = np.asarray(advjax.fgsm(logits_fn, images, labels, epsilon))
  exact = closed_form(weights, images, labels, epsilon)
  axes = tuple(range(1, images.ndim))
  still = ((free == images) & (weights != 0)).any(axes)
  differences = np.abs(free - exact)[~still]
  size = float(np.abs(weights.astype(np.float64)).sum())
  entry: dict[str, Any] = {
    'weights_l1': size,
    'weights_max': float(np.abs(weights).max()),
    'num_zero_weights': int((weights == 0).sum()),
    'bias': function.bias,
    # By so much FGSM moves w . x + b towards the wrong class.
    'shift': epsilon * size,
  }
  answers = {}
  for name, shown in (
    ('clean', images),
    ('fgsm', free),
    ('fgsm_in_box', boxed),
    ('closed_form', exact),
  ):
    answers[name] = predict(logits_fn, shown, devices=devices)
    error = float(np.mean(answers[name] != labels))
    entry[f'{name}_error'] = error
    entry[f'{name}_error_ci'] = list(accuracy_interval(error, len(labels)))
  entry |= {
    'largest_difference': float(differences.max(initial=0.0)),
    'num_compared': int((~still).sum()),
    'num_vanished': int(still.sum()),
  }
  return Measured(function, free, answers['clean'], answers['fgsm'], entry)


def format_table(entries: Mapping[str, Mapping[str, Any]]) -> str:
  """Writes the numbers of all members for the terminal.

  Args:
    entries: Member -> `Measured.entry`.

  Returns:
    A table and, below it, how far FGSM is from the closed form.
  """
  rows = [('', 'clean', 'FGSM', 'in [0, 1]', '|w|_1', 'epsilon |w|_1')]
  lines = []
  for name, entry in entries.items():
    rows.append(
      (
        name,
        percent(entry['clean_error']),
        percent(entry['fgsm_error']),
        percent(entry['fgsm_in_box_error']),
        f'{entry["weights_l1"]:.1f}',
        f'{entry["shift"]:.1f}',
      )
    )
    lines.append(
      f'{name}: largest difference between fgsm and the closed form: '
      f'{entry["largest_difference"]:.2g} ({entry["num_compared"]:,} images; '
      f'the gradient vanishes on {entry["num_vanished"]:,} others)'
    )
  widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
  table = [
    '  '.join(
      [row[0].ljust(widths[0])]
      + [
        cell.rjust(width)
        for cell, width in zip(row[1:], widths[1:], strict=True)
      ]
    )
    for row in rows
  ]
  return '\n'.join([*table, *lines])


def check(config: config_dict.ConfigDict) -> data.Dataset:
  """Loads the data, if they and the networks suit the demonstration.

  Args:
    config: A config with `members`.

  Returns:
    The data set.

  Raises:
    ValueError: if a network is not linear, or the data have other than two
      classes or one channel; naming the field.
  """
  for name in config.get('members') or ():
    network = member_config(config, name).model.name
    if network != 'logistic_regression':
      raise ValueError(
        f"model.name = {network!r} (of {name}); allowed: 'logistic_regression',"
        ' the network whose weights the demonstration shows'
      )
  dataset = data.load(config.dataset)
  if dataset.num_classes != 2:
    raise ValueError(
      f'dataset.classes = {config.dataset.classes}: {dataset.name} has '
      f'{dataset.num_classes} classes then; allowed: two labels, such as (3, 7)'
    )
  if dataset.test.images.shape[-1] != 1:
    raise ValueError(
      f'dataset.name = {config.dataset.name!r}: images of shape '
      f'{dataset.test.images.shape[1:]}; allowed: one channel'
    )
  return dataset


def demonstrate(
  config: config_dict.ConfigDict,
  workdir: str | pathlib.Path,
  devices: Sequence[jax.Device],
  *,
  print_model: bool = False,
) -> dict[str, Any]:
  """Trains and compares the config's members, then shows their weights.

  Args:
    config: A config with `members` (configs/goodfellow.py).
    workdir: The folder to write to.
    devices: The devices.
    print_model: Whether to print each network's layers first.

  Returns:
    The content of report.json; `goodfellow` has the epsilon, the names of the
    classes and, for each member, `Measured.entry`.

  Raises:
    ValueError: for anything wrong in the config, before anything is written.
  """
  dataset = check(config)
  report = compare(config, workdir, devices, print_model=print_model)
  workdir = pathlib.Path(workdir).expanduser()
  images = np.asarray(data.to_float(dataset.test.images))
  labels, epsilon = dataset.test.labels, config.evaluation.epsilon
  measured = {
    name: measure(
      read_network(config, name, workdir, dataset, devices),
      images,
      labels,
      epsilon,
      devices,
    )
    for name in config.members
  }
  entries = {name: found.entry for name, found in measured.items()}
  report['goodfellow'] = {
    'epsilon': epsilon,
    'classes': list(dataset.class_names),
    'members': entries,
  }
  write_json(workdir / 'report.json', report)
  picture = draw_picture(measured, images, labels, epsilon, dataset.class_names)
  (path,) = gallery.save_figures([picture], workdir / 'figures')
  first, second = dataset.class_names
  print(
    f'\nlogistic regression, {first} against {second}: wrong of '
    f'{len(labels):,} test images, FGSM at epsilon {short(epsilon)}\n'
    f'{format_table(entries)}\n\npicture: {path}'
  )
  return report


def read_network(
  config: config_dict.ConfigDict,
  name: str,
  workdir: pathlib.Path,
  dataset: data.Dataset,
  devices: Sequence[jax.Device],
) -> LogitsFn:
  """Returns a member as `compare` left it, in evaluation mode."""
  training = create_training(member_config(config, name), dataset, devices)
  folder = workdir / name / 'checkpoints' / training.config.report_checkpoint
  state = load_params(folder, training.init_state())
  return eval_logits_fn(
    training.model, evaluation_params(state), state.model_state
  )


def draw_picture(
  measured: Mapping[str, Measured],
  images: np.ndarray,
  labels: np.ndarray,
  epsilon: float,
  class_names: Sequence[str],
) -> gallery.Picture:
  """Returns the picture of all members."""
  figure = linear_figure(
    {
      name: LinearMember(
        found.function.weights[..., 0],
        found.perturbed[..., 0],
        found.predictions,
        found.perturbed_predictions,
      )
      for name, found in measured.items()
    },
    images[..., 0],
    labels,
    epsilon,
    class_names,
  )
  return gallery.draw(
    'goodfellow',
    'The weights, their sign, and what it does',
    f'Each network is linear, so that FGSM is the sign of its weights for '
    f'every image: added to {class_names[1]}, taken from {class_names[0]}. No '
    'other perturbation of this size does more harm. Below each image stands '
    'what the network says, red where it is wrong.',
    figure,
  )


def main() -> None:
  flag = flags.FLAGS
  demonstrate(
    flag.config,
    flag.workdir,
    cli.devices_from_flags(),
    print_model=flag.print_model,
  )


if __name__ == '__main__':
  cli.define_config_flags()
  cli.run(main)
