"""Copies of the project to start launch.sh in, with a stub for Python.

The stub records how it is called. It answers the launcher's questions with the
real interpreter, and stands in for venv, pip, ruff, mypy and pytest: no
network, and nothing is installed.
"""

import json
import pathlib
import shlex
import shutil
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).parents[2]
# fmt: off
TOOLS = [
  'awk', 'bash', 'cat', 'cp', 'dirname', 'env', 'grep', 'ls', 'mkdir', 'mktemp',
  'mv', 'paste', 'readlink', 'rm', 'sed', 'sh', 'sleep', 'tail',
]
# fmt: on

STUB = r"""#!/usr/bin/env bash
# What a Python {version} would do. Files beside $CALLS make a module fail.
case "$*" in
  *sys.version_info* | *fcntl*)
    exec {real} -I -S -c "
import sys
sys.version_info = tuple(map(int, '{version}'.split('.')))
sys._base_executable = '$0'
if not {has_venv}:
  sys.modules['ensurepip'] = None
${{@: -1}}" ;;
esac
echo "$0 $*" >> "$CALLS"
echo "${{PYTHONPATH-}}" >> "$CALLS.paths"
for name in venv pip ruff mypy pytest; do
  if [[ "$*" == *"-m $name"* && -e $CALLS.no_$name ]]; then
    echo "$name broke"; echo "ERROR: No matching $name"; exit 1
  fi
done
case "$*" in
  '-m venv --clear '*)
    rm -rf "${{@: -1}}"
    mkdir -p "${{@: -1}}/bin"
    cp "$0" "${{@: -1}}/bin/python" ;;
  '-m pip install '*) [[ ! -e $CALLS.slow_pip ]] || sleep 1 ;;
  '-P -m experiments.'*) exec {real} "$@" ;;
esac
"""

EXPERIMENT = '''"""Would {name} models.

More about it.
"""

import json
import os
import sys


def is_open(descriptor):
  try:
    os.fstat(descriptor)
  except OSError:
    return False
  return True


if __name__ == '__main__':
  print(json.dumps({{
    'name': __spec__.name, 'arguments': sys.argv[1:], 'folder': os.getcwd(),
    'path': sys.path, 'environment': dict(os.environ), 'process': os.getpid(),
    'holds_lock': is_open(9),
  }}))
  sys.exit(int(os.environ.get('EXIT_CODE', 0)))
'''


class Project:
  """A copy of the project that the tests launch, and what was called."""

  def __init__(self, folder: pathlib.Path):
    self.root = folder / 'a project'
    self.bin = folder / 'bin'
    self.elsewhere = folder / 'else where'
    self.calls_file = folder / 'calls'
    self.stamp = self.root / '.venv/launch-stamp'
    for path in (self.root / 'experiments', self.root / 'configs'):
      path.mkdir(parents=True)
    self.bin.mkdir()
    self.elsewhere.mkdir()
    for name in ('launch.sh', 'requirements.txt'):
      shutil.copy(ROOT / name, self.root)
    for name in ('nsl_digits', 'other'):
      (self.root / f'configs/{name}.py').touch()
    for name in ('benchmark', 'compare', 'evaluate', 'train'):
      source = EXPERIMENT.format(name=name)
      (self.root / f'experiments/{name}.py').write_text(source)
    (self.root / 'experiments/__init__.py').touch()
    for tool in TOOLS:
      (self.bin / tool).symlink_to(shutil.which(tool))
    self.add_python('python3.12')
    self.environment = {
      'PATH': str(self.bin),
      'CALLS': str(self.calls_file),
      'JAX_PLATFORMS': 'cpu',
    }

  def add_python(self, name, version='3.12.1', has_venv=True, folder=None):
    """Puts a stub on the PATH, or into another folder."""
    path = (folder or self.bin) / name
    path.write_text(
      STUB.format(
        version=version, has_venv=has_venv, real=shlex.quote(sys.executable)
      )
    )
    path.chmod(0o755)
    return path

  def add_tool(self, name, script):
    """Puts a shell script on the PATH."""
    (self.bin / name).write_text(f'#!/usr/bin/env bash\n{script}\n')
    (self.bin / name).chmod(0o755)

  def start(self, *arguments, folder=None, launcher=None, **environment):
    """Starts the launcher."""
    return subprocess.Popen(
      [launcher or self.root / 'launch.sh', *arguments],
      cwd=folder or self.root,
      env=self.environment | environment,
      stdout=subprocess.PIPE,
      stderr=subprocess.PIPE,
      text=True,
    )

  def launch(self, *arguments, code=0, **options):
    """Runs the launcher to its end; returns what it wrote to both streams."""
    process = self.start(*arguments, **options)
    output, errors = process.communicate(timeout=60)
    assert process.returncode == code, errors
    return output, errors

  def job(self, *arguments, **options):
    """Runs the launcher; returns what the experiment saw."""
    return json.loads(self.launch(*arguments, **options)[0])

  def raw_calls(self):
    """Returns the calls since the last time."""
    if not self.calls_file.exists():
      return []
    lines = self.calls_file.read_text().splitlines()
    self.calls_file.unlink()
    return lines

  def paths(self):
    """Returns PYTHONPATH in all calls so far."""
    return pathlib.Path(f'{self.calls_file}.paths').read_text().splitlines()

  def calls(self):
    """Returns the modules that were called since the last time."""
    return [line.partition('-m ')[2].split()[0] for line in self.raw_calls()]

  def make_fail(self, module):
    """Lets the stub's venv, pip, ruff, mypy or pytest fail from now on."""
    pathlib.Path(f'{self.calls_file}.no_{module}').touch()

  def make_work(self, module):
    """Lets it work again."""
    pathlib.Path(f'{self.calls_file}.no_{module}').unlink()


@pytest.fixture
def project(tmp_path) -> Project:
  return Project(tmp_path)


@pytest.fixture(scope='session')
def venv(tmp_path_factory) -> pathlib.Path:
  """The .venv that launch.sh has made in another copy of the project."""
  other = Project(tmp_path_factory.mktemp('other'))
  other.launch('train')
  return other.root / '.venv'


@pytest.fixture
def ready(project, venv) -> Project:
  """A project that was set up before."""
  shutil.copytree(venv, project.root / '.venv')
  return project
