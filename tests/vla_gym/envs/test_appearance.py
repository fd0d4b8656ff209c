"""An episode may look different; physics, the episodes after it and other environments do not notice."""

from __future__ import annotations

import pickle
from collections.abc import Iterator
from typing import Any

import gymnasium as gym
import numpy as np
import pytest

import vla_gym
from vla_gym import Appearance
from vla_gym.envs.libero_env import LiberoEnv
from vla_gym.errors import InvalidArgumentError, UnknownNameError
from vla_gym.spec import CAMERAS
from vla_gym.vector import BACKENDS

pytestmark = pytest.mark.usefixtures("goal_scenes")

START = {"task_id": 1, "init_state_id": 0}
KEYWORDS: dict[str, Any] = {
    **{"assets": "primitive", "cameras": ("agentview", "wrist"), "image_size": 32, "render_quality": "fast"},
    **{"settle_steps": 1, "task_ids": [1, 8]},
}
LOOK = {
    "cameras": {"agentview": {"pos": [0.9, 0.3, 1.7]}, "wrist": {"fovy": 100}},
    "lights": {"light1": {"diffuse": [1, 0.2, 0.2]}},
    "textures": {"texplane": np.full((4, 4, 3), (0, 200, 0), np.uint8)},
}
DARK = {"lights": {"light1": {"active": False}, "light2": {"active": False}}}
MOTION = np.array([200, 60, 20, 127, 160, 127, 255])


@pytest.fixture(scope="module")
def env() -> Iterator[LiberoEnv]:
    env = LiberoEnv("LIBERO-Goal-v0", render_mode="rgb_array", **KEYWORDS)
    yield env
    env.close()


def episode(env: Any, **options: Any) -> list[dict[str, np.ndarray]]:
    observation, _ = env.reset(options={**START, **options})
    return [observation, *(env.step(MOTION)[0] for _ in range(2))]


def assert_same(first: list[dict[str, np.ndarray]], second: list[dict[str, np.ndarray]]) -> None:
    for a, b in zip(first, second, strict=True):
        for name in a:
            np.testing.assert_array_equal(a[name], b[name], err_msg=name)


def test_one_episode_looks_different_and_the_next_as_ever(env: LiberoEnv) -> None:
    usual = episode(env)
    state = env.get_state()
    changed = episode(env, appearance=LOOK)
    np.testing.assert_array_equal(env.get_state(), state)
    for before, after in zip(usual, changed, strict=True):
        assert all((before[name] != after[name]).mean() > 0.3 for name in CAMERAS)
        np.testing.assert_array_equal(before["proprio"], after["proprio"])
    assert_same(episode(env), usual)
    assert_same(episode(env, appearance=Appearance.from_dict(LOOK)), changed)


def test_the_keyword_holds_for_every_episode_without_an_option(env: LiberoEnv) -> None:
    usual, changed, dark = episode(env), episode(env, appearance=LOOK), episode(env, appearance=DARK)
    other = gym.make("LIBERO-Goal-v0", appearance=LOOK, **KEYWORDS)
    for _ in range(2):
        assert_same(episode(other), changed)
    assert_same(episode(other, appearance=DARK), dark)
    assert_same(episode(other, appearance=Appearance()), usual)
    assert_same(episode(other), changed)
    other.unwrapped.appearance = DARK  # type: ignore[attr-defined]
    assert_same(episode(other), dark)
    # the one that shares its scene has seen nothing of it
    assert_same(episode(env), usual)
    other.close()


def test_what_is_rendered_besides_observations_looks_the_same_way(env: LiberoEnv) -> None:
    film = {}
    for name, options in (("usual", {}), ("changed", {"appearance": LOOK})):
        observation = episode(env, **options)[-1]
        np.testing.assert_array_equal(env.render(), observation["agentview"])
        np.testing.assert_array_equal(env.observe()["agentview"], observation["agentview"])
        renderer = env.make_renderer(48, ["agentview"], "full")
        film[name] = renderer.render("agentview", env.core.view())
        renderer.close()
    assert (film["usual"] != film["changed"]).mean() > 0.3
    red, green, blue = np.moveaxis(film["changed"], 2, 0)
    assert ((green > 50) & (red == 0) & (blue == 0)).mean() > 0.05, "the floor"


def test_the_appearance_belongs_to_the_episode_as_it_is_saved(env: LiberoEnv) -> None:
    env.reset(options={**START, "appearance": LOOK})
    snapshot, copy = env.snapshot(), pickle.loads(pickle.dumps(env))
    expected = [env.step(MOTION)[0] for _ in range(2)]
    env.set_state(env.get_state())
    assert (env.observe()["wrist"] != episode(env)[0]["wrist"]).any()
    env.restore(pickle.loads(pickle.dumps(snapshot)))
    for each in (env, copy):
        assert_same([each.step(MOTION)[0] for _ in range(2)], expected)
    copy.close()
    # as snapshots were before there were appearances
    usual = episode(env)
    env.reset(options=START)
    older = {name: value for name, value in env.snapshot().items() if name != "appearance"}
    env.reset(options={"appearance": LOOK})
    env.restore(older)
    assert_same([env.step(MOTION)[0] for _ in range(2)], usual[1:])


