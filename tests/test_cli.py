"""Flags, exit codes, devices."""

import ast
import errno
import inspect
import io
import logging
import re
import signal
import sys
import typing

import jax
import pytest
from absl import flags

from advjax import cli
from advjax.config import FIELDS, member_config
from advjax.fields import CHOICES, HELP, help_of, options
from advjax.processes.signals import Interrupted
from advjax.training.loop import Diverged
from advjax.training.objectives import OBJECTIVES, hparams_of

CONFIG = """
from advjax.config import choose, default_config

def get_config(variant=None):
  config = default_config()
  if variant is not None:
    config.num_epochs = {'long': 100}[choose('variant', variant, ['long'])]
  config.hparams.step_size = config.hparams.get_ref('learning_rate') * 2
  return config
"""


@pytest.fixture(autouse=True)
def own_logging(monkeypatch):
  """The root logger stays pytest's."""
  monkeypatch.setattr(logging, 'basicConfig', lambda **kwargs: None)
  level = cli.logger.level
  yield
  cli.logger.setLevel(level)


@pytest.fixture(scope='module', autouse=True)
def no_flags_of_experiments():
  """Hides the flags of experiments that other tests have imported."""
  hidden = {
    flag.name: flag
    for module, found in flags.FLAGS.flags_by_module_dict().items()
    if module.startswith('experiments')
    for flag in found
  }
  for name in hidden:
    delattr(flags.FLAGS, name)
  yield
  for name, flag in hidden.items():
    flags.FLAGS[name] = flag


@pytest.fixture
def own_flags(no_flags_of_experiments):
  """The flags of an experiment; those defined here are gone afterwards."""
  before = set(flags.FLAGS)
  cli.define_config_flags()
  yield flags.FLAGS
  for name in set(flags.FLAGS) - before:
    delattr(flags.FLAGS, name)
  flags.FLAGS.unparse_flags()


def run(monkeypatch, *arguments, main=lambda: None):
  # ml_collections looks for overrides in sys.argv itself.
  argv = ['program', *arguments]
  monkeypatch.setattr('sys.argv', argv)
  cli.run(main)


def run_main(error):
  def main():
    raise error

  with pytest.raises(SystemExit) as end:
    cli.run(main, ['program'])
  return end.value.code


@pytest.mark.parametrize(
  ('error', 'code'),
  [
    (ValueError('seed = -1'), 2),
    (FileNotFoundError('a.npz: there is no such file'), 2),
    (PermissionError(errno.EACCES, 'Permission denied', 'a.npz'), 2),
    (Diverged('base: the loss is nan at step 3'), 1),
    (Interrupted(signal.SIGINT), 130),
    (Interrupted(signal.SIGUSR1), 128 + signal.SIGUSR1),
  ],
  ids=str,
)
def test_exit_codes(error, code, caplog):
  assert run_main(error) == code
  (message,) = caplog.messages
  assert (getattr(error, 'filename', None) or str(error)) in message


@pytest.mark.parametrize('signum', [signal.SIGINT, signal.SIGTERM])
def test_a_signal_is_one_line_and_a_second_one_ends_it_at_once(signum, caplog):
  def main():
    try:
      signal.raise_signal(signum)
    finally:
      acts.append(signal.getsignal(signum))

  acts, before = [], signal.getsignal(signum)
  with pytest.raises(SystemExit) as end:
    cli.run(main, ['program'], kept='one half')
  assert end.value.code == 128 + signum
  (message,) = caplog.messages
  assert signum.name in message and 'one half' in message
  assert acts == [signal.SIG_DFL]
  assert signal.getsignal(signum) == before


def test_what_a_terminal_cannot_write_does_not_end_a_run(monkeypatch):
  written = io.BytesIO()
  monkeypatch.setattr('sys.stdout', io.TextIOWrapper(written, 'ascii'))
  cli.run(lambda: print('90 \xb1 2, caf\udce9', flush=True), ['program'])
  assert written.getvalue() == rb'90 \xb1 2, caf\udce9' + b'\n'


