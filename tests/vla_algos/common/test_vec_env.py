"""Stable-Baselines3 on the vector environments of ``vla_gym``."""

from __future__ import annotations

import itertools
import os
import signal
from functools import partial
from pathlib import Path
from typing import Any

import gymnasium as gym
import mujoco
import numpy as np
import pytest
from gymnasium.wrappers.vector import RecordEpisodeStatistics
from stable_baselines3 import PPO
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.vec_env import (
    DummyVecEnv,
    SubprocVecEnv,
    VecEnvWrapper,
    VecMonitor,
    VecTransposeImage,
    is_vecenv_wrapped,
)

import vla_algos
import vla_gym
from vla_algos import TokenPPO
from vla_algos.common.vec_env import SB3VecEnv, info_of, seed_environments
from vla_gym.envs.toy_env import ToyLiberoEnv
from vla_gym.sim.core import SceneView
from vla_gym.sim.render import CameraRenderer
from vla_gym.vector import BACKENDS, vector_env_class
from vla_gym.wrappers import EpisodeSequence, make_sequence

TOYS = [partial(ToyLiberoEnv, horizon=3, image_size=40)] * 3


def make(backend: str, env_fns: Any = TOYS, **kwargs: Any) -> SB3VecEnv:
    return SB3VecEnv(vector_env_class(backend)(env_fns, **kwargs))


def plain(value: Any) -> Any:
    """Arrays and NumPy scalars as lists and numbers, to compare values and not types."""
    if isinstance(value, dict):
        return {name: plain(each) for name, each in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(each) for each in value]
    return value.tolist() if isinstance(value, (np.ndarray, np.generic)) else value


def roll_out(env: Any) -> list[Any]:
    rng = np.random.default_rng(0)
    seed_environments(env, 4)
    env.set_options([{"task_id": 1}, {}, {"init_state_id": 2}])
    trace = [plain(env.reset()), plain(env.reset_infos)]
    for _ in range(15):
        trace += [plain(env.step(rng.integers(0, 256, (3, 7)))), plain(env.reset_infos)]
    env.close()
    return trace


@pytest.mark.parametrize("backend", BACKENDS)
def test_it_says_what_sb3s_own_vector_env_says(backend: str) -> None:
    expected = roll_out(DummyVecEnv(TOYS))
    infos = [info for step in expected[2::2] for info in step[3]]
    assert any(info["TimeLimit.truncated"] for info in infos)
    assert any("terminal_observation" in info and not info["TimeLimit.truncated"] for info in infos)
    assert roll_out(make(backend)) == expected


@pytest.mark.parametrize("backend", ["sync", "process"])
def test_methods_and_attributes_by_index(backend: str) -> None:
    env = make(backend, [ToyLiberoEnv, *[partial(make_sequence, ToyLiberoEnv, [(0, 3)])] * 2])
    env.reset()
    env.set_attr("horizon", 9, indices=[0, 2])
    assert env.get_attr("horizon") == [9, 2, 9] and env.get_attr("horizon", indices=1) == [2]
    assert env.env_method("is_goal_command", np.array([0, 255]), indices=[1, 2]) == [True, True]
    assert env.env_is_wrapped(EpisodeSequence) == [False, True, True]
    assert env.env_is_wrapped(EpisodeSequence, indices=0) == [False]
    assert env.has_attr("horizon") and not env.has_attr("nonsense")
    with pytest.warns(UserWarning, match="render_mode is None"):
        assert env.get_images() == [None] * 3
    env.close()


def starts(env: Any, n: int = 12) -> list[tuple[Any, ...]]:
    """What each environment begins with, again and again."""
    env.reset()
    seen = [[(info["task_id"], info["init_state_id"]) for info in env.unwrapped.reset_infos]]
    while len(seen) < n:
        *_, dones, _ = env.step(np.zeros((env.num_envs, 7), dtype=int))
        assert dones.all()
        seen.append([(info["task_id"], info["init_state_id"]) for info in env.unwrapped.reset_infos])
    return list(zip(*seen, strict=True))


