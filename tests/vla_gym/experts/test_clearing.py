from __future__ import annotations

from collections.abc import Callable

import gymnasium as gym
import numpy as np
import pytest

from vla_gym.experts.clearing import MIN_DISTANCE, _distance
from vla_gym.experts.part import Part
from vla_gym.experts.scripted import ScriptedExpert
from vla_gym.sim.core import SimCore

OPEN = -0.15
Start = Callable[..., SimCore]


@pytest.fixture
def drawer(start: Start) -> Part:
    return Part(start(3), "wooden_cabinet_1_top_level")


def test_distance_from_where_the_drawer_will_be(drawer: Part) -> None:
    corners = drawer.obj.boxes().corners()
    low, high, front = corners[:, 0].min(), corners[:, 0].max(), corners[:, 1].max()
    for x, distance, sign in ((low - 0.03, 0.03, -1), (low + 0.02, -0.02, -1), (high + 0.01, 0.01, 1)):
        found, direction = _distance(np.array([x, front + 0.05, 0.9]), drawer, OPEN)
        assert found == pytest.approx(distance) and np.allclose(direction, [sign, 0, 0])
    assert _distance(np.array([low + 0.02, front + 0.16, 0.9]), drawer, OPEN)[0] == np.inf, "in front of it"
    assert _distance(np.array([low + 0.02, front + 0.14, 0.9]), drawer, OPEN)[0] < 0


@pytest.mark.parametrize("state", [8, 23])
def test_the_bowl_is_pushed_from_below_the_drawer_first(env: gym.Env, start: Start, state: int) -> None:
    core = start(3, state)
    drawer, bowl = Part(core, "wooden_cabinet_1_top_level"), core.data.body("akita_black_bowl_1_main")
    before = _distance(bowl.xpos, drawer, OPEN)[0]
    expert = ScriptedExpert(env, np.random.default_rng((3, state)))
    while drawer.qpos > -0.01:
        env.step(expert.act())
    after = _distance(bowl.xpos, drawer, OPEN)[0]
    assert after > MIN_DISTANCE
    assert (after > before + 0.005) == (before <= MIN_DISTANCE), "only where it is necessary"
