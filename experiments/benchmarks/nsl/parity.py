"""Our numbers for NSL's options, and how far they are from NSL's.

Every number is computed by what training runs: the objectives and `bim`. Where
NSL draws at random, both sides are given the same draw.
"""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
from jax.tree_util import Partial

import advjax
from advjax import norms
from advjax.losses import cross_entropy
from advjax.models import Model, create_model
from advjax.training import objectives
from advjax.training.optimizers import create_decay
from experiments.benchmarks.nsl.cases import Case, translate

Arrays = dict[str, np.ndarray]


def _cnn(batch_norm: bool) -> Model:
  return create_model({'name': 'cnn', 'batch_norm': batch_norm}, 10)


class Network(NamedTuple):
  """A network of a case, and where it starts."""

  apply: Callable[..., Any]
  params: Any
  state: Any


def flat(tree: Any) -> Arrays:
  """Returns the arrays of a Flax tree under NSL's side's names."""
  return {
    '/'.join(str(key.key) for key in path[-2:]): np.asarray(leaf)
    for path, leaf in jax.tree_util.tree_leaves_with_path(tree)
  }


def make_arrays(images: np.ndarray, labels: np.ndarray) -> Arrays:
  """Returns what both sides start from: a batch, weights, draws and masks."""
  rng = np.random.default_rng(0)
  shape = images.shape[1:]
  arrays = {
    'image': images,
    'label': labels.astype(np.int32),
    'weight': rng.uniform(0.2, 1.8, len(labels)),
    'draw': rng.normal(size=images.shape),
    'mask': rng.uniform(size=shape) * (rng.random(shape) > 0.3),
    'lower': rng.uniform(-0.1, 0.0, shape),
  }
  arrays['mask_left'] = arrays['mask'][:, :14]
  for prefix, batch_norm in (('cnn/', False), ('cnn_bn/', True)):
    model = _cnn(batch_norm)
    for name, leaf in flat(model.init(jax.random.key(2), images[:1])).items():
      # Nothing that starts at zero or one may hide a difference.
      if name.endswith(('bias', 'mean')):
        leaf = 0.1 * rng.normal(size=leaf.shape)
      elif name.endswith(('scale', 'var')):
        leaf = np.exp(0.2 * rng.normal(size=leaf.shape))
      arrays[prefix + name] = leaf
  return cast(arrays, 'float32')


def cast(arrays: Mapping[str, np.ndarray], dtype: str) -> Arrays:
  """Returns the arrays, the floating ones in a dtype."""
  return {
    name: value.astype(dtype) if value.dtype.kind == 'f' else value
    for name, value in arrays.items()
  }


def _network(case: Case, arrays: Mapping[str, Any]) -> Network:
  prefix = 'cnn_bn/' if case.network == 'cnn_bn' else 'cnn/'
  model = _cnn(case.network == 'cnn_bn')
  example = jnp.zeros((1, 28, 28, 1))
  params, state = jax.tree_util.tree_map_with_path(
    lambda path, _: arrays[prefix + '/'.join(str(k.key) for k in path[-2:])],
    jax.eval_shape(model.init, jax.random.key(0), example),
  )

  def apply(params: Any, state: Any, images: Any, *, train: bool) -> Any:
    if isinstance(images, Mapping):
      images = jnp.concatenate([images['left'], images['right']], axis=2)
    return model.apply(params, state, images, train=train)

  return Network(apply, params, state)


def batch_of(case: Case, arrays: Mapping[str, Any]) -> dict[str, Any]:
  images = arrays['image']
  if case.network == 'cnn_features':
    images = {'left': images[:, :, :14], 'right': images[:, :, 14:]}
  size = len(arrays['label'])
  weight = arrays['weight'] if case.weighted else np.ones(size)
  return {
    'image': images,
    'label': arrays['label'],
    'weight': (weight / size).astype(arrays['image'].dtype),
  }


def named(images: Any) -> Arrays:
  images = images if isinstance(images, Mapping) else {'image': images}
  return {f'perturbed/{k}': np.asarray(v) for k, v in images.items()}


