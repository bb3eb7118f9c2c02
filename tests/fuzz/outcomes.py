"""What may come of any input: a result, or an error that the package raises."""

import ast
import collections
import functools
import pathlib
import traceback

import hypothesis
import pytest

import advjax

PACKAGE = pathlib.Path(advjax.__file__).parent
# FileNotFoundError is an OSError, UnicodeError a ValueError.
ALLOWED = (ValueError, TypeError, OSError)


@functools.cache
def raising_lines(path):
  """The lines of a file that belong to a `raise` of an error of its own."""
  tree = ast.parse(pathlib.Path(path).read_text())
  return {
    line
    for node in ast.walk(tree)
    if isinstance(node, ast.Raise) and node.exc is not None
    for line in range(node.lineno, node.end_lineno + 1)
  }


def is_ours(error):
  """Whether the package raised an error itself, with a message."""
  frame = traceback.extract_tb(error.__traceback__)[-1]
  return (
    isinstance(error, ALLOWED)
    and PACKAGE in pathlib.Path(frame.filename).parents
    and frame.lineno in raising_lines(frame.filename)
    and bool(str(error))
  )


def kind_of(error):
  """What faults are grouped by: the error, and the last line of ours."""
  frames = traceback.extract_tb(error.__traceback__)
  ours = [f for f in frames if PACKAGE in pathlib.Path(f.filename).parents]
  if not ours or isinstance(error, pytest.fail.Exception):
    text = ' '.join(str(error).split())[:60]
    return f'{type(error).__name__}: {text}'
  where = ours[-1]
  path = pathlib.Path(where.filename).relative_to(PACKAGE.parent)
  return f'{type(error).__name__} at {path}:{where.lineno} ({where.name})'


def num_cases(share):
  """How many cases: in the suite a share, with the profile `fuzz` all."""
  count = hypothesis.settings().max_examples
  return count if count > 1000 else max(10, int(share * count))


class Faults:
  """The faults of many cases, those of one kind together."""

  def __init__(self):
    self.kinds = collections.defaultdict(list)

  def call(self, case, function, *args):
    """Calls a function on a case, and keeps a fault; returns its result."""
    try:
      return function(*args)
    except (Exception, pytest.fail.Exception) as error:
      if not is_ours(error):
        text = ' '.join(str(error).split())[:200]
        self.kinds[kind_of(error)].append(f'{case}: {text}')

  def __str__(self):
    return '\n'.join(
      f'{len(cases)} x {kind}\n    {min(cases, key=len)}'
      for kind, cases in sorted(self.kinds.items())
    )
