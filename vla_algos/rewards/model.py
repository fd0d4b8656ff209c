"""What a process reward model is to those who use it and to those who train it, and the ideal one."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch as th
from numpy.typing import NDArray

from vla_algos.errors import CheckpointError
from vla_gym.envs.privileged import MAX_ATOMS, PRIVILEGED_NAMES
from vla_gym.files import read_json_object, write_then_rename
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


OUTPUTS = ("progress", "held", "success")
"""What a model can be taught to say of a frame: Phi; whether the hand holds an object of the goal; whether the goal is
reached. The last two are there to be learned, as features that know them tell progress better."""


class TrainableRewardModel(RewardModel, Protocol):
    """
    What :func:`vla_algos.rewards.training.train_reward_model` needs of a model.

    Images go through :meth:`encode` once, before the first pass; every batch is made of what it returned. A model with
    frozen vision towers returns what they see, and one without returns the images.
    """

    outputs: tuple[str, ...]
    """What it is taught: ``progress`` and, if wanted, others of ``OUTPUTS``."""

    def describe(self) -> str:
        """Say what the model is, for its card; no full stop."""
        ...

    def parameters(self) -> list[th.nn.Parameter]:
        """Return the parameters that learn."""
        ...

    def train(self, mode: bool = True) -> None:
        """Switch dropout on, or off with ``mode=False``, as ``torch.nn.Module.train`` does."""
        ...

    def encode(self, images: NDArray[Any]) -> th.Tensor:
        """
        Prepare images.

        :param images: (N, H, W, 3) uint8 RGB
        :return: N rows of any shape and type
        """
        ...

    def begin(self, encoded: Sequence[th.Tensor]) -> None:
        """
        Get ready to learn from films; a model that has learned before stays as it is.

        :param encoded: what :meth:`encode` returned of each film
        """
        ...

    def loss(self, seen: th.Tensor, instructions: Sequence[str], targets: th.Tensor) -> th.Tensor:
        """
        Loss with gradients.

        :param seen: first and current image as :meth:`encode` returns them, (N, 2, ...)
        :param instructions: N texts
        :param targets: a column for each of ``outputs``, (N, outputs) float32 in [0, 1]; NaN, which ``progress`` never
            is: unknown, not learned from
        :return: mean over N, summed over outputs, scalar
        """
        ...

    def progress(self, seen: th.Tensor, instructions: Sequence[str]) -> th.Tensor:
        """
        Judge N moments.

        :param seen: as for :meth:`loss`
        :param instructions: N texts
        :return: Phi, (N,) float32
        """
        ...

    def save(self, folder: str | Path) -> None:
        """Write a folder that :func:`vla_algos.rewards.load_reward_model` finds."""
        ...

    def restore(self, folder: str | Path) -> None:
        """Take the weights of a folder that the same model has saved."""
        ...


REWARD_FILE = "reward.json"
"""In a folder, what makes it a reward model: ``kind`` says of which class."""


def write_reward_file(folder: Path, content: Mapping[str, Any]) -> None:
    """
    Write ``reward.json``; it appears whole or not at all.

    :param folder: of the model
    :param content: ``kind`` and what else the class needs
    """
    with write_then_rename(folder / REWARD_FILE) as temporary:
        temporary.write_text(json.dumps(dict(content), indent=2) + "\n", encoding="utf-8")


def read_reward_file(folder: Path) -> dict[str, Any]:
    """
    Read ``reward.json``.

    :param folder: of the model
    :return: its content, with what all classes need: ``kind``, ``key`` and two ``answers``
    :raises CheckpointError: if it is missing or damaged
    """
    path = folder / REWARD_FILE
    try:
        content = read_json_object(path, CheckpointError)
    except FileNotFoundError as error:
        raise CheckpointError(f"{folder} holds no {REWARD_FILE}; expected a reward model that was saved.") from error
    # the first models said nothing else
    content.setdefault("kind", "compact")
    answers = content.get("answers")
    is_pair = isinstance(answers, list) and len(answers) == 2 and all(isinstance(answer, str) for answer in answers)
    if not isinstance(content.get("key"), str) or not is_pair:
        raise CheckpointError(f"{path} is {content}; expected a camera as 'key' and two 'answers'. Save it again.")
    return content


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


_HELD_LIFT, _HELD_DISTANCE, _HELD_GAP = 0.01, 0.2, 0.075
"""An object that is held is lifted so high (m), no farther from the hand (m), with the fingers not open: their greatest
distance is 0.08 m, and the widest object that they can lift is narrower."""


def truly_held(privileged: Float32Array) -> Float32Array:
    """
    Whether the hand holds an object of the goal, from privileged observations.

    They have no contacts: an object counts as held while it is off its first place, near the hand, and the fingers are
    not open, as they are once it was let go. In six scripted demonstrations of LIBERO-Goal this agrees with contacts of
    both fingers in 91 to 98 % of the control steps; most others are those before it is lifted.

    :param privileged: of an episode, (K, 69) float32
    :return: 0 or 1, (K,) float32; NaN for goals without an object to be moved
    """
    gap = sum(privileged[:, PRIVILEGED_NAMES.index(f"finger_pos/{i}")] * sign for i, sign in ((0, 1), (1, -1)))
    is_closed = gap < _HELD_GAP
    is_object, is_held = np.zeros(len(privileged), np.bool_), np.zeros(len(privileged), np.bool_)
    for i in range(MAX_ATOMS):
        atom = _Atom(privileged, i)
        movable = (atom["exists"] > 0) & ~atom.is_joint
        near = atom.distance("subject_from_eef") < _HELD_DISTANCE
        is_object |= movable
        is_held |= movable & is_closed & near & (atom["subject_lift"] > _HELD_LIFT)
    return np.where(is_object, is_held, np.nan).astype(np.float32)


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
