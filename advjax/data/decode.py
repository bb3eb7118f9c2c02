"""PNG, JPEG and other files of one image each, as uint8 arrays of one size."""

import io
from collections.abc import Iterable, Iterator, Sequence

import numpy as np

# What Pillow calls images of so many channels.
_MODES = {1: 'L', 2: 'LA', 3: 'RGB', 4: 'RGBA'}


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
