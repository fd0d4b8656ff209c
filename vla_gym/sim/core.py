"""
``SimCore``: a MuJoCo simulation of one scene, stepped by commands exactly as in LIBERO.

After a control step the positions in ``data`` lag the joint state by one sub-step, because MuJoCo computes them before
it integrates; goals are evaluated in that state, as upstream does. Upstream samples observations after the 24th
sub-step (its timer counts the two forced samples at reset); :class:`ObservedState` keeps that sample.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import mujoco
import numpy as np

from vla_gym.appearance import Appearance
from vla_gym.errors import SnapshotError, UnknownNameError
from vla_gym.scenes.bundle import RobotIds, SceneBundle
from vla_gym.sim.compilation import compile_control_step
from vla_gym.sim.control_step import (
    ObservedState,
    control_step,
    make_controller_state,
    make_sim_arrays,
    read_arm,
    read_sensors,
)
from vla_gym.sim.mujoco_calls import mujoco_calls
from vla_gym.tasks.goals import Goal
from vla_gym.type_aliases import Float32Array, Float64Array

PHYSICS = ("exact", "fast")
"""``exact`` makes upstream's calls in upstream's order, ``fast`` only those that the trajectory depends on."""
_DIVERGENCE = [
    int(kind)
    for kind in (mujoco.mjtWarning.mjWARN_BADQPOS, mujoco.mjtWarning.mjWARN_BADQVEL, mujoco.mjtWarning.mjWARN_BADQACC)
]
# in newer releases of 3.3 mj_makeM writes the inertia matrix
_make_inertia = getattr(mujoco, "mj_makeM", mujoco.mj_crb)
_SNAPSHOT = int(mujoco.mjtState.mjSTATE_INTEGRATION)
_ENTRIES = {
    1: ("",),
    3: ("/wx", "/wy", "/wz"),
    4: ("/qw", "/qx", "/qy", "/qz"),
    7: ("/x", "/y", "/z", "/qw", "/qx", "/qy", "/qz"),
    6: ("/vx", "/vy", "/vz", "/wx", "/wy", "/wz"),
}
"""Number of a joint's entries -> endings of their names."""
_HIDDEN_ALPHA, _SHOWN_ALPHA = -1.0, 2.0  # the two values between which LIBERO toggles a burner's site


@dataclass(frozen=True)
class SceneView:
    """
    State of a simulation that a camera can see.

    :param qpos: joint positions, (nq,)
    :param body_pos: positions of all bodies in their parents (m), (nbody, 3); fixtures are moved by these
    :param body_quat: orientations (wxyz), (nbody, 4)
    :param site_rgba: colours of all sites, (nsite, 4)
    :param appearance: overrides of the scene's appearance; None: none
    """

    qpos: Float64Array
    body_pos: Float64Array
    body_quat: Float64Array
    site_rgba: Float64Array
    appearance: Appearance | None = None

    def copy(self) -> SceneView:
        """Copy the arrays, so that the simulation does not change them any more."""
        return SceneView(
            self.qpos.copy(), self.body_pos.copy(), self.body_quat.copy(), self.site_rgba.copy(), self.appearance
        )


class RobotState(NamedTuple):
    """
    State of the robot in an observation.

    :param eef_pos: end-effector position (m), (3,) float64
    :param eef_quat: its orientation (wxyz), (4,) float64
    :param eef_axis_angle: the same as a rotation vector (rad), (3,) float64
    :param fingers: finger positions (m), (2,) float64
    :param joints: arm joints (rad), (7,) float64
    """

    eef_pos: Float64Array
    eef_quat: Float64Array
    eef_axis_angle: Float64Array
    fingers: Float64Array
    joints: Float64Array


