"""The page of a sweep: which settings were tried, and what came of them.

`rows` writes the table of members as files, `settings` puts the members of
several seeds together, `front` finds the settings that no other beats, `words`
says what the numbers mean, `heatmaps` and `curves` draw, `figures` composes the
figures with their captions, `table` lists the members, `page` writes it all.
"""
