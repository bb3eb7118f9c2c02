"""What is refused as a member: the part at fault is named, and why."""

import pytest

from advjax.config import default_config
from advjax.sweeps import create_members
from tests.sweeps.test_members import digits, members_of


@pytest.mark.parametrize(
  ('text', 'message'),
  [
    # What the objective does not read, or lacks.
    (
      'hparams.beta=1,6',
      r"^hparams.beta=1 \(member 'beta=1'\): hparams.beta = 1.0 is not rea",
    ),
    ('hparams.multiplier=1', 'which reads learning_rate, epsilon, step_size'),
    (
      'objective.name=fgsm_at,trades',
      r"^objective.name=trades \(member 'name=trades'\): hparams.beta is missi",
    ),
    ('objective.name=fgsm', "unknown objective 'fgsm'.*did you mean 'fgsm_at'"),
    (
      'objective.norm=l2,l3',
      r"^objective.norm=l3 \(member 'norm=l3'\): unknown norm 'l3'",
    ),
    # One part of several.
    (
      'seed=0;hparams.beta=1;hparams.epsilon=0.1',
      r"^hparams.beta=1 \(member 'beta=1,epsilon=0.1,seed=0'\): h",
    ),
    (
      'objective.norm=l2;model.name=cnn,resnet',
      r"^model.name=resnet \(member 'name=resnet,norm=l2'\): unknown model",
    ),
    # Two parts are wrong: no one of them is named.
    (
      'batch_size=0;ema_decay=2',
      "^member 'batch_size=0,ema_decay=2' of the sweep: ",
    ),
    # What the config has stops fitting.
    (
      'objective.name=standard;seed=0',
      r'^objective.name=standard \(member .*: hparams.epsilon = 0.1 of the conf'
      "ig is not read by the objective 'standard', which reads learning_rate; "
      'sweep over objectives that read the same hparams',
    ),
    (
      'objective.name=standard;hparams.epsilon=0.1',
      r"^objective.name=standard \(member 'epsilon=0.1,name=standard'\)",
    ),
    # What is out of range.
    ('seed=0,-1', r"seed=-1 \(member 'seed=-1'\): seed = -1; allowed: an i"),
    ('batch_size=0', 'batch_size = 0; allowed: an integer >= 1'),
    ('hparams.epsilon=-0.1', 'hparams.epsilon = -0.1; allowed: a finite num'),
    ('optimizer.b1=2', 'optimizer.b1 = 2.0; allowed: a number from 0.0 to 1'),
    ('optimizer.name=adams', "unknown optimizer 'adams'.*mean 'adam"),
    ('schedule.name=cos', "unknown schedule 'cos'.*did you mean 'cosine'"),
    ('model.name=cnn,resnet', "'name=resnet'.*: unknown model 'resnet'"),
    ('multiplier_decay.name=linear', "unknown multiplier_decay 'linear'"),
    # What is idle.
    (
      'optimizer.momentum=0.5',
      'momentum = 0.5 has no effect: optimizer.name = '
      "'adam', and it is read under 'sgd' alone",
    ),
    (
      'optimizer.name=sgd,adam;optimizer.momentum=0.5,0.9',
      r"^optimizer.momentum=0.5 \(member 'momentum=0.5,name=adam'\): ",
    ),
    (
      'schedule.factor=0.5',
      'schedule.factor = 0.5 has no effect: schedule.nam',
    ),
    ('multiplier_decay.decay_rate=0.5', "the objective 'fgsm_at' reads no mul"),
    ('report_checkpoint=last;monitor.epsilon=0.2', 'monitor.epsilon = 0.2 has'),
    # In float64 they differ.
    (
      'hparams.epsilon=0.1,0.1000000001',
      "'epsilon=0.1' and 'epsilon=0.1000000001' of the sweep are trained alike",
    ),
  ],
)
def test_wrong_members_are_named(text, message):
  with pytest.raises(ValueError, match=message):
    members_of(text, digits())


@pytest.mark.parametrize('name', ['exponential', 'inverse_time', 'natural_exp'])
def test_fields_that_are_read_are_taken(name):
  config = digits('nsl')
  text = f'multiplier_decay.name={name};multiplier_decay.decay_rate=0.5,0.9'
  assert len(members_of(text, config)) == 2
  with pytest.raises(
    ValueError, match=r"decay_rate = 0.5 has no effect: .*'con"
  ):
    members_of('multiplier_decay.decay_rate=0.5', config)
  assert len(members_of('objective.name=fgsm_at', digits())) == 1
  assert len(members_of('monitor.epsilon=0.2,0.3', digits())) == 2


@pytest.mark.parametrize(
  ('settings', 'message'),
  [
    ([], 'the sweep is empty: there is nothing to sweep'),
    ([{}], 'nothing to sweep'),
    ([{'seed': 0}, {}], 'member 2 of the sweep sets nothing, the first one '),
    (
      [{'seed': 0}, {'batch_size': 8}],
      'sets batch_size, the first one sets se',
    ),
    ([{'sed': 0}], "unknown field 'sed'.*did you mean 'seed'"),
    (
      [{'seed': 0}, {'seed': 0.5}],
      'member 2 of the sweep: seed = 0.5; allowed',
    ),
    ([{'seed': True}], 'seed = True; allowed: an integer'),
    ([{'seed': '1'}], "seed = '1'; allowed: an integer"),
    ([{'ema_decay': True}], 'ema_decay = True; allowed: a finite number'),
    ([{'ema_decay': None}], 'ema_decay = None; allowed: a finite number'),
    ([{'hparams.epsilon': float('inf')}], 'inf; allowed: .* such as 0.03'),
    ([{'hparams.epsilon': 'x'}], "hparams.epsilon: not a number: 'x'"),
    ([{'model.name': 3}], 'model.name = 3; allowed: a text'),
    ([{'optimizer.nesterov': 1}], 'optimizer.nesterov = 1; allowed: true or'),
    ([{'schedule.boundaries': 0.5}], 'boundaries = 0.5; allowed: a tuple'),
    ([{'schedule.boundaries': ((1,),)}], r'\(\(1,\),\); allowed: a tuple'),
    ([{'objective': {'name': 'trades'}}], 'objective is a section; sweep over'),
    ([{'dataset.name': 'npz'}], 'dataset.name cannot be swept'),
    ([{'seeds': (0, 1)}], "sweep over 'seed' instead"),
    (
      [{'seed': 1}, {'seed': 0}, {'seed': 1}],
      r'members 1 \(seed = 1\) and 3 \(seed = 1\) of the sweep set the same',
    ),
  ],
)
def test_settings_of_a_file_are_checked(settings, message):
  with pytest.raises(ValueError, match=message):
    create_members(digits(), settings)


def test_only_one_network_is_swept():
  config = default_config()
  config.seeds = (0, 1)
  with pytest.raises(ValueError, match=r"seeds = \(0, 1\).*over 'seed'"):
    create_members(config, [{'batch_size': 8}])
  config.members = ('a',)
  with pytest.raises(ValueError, match="it belongs to 'compare'"):
    create_members(config, [{'batch_size': 8}])