class SimCore:
    """
    Simulate one scene, on which the task can change without reloading the model.

    :param bundle: the first task
    :param physics: ``exact`` or ``fast``
    :raises UnknownNameError: if there is no such physics
    """

    def __init__(self, bundle: SceneBundle, physics: str = "fast") -> None:
        if physics not in PHYSICS:
            raise UnknownNameError("physics", physics, PHYSICS)
        compile_control_step()
        self._exact = physics == "exact"
        self.model = bundle.load_model()
        self.data = mujoco.MjData(self.model)
        self.robot = RobotIds.from_names(self.model, bundle.robot)
        self._calls = mujoco_calls()
        self.arrays = make_sim_arrays(self.model, self.data, self.robot)
        self.arm = make_controller_state(np.array(bundle.robot["init_qpos"]), self.model.nv)
        nq, nv = self.model.nq, self.model.nv
        self._observed = ObservedState(*(np.zeros(size) for size in (nq, nq, 3, 4, nq, nv)))
        self._warnings = self.data.warning
        self._has_failed = False
        self.appearance: Appearance | None = None
        """Overrides that views carry to the renderer; nothing else reads them."""
        self.bundle = bundle
        self.set_task(bundle)

    def set_task(self, bundle: SceneBundle) -> None:
        """
        Switch to another task on the same scene.

        :param bundle: its bundle
        :raises ValueError: if the task has another scene
        """
        if bundle.scene != self.bundle.scene:
            raise ValueError(f"{bundle.task.name} has scene {bundle.scene}, this simulation is of {self.bundle.scene}.")
        self.bundle = bundle
        self.goal = Goal(bundle.goal, self.model)
        self._fixtures = bundle.fixture_ids(self.model)
        self._heat = bundle.heat_site_ids(self.model)
        self._heat_sites = [heat.site for heat in self._heat]
        self._observed_alpha = self._heat_alpha()

    @property
    def state_size(self) -> int:
        """Length of a state: 1 + nq + nv."""
        return int(1 + self.model.nq + self.model.nv)

    def reset(self, state: Float64Array, fixture_pos: Float64Array, fixture_quat: Float64Array) -> None:
        """
        Start an episode as upstream's ``reset`` followed by ``set_init_state`` does.

        Upstream's controller does not see the new state before its second sub-step; in the first it still takes the arm
        to be in its rest pose. This shifts the first commands by about 0.004 rad, and is reproduced here.

        :param state: initial state, (1 + nq + nv,)
        :param fixture_pos: positions of the fixtures (m), (F, 3)
        :param fixture_quat: their orientations (wxyz), (F, 4)
        """
        self._has_failed = False
        mujoco.mj_resetData(self.model, self.data)
        self.model.body_pos[self._fixtures] = fixture_pos
        self.model.body_quat[self._fixtures] = fixture_quat
        self.data.qpos[self.robot.qpos] = self.arm.rest
        # compute only what the controller reads; a full forward pass would also collide the objects, all at the origin
        mujoco.mj_kinematics(self.model, self.data)
        mujoco.mj_comPos(self.model, self.data)
        _make_inertia(self.model, self.data)
        self._hold_pose()
        self.arm.fingers[:] = 0.0
        mujoco.mj_resetData(self.model, self.data)
        self._write_state(state)
        self.arm.is_stale[0] = 1

    @property
    def state_names(self) -> tuple[str, ...]:
        """Names of the entries of ``get_state``, joint by joint."""
        positions, velocities = [], []
        for i in range(self.model.njnt):
            joint = self.model.joint(i)
            name, n_qpos, n_qvel = joint.name, len(joint.qpos0), len(joint.damping)
            positions += [f"qpos/{name}{end}" for end in _ENTRIES[n_qpos]]
            velocities += [f"qvel/{name}{end}" for end in _ENTRIES[n_qvel]]
        return ("time", *positions, *velocities)

    def get_state(self) -> Float64Array:
        """Return time (s), qpos, qvel, (1 + nq + nv,) float64."""
        return np.concatenate(([self.data.time], self.data.qpos, self.data.qvel))

    def set_state(self, state: Float64Array) -> None:
        """
        Set the state within an episode; its pose becomes the controller's goal, and the gripper keeps its target.

        :param state: as returned by ``get_state``
        """
        self._write_state(state)
        self._hold_pose()

    def snapshot(self) -> dict[str, Float64Array]:
        """
        Take a snapshot of all that the rest of the episode depends on, for :meth:`restore`.

        It contains MuJoCo's state with its warm start, controller, gripper, fixtures, burners and the current
        observation.

        :return: arrays by name, copies
        """
        state = np.empty(mujoco.mj_stateSize(self.model, _SNAPSHOT))
        mujoco.mj_getState(self.model, self.data, state, _SNAPSHOT)
        return {
            "state": state,
            "fixture_pos": self.model.body_pos[self._fixtures].copy(),
            "fixture_quat": self.model.body_quat[self._fixtures].copy(),
            "heat_alpha": self._heat_alpha(),
            "observed_alpha": self._observed_alpha.copy(),
            **{f"arm/{name}": array.copy() for name, array in self.arm._asdict().items()},
            **{f"observed/{name}": array.copy() for name, array in self._observed._asdict().items()},
        }

    def restore(self, snapshot: Mapping[str, Any]) -> None:
        """
        Restore a snapshot, to the bit.

        :param snapshot: of a simulation with the same scene, task and physics
        :raises SnapshotError: if an array is missing, has another shape, or is not finite; nothing is changed
        """
        expected = self.snapshot()
        for name, array in expected.items():
            given = np.asarray(snapshot.get(name))
            if given.dtype.kind not in "fi" or given.shape != array.shape or not np.isfinite(given).all():
                raise SnapshotError(
                    f"{name!r} of the snapshot is {given.dtype} of shape {given.shape}; expected finite numbers of "
                    f"shape {array.shape}. It comes from another scene or another version."
                )
        arrays = {name: np.asarray(snapshot[name]) for name in expected}
        for group, target in (("arm", self.arm), ("observed", self._observed)):
            for name, array in target._asdict().items():
                array[...] = arrays[f"{group}/{name}"]
        self.model.body_pos[self._fixtures] = arrays["fixture_pos"]
        self.model.body_quat[self._fixtures] = arrays["fixture_quat"]
        self.model.site_rgba[self._heat_sites, 3] = arrays["heat_alpha"]
        self._observed_alpha = arrays["observed_alpha"].astype(np.float64)
        self._has_failed = False
        mujoco.mj_resetData(self.model, self.data)
        # derived quantities lag the joint state by one sub-step: compute them from the state they belong to
        mujoco.mj_setState(self.model, self.data, arrays["state"], _SNAPSHOT)
        self.data.qpos[:] = self._observed.derived_qpos
        self.data.qvel[:] = self._observed.derived_qvel
        mujoco.mj_forward(self.model, self.data)
        # also restores the warm start, which mj_forward has overwritten
        mujoco.mj_setState(self.model, self.data, arrays["state"], _SNAPSHOT)

    def _hold_pose(self) -> None:
        """Make the current pose the controller's goal."""
        read_arm(self._calls, self.arrays, self.arm)
        self.arm.goal_pos[:] = self.arm.eef_pos
        self.arm.goal_mat[:] = self.arm.eef_mat
        self.arm.is_stale[0] = 0

    def _write_state(self, state: Float64Array) -> None:
        nq = self.model.nq
        self.data.time = state[0]
        self.data.qpos[:] = state[1 : 1 + nq]
        self.data.qvel[:] = state[1 + nq :]
        mujoco.mj_forward(self.model, self.data)
        self._update_heat_sites()
        self._observed.qpos[:] = self._observed.derived_qpos[:] = self.data.qpos
        self._observed.derived_qvel[:] = self.data.qvel
        read_sensors(self.arrays, self._observed)
        self._observed_alpha = self._heat_alpha()

    def step(self, command: Float64Array) -> None:
        """
        Execute one command for 1/20 s.

        :param command: in [-1, 1]: translation (3), axis-angle rotation (3), gripper (-1 open, +1 close), (7,) float64
        """
        self._observed_alpha = self._heat_alpha()
        try:
            control_step(self._calls, self.arrays, self.arm, self._observed, command, self._exact)
        except np.linalg.LinAlgError:  # the controller's matrices overflow before MuJoCo looks at the state
            self._has_failed = True
        self._update_heat_sites()

    def is_success(self) -> bool:
        """Tell whether the goal holds in the current state."""
        return self.goal.is_satisfied(self.data)

    def is_stable(self) -> bool:
        """Tell whether the state is finite and neither controller nor MuJoCo has failed since the last reset."""
        if self._has_failed or not (np.isfinite(self.data.qpos).all() and np.isfinite(self.data.qvel).all()):
            return False
        return not self._warnings.number[_DIVERGENCE].any()

    def robot_state(self) -> RobotState:
        """Return the robot's state in the current observation, in double precision."""
        observed = self._observed
        return RobotState(
            eef_pos=observed.eef_pos.copy(),
            eef_quat=observed.eef_quat.copy(),
            eef_axis_angle=axis_angle(observed.eef_quat),
            fingers=observed.sensed_qpos[self.robot.gripper_qpos],
            joints=observed.sensed_qpos[self.robot.qpos],
        )

    def proprio(self) -> Float32Array:
        """Return end-effector position (m), axis-angle orientation (rad) and two finger positions (m), (8,) float32."""
        robot = self.robot_state()
        return np.concatenate((robot.eef_pos, robot.eef_axis_angle, robot.fingers)).astype(np.float32)

    def view(self) -> SceneView:
        """Return what cameras see in the current observation."""
        rgba = self.model.site_rgba.copy()
        rgba[self._heat_sites, 3] = self._observed_alpha
        return SceneView(self._observed.qpos, self.model.body_pos, self.model.body_quat, rgba, self.appearance)

    def _heat_alpha(self) -> Float64Array:
        return np.asarray(self.model.site_rgba[self._heat_sites, 3], dtype=np.float64)

    def _update_heat_sites(self) -> None:
        for heat in self._heat:
            is_on = any(heat.rule(float(self.data.qpos[address])) for address in heat.qpos)
            self.model.site_rgba[heat.site, 3] = _SHOWN_ALPHA if is_on else _HIDDEN_ALPHA


def axis_angle(quat: Float64Array) -> Float64Array:
    """
    Convert a quaternion to a rotation vector, in robosuite's convention (angle in [0, 2 pi], no sign flip).

    :param quat: (w, x, y, z), (4,)
    :return: (3,) rad
    """
    w = float(np.clip(quat[0], -1.0, 1.0))
    sine = float(np.sqrt(1.0 - w * w))
    if np.isclose(sine, 0.0, rtol=0.0, atol=1e-12):
        return np.zeros(3)
    return np.asarray(quat[1:]) * 2.0 * np.arccos(w) / sine
