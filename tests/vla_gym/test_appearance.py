from __future__ import annotations

import copy
import pickle
from typing import Any

import numpy as np
import pytest

from vla_gym import Appearance, CameraOverride, LightOverride
from vla_gym.appearance import checked_appearance
from vla_gym.errors import InvalidArgumentError, UnknownNameError

DATA: dict[str, Any] = {
    "cameras": {"agentview": {"pos": [0.6, 0, 1.6], "quat": [1, 0, 0, 0], "fovy": 50}},
    "lights": {"light1": {"dir": [0, 0, -1], "active": False}, "headlight": {"ambient": [1, 1, 1]}},
    "geom_rgba": {"floor": [0, 1, 0, 1]},
    "material_rgba": {"walls_mat": (1, 0, 0, 0.5)},
    "textures": {"texplane": np.zeros((2, 3, 3), np.uint8)},
}


def same(first: Any, second: Any) -> bool:
    if isinstance(first, dict):
        return first.keys() == second.keys() and all(same(first[key], second[key]) for key in first)
    return np.array_equal(first, second)


def test_plain_data_and_back() -> None:
    appearance = Appearance.from_dict(DATA)
    assert same(appearance.as_dict(), DATA)
    assert appearance.cameras["agentview"].fovy == 50.0
    assert appearance.lights["light1"].active is False and appearance.lights["light1"].pos is None
    assert Appearance().as_dict() == {}
    assert checked_appearance(None) is None and checked_appearance(appearance) is appearance


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda value: pickle.loads(pickle.dumps(value))])
def test_copies_are_equal_and_as_unchangeable(copied: Any) -> None:
    twin = copied(Appearance.from_dict(DATA))
    assert same(twin.as_dict(), DATA)
    for array in (twin.textures["texplane"], twin.geom_rgba["floor"], twin.cameras["agentview"].pos):
        assert not array.flags.writeable


def test_what_was_given_may_change_afterwards() -> None:
    pos, picture = np.ones(3), np.zeros((1, 1, 3), np.uint8)
    appearance = Appearance(cameras={"wrist": CameraOverride(pos=pos)}, textures={"t": picture})
    pos[:], picture[:] = 5, 5
    assert appearance.cameras["wrist"].pos.tolist() == [1, 1, 1] and not appearance.textures["t"].any()
    with pytest.raises(TypeError):
        appearance.textures["u"] = picture  # type: ignore[index]


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (
            {"camera": {}},
            r"Unknown part of an appearance 'camera'. Did you mean 'cameras'\? Valid: cameras, lights, geom",
        ),
        (
            {"cameras": {"agentveiw": {}}},
            r"Unknown camera 'agentveiw'. Did you mean 'agentview'\? Valid: agentview, wrist",
        ),
        ({"cameras": {"robot0_eye_in_hand": {}}}, r"Unknown camera .* Valid: agentview, wrist"),
        (
            {"cameras": {"wrist": {"position": [0, 0, 0]}}},
            r"Unknown property of cameras\['wrist'\] 'position'.*Valid: pos,",
        ),
        (
            {"lights": {"light1": {"direction": [0, 0, 1]}}},
            r"property of lights\['light1'\] 'direction'.*pos, dir, ambient",
        ),
    ],
)
def test_unknown_names_list_the_valid_ones(data: dict[str, Any], message: str) -> None:
    with pytest.raises(UnknownNameError, match=message):
        Appearance.from_dict(data)


