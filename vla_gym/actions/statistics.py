"""Statistics of a data set's actions, in the form in which OpenVLA stores them beside its checkpoints."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from vla_gym.tasks.registry import COMMAND_DIM
from vla_gym.type_aliases import Float32Array, Float64Array


def dataset_statistics(
    commands: Sequence[Float64Array], proprio: Sequence[Float32Array] | None = None
) -> dict[str, Any]:
    """
    One data set's entry of ``norm_stats``.

    As in OpenVLA's data, the gripper counts as 1 (open) or 0 (closed) and is left out by ``mask``; the other dimensions
    are the controller's commands.

    :param commands: of each episode, (T, 7) in [-1, 1]; gripper < 0 is open
    :param proprio: of each episode, (T, D), m and rad; None: without
    :return: ``action`` (and ``proprio``) -> ``mean``, ``std``, ``min``, ``max``, ``q01``, ``q99`` as lists, ``action``
        also ``mask``; ``num_transitions`` and ``num_trajectories``
    :raises ValueError: if there is no episode or one has another shape
    """
    if len(commands) == 0:
        raise ValueError("There are no episodes to take statistics of; give at least one.")
    for episode in commands:
        if episode.ndim != 2 or episode.shape[1] != COMMAND_DIM:
            raise ValueError(f"Commands of an episode have shape {episode.shape}; expected (T, {COMMAND_DIM}).")
    actions = np.concatenate(commands).astype(np.float64)
    actions[:, 6] = actions[:, 6] < 0.0
    statistics: dict[str, Any] = {"action": {**_summary(actions), "mask": [True] * 6 + [False]}}
    if proprio is not None:
        statistics["proprio"] = _summary(np.concatenate(proprio).astype(np.float64))
    return {**statistics, "num_transitions": len(actions), "num_trajectories": len(commands)}


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