@pytest.mark.parametrize('code', [errno.ENOSPC, errno.EDQUOT])
def test_a_full_disk_is_one_line(caplog, code):
  reason = "No space left; the last good checkpoint stays in 'a/last'"
  assert run_main(OSError(code, reason, 'a/best')) == 1
  assert caplog.messages == [
    'error: a/best cannot be written: No space left; the last good checkpoint '
    "stays in 'a/last'; free some space and run the same command again to "
    'resume'
  ]


@pytest.mark.parametrize('error', [KeyError('x'), BrokenPipeError(errno.EPIPE)])
def test_bugs_are_raised(error):
  def main():
    raise error

  with pytest.raises(type(error)):
    cli.run(main, ['program'])


def test_flags_set_fields_and_references_follow(
  own_flags, monkeypatch, tmp_path
):
  path = tmp_path / 'config.py'
  path.write_text(CONFIG)
  seen = []
  run(
    monkeypatch,
    '-config',
    f'{path}:long',
    f'--workdir={tmp_path}',
    '--config.hparams.learning_rate=8/255',
    '--config.evaluation.epsilons=(1/8, 0.5)',
    '--config.evaluation.attacks=("fgsm",)',
    '--config.dataset.path=data/1/2.npz',
    '--config.optimizer.nesterov',
    '--config.seed',
    '3',
    main=lambda: seen.append(own_flags.config.copy_and_resolve_references()),
  )
  (config,) = seen
  assert config.num_epochs == 100
  assert config.hparams.learning_rate == 8 / 255
  assert config.hparams.step_size == 16 / 255
  assert config.evaluation.epsilons == (0.125, 0.5)
  assert config.evaluation.attacks == ('fgsm',)
  assert config.dataset.path == 'data/1/2.npz'
  assert config.optimizer.nesterov is True
  assert config.seed == 3
  assert own_flags.workdir == str(tmp_path)


@pytest.mark.parametrize('flag', [['--config={}'], ['-config', '{}']], ids=str)
def test_a_config_is_the_callers_else_ours(
  own_flags, monkeypatch, tmp_path, flag
):
  monkeypatch.chdir(tmp_path)
  command = [a.format('configs/digits.py:trades') for a in flag]
  seen = []
  main = lambda: seen.append(own_flags.config.seed)  # noqa: E731
  run(monkeypatch, *command, '--workdir=new', main=main)
  (tmp_path / 'configs').mkdir()
  own = CONFIG.replace("['long']", "['trades']").replace("'long'", "'trades'")
  own = own.replace('  return', '  config.seed = 7\n  return')
  (tmp_path / 'configs/digits.py').write_text(own)
  run(monkeypatch, *command, '--workdir=new', main=main)
  assert seen == [0, 7]


def test_the_callers_folder_is_searched_last(monkeypatch, tmp_path):
  before = list(sys.path)
  monkeypatch.setattr('sys.path', list(before))
  monkeypatch.chdir(tmp_path)
  for _ in range(2):
    cli.run(lambda: None, ['program'])
  assert sys.path == [*before, str(tmp_path)]


# What each section of a config may be, by its name; 'sections' are the others.
CHOSEN = [
  ('sections', ''),
  *[(section, name) for section in CHOICES for name in CHOICES[section]],
]


def defaults_of(section, name):
  """Dotted field -> its default; a type where it has none."""
  if section == 'sections':
    return {
      field: default
      for field, (default, _) in FIELDS.items()
      if field.partition('.')[0] not in CHOICES
    }
  parameters = inspect.signature(CHOICES[section][name]).parameters
  hidden = {'num_classes', 'axis_name', 'axis_index_groups', 'parent', 'name'}
  return {
    f'{section}.{field}': parameter.default
    for field, parameter in parameters.items()
    if field not in hidden
  }


