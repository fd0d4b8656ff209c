import dataclasses
import io
import json
import os
import signal
import sys
from collections import Counter
from functools import partial
from types import SimpleNamespace

import gymnasium as gym
import numpy as np
import pytest
from stable_baselines3.common.vec_env import DummyVecEnv, SubprocVecEnv

from vla_algos import TokenPPO, VLAPolicy, env_kwargs_for
from vla_algos.evaluation import evaluate_policy_on_suite, wilson_interval
from vla_algos.policies.env_keywords import policy_env_kwargs
from vla_gym import ActionTokenizer
from vla_gym.envs.toy_env import INSTRUCTIONS, ToyLiberoEnv
from vla_gym.instructions import decode_instruction


class HandMade:
    """Solves task 0, and task 1 for the upper rows only, at the second command of an episode."""

    def __init__(self, rows_of_task_1=4):
        self.rows_of_task_1 = rows_of_task_1
        self.batch_sizes = Counter()

    def predict(self, observation, state=None, episode_start=None, deterministic=False):
        assert deterministic
        self.batch_sizes[len(observation["proprio"])] += 1
        return np.stack([self._act(*row) for row in zip(*observation.values(), strict=True)]), None

    def _act(self, *row):
        image, instruction, proprio = sorted(row, key=lambda a: -a.size)
        task_id = INSTRUCTIONS.index(decode_instruction(instruction))
        red = (image == [220, 40, 40]).all(axis=-1).any(axis=1).nonzero()[0].mean()
        row_id = round((red - 7.5) / (64 - 16) * 7)
        solves = task_id == 0 or row_id < self.rows_of_task_1
        bins = np.zeros(7, dtype=np.int64)
        right_side, up = task_id == 1, row_id < 4
        if proprio[0] == 0 or not solves:
            right_side = not right_side
        bins[:2] = 255 * right_side, 255 * up
        return bins


class Counting(HandMade):
    """A recurrent policy, whose state is the number of decisions taken in the episode."""

    def predict(self, observation, state=None, episode_start=None, deterministic=False):
        state = np.zeros(len(episode_start), dtype=int) if state is None else np.where(episode_start, 0, state)
        # the proprioception of the toy environment says what an honest state would be
        np.testing.assert_array_equal(state, observation["proprio"][:, 0] > 0)
        actions, _ = super().predict(observation, deterministic=deterministic)
        return actions, state + 1


def test_recurrent_policies_get_their_state_back():
    result = evaluate_policy_on_suite(
        Counting(), "toy", n_init_states=4, n_envs=4, env_fn=partial(ToyLiberoEnv, horizon=2), vec_env_cls=DummyVecEnv
    )
    assert result.n_episodes == 8


@pytest.mark.parametrize("n_envs", [1, 3, 16, 40])
def test_each_episode_runs_once_and_counts_agree(n_envs):
    policy = HandMade()
    result = evaluate_policy_on_suite(
        policy, "toy", n_init_states=8, n_envs=n_envs, env_fn=partial(ToyLiberoEnv, horizon=3), vec_env_cls=DummyVecEnv
    )
    assert [(e.task_id, e.init_state_id) for e in result.episodes] == [(t, k) for t in range(2) for k in range(8)]
    assert all(e.is_success == (e.task_id == 0 or e.init_state_id < 4) for e in result.episodes)
    assert all(e.length == (2 if e.is_success else 3) for e in result.episodes)
    assert (result.successes, result.n_episodes, result.success_rate) == (12, 16, 0.75)
    assert result.interval == wilson_interval(12, 16)
    assert result.of_task(1).success_rate == 0.5 and result.of_task(1).mean_length == 2.5
    assert list(policy.batch_sizes) == [min(n_envs, 16)]


def test_selected_tasks_and_states():
    result = evaluate_policy_on_suite(HandMade(), "toy", n_init_states=5, task_ids=[1], env_fn=ToyLiberoEnv)
    assert [(e.task_id, e.init_state_id) for e in result.episodes] == [(1, k) for k in range(5)]
    assert result.instructions == {1: INSTRUCTIONS[1]}


def test_table_and_file(tmp_path):
    result = evaluate_policy_on_suite(HandMade(), "toy", n_init_states=8, env_fn=ToyLiberoEnv)
    table = str(result).splitlines()
    assert "toy, assets: toy, greedy" in table[0]
    assert "8/8" in table[2] and "100.0 %" in table[2] and INSTRUCTIONS[0] in table[2]
    assert "4/8" in table[3] and "21.5-78.5 %" in table[3]
    assert "12/16" in table[4] and "75.0 %" in table[4]
    result.save(tmp_path / "result.json")
    saved = json.loads((tmp_path / "result.json").read_text())
    assert result.mode == "greedy" and dataclasses.replace(result, deterministic=False).mode == "sampled"
    assert saved["success_rate"] == 0.75 and saved["assets"] == "toy"
    assert saved["tasks"]["1"]["successes"] == 4 and len(saved["episodes"]) == 16
    assert set(saved["versions"]) >= {"mujoco", "torch"} and "commit" in saved


