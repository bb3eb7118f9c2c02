"""Small folders of images to load, and zips of them."""

import hashlib
import io
import zipfile

import numpy as np
from PIL import Image

IDS = ('n03', 'n01', 'n02')
WORDS = 'n01\tcat, house cat\nn02\tcrane\nn03\tcrane, bird\nn04\tunused\n'


def picture(seed, height=4, width=5):
  """uint8 [height, width, 3], of no pattern."""
  random = np.random.default_rng(seed)
  return random.integers(0, 256, (height, width, 3), np.uint8)


def encode(image, kind='PNG', **options):
  """The bytes of an image file, from an array or a Pillow image."""
  if isinstance(image, np.ndarray):
    image = Image.fromarray(image)
  stream = io.BytesIO()
  image.save(stream, kind, **options)
  return stream.getvalue()


def write(root, files):
  """Writes files, given by their relative names, in the order given."""
  for name, content in files.items():
    (root / name).parent.mkdir(parents=True, exist_ok=True)
    (root / name).write_bytes(content)
  return root


def write_zip(path, files, top=''):
  """The same as a zip, perhaps with a top folder."""
  with zipfile.ZipFile(path, 'w') as archive:
    for name, content in files.items():
      archive.writestr(top + name, content)
  return path


def mixed(names):
  """Names in the order of their SHA-256, in which images are loaded."""
  return sorted(names, key=lambda n: hashlib.sha256(n.encode()).hexdigest())


def class_folders(splits=('',), classes=('b', 'a'), count=3):
  """Files, and {name: pixels}: SPLIT/CLASS/0.png and so on."""
  names = [
    f'{split}{name}/{i}.png'
    for split in splits
    for name in classes
    for i in range(count)
  ]
  pixels = {name: picture(seed) for seed, name in enumerate(names)}
  return {name: encode(image) for name, image in pixels.items()}, pixels


def tiny_imagenet(ids=IDS):
  """Files in Tiny ImageNet's own layout, and {name: pixels}."""
  names = [f'train/{i}/images/{i}_{k}.JPEG' for i in ids for k in (0, 1)]
  names += [f'val/images/val_{k}.JPEG' for k in range(len(ids))]
  pixels = {name: picture(seed) for seed, name in enumerate(names)}
  # PNG, whatever they are called: JPEG would change the pixels.
  files = {name: encode(image) for name, image in pixels.items()}
  files |= {f'train/{i}/{i}_boxes.txt': b'0\t0\t1\t1' for i in ids}
  annotations = ''.join(
    f'val_{k}.JPEG\t{i}\t0\t0\t1\t1\n' for k, i in enumerate(sorted(ids))
  )
  files['val/val_annotations.txt'] = annotations.encode()
  files['wnids.txt'] = '\n'.join(ids).encode()
  files['words.txt'] = WORDS.encode()
  # No labels come with these.
  files['test/images/test_0.JPEG'] = encode(picture(99))
  return files, pixels
