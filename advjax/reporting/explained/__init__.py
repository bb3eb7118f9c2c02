"""Explanations of trained networks: chosen, measured, drawn, and their page.

`cases` chooses classes and images, `measure` computes maps and compares them,
`pictures` draws, `words` says what the numbers mean, `page` is the page.
"""
