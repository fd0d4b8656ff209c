"""Holds are where a part's handle is, or outside of it where it is pushed, and come with their way there."""

from __future__ import annotations

import numpy as np

from vla_gym.experts.holds import Hold, find_hold
from vla_gym.experts.part import Part

JOINT = "wooden_cabinet_1_middle_level"
OPEN, SHUT = -0.15, 0.0


def in_world(part: Part, hold: Hold) -> tuple[np.ndarray, np.ndarray]:
    """End effector at the hold, and the offset from which it comes."""
    return part.obj.pos + part.obj.mat @ hold.pos, part.obj.mat @ hold.approach


def test_a_drawer_is_pulled_at_its_handle(start) -> None:
    core = start()
    part = Part(core, JOINT)
    before = core.data.qpos.copy()
    hold = find_hold(core, part, OPEN, pushes=False)
    assert hold is not None
    pos, _ = in_world(part, hold)
    handle = part.corners(part.handle(part.outwards()))
    assert np.linalg.norm(np.maximum(handle.min(axis=0) - pos, 0) + np.maximum(pos - handle.max(axis=0), 0)) < 0.03
    # what is not gripped is hooked, which takes pressure
    assert hold.grips != hold.press.any()
    np.testing.assert_array_equal(core.data.qpos, before)


def test_a_drawer_is_pushed_from_outside(start) -> None:
    core = start(**{JOINT: OPEN})
    part = Part(core, JOINT)
    hold = find_hold(core, part, SHUT, pushes=True)
    assert hold is not None and not hold.grips
    pos, approach = in_world(part, hold)
    outwards = part.outwards()
    assert (pos - part.corners(part.panel())).max(axis=0) @ np.abs(outwards) > 0.0
    np.testing.assert_allclose(approach / np.linalg.norm(approach), outwards, atol=1e-6)