@pytest.mark.parametrize("kind", ["vla_gym", "sb3", "a single one"])
def test_runs_of_neighbouring_seeds_have_no_environment_in_common(kind: str) -> None:
    toy = partial(ToyLiberoEnv, horizon=1, image_size=16)
    runs = []
    for seed in range(3):
        if kind == "vla_gym":
            env: Any = make("sync", [toy] * 8)
        else:
            env = toy() if kind == "a single one" else DummyVecEnv([toy] * 8)
        policy_kwargs = {"vla": "nano"}
        model = TokenPPO("VLAPolicy", env, seed=seed, n_steps=2, policy_kwargs=policy_kwargs, device="cpu")
        runs.append(starts(model.env))
        model.set_random_seed(seed)
        assert starts(model.env) == runs[-1]
    everywhere = list(itertools.chain(*runs))
    assert len(set(everywhere)) == len(everywhere) == (3 if kind == "a single one" else 24)


def test_images_come_from_the_simulator() -> None:
    keywords = {"assets": "primitive", "image_size": 32, "settle_steps": 0, "render_quality": "fast", "task_ids": [8]}
    env = SB3VecEnv(vla_gym.make_vec("LIBERO-Goal-v0", 2, render_mode="rgb_array", **keywords))
    env.reset()
    assert [image.shape for image in env.get_images()] == [(32, 32, 3)] * 2
    assert env.render().shape == (64, 32, 3) or env.render().shape == (32, 64, 3)
    env.close()


def test_a_mode_that_sb3_cannot_use_is_named() -> None:
    with pytest.raises(ValueError, match=r"autoreset_mode=AutoresetMode.NEXT_STEP; SB3 needs AutoresetMode.SAME_STEP"):
        make("sync", autoreset_mode="NextStep")


def test_vector_wrappers_below_reach_the_infos() -> None:
    env = SB3VecEnv(RecordEpisodeStatistics(vector_env_class("sync")([partial(ToyLiberoEnv, horizon=1)] * 2)))
    env.reset()
    assert env.get_attr("horizon") == [1, 1]
    *_, infos = env.step(np.zeros((2, 7), dtype=int))
    assert [info["episode"]["l"] for info in infos] == [1, 1]


def test_one_environments_part_of_batched_infos() -> None:
    infos = {
        "a": np.array([1, 0]),
        "_a": np.array([True, False]),
        "b": {"c": np.array([0, 5]), "_c": np.array([False, True])},
        "_b": np.array([False, True]),
    }
    assert info_of(infos, 0) == {"a": 1} and info_of(infos, 1) == {"b": {"c": 5}}


class _Recorder(BaseCallback):
    """Copies of the observation that every transition of a rollout starts from."""

    def _on_rollout_start(self) -> None:
        self.seen = [self._copy(self.model._last_obs)]

    def _on_step(self) -> bool:
        self.seen.append(self._copy(self.locals["new_obs"]))
        return True

    @staticmethod
    def _copy(observations: dict[str, np.ndarray]) -> np.ndarray:
        return observations["agentview"].copy()


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("algorithm", [PPO, TokenPPO])
def test_algorithms_store_what_they_saw(algorithm: Any, backend: str) -> None:
    policy = ("MultiInputPolicy", {}) if algorithm is PPO else ("VLAPolicy", {"policy_kwargs": {"vla": "nano"}})
    stored = []
    for env in (make(backend, copy=False), DummyVecEnv(TOYS)):
        model = algorithm(
            policy[0], VecMonitor(env), n_steps=8, batch_size=12, n_epochs=1, seed=0, device="cpu", **policy[1]
        )
        seed_environments(model.env, 0)
        recorder = _Recorder()
        model.learn(24, callback=recorder)
        images = model.rollout_buffer.observations["agentview"]
        # flattened with the environment first
        images = images.reshape(3, 8, *images.shape[1:]).swapaxes(0, 1)
        np.testing.assert_array_equal(images, np.stack(recorder.seen[:8]))
        assert len({image.tobytes() for image in images.reshape(24, -1)}) > 3
        stored.append((images, model.rollout_buffer.rewards, model.rollout_buffer.advantages))
        env.close()
    for ours, expected in zip(*stored, strict=True):
        np.testing.assert_array_equal(ours, expected)


