"""The side of Neural Structured Learning, and of Keras on TensorFlow.

It runs in a venv with TensorFlow and neural-structured-learning, and neither
imports nor needs anything of this project but `serve.py`. No test runs it,
since TensorFlow is not among this project's dependencies.
"""

from __future__ import annotations

import contextlib
import os
import time
from typing import Any
from unittest import mock

os.environ.setdefault('TF_CPP_MIN_LOG_LEVEL', '3')

import absl.logging
import neural_structured_learning as nsl
import numpy as np
import tensorflow as tf
from neural_structured_learning.lib import (
  adversarial_neighbor,
  distances,
  regularizer,
  utils,
)
from serve import serve
from tensorflow.python.ops.losses import losses_impl

# Keras' names of BatchNorm's arrays, and Flax's.
_NAMES = {
  'gamma': 'scale',
  'beta': 'bias',
  'moving_mean': 'mean',
  'moving_variance': 'var',
}
Arrays = dict[str, Any]


def build(network: str) -> tf.keras.Model:
  """The tutorial's network: 'cnn', 'cnn_bn', or 'cnn_features' on two inputs.

  BatchNorm has the epsilon and momentum of Flax, and precedes the ReLU.
  It is not fused: TensorFlow's fused kernel records the variance of n values
  with n / (n - 1), Keras' own code and Flax without.
  """
  layers = tf.keras.layers
  if network == 'cnn_features':
    inputs = [
      tf.keras.Input((28, 14, 1), name=name) for name in ('left', 'right')
    ]
    hidden = layers.Concatenate(axis=2)(inputs)
  else:
    inputs = hidden = tf.keras.Input((28, 28, 1), name='image')
  for index, filters in enumerate((32, 64, 64)):
    if network == 'cnn_bn':
      hidden = layers.Conv2D(filters, (3, 3), name=f'Conv_{index}')(hidden)
      hidden = layers.BatchNormalization(
        momentum=0.99, epsilon=1e-5, fused=False, name=f'BatchNorm_{index}'
      )(hidden)
      hidden = layers.ReLU()(hidden)
    else:
      hidden = layers.Conv2D(
        filters, (3, 3), activation='relu', name=f'Conv_{index}'
      )(hidden)
    if index < 2:
      hidden = layers.MaxPooling2D((2, 2))(hidden)
  hidden = layers.Flatten()(hidden)
  hidden = layers.Dense(64, activation='relu', name='Dense_0')(hidden)
  logits = layers.Dense(10, name='Dense_1')(hidden)
  return tf.keras.Model(inputs, logits)


def name_of(variable: tf.Variable) -> str:
  layer, name = variable.name.split(':')[0].split('/')[-2:]
  return f'{layer}/{_NAMES.get(name, name)}'


def set_weights(model: tf.keras.Model, arrays: Arrays, prefix: str) -> None:
  for variable in model.variables:
    variable.assign(arrays[prefix + name_of(variable)])


def loss_fn() -> tf.keras.losses.Loss:
  return tf.keras.losses.SparseCategoricalCrossentropy(from_logits=True)


# -------------------------------------------------------------------- training


class FirstBatch(tf.keras.callbacks.Callback):
  """Notes when the first batch, whose tracing takes seconds, is done."""

  def __init__(self) -> None:
    super().__init__()
    self._supports_tf_logs = True  # Else every step would wait for its logs.
    self.end = self.seconds = 0.0  # When that was; from there to the end.

  def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
    if not self.end:
      self.end = time.perf_counter()

  def on_train_end(self, logs: Any = None) -> None:
    self.seconds = time.perf_counter() - self.end


