"""One episode, as it is collected, stored and learned from."""

from __future__ import annotations

from dataclasses import dataclass

from vla_gym.type_aliases import Float32Array, Float64Array, UInt8Array


@dataclass(frozen=True)
class SimulatorTrace:
    """
    The simulator's side of an episode of T control steps; row t is from before command t.

    :param init_state: stored initial state that the episode was reset to, not settled yet, (1 + nq + nv,) float64
    :param states: time (s), qpos, qvel, (T, 1 + nq + nv) float64
    :param joint_states: arm joints as observed (rad), (T, 7) float64
    :param ee_states: end effector as observed: position (m), axis-angle (rad), (T, 6) float64
    :param robot_states: finger positions (m), end-effector position (m) and quaternion (xyzw), (T, 9) float64
    """

    init_state: Float64Array
    states: Float64Array
    joint_states: Float64Array
    ee_states: Float64Array
    robot_states: Float64Array


@dataclass(frozen=True)
class Episode:
    """
    One episode of T control steps; row t of an observation is what was seen before command t.

    :param images: camera ``agentview``, (T, H, W, 3) uint8; H = W = 0 if the environment does not render it
    :param proprio: (T, 8) float32
    :param commands: commands as executed, in [-1, 1], (T, 7) float64
    :param instruction: the task in words
    :param task_id: task; -1 if its source does not say
    :param init_state_id: initial state; -1 if its source does not say
    :param success: whether the goal was reached
    :param wrist_images: camera ``wrist``, (T, H, W, 3) uint8; None if the environment does not render it
    :param trace: the simulator's side, None if its source lacks it
    """

    images: UInt8Array
    proprio: Float32Array
    commands: Float64Array
    instruction: str
    task_id: int
    init_state_id: int
    success: bool
    wrist_images: UInt8Array | None = None
    trace: SimulatorTrace | None = None

    def __len__(self) -> int:
        return len(self.commands)
