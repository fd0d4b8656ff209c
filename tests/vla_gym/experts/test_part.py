"""A part moves as its joint says, and its handle sticks out the way it opens."""

from __future__ import annotations

import mujoco
import numpy as np
import pytest

from vla_gym.experts.part import Part

DRAWER, KNOB = "wooden_cabinet_1_top_level", "flat_stove_1_button"


@pytest.mark.parametrize("joint", [DRAWER, KNOB])
def test_poses_move_as_the_joint_says(start, joint: str) -> None:
    core = start()
    part = Part(core, joint)
    pos, mat = part.moved(part.obj.pos, part.obj.mat, -0.12)
    core.data.qpos[part.address] -= 0.12
    mujoco.mj_kinematics(core.model, core.data)
    np.testing.assert_allclose(part.obj.pos, pos, atol=1e-6)
    np.testing.assert_allclose(part.obj.mat, mat, atol=1e-6)


@pytest.mark.parametrize("joint", [DRAWER, KNOB])
def test_jacobian_is_the_derivative_of_the_motion(start, joint: str) -> None:
    part = Part(start(), joint)
    point, step = part.obj.pos + np.array([0.03, 0.02, 0.01]), 1e-6
    moved, _ = part.moved(point, np.eye(3), step)
    np.testing.assert_allclose(part.jacobian(point), (moved - point) / step, atol=1e-5)


def test_handle_of_a_drawer_sticks_out_towards_where_it_opens(start) -> None:
    part = Part(start(), DRAWER)
    outwards = part.outwards()
    opened = min(part.range, key=lambda limit: -abs(limit))
    assert part.jacobian(part.obj.pos) @ outwards * opened > 0.0
    handle, panel = part.corners(part.handle(outwards)), part.corners(part.panel())
    assert (handle @ outwards).max() > (panel @ outwards).max()


def test_a_knob_sticks_out_upwards(start) -> None:
    np.testing.assert_allclose(Part(start(), KNOB).outwards(), [0.0, 0.0, 1.0], atol=1e-6)
