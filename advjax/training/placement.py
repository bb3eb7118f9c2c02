"""Where the runs that are trained at once live on the devices."""

from collections.abc import Collection, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from advjax.devices import replicate, split
from advjax.processes.collectives import gather, own_ranks
from advjax.training.setup import Training
from advjax.training.step import RunInputs
from advjax.types import Array


class Placement(NamedTuple):
  """Several runs on several devices.

  One run, or several with the devices in one team: every device has the same
  state, of several runs stacked, and takes its rows of each batch. Several
  teams: each has a stack of runs of its own; where the runs do not come out
  even, copies of the first fill up, and wait.

  Attributes:
    num_runs: Runs.
    num_teams: Teams (`StepPlan`).
    devices: The devices, team after team.
  """

  num_runs: int
  num_teams: int
  devices: Sequence[jax.Device]

  @property
  def runs_per_team(self) -> int:
    """Places for runs in each team."""
    return -(-self.num_runs // self.num_teams)

  def put(self, trees: Sequence[Any]) -> Any:
    """Puts a pytree of each run on the devices, as train_runs takes them.

    Args:
      trees: One pytree per run, all of one structure.

    Returns:
      The only one; or one whose leaves have a leading axis over the runs, and
      before it, with several teams, one over the devices.
    """
    if self.num_runs == 1:
      return replicate(trees[0], self.devices)
    if self.num_teams == 1:
      return replicate(_stack(trees), self.devices)
    places = self.num_teams * self.runs_per_team
    filled = [*trees, *[trees[0]] * (places - self.num_runs)]
    team_size = len(self.devices) // self.num_teams
    by_device = [
      _stack(filled[start : start + self.runs_per_team])
      for start in range(0, places, self.runs_per_team)
      for _ in range(team_size)
    ]
    return split(_stack(by_device), self.devices)

  def get(self, tree: Any) -> list[Any]:
    """Undoes `put`.

    Args:
      tree: What `put` returned, or what train_runs made of it.

    Returns:
      One pytree per run; of several runs, as NumPy arrays.
    """
    if self.num_runs == 1:
      return [tree]
    if self.num_teams == 1:
      host = jax.tree.map(np.asarray, tree)
    else:
      host = jax.tree.map(lambda leaf: gather(leaf, self.devices), tree)
      team_size = len(self.devices) // self.num_teams
      host = jax.tree.map(
        lambda leaf: leaf[::team_size].reshape(-1, *leaf.shape[2:]), host
      )
    return [
      jax.tree.map(lambda leaf, i=index: leaf[i], host)
      for index in range(self.num_runs)
    ]

  def num_steps(self, count: int, going: Collection[int]) -> Any:
    """Returns the argument num_steps: `count` for some runs, 0 for others.

    Args:
      count: Steps to take.
      going: The runs that take them.

    Returns:
      A number for a single run, else int32 numbers, placed as `put` does.
    """
    if self.num_runs == 1:
      return np.int32(count)
    counts = np.zeros(self.num_teams * self.runs_per_team, np.int32)
    counts[list(going)] = count
    if self.num_teams == 1:
      return counts
    team_size = len(self.devices) // self.num_teams
    by_device = np.repeat(counts.reshape(self.num_teams, -1), team_size, axis=0)
    return by_device[own_ranks(self.devices)]


def _stack(trees: Sequence[Any]) -> Any:
  def stack(*leaves: Any) -> Any:
    if jax.dtypes.issubdtype(leaves[0].dtype, jax.dtypes.prng_key):
      return jnp.stack(leaves)
    return np.stack(leaves)

  return jax.tree.map(stack, *trees)


def place(trainings: Sequence[Training]) -> Placement:
  """Returns the placement of runs that share a program.

  Args:
    trainings: The runs.

  Returns:
    Where they live.
  """
  first = trainings[0]
  return Placement(len(trainings), first.plan.num_teams, first.devices)


def device_inputs(
  trainings: Sequence[Training],
) -> tuple[dict[str, Array], RunInputs]:
  """Returns the training data and what the runs differ in, on the devices.

  Args:
    trainings: Runs on the same data, one or several to train at once.

  Returns:
    `(data, inputs)` for `train_steps`, or, of several runs, for `train_runs`.
  """
  first = trainings[0].train_split
  data = {'image': first.images, 'label': first.labels}
  inputs = [
    RunInputs(
      rows=jnp.asarray(training.rows),
      hparams={n: jnp.float32(v) for n, v in training.hparams.items()},
      key=training.key,
    )
    for training in trainings
  ]
  return replicate(data, trainings[0].devices), place(trainings).put(inputs)
