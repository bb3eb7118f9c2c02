"""Networks of several sizes in one comparison, under shifts."""

import jax
import pytest

from advjax.config import default_config
from advjax.reporting import figures
from experiments.compare import compare
from tests.experiments.comparison import printed

UNITS = {'small': 4, 'large': 16}


def two_sizes():
  config = default_config()
  config.num_epochs = 1
  config.num_validation = 137
  config.batch_size = 100
  config.monitor.update(num_images=137, num_steps=1)
  config.evaluation.update(
    attacks=('fgsm',), epsilons=(0.1,), top_k=3, shifts=('pasted_objects',)
  )
  config.members = tuple(UNITS)
  for name, units in UNITS.items():
    config[name] = {'model': {'name': 'mlp', 'hidden_units': (units,)}}
  return config


@pytest.fixture(scope='module')
def compared(tmp_path_factory):
  workdir = tmp_path_factory.mktemp('models')
  with pytest.MonkeyPatch.context() as patch:
    # Drawing takes seconds, and is no part of what this is about.
    patch.setattr(figures, 'run_figures', lambda *args: {})
    report, _ = printed(compare, two_sizes(), workdir, jax.devices()[:1])
  return report, workdir


def test_members_may_be_of_several_sizes(compared):
  report, workdir = compared
  for name, units in UNITS.items():
    member = report['members'][name]
    assert member['num_params'] == 784 * units + units + units * 10 + 10
    assert (member['top_k'], member['num_validation']) == (3, 137)
    assert member['clean_top_k_accuracy'] >= member['clean_accuracy']
    entry = member['robust_accuracy']['fgsm']
    assert entry['white_box_top_k'] >= entry['white_box']
    (other,) = set(UNITS) - {name}
    assert set(entry['transfer_top_k']) == {other}
    assert list(member['pasted_objects']) == ['1', '2', '3', '4', '5']
    assert member['seen_corruptions'] == []
  page = (workdir / 'report.html').read_text()
  for name in ('summary', 'results', 'sanity'):
    assert f'<section id="{name}">' in page


@pytest.mark.parametrize(
  ('field', 'value', 'message'),
  [
    ('top_k', 10, r'evaluation.top_k = 10; allowed: an integer from 1 to 9'),
    ('shifts', ('noises',), r"'noises'; allowed: .*did you mean 'noise'"),
  ],
)
def test_what_the_data_do_not_allow_is_said_first(
  field, value, message, tmp_path
):
  config = two_sizes()
  config.evaluation[field] = value
  with pytest.raises(ValueError, match=message):
    compare(config, tmp_path / 'new', jax.devices())
  assert not (tmp_path / 'new').exists()
