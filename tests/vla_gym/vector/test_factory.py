"""``make_vec`` takes ids, specifications and callables, with wrappers, on every back end."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Any

import gymnasium as gym
import numpy as np
import pytest

import vla_gym
from vla_gym.envs.toy_env import ToyLiberoEnv
from vla_gym.errors import InvalidArgumentError
from vla_gym.vector import BACKENDS


def shift_class() -> type[gym.RewardWrapper[Any, Any]]:
    """A wrapper that a worker cannot import."""

    class Shift(gym.RewardWrapper[Any, Any]):
        def __init__(self, env: gym.Env[Any, Any], by: float = 1.0) -> None:
            super().__init__(env)
            self.by = by

        def reward(self, reward: Any) -> float:
            return float(reward) + self.by

    return Shift


class _OwnEnv(ToyLiberoEnv):
    own_attribute = 7


def by_value(cls: type) -> type:
    """The class as a script's own one: a worker cannot import where it is defined."""
    twin = type(cls.__name__, cls.__bases__, dict(vars(cls)))
    twin.__module__ = "__main__"
    return twin


@pytest.fixture
def own_id() -> Iterator[str]:
    gym.register("OwnToy-v0", entry_point=by_value(_OwnEnv), kwargs={"horizon": 4})
    yield "OwnToy-v0"
    del gym.registry["OwnToy-v0"]


@pytest.mark.parametrize("backend", BACKENDS)
def test_environments_that_the_script_registers_or_defines_are_found(backend: str, own_id: str) -> None:
    for source in (own_id, gym.spec(own_id), by_value(_OwnEnv), partial(ToyLiberoEnv, horizon=4)):
        env = vla_gym.make_vec(source, 2, backend, image_size=16)
        try:
            observations, _ = env.reset(seed=0)
            assert observations["agentview"].shape == (2, 16, 16, 3)
            assert isinstance(source, partial) or env.get_attr("own_attribute") == (7, 7)
            assert isinstance(source, (type, partial)) or env.get_attr("horizon") == (4, 4)
        finally:
            env.close()


def test_an_entry_point_in_the_main_module_is_sent_by_value(monkeypatch: pytest.MonkeyPatch) -> None:
    import __main__

    monkeypatch.setattr(__main__, "OwnMainEnv", by_value(_OwnEnv), raising=False)
    gym.register("OwnMain-v0", entry_point="__main__:OwnMainEnv")
    try:
        env = vla_gym.make_vec("OwnMain-v0", 1, "process")
        assert env.get_attr("own_attribute") == (7,)
        env.close()
    finally:
        del gym.registry["OwnMain-v0"]


@pytest.mark.parametrize("backend", BACKENDS)
def test_wrappers_are_applied_in_order_and_the_class_last(backend: str) -> None:
    shift = shift_class()
    env = vla_gym.make_vec(
        partial(ToyLiberoEnv, horizon=9, task_ids=[0]),
        2,
        backend,
        wrappers=[lambda env: shift(env, 10.0)],
        wrapper_class=shift,
        wrapper_kwargs={"by": 0.5},
    )
    try:
        env.reset(seed=0)
        assert env.step(np.full((2, 7), 255))[1].tolist() == [10.5, 10.5]
        assert env.get_attr("by") == (0.5, 0.5)
    finally:
        env.close()


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"id": 3}, "id is 3; expected the id"),
        ({"n_envs": "2"}, r"n_envs is '2' \(str\)"),
        ({"n_envs": 2.0}, r"n_envs is 2.0 \(float\)"),
        ({"n_envs": True}, "n_envs is True"),
        ({"wrappers": gym.wrappers.OrderEnforcing}, "wrappers is .* expected a list of wrappers"),
        ({"wrappers": ["OrderEnforcing"]}, "Wrapper 'OrderEnforcing' cannot be called"),
        ({"wrapper_class": "OrderEnforcing"}, "cannot be called"),
        ({"wrapper_kwargs": {"by": 1}}, "wrapper_kwargs is given without wrapper_class"),
    ],
)
def test_wrong_types_are_named(kwargs: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidArgumentError, match=message):
        vla_gym.make_vec(**{"id": ToyLiberoEnv, **kwargs})


def test_an_unknown_id_is_named_before_any_worker_starts() -> None:
    with pytest.raises(gym.error.Error, match="LIBERO-Gaol"):
        vla_gym.make_vec("LIBERO-Gaol-v0", 2, "process")