def test_sb3_evaluates_on_it() -> None:
    env = make("process")
    model = PPO("MultiInputPolicy", VecMonitor(env), n_steps=8, batch_size=8, device="cpu")
    mean_reward, _ = evaluate_policy(model, VecMonitor(env), n_eval_episodes=6)
    assert 0 <= mean_reward <= 1
    env.close()


def test_a_restarted_worker_is_an_episode_cut_short() -> None:
    class FragileEnv(ToyLiberoEnv):
        def step(self, action: Any) -> Any:
            if action[2] == 1:
                os.kill(os.getpid(), signal.SIGKILL)
            return super().step(action)

    env = make("process", [partial(FragileEnv, horizon=9)] * 2)
    env.reset()
    actions = np.zeros((2, 7), dtype=int)
    actions[1, 2] = 1
    _, rewards, dones, infos = env.step(actions)
    assert rewards[1] == 0 and dones[1] and infos[1]["worker_restarted"]
    assert not infos[1]["TimeLimit.truncated"], "the end of a broken episode is no state to bootstrap from"
    assert infos[1]["terminal_observation"]["proprio"][0] == 0
    env.close()


def test_diverged_physics_is_no_time_limit() -> None:
    class Unstable(ToyLiberoEnv):
        def step(self, action: Any) -> Any:
            observation, reward, *_, info = super().step(action)
            return observation, reward, False, True, {**info, "unstable": self.horizon > 1}

    env = make("sync", [partial(Unstable, horizon=horizon) for horizon in (1, 5)])
    env.reset()
    _, _, dones, infos = env.step(np.zeros((2, 7), dtype=int))
    assert dones.all() and [info["TimeLimit.truncated"] for info in infos] == [True, False]


def test_the_registered_environment_trains() -> None:
    keywords = {"assets": "primitive", "image_size": 40, "settle_steps": 0, "render_quality": "fast", "task_ids": [8]}
    env = SB3VecEnv(vla_gym.make_vec("LIBERO-Goal-v0", 2, "process", **keywords))
    assert isinstance(env.observation_space, gym.spaces.Dict)
    for model in (
        PPO("MultiInputPolicy", env, n_steps=4, batch_size=4, n_epochs=1, device="cpu"),
        TokenPPO("VLAPolicy", env, n_steps=4, policy_kwargs={"vla": "nano"}, device="cpu"),
    ):
        assert model.learn(8).num_timesteps == 8
    env.close()


def counting(index: int) -> Any:
    """Maker of an environment that counts requests, with episodes of ``index + 1`` steps; sent to workers by value."""

    class Counting(ToyLiberoEnv):
        steps = resets = 0

        def reset(self, **kwargs: Any) -> Any:
            self.resets += 1
            return super().reset(**kwargs)

        def step(self, action: Any) -> Any:
            self.steps += 1
            observation, _, _, _, info = super().step(action)
            return observation, 1.0, False, self._elapsed >= self.horizon, info

    return partial(Counting, image_size=40, horizon=index + 1)


class CountingReward(VecEnvWrapper):
    """A wrapper that needs the whole batch and every info; it doubles the reward."""

    def reset(self) -> Any:
        return self.venv.reset()

    def step_wait(self) -> Any:
        observations, rewards, dones, infos = self.venv.step_wait()
        assert len(rewards) == len(infos) == 3 and all("task_id" in info for info in infos)
        return observations, 2 * rewards, dones, infos


