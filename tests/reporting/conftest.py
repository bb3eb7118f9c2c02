"""Figures of few dots: tests look at what is drawn, and at no pixel."""

import pytest

from advjax.reporting.figures import charts


@pytest.fixture(scope='module', autouse=True)
def coarse_figures():
  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(charts, '_DPI', 30)
    yield
