"""
Automatic labels of trajectories by the rule of VLA-RL's process reward model (https://arxiv.org/abs/2505.18719).

The paper cuts a trajectory into segments where the gripper's openness changes. Moments of a segment at which the end
effector almost comes to rest are key frames: a sub-task has just been finished, such as reaching, grasping or placing.
Commands that lead to a key frame are labelled positive, all others zero. The paper gives neither thresholds nor
windows; all of them are arguments here.

Rows are control steps, as in :class:`vla_gym.datasets.episode.Episode`: row t was observed before command t. A
trajectory of T commands therefore visits the states 0 to T. The last one was not observed.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import numpy as np
from scipy.ndimage import gaussian_filter1d
from scipy.signal import find_peaks
from scipy.spatial.transform import Rotation

from vla_algos.errors import TrajectoryError
from vla_gym.spec import PROPRIO_DIM
from vla_gym.tasks.registry import CONTROL_HZ
from vla_gym.type_aliases import BoolArray, Float32Array, Float64Array, Int64Array

MIN_STEPS = 3
"""Fewest control steps of a trajectory: with fewer there is no speed that could rise and fall."""


@dataclass(frozen=True)
class LabelRule:
    """
    Numbers of the rule. The defaults come from looking at demonstrations and roll-outs of LIBERO-Goal.

    :param turning_weight: metres per radian: the speed is that of translation plus this times that of rotation.
        Without it a hand that turns on the spot seems to have stopped
    :param smoothing: standard deviation of the Gaussian that smooths speeds, control steps; 0: none
    :param stop_speed: a stop is slower than this (m/s), ...
    :param stop_share: ... or than this share of the trajectory's 90th percentile of the speed, if that is faster
    :param gripper_change: change of openness that ends a segment, as a share of the gripper's width
    :param gripper_width: distance between the fingers of an open gripper, m
    :param lead: commands before a key frame that are said to lead to it
    :param gap: fewest control steps between two key frames of a segment; of closer ones the slower is kept
    :raises ValueError: for a number out of its range
    """

    turning_weight: float = 0.1
    smoothing: float = 1.0
    stop_speed: float = 0.03
    stop_share: float = 0.2
    gripper_change: float = 0.25
    gripper_width: float = 0.08
    lead: int = 8
    gap: int = 8

    def __post_init__(self) -> None:
        for name in ("turning_weight", "smoothing", "stop_speed", "stop_share"):
            if not 0 <= getattr(self, name) < np.inf:
                raise ValueError(f"{name} is {getattr(self, name)}; expected a finite number of at least 0.")
        if not 0 < self.gripper_change <= 1:
            raise ValueError(f"gripper_change is {self.gripper_change}; expected a share above 0, and at most 1.")
        if not 0 < self.gripper_width < np.inf:
            raise ValueError(f"gripper_width is {self.gripper_width}; expected metres above 0.")
        for name in ("lead", "gap"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}; expected at least 1 control step.")


@dataclass(frozen=True)
class TrajectoryLabels:
    """
    Labels of a trajectory of T control steps.

    :param is_success: whether it reached the goal
    :param speed: smoothed speed between row t and the next, (T,) float64, m/s
    :param threshold: speed below which the end effector counts as stopped, m/s
    :param openness: of the gripper, (T,) float64, 0 closed to 1 open
    :param cuts: states at which a segment begins, without 0, ascending, int64
    :param key_frames: states at which a sub-task ends, ascending, int64; T for the end of a success
    :param is_positive: whether command t leads to a key frame, (T,) bool
    :param progress: share of the task that is done in row t, (T,) float32, from 0 on; NaN for failures, as the rule
        cannot tell how far they got
    """

    is_success: bool
    speed: Float64Array
    threshold: float
    openness: Float64Array
    cuts: Int64Array
    key_frames: Int64Array
    is_positive: BoolArray
    progress: Float32Array


def label_trajectory(proprio: Float32Array, is_success: bool, rule: LabelRule | None = None) -> TrajectoryLabels:
    """
    Cut a trajectory into segments, find its key frames, and label its commands.

    :param proprio: (T, 8): end-effector position (m), axis-angle (rad), finger positions (m), at ``CONTROL_HZ``
    :param is_success: whether it reached the goal; the state that did is a key frame, as episodes end in motion
    :param rule: thresholds and windows; None: the defaults
    :return: the labels; without a change of the gripper there is one segment
    :raises TrajectoryError: for fewer than ``MIN_STEPS`` control steps, another shape, or numbers that are not finite
    """
    rule = rule or LabelRule()
    rows = _checked(proprio)
    n_steps = len(rows)
    speed = _speed(rows, rule)
    threshold = max(rule.stop_speed, rule.stop_share * float(np.percentile(speed, 90)))
    openness = np.clip((rows[:, 6] - rows[:, 7]) / rule.gripper_width, 0.0, 1.0)
    cuts = _cuts(openness, speed < threshold, rule.gripper_change)
    key_frames = _key_frames(speed, threshold, cuts, rule.gap)
    if is_success:
        # an own stop right before the end is the end
        key_frames = np.append(key_frames[key_frames <= n_steps - rule.gap], n_steps)
    is_positive = np.zeros(n_steps, dtype=np.bool_)
    for key_frame in key_frames:
        begin = max((0, *cuts[cuts < key_frame]))
        is_positive[max(begin, key_frame - rule.lead) : key_frame] = True
    progress = _progress(speed, key_frames) if is_success else np.full(n_steps, np.nan, np.float32)
    return TrajectoryLabels(is_success, speed, threshold, openness, cuts, key_frames, is_positive, progress)


def _checked(proprio: Float32Array) -> Float64Array:
    array = np.asarray(proprio, np.float64)
    if array.ndim != 2 or array.shape[1] != PROPRIO_DIM:
        raise TrajectoryError(f"proprio is {array.shape}; expected (T, {PROPRIO_DIM}).")
    if len(array) < MIN_STEPS:
        raise TrajectoryError(f"The trajectory has {len(array)} control steps; expected at least {MIN_STEPS}.")
    if not np.isfinite(array).all():
        step = int(np.argwhere(~np.isfinite(array))[0][0])
        raise TrajectoryError(f"proprio holds NaN or infinity in row {step}. Leave this trajectory out.")
    return array


def _speed(proprio: Float64Array, rule: LabelRule) -> Float64Array:
    """Of translation and, weighted, of rotation, between each row and the next, m/s."""
    translation = np.linalg.norm(np.diff(proprio[:, :3], axis=0), axis=-1)
    # the axis-angle vector itself jumps where the angle passes pi
    orientation = Rotation.from_rotvec(proprio[:, 3:6])
    rotation = (orientation[:-1].inv() * orientation[1:]).magnitude()
    speed = CONTROL_HZ * (translation + rule.turning_weight * rotation)
    # what the last command did was not observed
    speed = np.append(speed, speed[-1])
    return gaussian_filter1d(speed, rule.smoothing, mode="nearest") if rule.smoothing else speed


def _cuts(openness: Float64Array, is_stopped: BoolArray, change: float) -> Int64Array:
    """
    States at which the gripper has changed and the arm moves on.

    The stop in which a hand grasps or lets go is the end of what came before, so a segment lasts until it is over.
    """
    cuts = []
    reference, step, n_steps = openness[0], 1, len(openness)
    while step < n_steps:
        if abs(openness[step] - reference) >= change:
            # until the fingers have come to rest, and then until the arm moves
            while step + 1 < n_steps and abs(openness[step + 1] - openness[step]) > change / 10:
                step += 1
            reference = openness[step]
            while step < n_steps and is_stopped[step]:
                step += 1
            if step < n_steps:
                cuts.append(step)
        step += 1
    return np.array(cuts, dtype=np.int64)


def _key_frames(speed: Float64Array, threshold: float, cuts: Int64Array, gap: int) -> Int64Array:
    """Slowest states of each segment's stops. A stop at the very beginning is none: nothing led to it."""
    found: list[int] = []
    bounds = [0, *cuts, len(speed)]
    for begin, end in itertools.pairwise(bounds):
        # a stop at the end of a segment is a minimum, too: afterwards the arm moves on
        inside = np.append(-speed[begin:end], -np.inf)
        peaks, _ = find_peaks(inside, height=-threshold, distance=gap)
        found += [begin + int(peak) for peak in peaks]
    return np.array(found, dtype=np.int64)


def _progress(speed: Float64Array, key_frames: Int64Array) -> Float32Array:
    """
    Each sub-task counts alike; within one, what counts is the way travelled and not the time, so a pause is none.

    :param key_frames: at least one, the last of which is the end
    """
    travelled = np.concatenate([[0.0], np.cumsum(speed)])
    progress = np.zeros(len(speed) + 1)
    bounds = [0, *key_frames]
    for i, (begin, end) in enumerate(itertools.pairwise(bounds)):
        way = travelled[begin : end + 1] - travelled[begin]
        share = way / way[-1] if way[-1] > 0 else np.linspace(0.0, 1.0, len(way))
        progress[begin : end + 1] = (i + share) / len(key_frames)
    return progress[:-1].astype(np.float32)