def another(field, default):
  """The text of another value than the default, and that value."""
  if isinstance(default, bool):
    return str(not default).lower(), not default
  if isinstance(default, int | float):
    return repr(default + 1), default + 1
  if isinstance(default, tuple) and default:
    return repr((*default, default[0])), (*default, default[0])
  texts = {tuple: '(7, 8)', int: '7', float: '7.5', str: 'text'}
  numbers = field in ('objective.bounds', 'objective.mask', 'seeds')
  kind = tuple if numbers else default if isinstance(default, type) else str
  kind = {'image_size': int, 'test_fraction': float}.get(
    field.rpartition('.')[2], kind
  )
  text = (
    "('a:b',)" if default == () and not numbers else texts.get(kind, 'text')
  )
  return text, text if text == 'text' else ast.literal_eval(text)


@pytest.mark.parametrize(('section', 'name'), CHOSEN)
def test_every_field_is_a_flag(own_flags, monkeypatch, section, name):
  values = {
    field: another(field, default)
    for field, default in defaults_of(section, name).items()
    if not field.endswith('.name')
  }
  if section != 'sections':
    values[f'{section}.name'] = name, name
  found = []
  run(
    monkeypatch,
    '--config=configs/digits.py:standard',
    '--workdir=unused',
    *[f'--config.{field}={text}' for field, (text, _) in values.items()],
    main=lambda: found.append(own_flags.config.copy_and_resolve_references()),
  )
  for field, (_, value) in values.items():
    assert found[0][field] == value, field


def test_every_field_has_a_line_and_no_line_is_left_over():
  fields = {
    f'{section}.{field}'
    for section in CHOICES
    for name in CHOICES[section]
    for field in options(section, name)
  }
  hparams = {f'hparams.{n}' for name in OBJECTIVES for n in hparams_of(name)}
  assert {f for f in fields | hparams if not help_of(f)} == set()
  assert set(HELP) <= fields | hparams


def set_by(monkeypatch, own_flags, *arguments):
  """The config that flags make."""
  found = []
  run(
    monkeypatch,
    '--workdir=unused',
    *arguments,
    main=lambda: found.append(own_flags.config.copy_and_resolve_references()),
  )
  return found[0]


def test_a_section_follows_the_name_that_is_chosen(own_flags, monkeypatch):
  config = set_by(
    monkeypatch,
    own_flags,
    '--config=configs/cifar10_fast.py',
    '--config.objective.name=trades',
    '--config.hparams.beta=3',
    '--config.model.name=cnn',
    '--config.model.batch_norm',
    '--config.dataset.name=digits',
    '--config.evaluation.bounds=None',
  )
  # What trades reads stays, what it does not read goes.
  assert config.objective.to_dict() == {
    **{'name': 'trades', 'norm': 'linf', 'attack_batch_norm': 'train'},
  }
  assert set(config.hparams) == {'learning_rate', 'step_size', 'beta'}
  assert config.hparams.beta == 3.0
  assert config.model.to_dict() == {'name': 'cnn', 'batch_norm': True}
  assert config.dataset.to_dict() == {'name': 'digits', 'classes': None}
  assert config.evaluation.bounds is None


def test_flags_set_any_field_of_one_model(own_flags, monkeypatch):
  config = set_by(
    monkeypatch,
    own_flags,
    '--config=configs/nsl_digits.py',
    '--config.adversarial.objective.name=pgd_at',
    '--config.adversarial.hparams.epsilon=8/255',
    '--config.adversarial.optimizer.name=sgd',
    '--config.adversarial.batch_size=64',
    '--config.adversarial.model.hidden_units=(8,)',
    '--config.adversarial.model.name=mlp',
  )
  base, adversarial = (member_config(config, n) for n in config.members)
  assert adversarial.objective.name == 'pgd_at'
  assert adversarial.hparams.epsilon == 8 / 255
  # What NSL's regularization reads alone is gone.
  assert set(adversarial.hparams) == {'learning_rate', 'epsilon', 'step_size'}
  assert (base.optimizer.name, adversarial.optimizer.name) == ('adam', 'sgd')
  assert adversarial.optimizer.eps == base.optimizer.eps == 1e-7
  assert (base.batch_size, adversarial.batch_size) == (32, 64)
  assert adversarial.model.to_dict() == {'name': 'mlp', 'hidden_units': (8,)}
  assert base.model.name == 'cnn'


