"""Writing .npy files piece by piece, with a running checksum of their bytes."""

import io
import os
import pathlib
import zlib
from typing import BinaryIO, TypedDict

import numpy as np

_CHUNK = 1 << 22


class Written(TypedDict):
  """What a file should hold: its size and CRC-32."""

  bytes: int
  crc32: int


def header(dtype: str, shape: tuple[int, ...]) -> bytes:
  """Returns the first bytes of a .npy file.

  Args:
    dtype: Its name, such as 'uint8'.
    shape: Of the array. NumPy leaves room for the digits of any length: another
      first number gives as many bytes.

  Returns:
    The bytes before those of the array.

  Example:
    >>> len(header('uint8', (9, 4))), len(header('uint8', (999_999, 4)))
    (128, 128)
  """
  stream = io.BytesIO()
  descr = np.lib.format.dtype_to_descr(np.dtype(dtype))
  fields = {'descr': descr, 'fortran_order': False, 'shape': shape}
  np.lib.format.write_array_header_1_0(stream, fields)
  return stream.getvalue()


def append(
  stream: BinaryIO, data: bytes | memoryview, written: Written
) -> None:
  """Writes some bytes and brings size and checksum up to date."""
  data = memoryview(data).cast('B')
  stream.write(data)
  written['bytes'] += data.nbytes
  written['crc32'] = zlib.crc32(data, written['crc32'])


def flush(stream: BinaryIO) -> None:
  """Brings a file to the disk: a power cut must not leave a hollow one."""
  stream.flush()
  os.fsync(stream.fileno())


def checksum(stream: BinaryIO) -> int:
  """Returns the CRC-32 of what is left to read."""
  crc32 = 0
  while chunk := stream.read(_CHUNK):
    crc32 = zlib.crc32(chunk, crc32)
  return crc32


def change_length(
  file: pathlib.Path, dtype: str, shape: tuple[int, ...]
) -> int:
  """Says in the header of a file that it holds fewer rows than was thought.

  Args:
    file: A .npy file.
    dtype: Of its array.
    shape: That it has in truth.

  Returns:
    The CRC-32 of the whole file.
  """
  with open(file, 'r+b') as stream:
    stream.write(header(dtype, shape))
    flush(stream)
    stream.seek(0)
    return checksum(stream)