def images_of(arrays: Arrays) -> tf.data.Dataset:
  """The tutorial's input pipeline, up to its batches."""

  def scale(image: tf.Tensor, label: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    return tf.cast(image, tf.float32) / 255.0, label

  both = arrays['train_images'], arrays['train_labels']
  return tf.data.Dataset.from_tensor_slices(both).map(scale).shuffle(10000)


def to_dictionary(image: tf.Tensor, label: tf.Tensor) -> dict[str, tf.Tensor]:
  return {'image': image, 'label': label}


def adversarial_wrapper(
  model: tf.keras.Model, job: dict[str, Any]
) -> nsl.keras.AdversarialRegularization:
  wrapper = nsl.keras.AdversarialRegularization(
    model,
    label_keys=['label'],
    adv_config=nsl.configs.make_adv_reg_config(
      multiplier=job['multiplier'],
      adv_step_size=job['step_size'],
      adv_grad_norm=job['norm'],
    ),
  )
  wrapper.compile('adam', loss=loss_fn(), metrics=['accuracy'])
  return wrapper


def run_train(job: dict[str, Any], arrays: Arrays) -> Arrays:
  """The tutorial's training of one network, as model.fit runs it."""
  tf.keras.utils.set_random_seed(job['seed'])
  data = images_of(arrays).batch(job['batch_size'])
  model = build('cnn')
  if job['member'] == 'base':
    trained = model
    model.compile('adam', loss=loss_fn(), metrics=['acc'])
  else:
    trained = adversarial_wrapper(model, job)
    data = data.map(to_dictionary)
  first = FirstBatch()
  start = time.perf_counter()
  trained.fit(data, epochs=job['num_epochs'], verbose=0, callbacks=[first])
  seconds = time.perf_counter() - start
  num_images = len(arrays['train_labels'])
  num_steps = -(-num_images // job['batch_size']) * job['num_epochs']
  rest = start + seconds - first.end
  return {
    **{f'weights/{name_of(v)}': v.numpy() for v in model.variables},
    'seconds_with_compile': np.asarray(seconds),
    'seconds': np.asarray(rest * num_steps / max(num_steps - 1, 1)),
    'milliseconds_per_step': np.asarray(1e3 * rest / max(num_steps - 1, 1)),
  }


def run_evaluate(job: dict[str, Any], arrays: Arrays) -> Arrays:
  """The tutorial's evaluation: what each of two networks says on every batch.

  The images are perturbed by perturb_on_batch, on a wrapper that does not
  train, and clipped to [0, 1] by hand.
  """
  models, wrappers = {}, {}
  for member in ('base', 'adversarial'):
    models[member] = build('cnn')
    set_weights(models[member], arrays, f'{member}/')
    wrappers[member] = adversarial_wrapper(models[member], job)
  images = arrays['test_images'].astype(np.float32) / np.float32(255)
  labels = arrays['test_labels']
  right: dict[str, list[np.ndarray]] = {}
  for begin in range(0, len(labels), 256):
    x, y = images[begin : begin + 256], labels[begin : begin + 256]
    seen = {'clean': x}
    for member, wrapper in wrappers.items():
      moved = wrapper.perturb_on_batch({'image': x, 'label': y})['image']
      seen[f'from_{member}'] = np.clip(moved, 0, 1)
    for member, model in models.items():
      for name, inputs in seen.items():
        predictions = model(inputs, training=False).numpy().argmax(1)
        right.setdefault(f'{member}/{name}', []).append(predictions == y)
  return {name: np.concatenate(parts) for name, parts in right.items()}


# ----------------------------------------------------------------------- steps


# Prepared models and their batches, by name.
_PREPARED: dict[str, tuple[Any, tf.data.Dataset]] = {}


def run_prepare(job: dict[str, Any], arrays: Arrays) -> Arrays:
  """Builds a model from weights, and the batches that it is fitted to."""
  size = job['batch_size']
  data = images_of(arrays).repeat().batch(size, drop_remainder=True)
  model = build('cnn')
  set_weights(model, arrays, '')
  if job['objective'] == 'nsl':
    model = adversarial_wrapper(model, job)
    data = data.map(to_dictionary)
  else:
    options = {'steps_per_execution': job['steps_per_execution']}
    model.compile('adam', loss=loss_fn(), metrics=['acc'], **options)
  # What is ready is fetched ahead.
  _PREPARED[job['name']] = model, data.prefetch(tf.data.AUTOTUNE)
  return {}


def run_steps(job: dict[str, Any], arrays: Arrays) -> Arrays:
  """Takes so many steps; the seconds per step, without those of a first call.

  model.fit fills a buffer with images and starts threads before its first
  batch, which an epoch of many batches does once: the clock starts after it.
  """
  del arrays
  model, data = _PREPARED[job['name']]
  at_once = job['steps_per_execution']
  num_steps = -(-job['num_steps'] // at_once) * at_once
  watch = FirstBatch()
  steps = num_steps + at_once
  model.fit(data, steps_per_epoch=steps, verbose=0, callbacks=[watch])
  return {'seconds': np.asarray(watch.seconds / num_steps)}


# ---------------------------------------------------------------------- parity


def neighbor_config(case: dict[str, Any], arrays: Arrays) -> Any:
  """NSL's config of a case; strings that name an array are replaced by it."""

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
    sample_weight_key='weight' if case['weighted'] else None,
    adv_config=nsl.configs.AdvRegConfig(
      case['multiplier'], neighbor_config(case, arrays)
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
  if case['weighted']:
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

  drawn = start if case['start'] else utils.random_in_norm_ball
  with (
    mock.patch.object(adversarial_neighbor, 'gen_adv_neighbor', spy),
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
    'adversarial_loss': scaled.numpy() / case['multiplier'],
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


def main() -> None:
  absl.logging.set_verbosity(absl.logging.ERROR)
  serve(
    {
      'parity': run_parity,
      'train': run_train,
      'evaluate': run_evaluate,
      'prepare': run_prepare,
      'steps': run_steps,
    },
    f'TensorFlow {tf.__version__}, neural-structured-learning '
    f'{nsl.__version__}',
  )


if __name__ == '__main__':
  main()
