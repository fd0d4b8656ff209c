"""Statistics of a data set's actions, in OpenVLA's format."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from vla_gym.errors import ActionStatisticsError, UnknownNameError
from vla_gym.spec import COMMAND_DIM
from vla_gym.tasks.registry import get_suite
from vla_gym.type_aliases import Float32Array, Float64Array

_NO_NOOPS = "_no_noops"
"""Suffix of OpenVLA's data sets from which actions that do nothing were removed."""


class Quantiles(NamedTuple):
    """Range of one data set's actions, (7,) each."""

    q01: list[float]
    q99: list[float]
    mask: list[bool] | None
    """Which dimensions the range applies to; None: the default."""


def check_norm_stats(norm_stats: Any, source: str) -> None:
    """
    Make sure that statistics map data sets to objects; the contents are checked where they are used.

    :param norm_stats: as read from a file
    :param source: the file
    :raises ActionStatisticsError: naming the file and the data set
    """
    if not isinstance(norm_stats, dict):
        raise ActionStatisticsError(
            f"norm_stats in {source} is {norm_stats!r:.80}; expected an object with an entry per data set."
        )
    for name, entry in norm_stats.items():
        if not isinstance(entry, dict):
            raise ActionStatisticsError(
                f"The entry of data set {name!r} in {source} is {entry!r:.80}; expected an object with 'action'."
            )


def choose_data_set(
    norm_stats: Mapping[str, Any], unnorm_key: str | None = None, suite: str | None = None
) -> str | None:
    """
    Choose the data set whose statistics apply, as OpenVLA's evaluation does.

    :param norm_stats: data set -> its entry
    :param unnorm_key: the data set, with or without OpenVLA's ending ``_no_noops``; None: the only one, or the
        suite's
    :param suite: Gymnasium id or name of the environment's suite; None: unknown
    :return: key of ``norm_stats``; None if there are no statistics and none are asked for
    :raises UnknownNameError: if there is no such data set, or several and neither key nor suite decides
    """
    if unnorm_key is None and not norm_stats:
        return None
    if unnorm_key is None and len(norm_stats) == 1:
        return next(iter(norm_stats))
    wanted = unnorm_key
    if wanted is None and suite is not None:
        wanted = get_suite(suite).name
    for key in (wanted, f"{wanted}{_NO_NOOPS}"):
        if key in norm_stats:
            return key
    remedy = "Name the data set whose action statistics apply: unnorm_key=..., or --unnorm-key on the command line."
    raise UnknownNameError("unnorm_key", unnorm_key, norm_stats, remedy)


def read_quantiles(entry: Any, data_set: str = "", source: str = "") -> Quantiles:
    """
    Read the range of a data set's actions.

    :param entry: one data set's entry of ``norm_stats``
    :param data_set: its name, for messages
    :param source: the file it comes from, for messages
    :return: 1st and 99th percentile and mask
    :raises ActionStatisticsError: if something is missing, of another length, or not finite; names data set, file and
        dimension
    """
    where = f" of data set {data_set!r}" if data_set else ""
    where += f" in {source}" if source else ""
    action = entry.get("action") if isinstance(entry, Mapping) else None
    lacking = [name for name in ("q01", "q99") if not isinstance(action, Mapping) or name not in action]
    if not isinstance(action, Mapping) or lacking:
        raise ActionStatisticsError(
            f"norm_stats lacks {' and '.join(lacking)}{where}; expected an entry 'action' with q01, q99 (and mask)."
        )
    values = {name: _numbers(action[name], name, where) for name in ("q01", "q99")}
    for dimension, (low, high) in enumerate(zip(values["q01"], values["q99"], strict=True)):
        if low > high:
            raise ActionStatisticsError(
                f"Action statistics{where} have q01={low} above q99={high} in dimension {dimension}; expected "
                "q01 <= q99. Take them from the data again."
            )
    mask = action.get("mask")
    if mask is not None and not (
        isinstance(mask, Sequence) and len(mask) == COMMAND_DIM and all(value in (True, False) for value in mask)
    ):
        raise ActionStatisticsError(
            f"mask of the action statistics{where} is {mask!r:.80}; expected {COMMAND_DIM} times true or false."
        )
    return Quantiles(values["q01"], values["q99"], None if mask is None else [bool(value) for value in mask])


