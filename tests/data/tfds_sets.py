"""Small sets of TensorFlow Datasets, prepared here without TensorFlow."""

import pathlib

import numpy as np
import tensorflow_datasets as tfds

from tests.data.image_folders import encode

NAMES = ('cat', 'dog', 'owl')


def pixels(num_images, shape=(5, 4, 1), seed=0):
  """Random images, uint8 [N, H, W, C]."""
  random = np.random.default_rng(seed)
  return random.integers(0, 256, (num_images, *shape), np.uint8)


def labels(num_images):
  return np.arange(num_images) % len(NAMES)


def examples(images, kind='PNG'):
  """Records of images, labels going round."""
  return [
    {'image': encode(image.squeeze(), kind), 'label': index % len(NAMES)}
    for index, image in enumerate(images)
  ]


def default_features(shape=(5, 4, 1)):
  return {
    'image': tfds.features.Image(shape=shape),
    'label': tfds.features.ClassLabel(names=NAMES),
  }


def prepare(
  data_dir, splits, features=None, name='pets', version='1.0.0', **options
):
  """Prepares a set and returns the folder of its version.

  Options: config, num_shards, file_format, supervised_keys.
  """
  config = options.get('config')

  class Builder(tfds.core.GeneratorBasedBuilder, skip_registration=True):
    # Else TFDS imports importlib_resources, which it does not declare.
    code_path = None
    VERSION = tfds.core.Version(version)
    BUILDER_CONFIGS = [tfds.core.BuilderConfig(name=config)] if config else []

    def _info(self):
      return tfds.core.DatasetInfo(
        builder=self,
        features=tfds.features.FeaturesDict(features or default_features()),
        supervised_keys=options.get('supervised_keys'),
        disable_shuffling=True,
      )

    def _split_generators(self, dl_manager):
      return {split: enumerate(records) for split, records in splits.items()}

    def _generate_examples(self):
      raise NotImplementedError

  Builder.name = name
  file_format = options.get('file_format', 'array_record')
  builder = Builder(data_dir=data_dir, file_format=file_format)
  num_shards = options.get('num_shards', 1)
  builder.download_and_prepare(
    download_config=tfds.download.DownloadConfig(num_shards=num_shards)
  )
  return pathlib.Path(builder.data_dir)


def prepare_pets(data_dir, **kwargs):
  """Prepares 30 images to train on and 12 to test on, 5 x 4, grey."""
  train, test = examples(pixels(30)), examples(pixels(12, seed=1))
  return prepare(data_dir, {'train': train, 'test': test}, **kwargs)


def contents(folder):
  """Every file of a folder with all that changes when it is written."""
  return {
    path: (path.stat().st_mtime_ns, path.read_bytes())
    for path in folder.rglob('*')
    if path.is_file()
  }
