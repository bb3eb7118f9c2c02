"""The process of a part, which writes its results as soon as they are known.

  python -m MODULE NAME FOLDER

FOLDER/settings.json has the configuration; each result is a line of
FOLDER/NAME.jsonl, and so is the error that ends a part.
"""

import json
import os
import pathlib
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterable, Mapping
from typing import Any


def _end_with(launcher: int) -> None:
  """Ends this process, and all that it has started, after its launcher."""
  while os.getppid() == launcher:
    time.sleep(0.5)
  os.killpg(0, signal.SIGKILL)


def run(
  part: Callable[
    [str, Mapping[str, Any], pathlib.Path], Iterable[Mapping[str, Any]]
  ],
) -> None:
  """Runs the part that the command line names."""
  name, folder = sys.argv[1], pathlib.Path(sys.argv[2])
  settings = json.loads((folder / 'settings.json').read_text())
  launcher = [settings['launcher']]
  threading.Thread(target=_end_with, args=launcher, daemon=True).start()
  with open(folder / f'{name}.jsonl', 'w') as file:
    try:
      for result in part(name, settings, folder):
        print(json.dumps(result), file=file, flush=True)
    except Exception as error:
      traceback.print_exc()
      lines = str(error).strip().splitlines() or ['']
      # Of the output of another process the last line says most.
      line = lines[-1] if isinstance(error, RuntimeError) else lines[0]
      message = {'error': f'{type(error).__name__}: {line}'}
      print(json.dumps(message), file=file, flush=True)
      sys.exit(1)
