"""All rules on all members of a report."""

from collections.abc import Callable, Sequence
from typing import Any

from advjax.reporting.sanity import attacks, measurements, strongest
from advjax.reporting.sanity.scores import Verdict
from advjax.reporting.values import (
  Report,
  attacks_of,
  is_evaluated,
  members_of,
)

Rule = Callable[[Report, str], Verdict]

RULES: dict[str, Rule] = {
  'accuracy falls with epsilon': attacks.falls,
  'nothing stands in a large ball': attacks.reaches_chance,
  'many steps beat one': attacks.steps_help,
  'more steps and restarts help': attacks.effort_helps,
  'one step and many agree': attacks.unmasked,
  'gradients are there': measurements.gradients_are_there,
  'white box beats transfer': measurements.white_box_beats_transfer,
  'attacks beat noise': measurements.attacks_beat_noise,
  'black box finds little more': strongest.black_box_finds_little,
  'AutoAttack is the strongest': strongest.autoattack_is_strongest,
  'AutoAttack raised no flags': strongest.autoattack_is_content,
  'unlimited attacks find all': measurements.unlimited_finds_all,
  'perturbations stay in the ball': measurements.stays_in_ball,
  'attacks survive 8 bits': measurements.survives_rounding,
  'logits, not probabilities': measurements.logits_were_checked,
}


def sanity_findings(report: Report) -> list[dict[str, Any]]:
  """Asks of every member whether its evaluation can be trusted.

  What is compared is what was measured alike: the same norm, the same epsilon.
  One accuracy counts as above another one where chance in the test images does
  not explain it: by the 95 % interval of the difference (`is_above`).

  Args:
    report: The content of report.json.

  Returns:
    One finding per member and rule: `check`, its name; `member`; `passed`,
    True, False (suspicious) or None (could not be decided); `detail`, plain
    sentences with the numbers, of a suspicious one also what it usually means
    and what to do.

  Example:
    >>> members = {'base': {'clean_accuracy': 0.9}}
    >>> report = {'dataset': {'num_test': 100}, 'members': members}
    >>> sanity_findings(report)[-1]['passed']
    True
  """
  findings = []
  for member in members_of(report):
    for check, rule in RULES.items():
      passed, detail = rule(report, member)
      findings.append(
        {'check': check, 'member': member, 'passed': passed, 'detail': detail}
      )
  return findings


def findings_of(report: Report) -> Sequence[dict[str, Any]]:
  """Returns the findings that a report holds, else those on its numbers.

  Args:
    report: The content of report.json; that of a comparison holds none.

  Returns:
    As `sanity_findings`; none where nothing was attacked.

  Example:
    >>> findings_of({'sanity': [], 'members': {'base': {}}})
    []
  """
  if is_evaluated(report):
    return report['sanity']
  return sanity_findings(report) if attacks_of(report) else []


def suspicions(findings: Sequence[dict[str, Any]]) -> list[str]:
  """Returns the sentences of the findings that did not pass.

  Example:
    >>> suspicions([{'passed': False, 'detail': 'It rises.'}])
    ['It rises.']
  """
  return [str(each['detail']) for each in findings if each['passed'] is False]
