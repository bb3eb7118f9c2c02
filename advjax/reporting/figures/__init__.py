"""The figures of reports.

`run`, `sweep` and `explained` draw those of each kind of report, as
`charts` (bars, lines, matrices, points) and `images` (grids of images).
"""

from advjax._extras import matplotlib, scipy  # noqa: F401