def run(case: Case, arrays: Mapping[str, Any], given: Any = None) -> Arrays:
  """Computes our side of a case."""
  network = _network(case, arrays)
  batch = batch_of(case, arrays)
  options, hparams = translate(case, arrays)
  if case.kind == 'perturb':
    return named(_perturb(network, batch, options, hparams))
  objective = objectives.create_objective(options)
  keys = jax.random.split(jax.random.key(1), len(arrays['label']))

  def loss_fn(params: Any, hparams: Any, given: Any) -> Any:
    seen: list[Any] = []
    own_passes = 0

    def spy(weights: Any, state: Any, images: Any, *, train: bool) -> Any:
      # Attacks on the virtual loss see stopped weights: the second pass of the
      # weights themselves is that of the perturbed images.
      nonlocal own_passes
      own_passes += weights is params
      if given is not None and case.kind == 'virtual' and own_passes == 2:
        images = given
      seen.append(images)
      return network.apply(weights, state, images, train=train)

    attack: Any = advjax.bim
    if given is not None:
      attack = mock.Mock(return_value=given)
    with (
      mock.patch.object(objectives, '_normal', lambda *_: arrays['draw']),
      mock.patch.object(objectives, 'bim', attack),
    ):
      loss, (state, metrics) = objective(
        spy, params, network.state, batch, hparams, keys
      )
    return loss, (state, metrics, seen[-1])

  (total, (state, metrics, perturbed)), gradient = jax.jit(
    jax.value_and_grad(loss_fn, has_aux=True)
  )(network.params, hparams, given)
  virtual_case = case.kind == 'virtual'
  second = 'virtual_adversarial_loss' if virtual_case else 'adversarial_loss'

  def mean(name: str) -> np.ndarray:
    return np.asarray((batch['weight'] * np.asarray(metrics[name])).sum())

  return {
    **named(perturbed),
    'clean_loss': mean('clean_loss'),
    'adversarial_loss': mean(second),
    'total_loss': np.asarray(total),
    **{f'gradient/{k}': v for k, v in flat(gradient).items()},
    **{f'statistics/{k}': v for k, v in flat(state).items()},
  }


def _perturb(
  network: Network,
  batch: Mapping[str, Any],
  options: Mapping[str, Any],
  hparams: Mapping[str, float],
) -> Any:
  """The counterpart of perturb_on_batch: `bim` in evaluation mode."""

  def loss_fn(weight: Any, logits: Any, labels: Any) -> Any:
    return weight * cross_entropy(logits, labels)

  def logits_fn(images: Any) -> Any:
    return network.apply(network.params, network.state, images, train=False)[0]

  return advjax.bim(
    logits_fn,
    batch['image'],
    batch['label'],
    hparams.get('epsilon'),
    hparams['step_size'],
    num_steps=options['num_steps'],
    norm=norms.NSL_NORMS[options['norm']],
    loss_fn=Partial(loss_fn, batch['weight']),
    bounds=options['bounds'],
  )


def input_gradient(case: Case, arrays: Mapping[str, Any]) -> Arrays:
  """The gradient of the mean loss by the clean images."""
  network, batch = _network(case, arrays), batch_of(case, arrays)
  train = case.kind != 'perturb'

  def loss_fn(images: Any) -> Any:
    given = network.params, network.state, images
    logits, _ = network.apply(*given, train=train)
    return (batch['weight'] * cross_entropy(logits, batch['label'])).sum()

  return named(jax.jit(jax.grad(loss_fn))(batch['image']))


def random_start(case: Case, arrays: Mapping[str, Any]) -> np.ndarray:
  """Where our attack starts: what steps of no length leave."""
  radius = case.config.get('pgd_epsilon') or case.config['adv_step_size']
  config = {**case.config, 'adv_step_size': 0.0, 'pgd_epsilon': radius}
  found = run(case._replace(config=config), arrays)['perturbed/image']
  return found - arrays['image']


def decayed(item: Mapping[str, Any], steps: Any) -> np.ndarray:
  """Our values of a decay at some steps."""
  fields = ('decay_steps', 'decay_rate', 'min_value')
  config = {field: item[field] for field in fields}
  config['name'] = item['decay_type'].removesuffix('_decay')
  decay = create_decay(config)
  return np.asarray([decay(item['value'], step) for step in steps])


def draws(norm: str, count: int) -> np.ndarray:
  """Our uniform draws from the unit ball of 784 dimensions, `[count, 784]`."""
  keys = jax.random.split(jax.random.key(3), count)
  like = jnp.zeros((count, 784))
  return np.asarray(norms.NSL_NORMS[norm].sample(keys, like))