@pytest.mark.parametrize("backend", BACKENDS)
def test_environments_left_out_are_asked_for_nothing_and_wrappers_stay_right(backend: str) -> None:
    base = make(backend, [counting(i) for i in range(3)])
    env = VecTransposeImage(VecMonitor(CountingReward(base)))
    for episode in (1, 2):
        first = {key: array.copy() for key, array in env.reset().items()}
        running, ended = np.arange(3), {}
        for step in range(3):
            env.unwrapped.step_only(running)
            observations, rewards, dones, infos = env.step(np.zeros((3, 7), int))
            assert rewards.tolist() == [2.0 * (i in running) for i in range(3)]
            assert dones.tolist() == [i == step for i in range(3)]
            assert infos[step]["terminal_observation"]["agentview"].shape == (3, 40, 40)
            assert infos[step]["TimeLimit.truncated"] and observations["proprio"][step, 0] == 1.0
            for i in set(range(3)) - set(running):
                assert infos[i]["is_idle"] and infos[i]["executed_steps"] == 0
                assert not {"episode", "terminal_observation"} & set(infos[i])
                np.testing.assert_array_equal(observations["agentview"][i], first["agentview"][i])
            ended |= {i: infos[i]["episode"] for i in running if dones[i]}
            running = running[~dones[running]]
        assert [(ended[i]["r"], ended[i]["l"]) for i in range(3)] == [(2, 1), (4, 2), (6, 3)]
        assert base.get_attr("steps") == [episode, 2 * episode, 3 * episode]
        assert base.get_attr("resets") == [episode] * 3
    # one call, one step: the next one is of all
    env.reset()
    *_, infos = env.step(np.zeros((3, 7), int))
    assert not any("is_idle" in info for info in infos) and base.get_attr("resets") == [4, 3, 3]
    env.close()


def test_vector_wrappers_below_step_all() -> None:
    env = SB3VecEnv(RecordEpisodeStatistics(vector_env_class("sync")([counting(1)] * 2)))
    env.reset()
    env.step_only([0])
    env.step(np.zeros((2, 7), int))
    assert env.get_attr("steps") == [1, 1]


def test_our_algorithms_take_what_make_vec_returns() -> None:
    env = vla_gym.make_vec(partial(ToyLiberoEnv, horizon=2, image_size=40), 2, wrappers=[gym.wrappers.OrderEnforcing])
    model = TokenPPO("VLAPolicy", env, n_steps=4, policy_kwargs={"vla": "nano"}, device="cpu")
    assert is_vecenv_wrapped(model.env, VecMonitor)
    assert model.learn(8).num_timesteps == 8
    assert len(model.ep_info_buffer or ()) > 0
    model.set_env(env)
    env.close()


def test_other_vector_environments_are_refused_with_the_remedy() -> None:
    with pytest.raises(TypeError, match="Make it with make_vec"):
        SB3VecEnv(gym.vector.SyncVectorEnv(TOYS, autoreset_mode="SameStep"))
    with pytest.raises(ValueError, match="leave autoreset_mode out of make_vec's vector_kwargs"):
        make("sync", autoreset_mode="NextStep")


def test_it_is_exported_at_the_top() -> None:
    assert vla_algos.SB3VecEnv is SB3VecEnv


class Camera(gym.Env):
    """Renders when it is reset."""

    observation_space = gym.spaces.Box(0, 255, (32, 32, 3), np.uint8)
    action_space = gym.spaces.Discrete(2)

    def __init__(self, model_file: Path) -> None:
        self._model_file = model_file

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[np.ndarray, dict]:
        renderer = CameraRenderer(self._model_file, 32, ["above"])
        image = renderer.render("above", SceneView(np.zeros(0), np.zeros((1, 3)), np.eye(1, 4), np.zeros((0, 4))))
        renderer.close()
        return image, {}


def test_sb3s_workers_forked_after_rendering_say_why_they_die(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """What the parent sees is the end of a pipe."""
    scene = '<mujoco><worldbody><camera name="above"/><geom size="0.1"/></worldbody></mujoco>'
    mujoco.mj_saveModel(mujoco.MjModel.from_xml_string(scene), str(tmp_path / "scene.mjb"), None)
    Camera(tmp_path / "scene.mjb").reset()
    env = SubprocVecEnv([lambda: Camera(tmp_path / "scene.mjb")], start_method="fork")
    with pytest.raises((EOFError, ConnectionResetError)):
        env.reset()
    for process in env.processes:
        process.join()
    # written by the child before its end of the pipe closes
    lines = [line for line in capfd.readouterr().err.splitlines() if "RenderingError: " in line]
    assert len(lines) == 1
    assert f"This process ({env.processes[0].pid}) was forked from one that has rendered" in lines[0]
    assert "start_method='forkserver' for SubprocVecEnv" in lines[0]
