from __future__ import annotations

import mujoco
import numpy as np
import pytest

from vla_gym.errors import SceneBuildError, UnknownNameError
from vla_gym.tasks.goals import Atom, Goal, JointRule, is_inside_region, is_over_region

SCENE = """
<mujoco>
  <worldbody>
    <body name="plate" pos="0 0 0.1"><geom name="plate_g" type="box" size="0.1 0.1 0.02"/>
      <site name="region" pos="0 0 0.02" size="0.05 0.02 0.001" type="box"/></body>
    <body name="bowl" pos="0 0 0.14"><freejoint name="bowl_joint"/>
      <geom name="bowl_g" type="box" size="0.02 0.02 0.021"/></body>
    <body name="drawer" pos="1 0 0"><joint name="slide" type="slide" axis="0 1 0"/>
      <geom name="drawer_g" type="box" size="0.1 0.1 0.1"/></body>
  </worldbody>
</mujoco>
"""
BOWL = {"body": "bowl", "geoms": ("bowl_g",)}


def scene(bowl_pos: tuple[float, float, float], slide: float = 0.0) -> tuple[mujoco.MjModel, mujoco.MjData]:
    model = mujoco.MjModel.from_xml_string(SCENE)
    data = mujoco.MjData(model)
    data.qpos[:3] = bowl_pos
    data.qpos[7] = slide
    mujoco.mj_forward(model, data)
    return model, data


@pytest.mark.parametrize(
    ("bowl_pos", "expected"),
    [
        ((0, 0, 0.14), True),
        ((0.029, 0, 0.14), True),
        ((0.031, 0, 0.14), False),  # 3 cm off centre
        ((0, 0, 0.17), False),  # no contact
        ((0, 0, 0.09), False),  # below
    ],
)
def test_on_object_needs_height_contact_and_nearness(bowl_pos: tuple[float, float, float], expected: bool) -> None:
    model, data = scene(bowl_pos)
    goal = Goal([Atom("on", ("bowl_1", "plate_1"), target_body="plate", target_geoms=("plate_g",), **BOWL)], model)
    assert goal.evaluate(data) == {"(On bowl_1 plate_1)": expected}
    assert goal.is_satisfied(data) is expected


@pytest.mark.parametrize(
    ("bowl_pos", "expected"), [((0.049, 0, 0.14), True), ((0.051, 0, 0.14), False), ((0, 0.021, 0.14), False)]
)
def test_on_region_needs_the_centre_within_its_rectangle(bowl_pos: tuple[float, float, float], expected: bool) -> None:
    model, data = scene(bowl_pos)
    region = {"target_site": "region", "target_size": (0.05, 0.02, 0.001)}
    owned = Atom("on", ("bowl_1", "region"), target_geoms=("plate_g",), **region, **BOWL)
    assert Goal([owned], model).is_satisfied(data) is expected


def test_region_of_an_object_asks_for_contact_and_one_of_a_table_does_not() -> None:
    model, data = scene((0, 0, 0.19))
    region = {"target_site": "region", "target_size": (0.05, 0.02, 0.001)}
    assert Goal([Atom("on", ("b", "r"), **region, **BOWL)], model).is_satisfied(data)
    owned = Atom("on", ("b", "r"), target_geoms=("plate_g",), **region, **BOWL)
    assert not Goal([owned], model).is_satisfied(data)


@pytest.mark.parametrize(
    ("predicate", "category", "qpos", "expected"),
    [
        ("open", "wooden_cabinet", -0.141, True),
        ("open", "wooden_cabinet", -0.14, False),
        ("close", "wooden_cabinet", 0.001, True),
        ("close", "wooden_cabinet", 0.0, False),
        ("turnon", "flat_stove", 0.5, True),
        ("turnon", "flat_stove", 0.499, False),
        ("turnoff", "flat_stove", -0.001, True),
        ("turnoff", "flat_stove", 0.0, False),
    ],
)
def test_joint_predicates(predicate: str, category: str, qpos: float, expected: bool) -> None:
    model, data = scene((0, 0, 1), slide=qpos)
    goal = Goal([Atom(predicate, ("thing",), joints=("slide",), category=category)], model)
    assert goal.is_satisfied(data) is expected


def test_a_goal_is_the_conjunction_of_its_atoms() -> None:
    model, data = scene((0, 0, 0.14), slide=-0.15)
    on = Atom("on", ("bowl_1", "plate_1"), target_body="plate", target_geoms=("plate_g",), **BOWL)
    opened = Atom("open", ("d",), joints=("slide",), category="wooden_cabinet")
    closed = Atom("close", ("d",), joints=("slide",), category="wooden_cabinet")
    assert Goal([on, opened], model).is_satisfied(data)
    assert not Goal([on, closed], model).is_satisfied(data)


def test_region_rules_use_the_matrix_as_libero_does() -> None:
    size, origin = np.array([0.1, 0.02, 0.05]), np.zeros(3)
    turned = np.array([[0.0, -1.0, 0.0], [1.0, 0.0, 0.0], [0.0, 0.0, 1.0]])
    assert is_inside_region(size, origin, turned, np.array([0.0, 0.09, 0.0]))
    assert not is_inside_region(size, origin, turned, np.array([0.09, 0.0, 0.0]))
    assert is_inside_region(size, origin, np.eye(3), np.array([0.0, 0.0, -0.059]))  # 1 cm of grace below
    assert not is_inside_region(size, origin, np.eye(3), np.array([0.0, 0.0, 0.051]))
    assert is_over_region(size, origin, turned, np.array([0.0, 0.09, 0.06]))
    assert not is_over_region(size, origin, turned, np.array([0.09, 0.0, 0.06]))


def test_rule_boundaries() -> None:
    assert JointRule(True, 0.5, inclusive=True)(0.5)
    assert not JointRule(True, 0.5)(0.5)


def test_distance_of_a_joint_from_its_goal() -> None:
    above, below = JointRule(True, 0.5), JointRule(False, -0.14)
    assert [above.distance(q) for q in (0.25, 0.5, 0.75)] == [0.25, 0.0, 0.0]
    assert [below.distance(q) for q in (-0.2, -0.14)] == [0.0, 0.0]
    assert below.distance(0.0) == pytest.approx(0.14)


def test_atoms_survive_json() -> None:
    atom = Atom("on", ("a", "b"), geoms=("g",), target_size=(0.1, 0.2, 0.3))
    as_json = {k: list(v) if isinstance(v, tuple) else v for k, v in atom.to_dict().items()}
    assert Atom.from_dict(as_json) == atom


def test_unsupported_predicates_and_missing_names_are_refused() -> None:
    model, _ = scene((0, 0, 1))
    with pytest.raises(UnknownNameError, match="goal predicate"):
        Goal([Atom("stack", ("a", "b"))], model)
    with pytest.raises(UnknownNameError, match="wooden_cabinet"):
        Goal([Atom("open", ("a",), joints=("slide",), category="fridge")], model)
    with pytest.raises(SceneBuildError, match="no body 'cup'"):
        Goal([Atom("on", ("a", "b"), body="cup", target_body="plate")], model)
