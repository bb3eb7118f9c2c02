"""NSL's side of parity: perturbations, losses and gradients of every option."""

from __future__ import annotations

import contextlib
from typing import Any
from unittest import mock

import neural_structured_learning as nsl
import numpy as np
import tensorflow as tf
from network import Arrays, build, loss_fn, name_of, set_weights
from neural_structured_learning.lib import (
  adversarial_neighbor,
  distances,
  regularizer,
  utils,
)
from tensorflow.python.ops.losses import losses_impl


def neighbor_config(case: dict[str, Any], arrays: Arrays) -> Any:
  """NSL's config of a case; strings that name an array stand for it."""

  def resolve(value: Any) -> Any:
    if isinstance(value, dict):
      return {key: resolve(item) for key, item in value.items()}
    return arrays.get(value, value) if isinstance(value, str) else value

  return nsl.configs.AdvNeighborConfig(
    **{name: resolve(value) for name, value in case['config'].items()}
  )


def features_of(case: dict[str, Any], arrays: Arrays) -> dict[str, Any]:
  images = arrays['image']
  if case['network'] == 'cnn_features':
    return {'left': images[:, :, :14], 'right': images[:, :, 14:]}
  return {'image': images}


def wrap(
  model: tf.keras.Model, case: dict[str, Any], arrays: Arrays
) -> nsl.keras.AdversarialRegularization:
  wrapper = nsl.keras.AdversarialRegularization(
    model,
    label_keys=['label'],
    sample_weight_key='weight' if case.get('weighted') else None,
    adv_config=nsl.configs.AdvRegConfig(
      case.get('multiplier', 0.2), neighbor_config(case, arrays)
    ),
  )
  wrapper.compile('adam', loss=loss_fn())
  return wrapper


def run_adversarial(
  model: tf.keras.Model, case: dict[str, Any], arrays: Arrays
) -> Arrays:
  """A train-mode call of the wrapper: its two losses and the gradients."""
  features = features_of(case, arrays)
  inputs = {**features, 'label': arrays['label']}
  if case.get('weighted'):
    # As a column of float32: NSL multiplies it by such a column of ones.
    inputs['weight'] = arrays['weight'].astype(np.float32)[:, None]
  wrapper = wrap(model, case, arrays)
  made = []
  generate = adversarial_neighbor.gen_adv_neighbor

  def spy(*args: Any, **kwargs: Any) -> Any:
    made.append(generate(*args, **kwargs))
    return made[-1]

  def start(*args: Any) -> Any:
    return {'image': tf.constant(arrays[case['start']])}

  with mock.patch.object(adversarial_neighbor, 'gen_adv_neighbor', spy):
    drawn = start if case.get('start') else utils.random_in_norm_ball
    with (
      mock.patch.object(utils, 'random_in_norm_ball', drawn),
      tf.GradientTape() as tape,
    ):
      tensors = {name: tf.constant(value) for name, value in inputs.items()}
      wrapper(tensors, training=True)
      clean, scaled = wrapper.losses
      total = clean + scaled
  return {
    **{f'perturbed/{name}': made[0][0][name].numpy() for name in features},
    'clean_loss': clean.numpy(),
    'adversarial_loss': scaled.numpy() / case.get('multiplier', 0.2),
    'total_loss': total.numpy(),
    **gradients(tape, total, model),
  }


def gradients(
  tape: tf.GradientTape, loss: tf.Tensor, model: tf.keras.Model
) -> Arrays:
  variables = model.trainable_variables
  return {
    f'gradient/{name_of(variable)}': value.numpy()
    for variable, value in zip(
      variables, tape.gradient(loss, variables), strict=True
    )
  }


class _Wide:
  """A module of TensorFlow whose casts to float32 lead to float64."""

  def __init__(self, module: Any) -> None:
    self._module = module

  def __getattr__(self, name: str) -> Any:
    return getattr(self._module, name)

  def cast(self, x: Any, dtype: Any = None, name: Any = None) -> tf.Tensor:
    return tf.cast(x, tf.float64 if dtype == tf.float32 else dtype)

  def constant(self, value: float) -> tf.Tensor:
    return tf.constant(value, tf.float64)


@contextlib.contextmanager
def distances_in(dtype: Any) -> Any:
  """NSL's distances are float32 whatever they are given; here in `dtype`."""
  with contextlib.ExitStack() as stack:
    if dtype == tf.float64:
      for module, name in ((distances, 'tf'), (losses_impl, 'math_ops')):
        wide = _Wide(getattr(module, name))
        stack.enter_context(mock.patch.object(module, name, wide))
    yield


