"""The project's pages, cut into blocks, commands, links and names."""

import pathlib
import re
import shlex
from typing import Any, NamedTuple

ROOT = pathlib.Path(__file__).parents[2]
PAGES = [ROOT / 'README.md', *sorted((ROOT / 'docs').glob('*.md'))]

_BLOCK = re.compile(r'^```(\w*)\n(.*?)^```$', re.M | re.S)
# What ./launch.sh runs when it is given no experiment.
_MAIN_JOB = [
  'compare',
  '--config=configs/nsl_digits.py',
  '--workdir=runs/nsl_digits',
]


class Block(NamedTuple):
  """A fenced block, and the line of its page that its text starts on."""

  language: str
  text: str
  line: int


def blocks(page: pathlib.Path) -> list[Block]:
  """Returns the fenced blocks of a page, in order."""
  text = page.read_text()
  return [
    Block(match[1], match[2], text[: match.start(2)].count('\n') + 1)
    for match in _BLOCK.finditer(text)
  ]


def run(page: pathlib.Path) -> dict[str, Any]:
  """Runs the Python blocks of a page in order, as one program."""
  namespace: dict[str, Any] = {'__name__': page.stem}
  for block in blocks(page):
    if block.language == 'python':
      # Lines are counted as in the page: so they are in a traceback.
      source = '\n' * (block.line - 1) + block.text
      exec(compile(source, str(page), 'exec'), namespace)
  return namespace


def prose(page: pathlib.Path) -> str:
  """Returns a page without its fenced blocks."""
  return _BLOCK.sub('', page.read_text())


def commands(page: pathlib.Path) -> list[list[str]]:
  """Returns the words of every command in the bash blocks of a page."""
  found = []
  for block in blocks(page):
    if block.language == 'bash':
      for line in block.text.replace('\\\n', ' ').splitlines():
        words = shlex.split(line, comments=True)
        found += [words] if words else []
  return found


def launched(command: list[str]) -> list[str] | None:
  """Returns what ./launch.sh or advjax would run, and its arguments, if any."""
  program, *arguments = command
  arguments = [a for a in arguments if not a.startswith('--processes=')]
  if arguments[:1] in (['test'], ['--help']):
    return None
  if program == 'advjax':
    return arguments
  if program != './launch.sh':
    return None
  if not arguments or arguments[0].startswith('-'):
    return _MAIN_JOB + arguments
  return arguments


def inline_code(page: pathlib.Path) -> list[str]:
  """Returns what is between single backticks outside of blocks."""
  return re.findall(r'`([^`\n]+)`', prose(page))
