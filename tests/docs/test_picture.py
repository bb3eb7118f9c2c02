"""The README's picture: how it is drawn, and that it is small."""

from tests.docs import pages


def test_pictures_are_small():
  pictures = list((pages.ROOT / 'docs').glob('*.png'))
  assert pictures
  for path in pictures:
    assert path.read_bytes().startswith(b'\x89PNG')
    assert path.stat().st_size < 250_000, path
