"""
Action tokens: the 256 bins in which OpenVLA speaks, and the controller commands they stand for.

- 256 edges on [-1, 1] give bins 0..255, but only 255 centres: bins 254 and 255 decode alike (as in OpenVLA).
- Where ``mask`` is set, a centre is stretched to the data set's [q01, q99]; the gripper is not.
- Data sets store the gripper as 0 (closed) .. 1 (open); LIBERO's command is -1 (open) / +1 (close). OpenVLA binarises
  at 0.5 and inverts the sign for LIBERO; so does ``decode``.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from vla_gym.errors import InvalidActionError, UnknownNameError
from vla_gym.tasks.registry import COMMAND_DIM, GRIPPER_CLOSE, GRIPPER_OPEN
from vla_gym.type_aliases import Float64Array, Int64Array

N_BINS = 256
EDGES: Float64Array = np.linspace(-1.0, 1.0, N_BINS)
CENTRES: Float64Array = (EDGES[:-1] + EDGES[1:]) / 2.0


class ActionTokenizer:
    """
    Commands <-> bins, with the statistics of the data set a policy was trained on.

    The default statistics are the identity (q01 = -1, q99 = 1): bins span the controller's whole range.

    :param q01: 1st percentile per dimension, (7,) float
    :param q99: 99th percentile per dimension, (7,) float
    :param mask: which dimensions are stretched to [q01, q99], (7,) bool; default: all but the gripper
    :raises ValueError: if a shape is wrong or q99 < q01 somewhere
    """

    def __init__(
        self,
        q01: ArrayLike | None = None,
        q99: ArrayLike | None = None,
        mask: Sequence[bool] | None = None,
    ) -> None:
        self.q01 = np.full(COMMAND_DIM, -1.0) if q01 is None else np.array(q01, dtype=np.float64)
        self.q99 = np.full(COMMAND_DIM, 1.0) if q99 is None else np.array(q99, dtype=np.float64)
        self.mask = np.array([True] * 6 + [False] if mask is None else mask, dtype=bool)
        for name, value in (("q01", self.q01), ("q99", self.q99), ("mask", self.mask)):
            if value.shape != (COMMAND_DIM,):
                raise ValueError(f"{name} has shape {value.shape}; expected ({COMMAND_DIM},).")
        if not (np.isfinite(self.q01).all() and np.isfinite(self.q99).all() and (self.q99 >= self.q01).all()):
            raise ValueError(f"Expected finite q01 <= q99 in every dimension, got q01={self.q01}, q99={self.q99}.")

    @classmethod
    def from_norm_stats(cls, stats: Mapping[str, Any]) -> ActionTokenizer:
        """
        Tokenizer from one data set's entry of OpenVLA's ``norm_stats``.

        :param stats: mapping with ``action`` -> ``q01``, ``q99`` and optionally ``mask``
        :raises ValueError: if an entry is missing
        """
        try:
            action = stats["action"]
            return cls(action["q01"], action["q99"], action.get("mask"))
        except KeyError as error:
            raise ValueError(f"norm_stats lacks {error}; expected stats['action'] with q01, q99 (and mask).") from error

    @classmethod
    def from_checkpoint_stats(
        cls, norm_stats: Mapping[str, Mapping[str, Any]], unnorm_key: str | None = None
    ) -> ActionTokenizer:
        """
        Tokenizer of a checkpoint, from all of its ``norm_stats``.

        :param norm_stats: data set -> its entry; without any the tokenizer is the default one
        :param unnorm_key: the data set; None: the only one
        :return: the tokenizer
        :raises UnknownNameError: if there is no such data set, or several and none is named
        """
        if unnorm_key is None and not norm_stats:
            return cls()
        if unnorm_key is None and len(norm_stats) == 1:
            (unnorm_key,) = norm_stats
        if unnorm_key is None or unnorm_key not in norm_stats:
            remedy = "Name the data set whose action statistics the checkpoint shall use."
            raise UnknownNameError("unnorm_key", unnorm_key, norm_stats, remedy)
        return cls.from_norm_stats(norm_stats[unnorm_key])

    @classmethod
    def from_checkpoint(cls, folder: str | os.PathLike[str], unnorm_key: str | None = None) -> ActionTokenizer:
        """
        Tokenizer of a checkpoint folder: from ``dataset_statistics.json``, else from ``norm_stats`` in ``config.json``.

        :param folder: the checkpoint
        :param unnorm_key: the data set; None: the only one
        :return: the tokenizer; the default one if the folder holds no statistics
        :raises UnknownNameError: as :meth:`from_checkpoint_stats`
        :raises FileNotFoundError: if the folder has no ``config.json``
        """
        norm_stats = _read_json(os.path.join(folder, "config.json")).get("norm_stats", {})
        statistics_file = os.path.join(folder, "dataset_statistics.json")
        if os.path.exists(statistics_file):
            norm_stats = _read_json(statistics_file)
        return cls.from_checkpoint_stats(norm_stats, unnorm_key)

    def agrees_with(self, other: ActionTokenizer) -> bool:
        """
        Whether bins mean the same to both.

        :param other: another tokenizer
        """
        return all(np.array_equal(getattr(self, name), getattr(other, name)) for name in ("q01", "q99", "mask"))

    def decode(self, bins: ArrayLike) -> Float64Array:
        """
        Commands for bins.

        :param bins: (..., 7) integers in 0..255
        :return: commands in [-1, 1] (clipped), same shape, float64; gripper exactly -1 (open) or +1 (close)
        :raises InvalidActionError: if the shape, type or range is wrong
        """
        array = self._checked(bins)
        normalised = CENTRES[np.minimum(array, N_BINS - 2)]
        commands = np.where(self.mask, 0.5 * (normalised + 1.0) * (self.q99 - self.q01) + self.q01, normalised)
        commands[..., 6] = np.where(commands[..., 6] > 0.5, GRIPPER_OPEN, GRIPPER_CLOSE)
        return np.clip(commands, -1.0, 1.0)

    def encode(self, commands: ArrayLike) -> Int64Array:
        """
        Bins for commands; ``decode(encode(c))`` is within half a bin of ``c`` where ``c`` lies in [q01, q99].

        :param commands: (..., 7) floats; gripper < 0 is open, otherwise close
        :return: (..., 7) int64 in 0..255
        :raises InvalidActionError: if the shape is wrong or a value is not finite
        """
        array = np.array(commands, dtype=np.float64)
        if array.ndim == 0 or array.shape[-1] != COMMAND_DIM:
            raise InvalidActionError(f"Commands have shape {array.shape}; expected (..., {COMMAND_DIM}).")
        if not np.isfinite(array).all():
            raise InvalidActionError(f"Commands must be finite, got {array}.")
        array[..., 6] = np.where(array[..., 6] < 0.0, 1.0, 0.0)
        span = np.where(self.q99 > self.q01, self.q99 - self.q01, 1.0)
        normalised = np.where(self.mask, 2.0 * (array - self.q01) / span - 1.0, array)
        return (np.digitize(np.clip(normalised, -1.0, 1.0), EDGES) - 1).astype(np.int64)

    def _checked(self, bins: ArrayLike) -> Int64Array:
        array = np.asarray(bins)
        if array.ndim == 0 or array.shape[-1] != COMMAND_DIM:
            raise InvalidActionError(f"Action bins have shape {array.shape}; expected (..., {COMMAND_DIM}).")
        if array.dtype.kind not in "iu":
            raise InvalidActionError(f"Action bins must be integers, got dtype {array.dtype}.")
        if ((array < 0) | (array >= N_BINS)).any():
            raise InvalidActionError(f"Action bins must lie in 0..{N_BINS - 1}, got {array.tolist()}.")
        return array.astype(np.int64)


def _read_json(path: str) -> dict[str, Any]:
    with open(path, encoding="utf-8") as file:
        return json.load(file)
