"""Standard training against adversarial regularization on Tiny ImageNet.

  ./launch.sh compare --config=configs/tiny_imagenet.py \\
    --config.dataset.path=tiny-imagenet-200.zip --workdir=runs/tiny_imagenet

The path is the folder or the zip as distributed (docs/datasets.md); any other
data set of colour images works too. `small_resnet`, the default, is trained
from scratch in minutes on two CPU cores and 4,000 images. Results, figures and
cost: docs/tiny_imagenet.md.

The two models differ only in the objective: `base` has standard training,
`adversarial` adversarial regularization with FGSM at 4/255. Both are trained
with flips, crops and colour jitter, and evaluated under noise, blur, weather
and pasted objects; the report marks corruptions seen in training.

Variants: the name of a family, `resnet18`, `resnet34`, `resnet50`,
`preact_resnet18`, `wide_resnet28_10`, `wide_resnet34_10`, `resnext29`,
`resnext50`, `small_resnet`, and of keras.applications `mobilenet_v2`,
`densenet121`, `nasnet_mobile`, `nasnet_large`, `efficientnet_b2`,
`efficientnet_b4` and `efficientnet_b6`, which start from ImageNet weights
(`--config.model.weights=FILE` for others) and are fine-tuned with gradual
unfreezing, from the head towards the input, one stage whenever the training
loss plateaus; `augmentation` (the two models with all augmentations and with
none); `families` (one network of each family, all adversarially regularized:
accuracy per parameter; select some with
`--config.members=small_resnet,resnet18`); `smoke`.
"""

from typing import Any

from ml_collections import config_dict

from advjax.config import choose, default_config, shrink_to_smoke

_SMALL = {'name': 'small_resnet'}


def _residual(name: str, stem: str = 'imagenet') -> dict[str, Any]:
  return {'name': name, 'stem': stem}


def _keras(architecture: str) -> dict[str, Any]:
  return {'name': 'keras', 'architecture': architecture, 'weights': 'imagenet'}


# Family -> its network, batch size and learning rate. Those of small_resnet
# have been tried; the others are usual values for training from scratch, a
# tenth of the rate for fine-tuning, smaller where the network is large.
FAMILIES: dict[str, tuple[dict[str, Any], int, float]] = {
  'small_resnet': (_SMALL, 64, 0.1),
  'resnet18': (_residual('resnet18'), 64, 0.05),
  'resnet34': (_residual('resnet34'), 64, 0.05),
  'resnet50': (_residual('resnet50'), 64, 0.05),
  'preact_resnet18': (_residual('preact_resnet18', 'cifar'), 64, 0.05),
  'wide_resnet28_10': (_residual('wide_resnet28_10', 'strided'), 64, 0.05),
  'wide_resnet34_10': (_residual('wide_resnet34_10', 'strided'), 64, 0.05),
  'resnext29': (_residual('resnext29', 'strided'), 64, 0.05),
  'resnext50': (_residual('resnext50'), 64, 0.05),
  'mobilenet_v2': (_keras('MobileNetV2'), 64, 0.01),
  'densenet121': (_keras('DenseNet121'), 64, 0.01),
  'nasnet_mobile': (_keras('NASNetMobile'), 64, 0.01),
  'nasnet_large': (_keras('NASNetLarge'), 32, 0.005),
  'efficientnet_b2': (_keras('EfficientNetB2'), 64, 0.01),
  'efficientnet_b4': (_keras('EfficientNetB4'), 32, 0.005),
  'efficientnet_b6': (_keras('EfficientNetB6'), 32, 0.005),
}
# The augmentation of every network, and what the variant `augmentation` adds.
_AUGMENTATION = {
  'horizontal_flip': 0.5,
  'crop_padding': 8,
  'brightness': 0.2,
  'contrast': 0.2,
  'saturation': 0.2,
}
_MORE_AUGMENTATION = {
  'hue': 0.05,
  'gaussian': 0.05,
  'poisson': 500.0,
  'salt_and_pepper': 0.01,
}


def _objectives() -> dict[str, dict[str, Any]]:
  """Returns the objectives of the two networks by name."""
  return {
    'base': {'objective': {'name': 'standard'}},
    'adversarial': {
      'objective': {
        'name': 'adversarial_regularization',
        'norm': 'linf',
        'bounds': (0.0, 1.0),
      },
      'hparams': {
        'multiplier': 1.0,
        'step_size': 4 / 255,
        # NSL's pgd_epsilon: no projection.
        'epsilon': config_dict.placeholder(float),
      },
    },
  }


def _family(name: str) -> dict[str, Any]:
  """Returns the fields that a family sets."""
  model, batch_size, learning_rate = FAMILIES[name]
  fields: dict[str, Any] = {
    'model': model,
    'batch_size': batch_size,
    'hparams': {'learning_rate': learning_rate},
  }
  if model['name'] == 'keras':
    # Constant, since a plateau of the loss unfreezes a stage.
    fields['schedule'] = {'name': 'constant'}
    fields['unfreezing'] = {
      **default_config().unfreezing.to_dict(),
      'name': 'plateau',
    }
  return fields


def _families() -> dict[str, dict[str, Any]]:
  """Returns a network of each family, all adversarially regularized."""
  adversarial = _objectives()['adversarial']
  members = {name: _family(name) for name in FAMILIES}
  return {
    name: {
      **member,
      'objective': adversarial['objective'],
      'hparams': {**adversarial['hparams'], **member['hparams']},
    }
    for name, member in members.items()
  }


def _with_and_without_augmentation() -> dict[str, dict[str, Any]]:
  all_of_it = _AUGMENTATION | _MORE_AUGMENTATION
  return {
    f'{name}_{how}': {**fields, 'augmentation': strengths}
    for how, strengths in (
      ('plain', dict.fromkeys(all_of_it, 0)),
      ('augmented', all_of_it),
    )
    for name, fields in _objectives().items()
  }


def get_config(variant: str | None = None) -> config_dict.ConfigDict:
  """Returns the config of a comparison of `base` and `adversarial`."""
  if variant is not None:
    choose('variant', variant, (*FAMILIES, 'augmentation', 'families', 'smoke'))
  config = default_config()
  config.dataset.name = 'folder'
  config.num_epochs = 20
  config.num_validation = 400
  config.optimizer.name = 'sgd'
  config.optimizer.nesterov = True
  config.optimizer.weight_decay = 5e-4
  config.schedule.name = 'one_cycle'
  config.schedule.warmup = 0.2
  config.augmentation.update(_AUGMENTATION)
  config.monitor.update(every_epochs=2, num_images=400)
  config.evaluation.epsilon = 4 / 255
  config.evaluation.epsilons = (1 / 255, 2 / 255, 4 / 255, 8 / 255)
  config.evaluation.attacks = ('fgsm', 'pgd-20')
  config.evaluation.batch_size = 128
  config.evaluation.top_k = 5
  config.evaluation.shifts = ('noise', 'corruptions', 'pasted_objects')
  for field, value in _family(
    variant if variant in FAMILIES else 'small_resnet'
  ).items():
    config[field] = value
  members = {
    'augmentation': _with_and_without_augmentation,
    'families': _families,
  }.get(variant or '', _objectives)()
  config.members = tuple(members)
  for name, fields in members.items():
    config[name] = fields
  if variant == 'smoke':
    shrink_to_smoke(config)
    config.evaluation.shifts = ('noise',)
  return config
