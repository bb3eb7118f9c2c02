"""NSL's side of training: the tutorial, as model.fit runs it."""

from __future__ import annotations

import time
from typing import Any

import neural_structured_learning as nsl
import numpy as np
import tensorflow as tf
from network import Arrays, build, loss_fn, name_of, set_weights


class FirstBatch(tf.keras.callbacks.Callback):
  """Notes when the first batch, whose tracing takes seconds, is done.

  Attributes:
    end: When that was.
    seconds: From there to the end of training.
  """

  def __init__(self) -> None:
    super().__init__()
    self._supports_tf_logs = True  # Else every step would wait for its logs.
    self.end = self.seconds = 0.0

  def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
    if not self.end:
      self.end = time.perf_counter()

  def on_train_end(self, logs: Any = None) -> None:
    self.seconds = time.perf_counter() - self.end


def to_dictionary(image: tf.Tensor, label: tf.Tensor) -> dict[str, tf.Tensor]:
  return {'image': image, 'label': label}


def scale(image: tf.Tensor, label: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
  return tf.cast(image, tf.float32) / 255.0, label


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
  data = (
    tf.data.Dataset.from_tensor_slices(
      (arrays['train_images'], arrays['train_labels'])
    )
    .map(scale)
    .shuffle(10000)
    .batch(job['batch_size'])
  )
  model = build('cnn')
  if job['member'] == 'base':
    trained = model
    model.compile('adam', loss=loss_fn(), metrics=['acc'])
  else:
    trained = adversarial_wrapper(model, job)
    data = data.map(to_dictionary)
  first = FirstBatch()
  start = time.perf_counter()
  history = trained.fit(
    data, epochs=job['num_epochs'], verbose=0, callbacks=[first]
  ).history
  seconds = time.perf_counter() - start
  num_images = len(arrays['train_labels'])
  num_steps = -(-num_images // job['batch_size']) * job['num_epochs']
  rest = start + seconds - first.end
  return {
    **{f'weights/{name_of(v)}': v.numpy() for v in model.variables},
    **{f'history/{name}': np.asarray(v) for name, v in history.items()},
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
