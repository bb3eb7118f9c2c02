"""Accuracy class by class: a mean hides the class that nothing protects."""

import numpy as np


def per_class_accuracy(
  predictions: np.ndarray, labels: np.ndarray, num_classes: int
) -> np.ndarray:
  """The accuracy on the images of each class.

  `a_k = sum_i [y_i = k] [f(x_i) = k] / sum_i [y_i = k]`

  Args:
    predictions: int `[N]`.
    labels: int `[N]` in [0, num_classes).
    num_classes: K.

  Returns:
    float64 `[K]`; NaN for a class without images.

  Raises:
    ValueError: if the shapes differ, or a label is out of range.

  Example:
    >>> per_class_accuracy(np.array([0, 1, 1]), np.array([0, 0, 1]), 3)
    array([0.5, 1. , nan])
  """
  predictions, labels = np.asarray(predictions), np.asarray(labels)
  if labels.ndim != 1 or predictions.shape != labels.shape:
    raise ValueError(
      f'predictions and labels have shapes {predictions.shape} and '
      f'{labels.shape}; allowed: [N] both'
    )
  if len(labels) and not 0 <= labels.min() <= labels.max() < num_classes:
    raise ValueError(
      f'labels hold values from {labels.min()} to {labels.max()}; allowed: 0 '
      f'to {num_classes - 1}, the classes'
    )
  count = np.bincount(labels, minlength=num_classes)
  right = np.bincount(labels[predictions == labels], minlength=num_classes)
  return np.where(count > 0, right / np.maximum(count, 1), np.nan)