def run_virtual(
  model: tf.keras.Model, case: dict[str, Any], arrays: Arrays
) -> Arrays:
  """Cross-entropy plus virtual_adv_regularizer, its draw being given."""
  images, labels = tf.constant(arrays['image']), arrays['label']
  config = nsl.configs.VirtualAdvConfig(
    adv_neighbor_config=neighbor_config(case, arrays),
    distance_config=nsl.configs.DistanceConfig(**case['distance']),
    num_approx_steps=case['num_approx_steps'],
    approx_difference=case['approx_difference'],
  )
  seen = []

  def embed(inputs: tf.Tensor) -> tf.Tensor:
    seen.append(inputs)
    return model(inputs, training=True)

  with distances_in(images.dtype), tf.GradientTape() as tape:
    logits = model(images, training=True)
    clean = loss_fn()(labels, logits)
    virtual = regularizer._virtual_adv_regularizer(
      images, embed, config, logits, tf.constant(arrays['draw'])
    )
    multiplier = tf.constant(case['multiplier'], clean.dtype)
    total = clean + multiplier * tf.cast(virtual, clean.dtype)
  return {
    'perturbed/image': seen[-1].numpy(),
    'clean_loss': clean.numpy(),
    'adversarial_loss': virtual.numpy(),
    'total_loss': total.numpy(),
    **gradients(tape, total, model),
  }


def run_perturb(
  model: tf.keras.Model, case: dict[str, Any], arrays: Arrays
) -> Arrays:
  """perturb_on_batch, the case's config given as its keyword arguments."""
  plain = {**case, 'config': {}}
  inputs = {**features_of(case, arrays), 'label': arrays['label']}
  found = wrap(model, plain, arrays).perturb_on_batch(inputs, **case['config'])
  return {'perturbed/image': np.asarray(found['image'])}


def run_parity(job: dict[str, Any], arrays: Arrays) -> Arrays:
  tf.keras.backend.set_floatx(job['dtype'])
  for name, value in arrays.items():
    if value.dtype.kind == 'f':
      # NSL compares masks with float32 numbers.
      mask = name.startswith('mask')
      arrays[name] = value.astype('float32' if mask else job['dtype'])
  runs = {
    'adversarial': run_adversarial,
    'virtual': run_virtual,
    'perturb': run_perturb,
  }
  out: Arrays = {}
  models = {name: build(name) for name in ('cnn', 'cnn_bn', 'cnn_features')}
  for case in job['cases']:
    model = models[case['network']]
    prefix = 'cnn_bn/' if case['network'] == 'cnn_bn' else 'cnn/'
    set_weights(model, arrays, prefix)
    try:
      if case['weighted'] and job['dtype'] == 'float64':
        raise NotImplementedError(
          'float64 weights are multiplied by a float32 column of ones'
        )
      found = runs[case['kind']](model, case, arrays)
    except NotImplementedError as error:
      # Keras puts a line of its own before the message.
      lines = [line for line in str(error).splitlines() if line]
      message = lines[1 if lines[0].startswith('Exception encount') else 0]
      found = {'error': np.asarray(f'not implemented: {message}')}
    if case['network'] == 'cnn_bn':
      found |= {
        f'statistics/{name_of(variable)}': variable.numpy()
        for variable in model.non_trainable_variables
      }
    out |= {f'{case["name"]}/{name}': value for name, value in found.items()}
  for item in job['decays']:
    out[item['name']] = np.asarray(
      [decayed(item, step) for step in job['steps']]
    )
  for norm in ('infinity', 'l2', 'l1'):
    shape = (job['num_draws'], 28, 28, 1)
    draws = utils.random_in_norm_ball(tf.zeros(shape), 1.0, norm)
    out[f'draws/{norm}'] = draws.numpy().reshape(job['num_draws'], -1)
  return out


def decayed(item: dict[str, Any], step: int) -> float:
  """decay_over_time, which returns a number inside of a graph alone."""
  config = nsl.configs.DecayConfig(
    item['decay_steps'],
    item['decay_rate'],
    item['min_value'],
    nsl.configs.DecayType(item['decay_type']),
  )
  graph = tf.function(
    lambda: utils.decay_over_time(step, config, item['value'])
  )
  return float(graph())
