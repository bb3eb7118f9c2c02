"""PNG, JPEG and other image files, decoded by Pillow to uint8 arrays.

Pillow is imported where it is used: it is slow to import.
"""

import contextlib
import io
import warnings
from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
  from PIL import Image

# What Pillow calls images of so many channels.
_MODES = {1: 'L', 2: 'LA', 3: 'RGB', 4: 'RGBA'}
# What is reported of images of Pillow's modes that are converted to RGB.
_CONVERTED = {
  'grey': ('1', 'L', 'LA', 'La'),
  'palette': ('P', 'PA'),
  'cmyk': ('CMYK',),
  '16-bit': ('I', 'I;16', 'I;16L', 'I;16B', 'I;16N'),
  'other colours': ('YCbCr', 'LAB', 'HSV'),
  'alpha': ('LA', 'La', 'PA', 'RGBA', 'RGBa'),
}
# Of Pillow's Image.Transpose, what turns EXIF orientations 2 to 8 upright.
_TURNS = (0, 3, 1, 5, 4, 6, 2)
# Pillow would start another program for some others, whatever their suffix.
_FORMATS = ('JPEG', 'PNG', 'WEBP', 'BMP', 'GIF', 'TIFF', 'PPM')


class NoImage(ValueError):
  """A file that cannot be decoded."""


def decode_image(encoded: bytes, channels: int) -> np.ndarray:
  """Decodes an image file to uint8 [H, W, channels], as TensorFlow does.

  Palettes are looked up, grey is repeated, alpha is dropped; a NoImage is
  raised for more than 8 bits per channel and for several frames.
  """
  with _opened(encoded) as image:
    if image.mode.startswith(('I', 'F')):
      raise ValueError(f'more than 8 bits per channel, mode {image.mode}')
    if image.format == 'GIF' and getattr(image, 'n_frames', 1) > 1:
      raise ValueError('a GIF of several frames')
    pixels = np.asarray(image.convert(_MODES[channels]))
  return pixels.reshape(*pixels.shape[:2], channels)


def image_size(encoded: bytes) -> tuple[int, int]:
  """Returns (height, width) after the EXIF rotation."""
  with _opened(encoded) as image:
    image.load()
    # Pillow has rotated a TIFF by itself already.
    swapped = _orientation(image) > 4
    return image.size if swapped else image.size[::-1]


def decode_rgb(
  encoded: bytes, size: tuple[int, int]
) -> tuple[np.ndarray, list[str]]:
  """Decodes an image file of any kind to uint8 [*size, 3].

  Rotated as EXIF says, converted to RGB of 8 bits, without alpha; the first of
  several frames. Another size is scaled (bilinear, antialiased) and cropped at
  the centre. Returns the conversions that were done, too. Raises a NoImage if
  it is damaged, of over 16 bits per channel, or larger than Pillow's limit.
  """
  from PIL import Image, ImageOps

  with _opened(encoded) as image:
    done = [name for name, modes in _CONVERTED.items() if image.mode in modes]
    if 'transparency' in image.info and 'alpha' not in done:
      done.append('alpha')
    if getattr(image, 'is_animated', False):
      done.append('frames')
    # Pillow rotates a TIFF by itself, as it loads it.
    turned = image.format == 'TIFF' and _orientation(image) > 1
    image.load()
    if (orientation := _orientation(image)) > 1:
      turned = True
      image = image.transpose(Image.Transpose(_TURNS[orientation - 2]))
    if turned:
      done.append('turned')
    if image.mode.startswith('I'):
      # Pillow itself would clip or cut off.
      values = np.asarray(image).astype(np.int64)
      if values.min() < 0 or values.max() > 65535:
        raise ValueError('more than 16 bits per channel')
      image = Image.fromarray(((values + 128) // 257).astype(np.uint8))
    if image.mode == 'F':
      raise ValueError('floating-point pixels')
    rgb = image.convert('RGB')
    if rgb.size != size[::-1]:
      done.append('resized')
      rgb = ImageOps.fit(rgb, size[::-1], Image.Resampling.BILINEAR)
    return np.asarray(rgb), done


@contextlib.contextmanager
def quiet_pillow() -> Iterator[None]:
  """Silences Pillow's warnings, but makes those of decompression bombs errors.

  For one thread at a time: Python keeps one list of filters.
  """
  from PIL import Image

  Image.init()  # Before threads would, all at once.
  with warnings.catch_warnings():
    warnings.simplefilter('ignore')
    warnings.simplefilter('error', Image.DecompressionBombWarning)
    yield


@contextlib.contextmanager
def _opened(encoded: bytes) -> Iterator['Image.Image']:
  """Opens an image; what Pillow raises for broken files becomes a NoImage."""
  from PIL import Image, UnidentifiedImageError

  try:
    with Image.open(io.BytesIO(encoded), formats=_FORMATS) as image:
      yield image
  # Pillow's decoders raise errors of almost any class for damaged files.
  except Exception as error:
    # Pillow's own message names an address in memory.
    unknown = isinstance(error, UnidentifiedImageError)
    reason = 'unknown format' if unknown else error
    raise NoImage(f'cannot be decoded by Pillow ({reason})') from error


def _orientation(image: 'Image.Image') -> int:
  """Returns the EXIF orientation, 1 to 8; 1, upright, where it is broken."""
  from PIL import ExifTags

  try:
    orientation = image.getexif().get(ExifTags.Base.Orientation, 1)
  # Pillow raises errors of almost any class for damaged metadata, too.
  except Exception:
    return 1
  return int(orientation) if orientation in range(1, 9) else 1
