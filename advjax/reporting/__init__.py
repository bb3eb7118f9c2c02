"""What a run shows: figures, tables, sentences and the page that holds them.

`values` writes numbers, `tables` and `sentences` need no matplotlib; `charts`
and `pictures` draw, `gallery` composes all figures of a report with their
captions, `html` writes the page.
"""
