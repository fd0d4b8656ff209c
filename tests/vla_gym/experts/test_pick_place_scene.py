"""The scene tells poses that arm and object can take from those that they cannot."""

from __future__ import annotations

import numpy as np
import pytest

from vla_gym.experts.geometry import SceneObject
from vla_gym.experts.hand import DOWN
from vla_gym.experts.pick_place_scene import PickPlaceScene
from vla_gym.sim.core import SimCore

ABOVE_TABLE = np.array([-0.1, 0.0, 1.1])
UP = np.array([0.0, 0.0, 1.0])


@pytest.fixture
def core(start) -> SimCore:
    return start()


@pytest.fixture
def bowl(core: SimCore, env) -> SceneObject:
    return SceneObject(core, env.unwrapped.bundle.object_bodies["akita_black_bowl_1"])


def test_reaches_what_is_near_but_not_what_is_far(core: SimCore, bowl: SceneObject) -> None:
    before = core.data.qpos.copy()
    scene = PickPlaceScene(core, bowl)
    assert scene.can_reach(ABOVE_TABLE, DOWN)
    assert not scene.can_reach(ABOVE_TABLE, DOWN, min_dexterity=scene.dexterity + 0.01)
    assert not scene.can_reach(ABOVE_TABLE + np.array([1.0, 0.0, 0.0]), DOWN)
    np.testing.assert_array_equal(core.data.qpos, before)


def test_nothing_crowds_a_hand_in_the_air_but_the_table_hits_it(core: SimCore, bowl: SceneObject) -> None:
    scene = PickPlaceScene(core, bowl)
    assert scene.can_reach(ABOVE_TABLE, DOWN)
    assert scene.crowding(holds_object=False) == 0.0
    assert scene.can_reach(np.array([-0.1, 0.1, 0.88]), DOWN, min_dexterity=0.0)
    assert scene.crowding(holds_object=False) is None


def test_hand_may_be_in_the_object_that_it_holds_alone(core: SimCore, bowl: SceneObject) -> None:
    scene = PickPlaceScene(core, bowl)
    assert scene.can_reach(ABOVE_TABLE, DOWN)
    scene.put_object(ABOVE_TABLE - 0.02 * UP, bowl.mat)
    assert scene.crowding(holds_object=False) is None
    assert scene.crowding(holds_object=True) is not None


def test_a_held_object_may_not_be_in_another(core: SimCore, bowl: SceneObject, env) -> None:
    scene = PickPlaceScene(core, bowl)
    assert scene.can_reach(ABOVE_TABLE, DOWN)
    bottle = SceneObject(core, env.unwrapped.bundle.object_bodies["wine_bottle_1"])
    scene.put_object(bottle.pos, bowl.mat)
    assert scene.crowding(holds_object=True) is None
