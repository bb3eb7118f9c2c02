"""What a run shows: figures, tables, sentences and the page that holds them.

`values` writes numbers, `tables` and `sentences` need no matplotlib;
`charts` and `pictures` draw, `gallery` composes all figures of a report with
their captions, `page` holds what every page has, `html` writes that of a run;
`extras` measures what `sanity` judges and `evaluated` shows of an evaluation;
`sweep` draws and writes the page of a sweep.
"""
