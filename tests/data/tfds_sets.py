"""Small sets of TensorFlow Datasets, prepared here without TensorFlow."""

import io
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pytest
import tensorflow_datasets as tfds
from PIL import Image

from advjax.data import records
from advjax.data import tfds as loader

NAMES = ('cat', 'dog', 'owl')


def pixels(num_images: int, shape=(5, 4, 1), seed: int = 0) -> np.ndarray:
  """Returns random images, uint8 [N, H, W, C]."""
  random = np.random.default_rng(seed)
  return random.integers(0, 256, (num_images, *shape), np.uint8)


def encode(image: np.ndarray, kind: str = 'PNG') -> bytes:
  """Returns the content of an image file; one channel becomes a grey one."""
  stream = io.BytesIO()
  squeezed = image[..., 0] if image.shape[-1] == 1 else image
  Image.fromarray(squeezed).save(stream, kind)
  return stream.getvalue()


def examples(images: Sequence[np.ndarray]) -> list[dict[str, Any]]:
  """Returns records of images, labels going round."""
  return [
    {'image': encode(image), 'label': index % len(NAMES)}
    for index, image in enumerate(images)
  ]


def default_features(shape=(5, 4, 1)) -> dict[str, Any]:
  """Returns the features of an image-classification set."""
  return {
    'image': tfds.features.Image(shape=shape),
    'label': tfds.features.ClassLabel(names=NAMES),
  }


def prepare(
  data_dir: pathlib.Path,
  splits: Mapping[str, Sequence[Mapping[str, Any]]],
  features: Mapping[str, Any] | None = None,
  *,
  name: str = 'pets',
  config: str | None = None,
  version: str = '1.0.0',
  num_shards: int = 1,
  file_format: str = 'array_record',
  supervised_keys: tuple[str, str] | None = None,
) -> pathlib.Path:
  """Prepares a set and returns the folder of its version."""

  class Builder(tfds.core.GeneratorBasedBuilder, skip_registration=True):
    # Else TFDS imports importlib_resources, which it does not declare.
    code_path = None
    VERSION = tfds.core.Version(version)
    BUILDER_CONFIGS = [tfds.core.BuilderConfig(name=config)] if config else []

    def _info(self):
      return tfds.core.DatasetInfo(
        builder=self,
        features=tfds.features.FeaturesDict(features or default_features()),
        supervised_keys=supervised_keys,
        disable_shuffling=True,
      )

    def _split_generators(self, dl_manager):
      return {split: enumerate(records) for split, records in splits.items()}

    def _generate_examples(self):
      raise NotImplementedError

  Builder.name = name
  builder = Builder(data_dir=data_dir, file_format=file_format)
  builder.download_and_prepare(
    download_config=tfds.download.DownloadConfig(num_shards=num_shards)
  )
  return pathlib.Path(builder.data_dir)


def prepare_pets(data_dir: pathlib.Path, **kwargs) -> pathlib.Path:
  """Prepares 30 images to train on and 12 to test on, 5 x 4, grey."""
  splits = {
    'train': examples(pixels(30)),
    'test': examples(pixels(12, seed=1)),
  }
  return prepare(data_dir, splits, **kwargs)


def no_tensorflow(monkeypatch):
  monkeypatch.setattr(records, 'has_tensorflow', lambda: False)


def labels_of(num_images):
  return np.arange(num_images) % len(NAMES)


def contents(folder):
  """Every file of a folder with all that could tell that it was touched."""
  return {
    path: (path.stat().st_mtime_ns, path.read_bytes())
    for path in folder.rglob('*')
    if path.is_file()
  }


def load_pets(data_dir, **fields):
  return loader.load('pets', str(data_dir), **fields)


def check_refused(data_dir, match, **fields):
  """Nothing is decoded, nothing is touched, and the message says why."""
  before = contents(data_dir)
  with pytest.raises(ValueError, match=match):
    load_pets(data_dir, **fields)
  assert contents(data_dir) == before
  assert not (data_dir.parent / 'cache' / 'advjax').exists()
