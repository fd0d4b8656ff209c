"""Workers find the control step compiled, and have nothing left to compile."""

from __future__ import annotations

import logging

import gymnasium as gym
import numba
import numpy as np
import pytest
from numba.core import event

from vla_gym import messages
from vla_gym.messages import announce
from vla_gym.sim import compilation, control_step
from vla_gym.vector.process import ProcessVectorEnv

pytestmark = pytest.mark.usefixtures("goal_scenes")

ENTRIES = ("read_arm", "read_sensors", "control_step")


class Counting(gym.Wrapper):
    """Tells what this process has compiled; code of the tests, so it is sent to the worker by value."""

    def signatures(self) -> list[list[object]]:
        return [list(getattr(control_step, name).signatures) for name in ENTRIES]


@pytest.fixture
def unconfigured(monkeypatch: pytest.MonkeyPatch) -> None:
    """Logging as in a script that has not set it up."""
    monkeypatch.setattr(messages, "logger", logging.Logger("without handlers"))


@pytest.mark.usefixtures("unconfigured")
def test_a_plain_script_sees_what_takes_long(capsys: pytest.CaptureFixture[str]) -> None:
    announce("Building 3 scenes.")
    assert capsys.readouterr().err == "Building 3 scenes.\n"


def test_announcements_go_to_the_log_where_there_is_one(
    caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]
) -> None:
    with caplog.at_level(logging.INFO, "vla_gym"):
        announce("Building 3 scenes.")
    assert caplog.messages == ["Building 3 scenes."] and capsys.readouterr().err == ""


@pytest.mark.usefixtures("unconfigured")
def test_compiling_is_announced_once_and_loading_is_not(capsys: pytest.CaptureFixture[str]) -> None:
    @numba.njit
    def double(x: float) -> float:
        return 2 * x

    with event.install_listener("numba:compile", compilation._FirstCompilation()):
        double(1.0)
        double(1)
    assert capsys.readouterr().err == "Compiling the control step (once per installation, 10 to 30 s).\n"
    with event.install_listener("numba:compile", compilation._FirstCompilation()):
        double(1.0)
    assert capsys.readouterr().err == ""


def make() -> gym.Env:
    return Counting(gym.make("LIBERO-Goal-v0", assets="primitive", cameras=(), disable_env_checker=True))


def test_workers_start_compiled() -> None:
    env = ProcessVectorEnv([make])
    try:
        (before,) = env.call("signatures")
        assert [len(found) for found in before] == [1, 1, 1]
        env.reset(seed=0)
        env.step(np.full((1, 7), 100))
        env.reset(seed=1)
        assert env.call("signatures") == (before,)
    finally:
        env.close()
