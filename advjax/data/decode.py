"""PNG, JPEG and other files of one image each, as uint8 arrays of one size."""

import contextlib
import io
import struct
import warnings
import zlib
from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
  from PIL import Image

# What Pillow calls images of so many channels.
_MODES = {1: 'L', 2: 'LA', 3: 'RGB', 4: 'RGBA'}
# What is said of images of Pillow's modes that are turned into RGB.
_CONVERTED = {
  'grey': ('1', 'L', 'LA', 'La'),
  'palette': ('P', 'PA'),
  'cmyk': ('CMYK',),
  '16-bit': ('I', 'I;16', 'I;16L', 'I;16B', 'I;16N'),
  'other colours': ('YCbCr', 'LAB', 'HSV'),
}
# Pillow would start another program for some others, whatever their name says.
_FORMATS = ('JPEG', 'PNG', 'WEBP', 'BMP', 'GIF', 'TIFF', 'PPM')
_WITH_ALPHA = ('LA', 'La', 'PA', 'RGBA', 'RGBa')


class NoImage(ValueError):
  """A file that cannot be decoded."""


def decode_image(encoded: bytes, channels: int) -> np.ndarray:
  """Decodes the bytes of an image file, as Pillow does on every machine.

  Files with other channels than asked for are converted, as TensorFlow would:
  palettes are looked up, grey is repeated, alpha is dropped.

  Args:
    encoded: The content of a PNG, JPEG, BMP, ... file.
    channels: 1 (grey), 2 (grey and alpha), 3 (RGB) or 4 (RGB and alpha).

  Returns:
    uint8 [H, W, channels].

  Raises:
    ValueError: If these are no such bytes, or more than 8 bits per channel, or
      several frames.

  Example:
    >>> from PIL import Image
    >>> stream = io.BytesIO()
    >>> Image.new('L', (3, 2), 7).save(stream, 'PNG')
    >>> decode_image(stream.getvalue(), channels=1)[..., 0]
    array([[7, 7, 7], [7, 7, 7]], dtype=uint8)
  """
  # Imported here, since nothing else in this package needs it.
  from PIL import Image

  try:
    with Image.open(io.BytesIO(encoded)) as image:
      mode = image.mode
      animated = image.format == 'GIF' and getattr(image, 'n_frames', 1) > 1
      deep = mode.startswith(('I', 'F'))
      if not deep and not animated:
        pixels = np.asarray(image.convert(_MODES[channels]))
  # Pillow raises SyntaxError for a broken PNG.
  except (OSError, SyntaxError, ValueError) as error:
    raise ValueError(f'is no image that Pillow can read ({error})') from error
  if deep:
    raise ValueError(f'has more than 8 bits per channel (mode {mode})')
  if animated:
    raise ValueError('is a GIF of several frames')
  return pixels.reshape(*pixels.shape[:2], channels)


@contextlib.contextmanager
def quiet_pillow() -> Iterator[None]:
  """Lets Pillow warn of nothing, and refuse what it warns may be a bomb.

  Not to be entered by several threads: Python keeps one list of filters.
  """
  from PIL import Image

  Image.init()  # Before threads would, all at once.
  with warnings.catch_warnings():
    warnings.simplefilter('ignore')
    warnings.simplefilter('error', Image.DecompressionBombWarning)
    yield


def image_size(encoded: bytes) -> tuple[int, int]:
  """Returns (height, width) of an image file as it is meant to be seen.

  Args:
    encoded: Its content.

  Returns:
    The size, after the turn that EXIF asks for. Without one, the pixels are not
    decoded.

  Raises:
    NoImage: If it is none.
  """
  from PIL import ImageOps

  with _opened(encoded) as image:
    if _orientation(image) > 1:
      # Not only swapped here: Pillow has turned a TIFF by itself already.
      ImageOps.exif_transpose(image, in_place=True)
    return image.height, image.width


