"""The scene says whether the arm reaches a pose and what it would be in there, and leaves the simulation alone."""

from __future__ import annotations

import numpy as np
import pytest

from vla_gym.experts.articulation_scene import ArticulationScene
from vla_gym.experts.hand import DOWN
from vla_gym.sim.core import SimCore

ABOVE_TABLE = np.array([-0.1, 0.0, 1.1])


@pytest.fixture
def core(start) -> SimCore:
    return start()


def test_reaches_what_is_near_and_touches_nothing(core: SimCore) -> None:
    before = core.data.qpos.copy()
    scene = ArticulationScene(core)
    scene.reset(is_open=True)
    assert scene.reach(ABOVE_TABLE, DOWN) < 0.002
    assert scene.penetration(np.zeros(core.model.ngeom, dtype=bool)) == 0.0
    np.testing.assert_array_equal(core.data.qpos, before)


def test_says_how_far_the_arm_stays_away(core: SimCore) -> None:
    scene = ArticulationScene(core)
    scene.reset(is_open=True)
    assert scene.reach(ABOVE_TABLE + np.array([1.0, 0.0, 0.0]), DOWN) > 0.3


def test_fingers_may_touch_what_they_are_told_to_but_the_palm_may_not(core: SimCore) -> None:
    scene = ArticulationScene(core)
    scene.reset(is_open=False)
    scene.reach(np.array([-0.1, 0.1, 0.905]), DOWN)  # the tips in the table, the palm in the bowl
    is_table = np.array([core.model.geom(geom).name == "table_collision" for geom in range(core.model.ngeom)])
    forbidden, allowed = scene.penetration(np.zeros_like(is_table)), scene.penetration(is_table)
    assert forbidden > allowed > 0.0
    assert scene.penetration(np.ones_like(is_table)) == allowed
