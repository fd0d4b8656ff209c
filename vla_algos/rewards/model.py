"""What a process reward model is to those who use it, and the ideal one."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from vla_gym.envs.privileged import MAX_ATOMS, PRIVILEGED_NAMES
from vla_gym.spec import PRIVILEGED
from vla_gym.type_aliases import Float32Array, Float64Array


class RewardModel(Protocol):
    """Judges how much of a task is done. It is called outside of gradients, and remembers nothing."""

    key: str
    """Entry of the observation that it looks at: a camera, as a rule."""

    def score(self, seen: NDArray[Any], instructions: Sequence[str]) -> Float32Array:
        """
        Judge N moments.

        :param seen: that entry at the start of the episode and now, (N, 2, ...): images are (N, 2, H, W, 3) uint8 RGB
        :param instructions: N texts
        :return: how much is done, (N,) float32 in [0, 1]; NaN where the model has no answer
        """
        ...


_LIFTED = 0.03
"""Height above its first place at which an object is certainly held or carried, m."""

_SHUT = 1e-3
"""Distance of a joint from being open above which a drawer has to be opened first, m."""


class TrueProgress:
    """
    Progress that only a simulator can know, from privileged observations: what a learned model can at best reach.

    Each atom of the goal counts alike, and is 1 when it is satisfied. Before, for an object that has to be moved: a
    quarter for the hand's way to it, a quarter for lifting it, half for its way to the target; where it belongs into a
    drawer that is shut, the drawer's way is the first half of it all. For a joint: a quarter for the hand's way to the
    moved part, three quarters for the way of the joint. Ways count from where they were at the start of the episode,
    and never below zero.
    """

    key = PRIVILEGED

    def score(self, seen: NDArray[Any], instructions: Sequence[str]) -> Float32Array:
        """
        Progress, see :class:`RewardModel`.

        :param seen: privileged observations at the start and now, (N, 2, 69) float32
        :param instructions: not read
        :return: (N,) float32 in [0, 1]
        """
        atoms = [(_Atom(seen[:, 0], i), _Atom(seen[:, 1], i)) for i in range(MAX_ATOMS)]
        exist = np.stack([now["exists"] for _, now in atoms])
        done = np.stack([_atom_progress(first, now) for first, now in atoms])
        progress: Float64Array = (done * exist).sum(0) / np.maximum(exist.sum(0), 1)
        return progress.astype(np.float32)


class _Atom:
    """Entries of one atom of the goal, by name."""

    def __init__(self, vectors: NDArray[Any], index: int) -> None:
        self.vectors, self.prefix = vectors, f"atom{index}/"

    def __getitem__(self, name: str) -> Float64Array:
        """(N,)"""
        return self.vectors[:, PRIVILEGED_NAMES.index(self.prefix + name)].astype(np.float64)

    def distance(self, name: str) -> Float64Array:
        """Length of a vector, (N,) m."""
        return np.linalg.norm([self[f"{name}/{axis}"] for axis in "xyz"], axis=0)

    @property
    def is_joint(self) -> NDArray[np.bool_]:
        """(N,)"""
        return sum(self[f"is_{name}"] for name in ("open", "close", "turnon", "turnoff")) > 0  # type: ignore[return-value]


def _atom_progress(first: _Atom, now: _Atom) -> Float64Array:
    """(N,) in [0, 1]"""
    reach = _share(first.distance("subject_from_eef"), now.distance("subject_from_eef"))
    lift = np.clip(now["subject_lift"] / _LIFTED, 0.0, 1.0)
    transport = _share(first.distance("target_from_subject"), now.distance("target_from_subject"))
    joint = _share(first["joint_distance"], now["joint_distance"])
    # what was carried to its target is put down there: the lift is not taken back
    moved = 0.25 * reach + 0.25 * np.maximum(lift, transport) + 0.5 * transport
    opens_first = ~now.is_joint & (first["joint_distance"] > _SHUT)
    moved = np.where(opens_first, 0.5 * joint + 0.5 * moved, moved)
    turned = 0.25 * reach + 0.75 * joint
    return np.where(now["satisfied"] > 0, 1.0, np.where(now.is_joint, turned, moved))


def _share(first: Float64Array, now: Float64Array) -> Float64Array:
    """Share of a way that is behind, (N,) in [0, 1]; all of it where there was none to go."""
    share = 1.0 - now / np.maximum(first, 1e-6)
    return np.where(first > 1e-6, np.clip(share, 0.0, 1.0), 1.0)
