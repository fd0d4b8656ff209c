"""The controller against robosuite's own functions and closed forms."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from vla_gym.sim.controller import (
    KD,
    KP,
    osc_torques,
    rotation_matrix,
)
from vla_gym.sim.reference import ArmState, GripperIntegrator, OSCPoseController


def random_arm(rng: np.random.Generator) -> ArmState:
    root = rng.normal(size=(7, 7))
    return ArmState(
        eef_pos=rng.normal(size=3),
        eef_mat=Rotation.random(random_state=1).as_matrix(),
        joint_pos=rng.normal(size=7),
        joint_vel=rng.normal(size=7),
        eef_vel=rng.normal(size=6),
        jacobian=rng.normal(size=(6, 7)),
        mass=root @ root.T + np.eye(7),
    )


def arguments(rng: np.random.Generator) -> tuple[np.ndarray, ...]:
    arm = random_arm(rng)
    goal = Rotation.random(random_state=2).as_matrix()
    bias, joint_error = rng.normal(size=7), rng.normal(size=7)
    return (
        rng.normal(size=3),
        goal,
        arm.eef_pos,
        arm.eef_mat,
        arm.eef_vel,
        arm.jacobian,
        arm.mass,
        joint_error,
        arm.joint_vel,
        bias,
    )


def test_compiled_torques_equal_plain_numpy() -> None:
    for seed in range(5):
        args = arguments(np.random.default_rng(seed))
        np.testing.assert_allclose(osc_torques(*args), osc_torques.py_func(*args), rtol=1e-9)


def test_torques_equal_robosuite() -> None:
    control_utils = pytest.importorskip("robosuite.utils.control_utils")
    for seed in range(5):
        args = arguments(np.random.default_rng(seed))
        goal_pos, goal_mat, eef_pos, eef_mat, eef_vel, jacobian, mass, joint_error, joint_vel, bias = args
        _, lambda_pos, lambda_ori, nullspace = control_utils.opspace_matrices(
            mass, jacobian, jacobian[:3].copy(), jacobian[3:].copy()
        )
        force = KP * (goal_pos - eef_pos) - KD * eef_vel[:3]
        torque = KP * control_utils.orientation_error(goal_mat, eef_mat) - KD * eef_vel[3:]
        expected = jacobian.T @ np.concatenate([lambda_pos @ force, lambda_ori @ torque]) + bias
        expected = expected + control_utils.nullspace_torques(mass, nullspace, joint_error, np.zeros(7), joint_vel)
        np.testing.assert_allclose(osc_torques(*args), expected, rtol=1e-9)


def test_no_error_and_no_motion_leave_only_the_bias() -> None:
    arm = random_arm(np.random.default_rng(0))
    arm.eef_vel, arm.joint_vel = np.zeros(6), np.zeros(7)
    controller = OSCPoseController(arm.joint_pos)
    controller.reset(arm)
    bias = np.arange(7.0)
    np.testing.assert_allclose(controller.torques(arm, bias), bias, atol=1e-9)


def test_rotation_matrix_equals_robosuite_bit_for_bit_and_scipy_in_single_precision() -> None:
    transform_utils = pytest.importorskip("robosuite.utils.transform_utils")
    rng = np.random.default_rng(0)
    for vector in (*rng.uniform(-0.5, 0.5, (50, 3)), np.zeros(3)):
        matrix = rotation_matrix(vector)
        original = transform_utils.quat2mat(transform_utils.axisangle2quat(vector))
        np.testing.assert_array_equal(matrix, original)
        np.testing.assert_allclose(matrix, Rotation.from_rotvec(vector).as_matrix(), atol=3e-7)


def test_goals_are_relative_clipped_and_scaled() -> None:
    arm = random_arm(np.random.default_rng(0))
    controller = OSCPoseController(arm.joint_pos)
    controller.reset(arm)
    controller.set_goal(np.array([2.0, -0.5, 0.0, 0.0, 0.0, 1.0]), arm)
    np.testing.assert_allclose(controller.goal_pos - arm.eef_pos, [0.05, -0.025, 0.0])
    turn = Rotation.from_matrix(controller.goal_mat) * Rotation.from_matrix(arm.eef_mat).inv()
    np.testing.assert_allclose(turn.as_rotvec(), [0, 0, 0.5], atol=1e-6)


def test_zero_rotation_keeps_the_goal_and_any_other_anchors_it_anew() -> None:
    rng = np.random.default_rng(0)
    arm = random_arm(rng)
    controller = OSCPoseController(arm.joint_pos)
    controller.reset(arm)
    drifted = random_arm(rng)
    drifted.eef_mat = Rotation.from_rotvec([0.1, 0, 0]).as_matrix() @ arm.eef_mat
    controller.set_goal(np.array([0.1, 0, 0, 0, 0, 0]), drifted)
    np.testing.assert_array_equal(controller.goal_mat, arm.eef_mat)
    controller.set_goal(np.array([0.1, 0, 0, 1e-6, 0, 0]), drifted)
    np.testing.assert_allclose(controller.goal_mat, drifted.eef_mat, atol=1e-5)


def test_gripper_swings_in_eight_control_steps() -> None:
    gripper = GripperIntegrator()
    for _ in range(4 * 25):
        gripper.substep(1.0)
    np.testing.assert_allclose(gripper.position, [-1.0, 1.0])
    for _ in range(8 * 25 - 1):
        gripper.substep(-0.3)
    assert gripper.position[0] < 1.0
    gripper.substep(-1.0)
    np.testing.assert_allclose(gripper.position, [1.0, -1.0])
    np.testing.assert_allclose(gripper.substep(0.0), [1.0, -1.0])
