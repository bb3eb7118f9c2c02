"""Projects for the tests of launch.sh."""

import pytest

from tests.launch.projects import FIRST_START, Project


@pytest.fixture
def project(tmp_path) -> Project:
  return Project(tmp_path)


@pytest.fixture
def ready(project) -> Project:
  """A project that was set up before."""
  project.launch('train')
  assert project.calls() == FIRST_START
  return project