def test_chunks_count_control_steps():
    class Chunks(HandMade):
        def _act(self, *row):
            return np.concatenate([super()._act(*row)] * 2)

    env_fn = partial(ToyLiberoEnv, horizon=3, chunk_size=2)
    result = evaluate_policy_on_suite(Chunks(), "toy", n_init_states=1, task_ids=[0], env_fn=env_fn)
    # two wrong commands, then a right one stops its chunk
    assert result.episodes[0].length == 3 and result.success_rate == 1.0


def test_a_worker_that_dies_changes_no_count(tmp_path):
    already_died = tmp_path / "died"

    class MortalEnv(ToyLiberoEnv):
        def step(self, action):
            if (self.task_id, self.init_state_id) == (1, 3) and not already_died.exists():
                already_died.touch()
                os.kill(os.getpid(), signal.SIGKILL)
            return super().step(action)

    results = [
        evaluate_policy_on_suite(HandMade(), "toy", n_init_states=8, n_envs=2, env_fn=env_fn)
        for env_fn in (ToyLiberoEnv, MortalEnv)
    ]
    assert already_died.exists() and results[0] == results[1] and results[0].n_episodes == 16


@pytest.mark.slow
def test_subprocesses_give_the_same_result():
    results = [
        evaluate_policy_on_suite(
            HandMade(), "toy", n_init_states=8, n_envs=2, env_fn=ToyLiberoEnv, vec_env_cls=vec_env_cls
        )
        for vec_env_cls in (DummyVecEnv, SubprocVecEnv, None)
    ]
    assert results[0] == results[1] == results[2]


def test_nothing_to_do_is_refused():
    with pytest.raises(ValueError, match="0 episodes"):
        evaluate_policy_on_suite(HandMade(), "toy", n_init_states=0, env_fn=ToyLiberoEnv)


def test_keywords_that_would_not_be_used_are_refused():
    with pytest.raises(ValueError, match="env_kwargs would not be used"):
        evaluate_policy_on_suite(HandMade(), "toy", env_fn=ToyLiberoEnv, env_kwargs={"chunk_size": 2})


@pytest.mark.parametrize("n_writes", [0, 3])
def test_a_terminal_that_is_gone_does_not_end_an_evaluation(n_writes, monkeypatch, caplog):
    left = iter(range(n_writes))

    class Gone(io.StringIO):
        def write(self, text):
            if next(left, None) is None:
                raise BrokenPipeError("Broken pipe")

    monkeypatch.setattr(sys, "stderr", Gone())
    result = evaluate_policy_on_suite(HandMade(), "toy", n_init_states=8, env_fn=ToyLiberoEnv, progress_bar=True)
    assert result.n_episodes == 16
    (record,) = (record for record in caplog.records if "progress bar cannot be shown" in record.message)
    assert "Broken pipe" in record.message


def test_a_models_own_keywords_hold_where_none_are_given():
    toy = ToyLiberoEnv(chunk_size=3, image_size=32)
    stats = {"mine": {"action": {"q01": [-0.2] * 7, "q99": [0.2] * 7}}}
    policy = VLAPolicy.from_checkpoint("nano", toy, norm_stats=stats)
    for model in (policy, SimpleNamespace(policy=policy)):
        kwargs = policy_env_kwargs(model, {"assets": "primitive"})
        assert (kwargs.pop("action_tokenizer").q99 == 0.2).all()
        assert kwargs == {"chunk_size": 3, "image_size": 32, "cameras": ("agentview",), "assets": "primitive"}
    own = {"action_tokenizer": ActionTokenizer(), "chunk_size": 1, "image_size": 48, "cameras": ("agentview", "wrist")}
    assert policy_env_kwargs(policy, own) == own
    for model in (object(), SimpleNamespace(policy=None)):
        assert policy_env_kwargs(model, None) == {} and policy_env_kwargs(model, own) == own


def test_a_model_is_evaluated_without_keywords():
    vla = "compact-libero-goal"
    with gym.make("LIBERO-Goal-v0", **env_kwargs_for(vla)) as env:
        model = TokenPPO("VLAPolicy", env, n_steps=2, batch_size=2, policy_kwargs={"vla": vla}, device="cpu")
    result = evaluate_policy_on_suite(model, "LIBERO-Goal-v0", n_init_states=1, task_ids=[7])
    assert [(e.task_id, e.init_state_id) for e in result.episodes] == [(7, 0)]