def test_flags_of_one_model_leave_it_those_of_all(own_flags, monkeypatch):
  """In whatever order they are given."""
  arguments = [
    '--config.adversarial.model.batch_norm',
    '--config.model.conv_filters=(8,)',
    '--config.adversarial.schedule.warmup=0.5',
    '--config.schedule.name=cosine',
    '--config.adversarial.optimizer.weight_decay=0.1',
    '--config.optimizer.b1=0.5',
  ]
  config = set_by(
    monkeypatch, own_flags, '--config=configs/nsl_digits.py', *arguments
  )
  base, adversarial = (member_config(config, n) for n in config.members)
  for member in (base, adversarial):
    assert member.model.conv_filters == (8,)
    assert member.schedule.name == 'cosine'
    assert member.optimizer.b1 == 0.5
  assert adversarial.model.batch_norm and 'batch_norm' not in base.model
  assert (base.schedule.warmup, adversarial.schedule.warmup) == (0, 0.5)
  assert (base.optimizer.weight_decay, adversarial.optimizer.weight_decay) == (
    *(0, 0.1),
  )


@pytest.mark.parametrize(
  ('field', 'fine'),
  [
    ('evaluation.bounds', True),
    ('objective.bounds', True),
    ('hparams.epsilon', True),
    ('dataset.data_dir', True),
    ('seeds', False),
    ('evaluation.attacks', False),
    ('optimizer.nesterov', False),
    ('objective.random_start', False),
    ('model', False),
  ],
)
def test_none_is_for_fields_that_may_be_empty(
  own_flags, monkeypatch, caplog, field, fine
):
  # The last one counts, as with other values.
  given = []
  if field.endswith('bounds'):
    given = [f'--config.{field}={value}' for value in ('None', '(0, 1)')]
  given += ['--config=configs/digits.py:pgd_at', f'--config.{field}=None']
  if fine:
    assert set_by(monkeypatch, own_flags, *given)[field] is None
    return
  with pytest.raises(SystemExit) as end:
    set_by(monkeypatch, own_flags, *given)
  assert end.value.code == 2
  assert f'--config.{field} = None; allowed: a value' in caplog.text


# What nothing in place of a value means to a flag.
EMPTIED = {
  'dataset.image_size': None,
  'dataset.classes': None,
  'evaluation.bounds': None,
  'objective.mask': None,
  'hparams.epsilon': None,
  'dataset.path': '',
  'init_from': '',
  'seeds': (),
  'evaluation.shifts': (),
  'evaluation.attacks': (),
}


def test_flags_empty_what_may_be_empty(own_flags, monkeypatch):
  config = set_by(
    monkeypatch,
    own_flags,
    '--config=configs/digits.py:nsl',
    '--config.dataset.image_size=8',
    *[f'--config.{field}=' for field in EMPTIED],
  )
  assert {field: config[field] for field in EMPTIED} == EMPTIED


@pytest.mark.parametrize(
  'field', ['seed', 'optimizer.nesterov', 'evaluation.epsilon', 'model']
)
def test_flags_do_not_empty_other_fields(own_flags, monkeypatch, caplog, field):
  with pytest.raises(SystemExit):
    set_by(
      monkeypatch, own_flags, '--config=configs/digits.py', f'--config.{field}='
    )
  assert f'--config.{field} = ; allowed: a value' in caplog.text


# Section, name -> the fields whose annotation allows None.
OPTIONAL = {
  (section, name): [
    f'{section}.{field}'
    for field, each in inspect.signature(function).parameters.items()
    if type(None) in typing.get_args(each.annotation)
    and field in options(section, name)
  ]
  for section, functions in CHOICES.items()
  for name, function in functions.items()
}


@pytest.mark.parametrize('text', ['None', ''])
@pytest.mark.parametrize('chosen', [key for key in OPTIONAL if OPTIONAL[key]])
def test_every_field_that_may_be_none_can_be(
  own_flags, monkeypatch, chosen, text
):
  section, name = chosen
  config = set_by(
    monkeypatch,
    own_flags,
    '--config=configs/digits.py:standard',
    f'--config.{section}.name={name}',
    *[f'--config.{field}={text}' for field in OPTIONAL[chosen]],
  )
  # The loaders take an empty text as nothing.
  assert {config[field] for field in OPTIONAL[chosen]} <= {None, ''}


