"""docs/config.md is what the code says."""

import runpy

from tests.docs import pages


def test_the_page_of_the_fields_is_up_to_date():
  script = runpy.run_path(str(pages.ROOT / 'docs' / 'config_page.py'))
  found = (pages.ROOT / 'docs' / 'config.md').read_text()
  assert found == script['page'](), script['__doc__']
