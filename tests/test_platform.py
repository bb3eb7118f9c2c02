"""The option --platform, and what is marked to run elsewhere than on a CPU."""

import pathlib

import jax
import pytest

ROOT = pathlib.Path(__file__).parents[1]


@pytest.mark.accelerator
def test_jax_runs_on_the_platform(request):
  assert jax.default_backend() == request.config.getoption('platform')


@pytest.mark.parametrize('folder', ['attacks', 'evaluation', 'training'])
def test_every_part_has_tests_for_accelerators(folder):
  files = (ROOT / 'tests' / folder).rglob('test_*.py')
  assert any('mark.accelerator' in file.read_text() for file in files)