def test_physics_that_diverges_ends_with_the_look_of_its_episode(env: LiberoEnv) -> None:
    before = episode(env, appearance=LOOK)[-1]
    state = env.get_state()
    state[1 + env.core.model.nq :] = 1e12
    env.core.set_state(state)
    env.core.appearance = None  # whatever the simulation shows now, it is not looked at
    env._last_observation = before
    after, _, _, _, info = env.step(MOTION)
    assert info["unstable"]
    assert_same([after], [before])


@pytest.mark.parametrize(
    ("appearance", "error", "message"),
    [
        (
            {"lights": {"light3": {"active": False}}},
            UnknownNameError,
            r"light 'light3'. Did .*Valid: headlight, light1",
        ),
        (
            {"textures": {"floorplane": np.zeros((1, 1, 3), np.uint8)}},
            UnknownNameError,
            "'floorplane' shows 'texplane'",
        ),
        ({"geom_rgba": {"table_top": [1, 1, 1, 1]}}, UnknownNameError, "Unknown geom 'table_top'.*table_visual"),
        ({"texture": {}}, UnknownNameError, "Unknown part of an appearance 'texture'"),
        ({"cameras": {"wrist": {"fovy": float("nan")}}}, InvalidArgumentError, "fovy is nan"),
        ("dark", InvalidArgumentError, r"appearance is 'dark' \(str\); expected a mapping"),
    ],
)
def test_what_the_scene_lacks_is_refused_at_the_reset(
    appearance: Any, error: type[Exception], message: str, env: LiberoEnv
) -> None:
    usual = episode(env)
    with pytest.raises(error, match=message):
        env.reset(options={**START, "appearance": appearance})
    assert_same(episode(env), usual)


def test_an_episode_that_was_refused_has_not_begun(env: LiberoEnv) -> None:
    episode(env)
    with pytest.raises(UnknownNameError, match="light3"):
        env.reset(options={**START, "appearance": {"lights": {"light3": {}}}})
    with pytest.raises(gym.error.ResetNeeded):
        env.step(MOTION)


def test_the_constructor_checks_values_before_it_loads_scenes() -> None:
    with pytest.raises(InvalidArgumentError, match="expected 3 finite numbers"):
        LiberoEnv("LIBERO-Goal-v0", assets="/nowhere", appearance={"cameras": {"wrist": {"pos": [0]}}})


def test_an_environment_that_renders_nothing_takes_an_appearance_for_those_who_do(env: LiberoEnv) -> None:
    blind = LiberoEnv("LIBERO-Goal-v0", **{**KEYWORDS, "cameras": ()}, appearance=LOOK)
    with pytest.raises(InvalidArgumentError, match="cameras is empty"):
        blind.scene_appearance()
    blind.reset(options=START)
    renderer = blind.make_renderer(32, ["agentview"], "fast")
    expected = episode(env, appearance=LOOK)[0]["agentview"]
    np.testing.assert_array_equal(renderer.render("agentview", blind.core.view()), expected)
    renderer.close()
    blind.close()


def test_the_scenes_own_values_can_be_read() -> None:
    env = LiberoEnv("LIBERO-Goal-v0", **KEYWORDS)
    with pytest.raises(gym.error.ResetNeeded, match="scene_appearance"):
        env.scene_appearance()
    usual = episode(env, appearance=LOOK) and episode(env)
    own = env.scene_appearance()
    assert own.cameras["agentview"].fovy == 45 and {"light1", "light2", "headlight"} == set(own.lights)
    assert own.textures["texplane"].shape == (64, 64, 3) and "robot0_g0_vis" in own.geom_rgba
    assert_same(episode(env, appearance=own), usual)
    env.close()


@pytest.mark.parametrize("backend", BACKENDS)
def test_each_environment_of_a_batch_has_its_own_on_every_back_end(backend: str, env: LiberoEnv) -> None:
    usual, changed, dark = episode(env), episode(env, appearance=LOOK), episode(env, appearance=DARK)
    batch = vla_gym.make_vec("LIBERO-Goal-v0", 2, backend, **KEYWORDS, appearance=DARK)
    try:
        for options, expected in (
            ({"appearance": [LOOK, Appearance()]}, (changed, usual)),
            ({}, (dark, dark)),
            ({"appearance": LOOK}, (changed, changed)),
            ({"appearance": [None, LOOK]}, (dark, changed)),
        ):
            observations, _ = batch.reset(options={**START, **options})
            assert_same(
                [{name: array[i] for name, array in observations.items()} for i in range(2)], [e[0] for e in expected]
            )
        observations, *_ = batch.step(np.tile(MOTION, (2, 1)))
        assert_same([{name: array[i] for name, array in observations.items()} for i in range(2)], [dark[1], changed[1]])
        with pytest.raises(UnknownNameError, match="light 'sun'"):
            batch.reset(options={"appearance": {"lights": {"sun": {}}}})
        batch.set_attr("appearance", None)
        observations, _ = batch.reset(options=START)
        np.testing.assert_array_equal(observations["agentview"][0], usual[0]["agentview"])
    finally:
        batch.close()
