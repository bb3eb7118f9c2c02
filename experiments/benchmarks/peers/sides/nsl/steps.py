"""Training steps of Keras and of NSL, as model.fit runs them."""

from __future__ import annotations

from typing import Any

import numpy as np
import tensorflow as tf
from network import Arrays, build, loss_fn, set_weights
from training import FirstBatch, adversarial_wrapper, scale, to_dictionary

# What run_prepare leaves for run_steps: a model and its batches, by name.
_PREPARED: dict[str, tuple[Any, tf.data.Dataset]] = {}


def run_prepare(job: dict[str, Any], arrays: Arrays) -> Arrays:
  """Builds a model from weights, and the batches that it is fitted to.

  The input pipeline is the tutorial's, with what is ready fetched ahead.
  """
  data = (
    tf.data.Dataset.from_tensor_slices(
      (arrays['train_images'], arrays['train_labels'])
    )
    .map(scale)
    .shuffle(10000)
    .repeat()
    .batch(job['batch_size'], drop_remainder=True)
  )
  model = build('cnn')
  set_weights(model, arrays, '')
  if job['objective'] == 'nsl':
    model = adversarial_wrapper(model, job)
    data = data.map(to_dictionary)
  else:
    model.compile(
      'adam',
      loss=loss_fn(),
      metrics=['acc'],
      steps_per_execution=job['steps_per_execution'],
    )
  data = data.prefetch(tf.data.AUTOTUNE)
  _PREPARED[job['name']] = model, data
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
  model.fit(
    data,
    epochs=1,
    steps_per_epoch=num_steps + at_once,
    verbose=0,
    callbacks=[watch],
  )
  return {'seconds': np.asarray(watch.seconds / num_steps)}
