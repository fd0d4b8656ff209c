"""Keywords of the wrong type are refused before any scene is loaded; a text is not taken letter by letter."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from vla_gym import ActionTokenizer
from vla_gym.envs import libero_env
from vla_gym.envs.libero_env import LiberoEnv
from vla_gym.envs.toy_env import ToyLiberoEnv
from vla_gym.errors import InvalidArgumentError, UnknownNameError


@pytest.fixture(autouse=True)
def no_scenes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(libero_env, "load_bundles", lambda tasks, *args: tasks)


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"task_ids": 1}, r"task_ids is 1 \(int\); expected a list, like \[0, 3\]"),
        ({"task_ids": "1"}, r"task_ids is '1' \(str\); expected a list"),
        ({"task_ids": {1: 2.0}}, "task_ids is .* expected a list"),
        ({"task_ids": [3, 3]}, "task_ids names 3 twice"),
        ({"init_state_ids": "12"}, "init_state_ids is '12'"),
        ({"init_state_ids": np.array(3)}, "init_state_ids is "),
        ({"cameras": "agentview"}, r"cameras is 'agentview' \(str\); expected a list, like \['agentview'\]"),
        ({"cameras": ["wrist", "wrist"]}, "cameras names 'wrist' twice"),
        ({"cameras": None}, "cameras is None"),
        ({"image_size": (64, 96)}, r"image_size is \(64, 96\) \(tuple\); expected an integer from 16 to 4096"),
        ({"image_size": float("nan")}, r"image_size is nan \(float\)"),
        ({"image_size": 64.0}, r"image_size is 64.0 \(float\)"),
        ({"image_size": "64"}, r"image_size is '64' \(str\)"),
        ({"image_size": 10**6}, "image_size is 1000000; expected at most 4096"),
        ({"views": ["agentview"]}, r"views is \['agentview'\] \(list\); expected a camera and a size in px"),
        ({"views": {"judge": "agentview"}}, r"views\['judge'\] is 'agentview'; expected a camera and a size"),
        ({"views": {"judge": ("agentview",)}}, r"views\['judge'\] is \('agentview',\)"),
        ({"views": {"judge": ("agentview", 8)}}, "size of the view 'judge' is 8; expected at least 16"),
        ({"views": {"judge": ("agentview", "64")}}, r"size of the view 'judge' is '64' \(str\)"),
        ({"views": {"wrist": ("wrist", 64)}}, "views names 'wrist'; expected a text other than agentview, instruction"),
        ({"views": {"": ("wrist", 64)}}, "views names ''"),
        ({"views": {3: ("wrist", 64)}}, "views names 3"),
        ({"chunk_size": True}, r"chunk_size is True \(bool\)"),
        ({"chunk_size": 301}, "chunk_size is 301; expected at most 300"),
        ({"settle_steps": 10**6}, "settle_steps is 1000000; expected at most 1000"),
        ({"settle_steps": -1}, "settle_steps is -1; expected at least 0"),
        ({"settle_steps": None}, "settle_steps is None"),
        ({"randomize_fixtures": "false"}, r"randomize_fixtures is 'false' \(str\); expected True or False"),
        ({"randomize_fixtures": 1}, "randomize_fixtures is 1"),
        ({"privileged_obs": "no"}, "privileged_obs is 'no'"),
        ({"action_tokenizer": False}, "action_tokenizer is False; expected an ActionTokenizer"),
        ({"action_tokenizer": ActionTokenizer}, "action_tokenizer is <class"),
        ({"assets": 3}, "assets is 3"),
    ],
)
def test_a_wrong_type_is_named_with_what_is_expected(kwargs: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidArgumentError, match=message):
        LiberoEnv("goal", **{"assets": "primitive", **kwargs})


@pytest.mark.parametrize(
    "kwargs",
    [
        {"cameras": [1]},
        {"cameras": [["agentview"]]},
        {"views": {"judge": ["agentveiw", 64]}},
        {"views": {"judge": [1, 64]}},
        {"action_type": None},
        {"physics": 1},
        {"render_quality": ["full"]},
        {"render_mode": True},
        {"task_ids": [1.0]},
        {"task_ids": [True]},
        {"task_ids": [None]},
        {"suite": 3},
        {"suite": ["goal"]},
    ],
)
def test_what_is_no_name_lists_the_names(kwargs: dict[str, Any]) -> None:
    with pytest.raises(UnknownNameError, match="Valid: "):
        LiberoEnv(**{"suite": "goal", "assets": "primitive", **kwargs})


def test_numpy_numbers_and_other_lists_are_accepted() -> None:
    env = LiberoEnv(
        "goal",
        assets="primitive",
        task_ids=np.array([1, 3]),
        init_state_ids=range(4),
        cameras=["wrist"],
        image_size=np.int64(32),
        chunk_size=np.int32(2),
        randomize_fixtures=np.bool_(True),
    )
    assert (env.task_ids, env.init_state_ids, env.cameras) == ((1, 3), (0, 1, 2, 3), ("wrist",))
    assert (type(env.image_size), type(env.chunk_size), env.randomize_fixtures) == (int, int, True)


@pytest.mark.parametrize("kwargs", [{"image_size": (64, 64)}, {"horizon": "3"}, {"task_ids": "1"}])
def test_the_toy_environment_checks_types_too(kwargs: dict[str, Any]) -> None:
    with pytest.raises(InvalidArgumentError):
        ToyLiberoEnv(**kwargs)