def _numbers(values: Any, name: str, where: str) -> list[float]:
    remedy = "Take them from the data again, or name another data set with unnorm_key."
    if isinstance(values, np.ndarray):
        values = values.tolist()
    if not isinstance(values, list | tuple):
        raise ActionStatisticsError(
            f"{name} of the action statistics{where} is {values!r:.80}; expected {COMMAND_DIM} numbers."
        )
    if len(values) != COMMAND_DIM:
        raise ActionStatisticsError(
            f"{name} of the action statistics{where} has {len(values)} dimensions; expected {COMMAND_DIM}: 3 of "
            "translation, 3 of rotation, gripper. The model was trained for another robot."
        )
    for dimension, value in enumerate(values):
        is_number = isinstance(value, int | float) and not isinstance(value, bool)
        if not is_number or abs(value) > 1e30 or not math.isfinite(value):
            raise ActionStatisticsError(
                f"{name} of the action statistics{where} is {value!r:.40} in dimension {dimension}; expected a finite "
                f"number. {remedy}"
            )
    return [float(value) for value in values]


def dataset_statistics(
    commands: Sequence[Float64Array], proprio: Sequence[Float32Array] | None = None
) -> dict[str, Any]:
    """
    Compute a data set's entry of ``norm_stats``.

    As in OpenVLA's data, the gripper counts as 1 (open) or 0 (closed) and is left out by ``mask``; the other dimensions
    are the controller's commands.

    :param commands: of each episode, (T, 7) in [-1, 1]; gripper < 0 is open
    :param proprio: of each episode, (T, D), m and rad; None: without
    :return: ``action`` (and ``proprio``) -> ``mean``, ``std``, ``min``, ``max``, ``q01``, ``q99`` as lists, ``action``
        also ``mask``; ``num_transitions`` and ``num_trajectories``
    :raises ValueError: if there is no episode, or one has a wrong shape or a value that is not finite
    """
    if len(commands) == 0:
        raise ValueError("There are no episodes to take statistics of; give at least one.")
    for episode in commands:
        if episode.ndim != 2 or episode.shape[1] != COMMAND_DIM:
            raise ValueError(f"Commands of an episode have shape {episode.shape}; expected (T, {COMMAND_DIM}).")
    _check_finite("Commands", commands)
    _check_finite("Proprioception", proprio or ())
    actions = np.concatenate(commands).astype(np.float64)
    actions[:, 6] = actions[:, 6] < 0.0
    statistics: dict[str, Any] = {"action": {**_summary(actions), "mask": [True] * 6 + [False]}}
    if proprio is not None:
        statistics["proprio"] = _summary(np.concatenate(proprio).astype(np.float64))
    return {**statistics, "num_transitions": len(actions), "num_trajectories": len(commands)}


def _check_finite(name: str, episodes: Sequence[Float64Array | Float32Array]) -> None:
    for i, values in enumerate(episodes):
        if not np.isfinite(values).all():
            step, dimension = np.argwhere(~np.isfinite(values))[0]
            raise ValueError(
                f"{name} of episode {i}: {values[step, dimension]} at step {step} in dimension {dimension}; expected "
                "finite numbers. Leave the episode out."
            )


def _summary(values: Float64Array) -> dict[str, list[float]]:
    q01, q99 = np.quantile(values, [0.01, 0.99], axis=0)
    return {
        "mean": values.mean(axis=0).tolist(),
        "std": values.std(axis=0).tolist(),
        "min": values.min(axis=0).tolist(),
        "max": values.max(axis=0).tolist(),
        "q01": q01.tolist(),
        "q99": q99.tolist(),
    }