def test_commands_as_people_type_them(own_flags, monkeypatch, tmp_path):
  """Without .py, from the home folder, with spaces and a last comma."""
  monkeypatch.setenv('HOME', str(tmp_path))
  (tmp_path / 'my own.py').write_text(CONFIG)
  flags.DEFINE_list('names', None, '')  # own_flags removes it.
  config = set_by(
    monkeypatch,
    own_flags,
    *('--config', '~/my own:long'),
    *('--config.evaluation.attacks', 'fgsm, pgd-3, '),
    '--config.evaluation.epsilons=0.1,1/5,',
    '--config.seed=1',
    '--config.seed=',
    '--config.seed=2',
    '--names=a, b,',
  )
  assert config.num_epochs == 100 and config.seed == 2
  assert config.evaluation.epsilons == (0.1, 0.2)
  assert [*config.evaluation.attacks] == ['fgsm, pgd-3']
  assert own_flags.names == ['a', 'b']


@pytest.mark.parametrize('where', ['hparams', 'evaluation', 'monitor'])
def test_epsilon_follows_down_alone(own_flags, monkeypatch, where):
  config = set_by(
    monkeypatch,
    own_flags,
    '--config=configs/cifar10.py:trades',
    f'--config.{where}.epsilon=0.5',
  )
  order = ['hparams', 'evaluation', 'monitor']
  found = [config[each].epsilon for each in order]
  expected = {
    'hparams': [0.5, 0.5, 0.5],
    'evaluation': [8 / 255, 0.5, 0.5],
    'monitor': [8 / 255, 8 / 255, 0.5],
  }
  assert found == expected[where]


@pytest.mark.parametrize(
  ('line', 'said', 'own'),
  [
    ("raise ValueError('mine')", 'mine', True),
    ('import not_installed', "No module named 'not_installed'", True),
    ("int('many')", 'invalid literal', True),
    ("choose('variant', 'x', ['y'])", "variant = 'x'; allowed: 'y'", False),
    ('def', 'invalid syntax', False),
    ('return', 'mine.py returns no ConfigDict', False),
  ],
)
def test_an_error_in_a_users_own_file_has_its_line(
  own_flags, monkeypatch, tmp_path, caplog, capsys, line, said, own
):
  path = tmp_path / 'mine.py'
  path.write_text(CONFIG.replace('  return', f'  {line}\n  return'))
  with pytest.raises(SystemExit) as end:
    run(monkeypatch, f'--config={path}', '--workdir=unused')
  assert end.value.code == 2
  (message,) = caplog.messages
  assert message.startswith('error: ') and said in message
  errors = capsys.readouterr().err
  assert (f'{path}", line 9' in errors) == ('Traceback' in errors) == own


@pytest.mark.parametrize('section', ['evaluation', 'dataset'])
def test_what_members_share_is_not_set_for_one(
  own_flags, monkeypatch, caplog, section
):
  with pytest.raises(SystemExit):
    set_by(
      monkeypatch,
      own_flags,
      '--config=configs/nsl_digits.py',
      f'--config.adversarial.{section}.name=1',
    )
  (message,) = caplog.messages
  assert f'allowed: --config.{section}.name, since' in message
  assert 'common to all members' in message


def test_help_shows_what_flags_set_and_what_is_required(
  own_flags, monkeypatch, capsys
):
  flag = '--config.hparams.learning_rate=1/4', '--config.objective.name=trades'
  run(monkeypatch, '--config=configs/digits.py:standard', *flag, '--help')
  text = capsys.readouterr().out
  for line in (
    r'--config.hparams.learning_rate=0.25 .* Default: 0.001\.',
    r'--config.hparams.epsilon=\(required\)  Radius',
    r'--config.evaluation.epsilon=0.1 ',
  ):
    assert re.search(f'^  {line}', text, re.M), line


