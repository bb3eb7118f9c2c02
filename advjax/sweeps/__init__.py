"""The language of sweeps: text or a file -> members, all of them checked.

  SWEEP = PART;PART;...                        all combinations of the parts,
                                               the last part fastest
  PART  = FIELD=V1,V2,...                      one value after the other
        | zip(FIELD=V1,V2;FIELD=V1,V2;...)     fields that move together
        | list(FIELD=V,FIELD=V;FIELD=V,...)    members written out

FIELD is a field of the config with its dots, such as `hparams.epsilon`, and a
value has the type that the field has there.
"""

from advjax.sweeps.files import collect_sweep
from advjax.sweeps.members import (
  Member,
  create_members,
  cut_shard,
  shard_members,
)
from advjax.sweeps.text import parse_sweep

__all__ = [
  'Member',
  'collect_sweep',
  'create_members',
  'cut_shard',
  'parse_sweep',
  'shard_members',
]
