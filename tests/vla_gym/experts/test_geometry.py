"""Shapes of a small scene: a box, turned by a quarter, on a table."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import mujoco
import numpy as np
import pytest

from vla_gym.experts.geometry import Obstacles, SceneObject
from vla_gym.experts.grasps import candidates

SCENE = """
<mujoco>
  <worldbody>
    <geom type="plane" size="2 2 0.1"/>
    <body name="carton" pos="0.1 0.2 0.05" euler="0 0 90">
      <freejoint/>
      <geom type="box" size="0.08 0.02 0.05"/>
    </body>
    <body name="post" pos="0.5 0.2 0.15"><geom type="box" size="0.02 0.02 0.15"/></body>
  </worldbody>
</mujoco>
"""


@pytest.fixture
def core() -> Any:
    model = mujoco.MjModel.from_xml_string(SCENE)
    data = mujoco.MjData(model)
    mujoco.mj_forward(model, data)
    return SimpleNamespace(model=model, data=data)


def test_lines_enter_and_leave_a_turned_box_at_its_faces(core: Any) -> None:
    boxes = SceneObject(core, "carton").boxes()
    through, past = np.array([0.1, 0.2, 0.05]), np.array([0.1, 0.4, 0.05])
    cuts = boxes.cuts(np.array([through, past]), np.array([1.0, 0.0, 0.0]))
    np.testing.assert_allclose(cuts[0, 0], [-0.02, 0.02], atol=1e-6)
    assert cuts[1, 0, 0] > cuts[1, 0, 1]


def test_heights_and_radius(core: Any) -> None:
    carton = SceneObject(core, "carton")
    assert carton.bottom() == pytest.approx(0.0, abs=1e-6)
    assert carton.top() == pytest.approx(0.1)
    assert carton.radius() == pytest.approx(np.hypot(0.08, 0.02))
    assert carton.height_at(np.array([0.1, 0.27]), 0.005) == pytest.approx(0.1)
    assert carton.height_at(np.array([0.17, 0.2]), 0.005) is None


def test_only_what_stands_on_the_way_counts(core: Any) -> None:
    obstacles = Obstacles(core, SceneObject(core, "carton"))
    start = np.array([0.1, 0.2])
    assert obstacles.highest_along(start, np.array([0.9, 0.2]), 0.05) == pytest.approx(0.3)
    assert obstacles.highest_along(start, np.array([0.1, 0.9]), 0.05) == -np.inf


def test_a_carton_is_grasped_across_its_narrow_side(core: Any) -> None:
    best = min(candidates(SceneObject(core, "carton"), np.array([0.1, 0.2, 0.4])), key=lambda grasp: grasp.cost)
    assert abs(best.mat[0, 0]) == pytest.approx(1.0, abs=1e-6)  # closes along the world's x
    np.testing.assert_allclose(best.pos[:2], 0.0, atol=1e-6)
