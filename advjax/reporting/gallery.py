"""Encodes figures."""

import io
import re
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from matplotlib.figure import Figure

from advjax.files import replacing

_DPI = 150
_MAX_PIXELS = 1650


class Picture(NamedTuple):
  """A figure, drawn.

  Attributes:
    name: the file's stem and the anchor on the page.
    title: a few words above the figure.
    caption: what it shows.
    png: the encoded image.
    half: whether half the page's width is enough, so that two stand side by
      side.
  """

  name: str
  title: str
  caption: str
  png: bytes
  half: bool = False


def draw(
  name: str, title: str, caption: str, figure: Figure, half: bool = False
) -> Picture:
  """Encodes a figure once, for its file and for the page.

  Args:
    name: the file's stem; other characters than letters, digits, dots and
      dashes become underscores.
    title: a few words.
    caption: what the figure shows.
    figure: the figure; at most 1,650 pixels wide when encoded.
    half: whether it takes half the page's width.

  Returns:
    The picture.
  """
  buffer = io.BytesIO()
  width = float(figure.get_size_inches()[0])
  figure.savefig(
    buffer,
    format='png',
    dpi=min(_DPI, _MAX_PIXELS / width),
    metadata={'Software': None},  # The same figure is the same file.
  )
  stem = re.sub(r'[^\w.-]', '_', name)  # Members may be called anything.
  return Picture(stem, title, caption, buffer.getvalue(), half)


def save_figures(drawn: Sequence[Picture], directory: Path) -> list[Path]:
  """Writes `<directory>/<name>.png` for every picture.

  Args:
    drawn: the pictures.
    directory: made if it is not there.

  Returns:
    The paths written, in the same order.
  """
  directory = Path(directory)
  directory.mkdir(parents=True, exist_ok=True)
  paths = []
  for picture in drawn:
    path = directory / f'{picture.name}.png'
    with replacing(path) as file:
      file.write(picture.png)
    paths.append(path)
  return paths
