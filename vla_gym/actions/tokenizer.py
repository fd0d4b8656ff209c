"""
Action tokens: the 256 bins in which OpenVLA speaks, and the controller commands they stand for.

- 256 edges on [-1, 1] give bins 0..255, but only 255 centres: bins 254 and 255 decode alike (as in OpenVLA).
- Where ``mask`` is set, a centre is stretched to the data set's [q01, q99]; the gripper is not.
- Data sets store the gripper as 0 (closed) .. 1 (open); LIBERO's command is -1 (open) / +1 (close). OpenVLA binarises
  at 0.5 and inverts the sign for LIBERO; so does ``decode``.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from vla_gym.actions.statistics import check_norm_stats, choose_data_set, read_quantiles
from vla_gym.errors import ActionStatisticsError, InvalidActionError
from vla_gym.files import read_json_object
from vla_gym.spec import COMMAND_DIM, GRIPPER_CLOSE, GRIPPER_OPEN, N_BINS
from vla_gym.type_aliases import Float64Array, Int64Array

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
        mask = [True] * 6 + [False] if mask is None else list(mask)
        if not all(value in (True, False) for value in mask):
            # numpy takes any text, "false" too, for true
            raise ValueError(f"mask is {mask}; expected {COMMAND_DIM} times True or False.")
        self.mask = np.array(mask, dtype=bool)
        for name, value in (("q01", self.q01), ("q99", self.q99), ("mask", self.mask)):
            if value.shape != (COMMAND_DIM,):
                raise ValueError(f"{name} has shape {value.shape}; expected ({COMMAND_DIM},).")
        if not (np.isfinite(self.q01).all() and np.isfinite(self.q99).all() and (self.q99 >= self.q01).all()):
            raise ValueError(f"Expected finite q01 <= q99 in every dimension, got q01={self.q01}, q99={self.q99}.")

    @classmethod
    def from_norm_stats(cls, stats: Mapping[str, Any], data_set: str = "", source: str = "") -> ActionTokenizer:
        """
        Tokenizer from one data set's entry of OpenVLA's ``norm_stats``.

        :param stats: mapping with ``action`` -> ``q01``, ``q99`` and optionally ``mask``
        :param data_set: its name, for messages
        :param source: the file it comes from, for messages
        :raises ActionStatisticsError: if an entry is missing, of another length or not finite
        """
        return cls(*read_quantiles(stats, data_set, source))

    @classmethod
    def from_checkpoint_stats(
        cls,
        norm_stats: Mapping[str, Mapping[str, Any]],
        unnorm_key: str | None = None,
        *,
        suite: str | None = None,
        source: str = "",
    ) -> ActionTokenizer:
        """
        Tokenizer of a checkpoint, from all of its ``norm_stats``.

        :param norm_stats: data set -> its entry; without any the tokenizer is the default one
        :param unnorm_key: the data set, with or without the ending ``_no_noops``; None: the only one, or the suite's
        :param suite: Gymnasium id or name of the suite that is acted in; None: unknown
        :param source: the file they come from, for messages
        :return: the tokenizer
        :raises UnknownNameError: if there is no such data set, or several and none is named
        :raises ActionStatisticsError: if its entry is damaged or has another number of dimensions
        """
        data_set = choose_data_set(norm_stats, unnorm_key, suite)
        return cls() if data_set is None else cls.from_norm_stats(norm_stats[data_set], data_set, source)

    @classmethod
    def from_checkpoint(
        cls, folder: str | os.PathLike[str], unnorm_key: str | None = None, *, suite: str | None = None
    ) -> ActionTokenizer:
        """
        Tokenizer of a checkpoint folder: from ``dataset_statistics.json``, else from ``norm_stats`` in ``config.json``.

        :param folder: the checkpoint
        :param unnorm_key: as for :meth:`from_checkpoint_stats`
        :param suite: as for :meth:`from_checkpoint_stats`
        :return: the tokenizer; the default one if the folder holds no statistics
        :raises UnknownNameError: as :meth:`from_checkpoint_stats`
        :raises ActionStatisticsError: if a file is damaged, or as :meth:`from_checkpoint_stats`
        :raises FileNotFoundError: if the folder has no ``config.json``
        """
        source = os.path.join(folder, "config.json")
        norm_stats = read_json_object(source, ActionStatisticsError).get("norm_stats") or {}
        statistics_file = os.path.join(folder, "dataset_statistics.json")
        if os.path.lexists(statistics_file):
            source, norm_stats = statistics_file, read_json_object(statistics_file, ActionStatisticsError)
        check_norm_stats(norm_stats, source)
        return cls.from_checkpoint_stats(norm_stats, unnorm_key, suite=suite, source=source)

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
