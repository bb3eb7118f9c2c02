"""The parts of a page that only an evaluation has, each where it was measured.

`shading` makes tables whose cells are coloured by accuracy, `matrices` fills
them, `tables` has those without colours, `autoattack` those of AutoAttack,
`sanity` lists what was checked, `charts` draws, `drawn` cuts a report down to
what the charts of every report can show, `parts` puts all in order.
"""