NAN = float("nan")


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ([], r"appearance is \[\] \(list\); expected a mapping from names"),
        ({"lights": None}, r"lights is None \(NoneType\); expected a mapping"),
        ({"cameras": {"wrist": [0, 0, 0]}}, r"cameras\['wrist'\] is \[0, 0, 0\] \(list\); expected a mapping"),
        ({"cameras": {"wrist": {"pos": [0, NAN, 0]}}}, r"cameras\['wrist'\]: pos is \[0, nan, 0\]; expected 3 finite"),
        ({"cameras": {"wrist": {"pos": [0, np.inf, 0]}}}, "pos is .*; expected 3 finite numbers"),
        ({"cameras": {"wrist": {"pos": [0, 0]}}}, r"pos is \[0, 0\]; expected 3 finite numbers"),
        ({"cameras": {"wrist": {"pos": "abc"}}}, "pos is 'abc'; expected 3 finite numbers"),
        ({"cameras": {"wrist": {"pos": [[0, 0, 0]]}}}, "expected 3 finite numbers"),
        ({"cameras": {"wrist": {"pos": [0, [1], 0]}}}, "expected 3 finite numbers"),
        ({"cameras": {"wrist": {"quat": [0, 0, 0, 0]}}}, r"quat is .*; expected 4 finite numbers that are not all 0"),
        ({"cameras": {"wrist": {"quat": [1, 0, 0]}}}, r"quat is .*; expected 4 finite numbers that are not all 0"),
        ({"cameras": {"wrist": {"fovy": 180}}}, "fovy is 180; expected degrees between 0 and 180"),
        ({"cameras": {"wrist": {"fovy": 0}}}, "fovy is 0; expected degrees"),
        ({"cameras": {"wrist": {"fovy": NAN}}}, "fovy is nan; expected degrees"),
        ({"cameras": {"wrist": {"fovy": "45"}}}, r"fovy is '45' \(str\); expected degrees"),
        ({"cameras": {"wrist": {"fovy": True}}}, r"fovy is True \(bool\); expected degrees"),
        (
            {"lights": {"a": {"dir": [0, 0, 0]}}},
            r"lights\['a'\]: dir is .*; expected 3 finite numbers that are not all 0",
        ),
        ({"lights": {"a": {"diffuse": [0, -0.1, 0]}}}, "diffuse is .*; expected 3 finite numbers of at least 0"),
        ({"lights": {"a": {"specular": [NAN, 0, 0]}}}, "specular is .*; expected 3 finite numbers of at least 0"),
        ({"lights": {"a": {"ambient": 1}}}, "ambient is 1; expected 3 finite numbers of at least 0"),
        ({"lights": {"a": {"active": "no"}}}, r"active is 'no' \(str\); expected True or False"),
        ({"lights": {"a": {"castshadow": 1}}}, r"castshadow is 1 \(int\); expected True or False"),
        (
            {"lights": {"headlight": {"pos": [0, 0, 1]}}},
            r"lights\['headlight'\] has pos; this light shines from the camera",
        ),
        ({"lights": {"headlight": {"castshadow": True}}}, r"lights\['headlight'\] has castshadow"),
        ({"geom_rgba": {"floor": [1, 1, 1]}}, r"geom_rgba\['floor'\] is \[1, 1, 1\]; expected 4 numbers from 0 to 1"),
        ({"geom_rgba": {"floor": [1, 1, 1, 255]}}, "expected 4 numbers from 0 to 1"),
        ({"material_rgba": {"m": [1, 1, 1, NAN]}}, r"material_rgba\['m'\] is .*; expected 4 numbers from 0 to 1"),
        (
            {"textures": {"t": np.zeros((4, 4), np.uint8)}},
            r"textures\['t'\] is uint8 of shape \(4, 4\); expected a picture",
        ),
        (
            {"textures": {"t": np.zeros((4, 4, 4), np.uint8)}},
            r"of shape \(4, 4, 4\); expected a picture, uint8 of shape",
        ),
        ({"textures": {"t": np.zeros((4, 4, 3))}}, r"is float64 of shape \(4, 4, 3\); expected a picture"),
        ({"textures": {"t": np.zeros((0, 4, 3), np.uint8)}}, r"of shape \(0, 4, 3\); expected .* 1 to 8192 pixels"),
        ({"textures": {"t": np.zeros((8193, 1, 3), np.uint8)}}, r"of shape \(8193, 1, 3\); expected"),
        ({"textures": {"t": [[1], [2, 3]]}}, "expected a picture"),
        ({"textures": {"t": "wood.png"}}, "expected a picture"),
    ],
)
def test_values_of_the_wrong_kind_are_refused(data: Any, message: str) -> None:
    with pytest.raises(InvalidArgumentError, match=message):
        Appearance.from_dict(data)


def test_the_classes_check_as_plain_data_does() -> None:
    with pytest.raises(InvalidArgumentError, match="pos is 1; expected 3 finite numbers"):
        CameraOverride(pos=1)  # type: ignore[arg-type]
    with pytest.raises(InvalidArgumentError, match="active is 1"):
        LightOverride(active=1)  # type: ignore[arg-type]
