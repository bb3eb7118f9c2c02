"""Shows results: figures, tables, sentences and pages that open offline.

Of a run, `sanity` has the checks, `text` the sentences and tables, and `write`
writes the output files; `sweep` and `explained` have all of this for a sweep
and for explanations. `figures/` draws, `html` fills in `templates/`,
`formatting` writes numbers.
"""
