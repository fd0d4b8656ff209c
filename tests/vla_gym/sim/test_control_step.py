"""The fused control step against its NumPy twin."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from vla_gym.assets.resolve import resolve_assets
from vla_gym.scenes.bundle import SceneBundle
from vla_gym.scenes.store import load_bundles
from vla_gym.sim import control_step as fused
from vla_gym.sim.controller import osc_torques, rotation_matrix
from vla_gym.sim.core import SimCore
from vla_gym.sim.mujoco_calls import mujoco_calls
from vla_gym.sim.plain_torques import plain_osc_torques, pseudo_inverse
from vla_gym.sim.reference import ReferenceStepper, read_arm_state
from vla_gym.tasks.registry import get_suite

pytestmark = pytest.mark.usefixtures("goal_scenes")


@pytest.fixture(scope="module")
def bundle() -> SceneBundle:
    (bundle,) = load_bundles([get_suite("goal").task(8)], resolve_assets("primitive"))
    return bundle


def start(bundle: SceneBundle, physics: str = "fast") -> SimCore:
    core = SimCore(bundle, physics)
    core.reset(bundle.init_states[3], bundle.fixture_pos[3], bundle.fixture_quat[3])
    return core


def commands(n: int) -> np.ndarray:
    rng = np.random.default_rng(0)
    waves = np.sin(np.linspace(0, 6, n)[:, None] * rng.uniform(0.5, 2, 6) + rng.uniform(0, 6, 6))
    waves[:, 2] -= 0.5
    waves[::5, 3:] = 0.0  # an exactly zero rotation keeps the old orientation goal
    return np.concatenate([1.3 * waves, np.repeat([-1.0, 1.0], n // 2)[:, None]], axis=1)


@pytest.mark.parametrize("physics", ["exact", "fast"])
def test_trajectory_is_that_of_the_numpy_twin(bundle: SceneBundle, physics: str) -> None:
    core, twin = start(bundle, physics), start(bundle)
    stepper = ReferenceStepper(twin)
    for i, command in enumerate(commands(40)):
        core.step(command)
        stepper.step(command)
        np.testing.assert_allclose(core.arm.goal_pos, stepper.controller.goal_pos, atol=1e-9, err_msg=str(i))
        np.testing.assert_allclose(core.arm.goal_mat, stepper.controller.goal_mat, atol=1e-6)
        np.testing.assert_allclose(core.data.ctrl, twin.data.ctrl, atol=1e-5)
        np.testing.assert_allclose(core.get_state(), twin.get_state(), atol=1e-6)
    assert np.abs(core.get_state() - start(bundle).get_state()).max() > 0.1  # it did move


def test_steps_are_the_same_bits_every_time_whatever_ran_before(bundle: SceneBundle) -> None:
    core = start(bundle)
    states = []
    for _ in range(2):
        core.reset(bundle.init_states[3], bundle.fixture_pos[3], bundle.fixture_quat[3])
        for command in commands(20):
            core.step(command)
        states.append(core.get_state())
    np.testing.assert_array_equal(*states)


def test_arm_is_read_as_mujocos_python_functions_read_it(bundle: SceneBundle) -> None:
    core = start(bundle)
    for command in commands(6):
        core.step(command)
    core.set_state(core.get_state())
    expected = read_arm_state(core.model, core.data, core.robot)
    fused.read_arm(mujoco_calls(), core.arrays, core.arm)
    for name in ("eef_pos", "eef_mat", "joint_pos", "joint_vel", "jacobian", "mass"):
        np.testing.assert_array_equal(getattr(core.arm, name), getattr(expected, name), err_msg=name)
    np.testing.assert_allclose(core.arm.eef_vel, expected.eef_vel, atol=1e-15)


def random_arm(seed: int) -> fused.ControllerState:
    rng = np.random.default_rng(seed)
    root = rng.normal(size=(7, 7))
    return fused.make_controller_state(rng.normal(size=7), 9)._replace(
        goal_pos=rng.normal(size=3),
        goal_mat=Rotation.random(random_state=seed).as_matrix(),
        eef_pos=rng.normal(size=3),
        eef_mat=Rotation.random(random_state=seed + 1).as_matrix(),
        joint_pos=rng.normal(size=7),
        joint_vel=rng.normal(size=7),
        eef_vel=rng.normal(size=6),
        jacobian=rng.normal(size=(6, 7)),
        mass=root @ root.T + np.eye(7),
    )


def plain_torques(arm: fused.ControllerState, bias: np.ndarray) -> np.ndarray:
    pose = (arm.goal_pos, arm.goal_mat, arm.eef_pos, arm.eef_mat, arm.eef_vel, arm.jacobian, arm.mass)
    return osc_torques.py_func(*pose, arm.rest - arm.joint_pos, arm.joint_vel, bias)


def test_torques_from_cholesky_factors_are_those_of_pseudo_inverses() -> None:
    for seed in range(20):
        arm, bias, torques = random_arm(seed), np.arange(7.0), np.empty(7)
        assert fused._fast_torques(arm, bias, torques)
        np.testing.assert_allclose(torques, plain_torques(arm, bias), rtol=1e-6, atol=1e-6)


def test_torques_without_scipy_are_those_with_it() -> None:
    for seed in range(20):
        arm, bias = random_arm(seed), np.arange(7.0)
        if seed % 4 == 0:
            arm.jacobian[:, seed % 7] = 0.0
        pose = (arm.goal_pos, arm.goal_mat, arm.eef_pos, arm.eef_mat, arm.eef_vel, arm.jacobian, arm.mass)
        torques = plain_osc_torques(*pose, arm.rest - arm.joint_pos, arm.joint_vel, bias)
        np.testing.assert_allclose(torques, plain_torques(arm, bias), rtol=1e-9, atol=1e-8)


@pytest.mark.parametrize("rank", [1, 3, 6])
def test_pseudo_inverses_drop_directions_without_extent(rank: int) -> None:
    for seed in range(20):
        root = np.random.default_rng(seed).normal(size=(6, rank))
        matrix = root @ root.T
        expected = np.linalg.pinv(matrix, rcond=1e-12)
        found = pseudo_inverse(matrix)
        if rank == 6:
            np.testing.assert_allclose(found, expected, rtol=1e-6, atol=1e-9 * np.abs(expected).max())
        np.testing.assert_allclose(matrix @ found @ matrix, matrix, atol=1e-9 * np.abs(matrix).max())
    assert np.isnan(pseudo_inverse(np.full((3, 3), np.nan))).any()


def test_a_singular_arm_is_left_to_the_pseudo_inverse() -> None:
    arm = random_arm(0)
    arm.jacobian[5] = arm.jacobian[4]
    assert not fused._fast_torques(arm, np.zeros(7), np.empty(7))
    arm.jacobian[5] = np.nan
    assert not fused._fast_torques(arm, np.zeros(7), np.empty(7))


def test_rotation_matrices_are_the_same_bits() -> None:
    for vector in np.random.default_rng(0).uniform(-0.5, 0.5, (200, 3)):
        np.testing.assert_array_equal(fused._rotation_matrix(vector), rotation_matrix(vector))


def test_the_call_releases_the_interpreters_lock() -> None:
    assert fused.control_step.targetoptions["nogil"]
