"""Common corruptions of images: 15 kinds at 5 severities, made on the fly."""

from advjax.evaluation.corruptions.kinds import KINDS, SEVERITIES, corrupt

__all__ = ['KINDS', 'SEVERITIES', 'corrupt']
