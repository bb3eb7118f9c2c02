"""Can an evaluation be trusted? Numbers of report.json in, findings out.

`scores` reads accuracies with their intervals, `attacks` holds the rules that
compare attacks with each other, `strongest` those on AutoAttack and Square,
`measurements` those on everything else, `findings` applies them all.
"""
