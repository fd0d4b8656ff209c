"""Find commands that do nothing, as OpenVLA's data preparation does (``regenerate_libero_dataset.py``)."""

from __future__ import annotations

import numpy as np

from vla_gym.type_aliases import BoolArray, Float64Array

NOOP_NORM = 1e-4
"""Norm of translation and rotation command below which the arm counts as standing still."""


def noop_mask(commands: Float64Array) -> BoolArray:
    """
    Mark commands that do nothing: no motion, and the gripper as in the last command that did something.

    Before the first command that does something, the gripper is ignored.

    :param commands: in [-1, 1], (T, 7)
    :return: True where a command does nothing, (T,)
    """
    is_still = np.linalg.norm(commands[:, :-1], axis=1) < NOOP_NORM
    mask = np.zeros(len(commands), dtype=np.bool_)
    gripper = None
    for i, command in enumerate(commands):
        mask[i] = is_still[i] and (gripper is None or command[-1] == gripper)
        if not mask[i]:
            gripper = command[-1]
    return mask
