"""docs/inputs.md: every row is what happens."""

import logging

import pytest

from tests.docs import inputs, pages

ROWS = {
  f'{heading}: {row.given}': row
  for heading, rows in inputs.SECTIONS.items()
  for row in rows
}


@pytest.mark.parametrize('name', ROWS)
def test_row(name, tmp_path, monkeypatch, caplog):
  monkeypatch.chdir(tmp_path)
  caplog.set_level(logging.INFO)
  row = ROWS[name]
  if row.becomes == 'refused':
    with pytest.raises(ValueError) as caught:
      row.run()
    assert row.quoted in str(caught.value)
  else:
    row.run()
    assert row.quoted in caplog.text


def test_the_page_of_inputs_is_up_to_date():
  found = (pages.ROOT / 'docs' / 'inputs.md').read_text()
  assert found == inputs.page(), inputs.__doc__
