"""Shows results: figures, tables, sentences and pages that open offline.

`plots` and `images` draw, `html` fills in `templates/`, `formatting` writes
numbers; `sanity` judges a report, `text` and `figures` say and draw what is in
it, and `write` writes the output files of a run.
"""