def decode_rgb(
  encoded: bytes, size: tuple[int, int]
) -> tuple[np.ndarray, tuple[str, ...]]:
  """Decodes an image file of any kind to RGB of one size.

  It is turned as EXIF says. Grey is repeated, palettes and CMYK are converted,
  alpha is dropped, and 16 bits are rounded to 8. An image of another size is
  scaled by Pillow (bilinear, antialiased) until it covers the size, and cropped
  at the centre. Of several frames, the first one is taken.

  Args:
    encoded: The content of a JPEG, PNG, WebP, BMP, GIF, TIFF or PPM file.
    size: (height, width).

  Returns:
    (uint8 [height, width, 3]; what was done, of 'grey', 'palette', 'cmyk',
    '16-bit', 'other colours', 'alpha', 'frames', 'turned' and 'resized').

  Raises:
    NoImage: If it is damaged, cut off, of more than 16 bits per channel, or
      larger than twice Pillow's limit (`PIL.Image.MAX_IMAGE_PIXELS`); within
      `quiet_pillow`, than that limit.

  Example:
    >>> from PIL import Image
    >>> stream = io.BytesIO()
    >>> Image.new('L', (30, 20), 7).save(stream, 'PNG')
    >>> pixels, done = decode_rgb(stream.getvalue(), (8, 8))
    >>> pixels.shape, done
    ((8, 8, 3), ('grey', 'resized'))
  """
  from PIL import Image, ImageOps

  with _opened(encoded) as image:
    done = [name for name, modes in _CONVERTED.items() if image.mode in modes]
    if image.mode in _WITH_ALPHA or 'transparency' in image.info:
      done.append('alpha')
    if getattr(image, 'is_animated', False):
      done.append('frames')
    if _orientation(image) > 1:
      done.append('turned')
      ImageOps.exif_transpose(image, in_place=True)
    if image.mode.startswith('I'):
      image = _to_8_bits(image)
    if image.mode == 'F':
      raise ValueError('floating-point pixels')
    rgb = image.convert('RGB')
    if rgb.size != size[::-1]:
      done.append('resized')
      # As scaling the whole image until it covers the size, then cropping.
      rgb = ImageOps.fit(rgb, size[::-1], Image.Resampling.BILINEAR)
    return np.asarray(rgb), tuple(done)


@contextlib.contextmanager
def _opened(encoded: bytes) -> Iterator['Image.Image']:
  """Opens an image; what Pillow raises for broken files is a NoImage."""
  from PIL import Image, UnidentifiedImageError

  try:
    with Image.open(io.BytesIO(encoded), formats=_FORMATS) as image:
      yield image
  # Each of them is raised by some decoder for some damage.
  except (
    Image.DecompressionBombError,
    Image.DecompressionBombWarning,
    OSError,
    SyntaxError,
    ValueError,
    TypeError,
    LookupError,
    EOFError,
    ArithmeticError,
    struct.error,
    zlib.error,
  ) as error:
    # What Pillow says of these is where its bytes are in memory.
    unknown = isinstance(error, UnidentifiedImageError)
    reason = 'of no known format' if unknown else error
    raise NoImage(f'is no image that Pillow can read ({reason})') from error


def _orientation(image: 'Image.Image') -> int:
  """Returns the EXIF orientation, 1 to 8; 1 is upright."""
  from PIL import ExifTags

  orientation = image.getexif().get(ExifTags.Base.Orientation, 1)
  return orientation if orientation in range(1, 9) else 1


def _to_8_bits(image: 'Image.Image') -> 'Image.Image':
  """Scales grey of 16 bits to 8: Pillow itself would clip or cut off."""
  from PIL import Image

  values = np.asarray(image).astype(np.int64)
  if values.min() < 0 or values.max() > 65535:
    raise ValueError('more than 16 bits per channel')
  return Image.fromarray(((values + 128) // 257).astype(np.uint8))


def decode_blocks(
  blocks: Iterable[tuple[Sequence[bytes], Sequence[int]]],
  channels: int,
  num_classes: int,
  name: str,
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
  """Decodes block by block, and checks that all images are of one size.

  Args:
    blocks: Pairs of B image files and B labels.
    channels: As in `decode_image`.
    num_classes: Labels must be in [0, num_classes).
    name: What is read, for messages.

  Yields:
    Pairs of uint8 [B, H, W, channels] and int32 [B].

  Raises:
    ValueError: If an image cannot be decoded, has another size than the first
      one, or no label.
  """
  first: tuple[int, ...] | None = None
  count = 0
  for files, labels in blocks:
    images = []
    for index, (encoded, label) in enumerate(
      zip(files, labels, strict=True), count
    ):
      try:
        image = decode_image(encoded, channels)
      except ValueError as error:
        raise ValueError(f'{name}: image {index} {error}') from error
      first = first or image.shape
      if image.shape != first:
        raise ValueError(
          f'{name}: the images are of several sizes: image 0 is '
          f'{first[0]} x {first[1]}, image {index} is {image.shape[0]} x '
          f'{image.shape[1]} (height x width), but networks here take one '
          "size; resize them and bring them as arrays: dataset.name='npz'"
        )
      if not 0 <= label < num_classes:
        raise ValueError(
          f'{name}: image {index} has the label {label}; allowed: 0 to '
          f'{num_classes - 1} (a split without labels cannot be used)'
        )
      images.append(image)
    count += len(images)
    yield np.stack(images), np.asarray(labels, np.int32)