def test_help_lists_the_fields_of_a_config(own_flags, monkeypatch, capsys):
  config = '--config=configs/nsl_digits.py'
  run(monkeypatch, '--help', config, '--config.model.name=mlp')
  text = capsys.readouterr().out
  for line in (
    r'--config.batch_size=32  Images per step',
    r'--config.num_epochs=20  Epochs\. Default: 5\.',
    r'--config.model.hidden_units=\(256, 128\)  Units of',
    r'--config.adversarial.hparams.multiplier=0.2',
    r'--config.MEMBER.FIELD=',
  ):
    assert re.search(f'^  {line}', text, re.M), line


def test_help_names_the_flags_and_runs_nothing(own_flags, monkeypatch, capsys):
  run(monkeypatch, '-h', main=pytest.fail)
  text = capsys.readouterr().out
  for name in ('config', 'workdir', '[no]print_model', 'platform', 'devices'):
    assert f'--{name}: ' in text


def test_help_works_in_any_environment(own_flags, monkeypatch, capsys):
  monkeypatch.setenv('OMPI_COMM_WORLD_SIZE', '2')
  monkeypatch.delenv('HOME')
  run(monkeypatch, '--help', main=pytest.fail)
  assert '--workdir: ' in capsys.readouterr().out
  with pytest.raises(SystemExit):
    run(monkeypatch, '--config=configs/digits.py', '--workdir=x')


def test_devices_are_named_first(caplog):
  flags.FLAGS(['program', '--platform=cpu', '--devices=1'])
  jax.config.update('jax_platforms', None)
  try:
    with caplog.at_level(logging.INFO):
      assert cli.devices_from_flags() == jax.devices()[:1]
    assert jax.config.jax_platforms == 'cpu'  # None else is started.
  finally:
    flags.FLAGS.unparse_flags()
    flags.FLAGS['platform'].value = None
    flags.FLAGS['devices'].value = None
  (line,) = caplog.messages
  assert line == 'devices: 1 x cpu (cpu), pmap over 1, process 0 of 1'


@pytest.mark.parametrize(('place', 'said'), [('0/2', 1), ('1/2', 0)])
def test_an_experiment_of_one_process_refuses_several(
  monkeypatch, caplog, place, said
):
  """Once on each machine."""
  monkeypatch.setenv('ADVJAX_PROCESS', place)
  monkeypatch.setenv('ADVJAX_LOCAL_PROCESS', place)
  with pytest.raises(SystemExit) as end:
    cli.run(pytest.fail, ['program'])
  assert end.value.code == 2
  message = (
    'error: number of processes = 2, started by --processes; allowed: 1 for '
    'this experiment'
  )
  assert caplog.messages == [message] * said


def test_processes_apart_do_not_meet(monkeypatch):
  monkeypatch.setenv('ADVJAX_PROCESS', '1/2')
  seen = []
  cli.run(
    lambda: seen.append(jax.process_count()), ['program'], processes='apart'
  )
  assert seen == [1]


@pytest.mark.parametrize(
  ('variables', 'message'),
  [
    ({'ADVJAX_PROCESS': '2/2'}, "ADVJAX_PROCESS = '2/2'; allowed: i/n"),
    (
      {'ADVJAX_PROCESS': '0/2'},
      'JAX_COORDINATOR_ADDRESS = None; allowed: HOST:PORT',
    ),
    (
      {
        'ADVJAX_PROCESS': '0/2',
        'ADVJAX_LOCAL_PROCESS': '0/2',
        'JAX_COORDINATOR_ADDRESS': 'localhost:1',
        'JAX_PLATFORMS': '',
        'CUDA_VISIBLE_DEVICES': '0,1,2',
      },
      'processes = 2 on this machine; allowed: as many as divide its 3',
    ),
  ],
)
def test_processes_that_cannot_meet(monkeypatch, caplog, variables, message):
  for name, value in variables.items():
    monkeypatch.setenv(name, value)
  with pytest.raises(SystemExit) as end:
    cli.run(pytest.fail, ['program'], processes='together')
  assert end.value.code == 2
  (said,) = caplog.messages
  assert message in said
