"""Reads a page back: its tags nest, its attributes and texts are kept."""

from html.parser import HTMLParser

VOID = {'meta', 'img', 'br', 'link', 'hr', 'input'}


class Page(HTMLParser):
  """Checks that tags nest; keeps attributes and texts."""

  def __init__(self, text):
    super().__init__()
    self.open, self.tags, self.texts = [], [], []
    self.feed(text)
    self.close()
    assert self.open == []

  def handle_starttag(self, tag, attrs):
    self.tags.append((tag, dict(attrs)))
    if tag not in VOID:
      self.open.append(tag)

  def handle_endtag(self, tag):
    assert self.open.pop() == tag

  def handle_data(self, data):
    if self.open and self.open[-1] not in ('style', 'script'):
      self.texts.append(data)

  @property
  def text(self):
    return ' '.join(self.texts)

  def all(self, tag):
    return [attrs for name, attrs in self.tags if name == tag]
