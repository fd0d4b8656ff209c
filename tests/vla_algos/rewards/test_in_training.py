"""What algorithms learn from is the reward with the process reward, and nothing else."""

from __future__ import annotations

from functools import partial

import gymnasium as gym
import numpy as np
import pytest
import torch as th
from gymnasium import spaces
from stable_baselines3 import PPO
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.vec_env import VecMonitor

from vla_algos import TPO, CurriculumCallback, ProcessRewardCallback, SuccessSampler, TokenGRPO, TokenPPO, TokenRLOO
from vla_algos.common.buffers import TokenRolloutBuffer, learned_rewards
from vla_algos.common.vec_env import SB3VecEnv
from vla_algos.errors import DiscountError, WrapperOrderWarning
from vla_algos.experiments import rl
from vla_algos.experiments.recipe import load_recipe
from vla_algos.experiments.run_folder import RunFolder
from vla_algos.experiments.settings import RLSettings
from vla_algos.rewards.shaping import Shaping
from vla_algos.rewards.vec_process_reward import VecProcessReward
from vla_gym import make_vec
from vla_gym.envs.privileged import PRIVILEGED_DIM
from vla_gym.envs.toy_env import ToyLiberoEnv
from vla_gym.wrappers import EpisodeSequence

GROUPS = {"group_size": 4, "n_groups": 1}


class Clock:
    """Phi is the share of the horizon that has passed, which the toy's proprioception tells."""

    key = "proprio"

    def score(self, seen, instructions):
        return seen[:, 1, 0]


def make_env(n_envs=2, wrappers=(), horizon=3, chunk_size=1, **kwargs):
    workers = make_vec(ToyLiberoEnv, n_envs, wrappers=wrappers, image_size=36, horizon=horizon, chunk_size=chunk_size)
    return VecProcessReward(VecMonitor(SB3VecEnv(workers)), Clock(), **kwargs)


def make_model(algorithm=TokenPPO, env=None, **kwargs):
    own = {"n_steps": 8, "batch_size": 16, "critic_warmup_iterations": 0} if algorithm is TokenPPO else GROUPS
    defaults = {"learning_rate": 1e-3, "seed": 0, "policy_kwargs": {"vla": "nano", "seed": 0}}
    return algorithm("VLAPolicy", env or make_env(), device="cpu", **{**own, **defaults, **kwargs})


class Keep(BaseCallback):
    """Keeps what the environments said in each step, and the buffer's arrays before they are put in rows."""

    def _on_rollout_start(self):
        self.infos, self.dones = [], []

    def _on_step(self):
        self.infos.append([dict(info) for info in self.locals["infos"]])
        self.dones.append(self.locals["dones"].copy())
        return True

    def _on_rollout_end(self):
        buffer = self.model.rollout_buffer
        # those of groups have none
        self.arrays = {name: getattr(buffer, name).copy() for name in ("rewards", "returns") if hasattr(buffer, name)}

    def told(self, *names):
        """Sum of entries of all infos, (T, N)."""
        return np.array([[sum(info[name] for name in names) for info in infos] for infos in self.infos])


def discounted_sums(rewards, dones, last_values, gamma):
    """Returns with lambda = 1 in closed form: the discounted rest of the episode, and the value where it is cut."""
    returns, after = np.zeros(rewards.shape), last_values
    for t in reversed(range(len(rewards))):
        after = returns[t] = rewards[t] + gamma * np.where(dones[t], 0.0, after)
    return returns


def test_the_value_target_of_token_ppo_is_the_wrapped_reward():
    keep, model = Keep(), make_model(gae_lambda=1.0, gamma=0.9, time_limit="terminal")
    model.learn(16, callback=keep)
    rewards = keep.told("env_reward", "process_reward")
    np.testing.assert_allclose(keep.arrays["rewards"], rewards, atol=1e-6)
    # each decision is always a third of the way
    np.testing.assert_allclose(keep.told("process_reward"), 1 / 3, atol=1e-6)
    last_values = keep.locals["last_values"].numpy().flatten()
    expected = discounted_sums(rewards, np.array(keep.dones), last_values, 0.9)
    np.testing.assert_allclose(keep.arrays["returns"], expected, atol=1e-5)


def test_the_value_target_of_sb3s_ppo_is_the_wrapped_reward_and_the_value_at_a_limit():
    keep, gamma = Keep(), 0.9
    model = PPO("MultiInputPolicy", make_env(), n_steps=8, batch_size=16, gamma=gamma, gae_lambda=1.0, seed=0)
    model.learn(16, callback=keep)
    expected = keep.told("env_reward", "process_reward")
    # a policy as it was in the roll-out gives the values at time limits
    early = PPO("MultiInputPolicy", make_env(), n_steps=8, batch_size=16, gamma=gamma, gae_lambda=1.0, seed=0).policy
    n_limits = 0
    for t, infos in enumerate(keep.infos):
        for i, info in enumerate(infos):
            if info["TimeLimit.truncated"]:
                n_limits += 1
                end = early.obs_to_tensor(info["terminal_observation"])[0]
                expected[t, i] += gamma * early.predict_values(end).item()
    assert n_limits > 0
    np.testing.assert_allclose(keep.arrays["rewards"], expected, atol=1e-5)
    last_values = keep.locals["values"].detach().numpy().flatten()
    returns = discounted_sums(expected, np.array(keep.dones), last_values, gamma)
    np.testing.assert_allclose(keep.arrays["returns"], returns, atol=1e-5)


@pytest.mark.parametrize("time_limit", ["bootstrap", "terminal"])
def test_advantages_of_an_exact_potential_are_the_sparse_ones_of_a_critic_shifted_by_phi(time_limit):
    gamma, weight, rng = 0.97, 0.7, np.random.default_rng(0)
    n_steps, n_envs = 40, 3
    dones = rng.random((n_steps, n_envs)) < 0.2
    is_limit = dones & (rng.random((n_steps, n_envs)) < 0.5)
    sparse = np.where(dones & ~is_limit, 1.0, 0.0)
    # of the state before each decision, of the one after it, and of the last one in sight
    phi, values = rng.random((2, n_steps + 1, n_envs))
    end_phi, end_values = rng.random((2, n_steps, n_envs))
    after = np.where(dones, end_phi, phi[1:])
    is_end = dones & ~is_limit if time_limit == "bootstrap" else dones
    shaped = sparse + Shaping("potential", weight, gamma)(phi[:-1], after, is_end)

    def advantages(rewards, values, end_values):
        model = make_model()
        buffer = TokenRolloutBuffer(
            n_steps, model.observation_space, model.action_space, "cpu", gae_lambda=0.9, gamma=gamma, n_envs=n_envs
        )
        obs = {
            key: np.zeros((n_envs, *space.shape), space.dtype) for key, space in model.observation_space.spaces.items()
        }
        starts = np.ones(n_envs)
        for t in range(n_steps):
            at_limit = {int(i): th.tensor([end_values[t, i]]) for i in np.flatnonzero(is_limit[t])}
            learned = learned_rewards(rewards[t], [{}] * n_envs, th.tensor(values[t]), at_limit, gamma, time_limit)
            action, log_prob = np.zeros((n_envs, 7), np.int64), th.zeros(n_envs, 7)
            mask = np.ones((n_envs, 7), bool)
            buffer.add(obs, action, learned, starts, th.tensor(values[t]), log_prob, mask, {})
            starts = dones[t].astype(np.float32)
        buffer.compute_returns_and_advantage(th.tensor(values[-1]), dones[-1])
        return buffer.advantages

    np.testing.assert_allclose(
        advantages(shaped, values - weight * phi, end_values - weight * end_phi),
        advantages(sparse, values, end_values),
        atol=1e-6,
    )


def test_a_discount_that_differs_is_refused_by_every_algorithm_that_has_one():
    for algorithm, gamma in ((TokenPPO, 0.99), (TokenGRPO, 1.0), (TokenRLOO, 1.0)):
        with pytest.raises(DiscountError, match=rf"VecProcessReward is 0\.9, and gamma of the algorithm is {gamma}"):
            make_model(algorithm, make_env(mode="potential", gamma=0.9))
    # TPO learns from success alone
    make_model(TPO, make_env(mode="potential", gamma=0.9))


def test_a_discount_that_is_changed_later_is_refused_and_stays():
    model = make_model(env=make_env(mode="potential", gamma=0.9), gamma=0.9)
    with pytest.raises(DiscountError, match=r"is 0\.9, and gamma of the algorithm is 0\.5"):
        model.gamma = 0.5
    assert model.gamma == 0.9 == model.rollout_buffer.gamma
    model.set_env(make_env(mode="potential", gamma=0.5))
    with pytest.raises(DiscountError, match=r"is 0\.5, and gamma of the algorithm is 0\.9"):
        model.learn(16)


def test_a_potential_follows_the_algorithm():
    env = make_env(mode="potential")
    model = make_model(env=env, gamma=0.8, time_limit="bootstrap")
    assert (env.shaping.gamma, env.is_limit_end) == (0.8, False)
    model.gamma, model.time_limit = 0.7, "terminal"
    assert (env.shaping.gamma, env.is_limit_end) == (0.7, True)
    make_model(TokenGRPO, env)
    assert (env.shaping.gamma, env.is_limit_end) == (1.0, True)
    # whoever trains is followed
    keep = Keep()
    model.learn(16, callback=keep)
    assert (env.shaping.gamma, env.is_limit_end) == (0.7, True)
    # Phi is t/3 before decision t, and 0 at either end
    for infos in keep.infos:
        for info in infos:
            is_end = "terminal_observation" in info
            before = info["progress"] - 1 / 3
            expected = (0.0 if is_end else 0.7 * info["progress"]) - before
            assert info["process_reward"] == pytest.approx(expected, abs=1e-6)


def test_runs_of_a_recipe_tell_sb3s_algorithms_apart(tmp_path):
    settings = RLSettings(
        algorithm="PPO", policy="MultiInputPolicy", algorithm_kwargs={"n_steps": 4, "batch_size": 8, "gamma": 0.8}
    )
    env = make_env(mode="potential")
    rl._make_model(settings, env, RunFolder(tmp_path), resume=False)
    assert (env.shaping.gamma, env.is_limit_end) == (0.8, False)
    with pytest.raises(DiscountError, match=r"VecProcessReward is 0\.9, and gamma of the algorithm is 0\.8"):
        rl._make_model(settings, make_env(mode="potential", gamma=0.9), RunFolder(tmp_path), resume=False)


def test_environments_of_training_take_keywords_of_their_own(monkeypatch):
    given = {}

    def spy(env_id, n_envs, backend, **kwargs):
        given.update(kwargs)
        return make_vec(ToyLiberoEnv, n_envs)

    monkeypatch.setattr(rl, "make_vec", spy)
    settings = RLSettings(
        vla="nano",
        n_envs=1,
        further_env_kwargs={"trace": False, "settle_steps": 3},
        train_env_kwargs={"trace": True, "privileged_obs": True},
    )
    rl.make_env(settings).close()
    assert (given["trace"], given["settle_steps"], given["privileged_obs"]) == (True, 3, True)
    # an evaluation does without them
    assert settings.env_kwargs["trace"] is False and "privileged_obs" not in settings.env_kwargs


class Judged(gym.ObservationWrapper):
    """The toy with a view of its own size, whose brightness is the share of the horizon that has passed."""

    def __init__(self, env):
        super().__init__(env)
        image = spaces.Box(0, 255, (50, 50, 3), np.uint8)
        self.observation_space = spaces.Dict({**env.observation_space.spaces, "judge": image})

    def observation(self, observation):
        share = observation["proprio"][0]
        return {**observation, "judge": np.full((50, 50, 3), round(90 * float(share)), np.uint8)}


class Brightness:
    key = "agentview"

    def score(self, seen, instructions):
        return seen[:, 1, 0, 0, 0].astype(np.float32) / 90


@pytest.mark.parametrize("algorithm", [TokenPPO, TokenGRPO, PPO])
def test_a_view_of_the_reward_model_never_reaches_a_buffer(algorithm):
    workers = make_vec(ToyLiberoEnv, 2, wrappers=[Judged], image_size=36, horizon=3)
    env = VecProcessReward(VecMonitor(SB3VecEnv(workers)), Brightness(), view="judge", keep_view=False)
    if algorithm is PPO:
        model = PPO("MultiInputPolicy", env, n_steps=8, batch_size=16, seed=0, device="cpu")
    else:
        model = make_model(algorithm, env)
    keep = Keep()
    model.learn(16, callback=keep)
    assert set(model.rollout_buffer.observations) == {"agentview", "proprio", "instruction"}
    np.testing.assert_allclose([info["process_reward"] for infos in keep.infos for info in infos], 1 / 3, atol=1e-6)
    ends = [info["terminal_observation"] for infos in keep.infos for info in infos if "terminal_observation" in info]
    assert ends and all(set(end) == {"agentview", "proprio", "instruction"} for end in ends)


class Privileged(gym.ObservationWrapper):
    """The toy with an entry like the simulator's."""

    def __init__(self, env):
        super().__init__(env)
        state = spaces.Box(-10, 10, (PRIVILEGED_DIM,), np.float32)
        self.observation_space = spaces.Dict({**env.observation_space.spaces, "privileged": state})

    def observation(self, observation):
        return {**observation, "privileged": np.zeros(PRIVILEGED_DIM, np.float32)}


@pytest.mark.parametrize("algorithm", ["TokenPPO", "TokenGRPO"])
def test_the_recipe_of_a_process_reward_makes_its_environments(algorithm, monkeypatch):
    def toys(*_, privileged_obs, **__):
        return make_vec(ToyLiberoEnv, 1, wrappers=[Privileged] if privileged_obs else [])

    monkeypatch.setattr(rl, "make_vec", toys)
    settings = load_recipe("goal-process", algorithm)
    env = rl.make_env(settings)
    assert env.shaping == Shaping("delta", 1.0) and env.view == "privileged"
    assert [type(callback) for callback in rl._callbacks(settings, env)] == [ProcessRewardCallback]


def test_a_monitor_around_it_is_warned_of_when_an_algorithm_starts():
    with pytest.warns(WrapperOrderWarning, match="VecMonitor is around VecProcessReward"):
        make_model(env=VecMonitor(make_env()))


def test_a_decision_of_several_commands_is_paid_once():
    keep, model = Keep(), make_model(env=make_env(chunk_size=2, horizon=4), n_steps=4)
    model.learn(8, callback=keep)
    steps = [info["executed_steps"] for infos in keep.infos for info in infos]
    paid = keep.told("process_reward").flatten()
    np.testing.assert_allclose(paid, np.array(steps) / 4, atol=1e-6)
    assert max(steps) == 2


@pytest.mark.parametrize("algorithm", [TokenGRPO, TokenRLOO])
def test_returns_of_a_group_are_success_and_the_way_that_was_made(algorithm):
    env = make_env(n_envs=2, weight=0.5, horizon=5)
    model = make_model(algorithm, env, group_size=4, n_groups=2)
    keep = Keep()
    model.learn(1, callback=keep)
    episodes = model.rollout_buffer.episodes
    assert len({len(episode.rows) for episode in episodes}) > 1, "episodes of one length show nothing"
    for episode in episodes:
        way = len(episode.rows) / 5
        assert episode.discounted_return(1.0) == pytest.approx(float(episode.is_success) + 0.5 * way, abs=1e-6)
    # told once per episode
    told = [info["process_return"] for infos in keep.infos for info in infos if "process_return" in info]
    assert sorted(told) == pytest.approx(sorted(0.5 * len(episode.rows) / 5 for episode in episodes), abs=1e-6)


def test_a_curriculum_counts_successes_not_rewards():
    env = make_env(n_envs=2, weight=100.0)
    sampler, keep = SuccessSampler([(t, k) for t in range(2) for k in range(8)]), Keep()
    model = make_model(env=env)
    model.learn(16, callback=[CurriculumCallback(sampler), keep])
    ends = [info for infos in keep.infos for info in infos if "terminal_observation" in info]
    successes, episodes = np.sum(list(sampler.task_counts().values()), axis=0)
    assert (successes, episodes) == (sum(info["is_success"] for info in ends), len(ends))
    assert 0 < successes < episodes, "all alike shows nothing"


@pytest.mark.parametrize("mode", ["delta", "sum"])
def test_episodes_of_a_sequence_start_from_their_own_first_frame_and_nothing_is_paid_after_the_last(mode):
    starts = [(0, 1), (1, 7), (0, 3)]
    env = make_env(n_envs=1, wrappers=[partial(EpisodeSequence, episodes=starts)], horizon=2, mode=mode, weight=0.5)
    env.reset()
    for task_id, _ in starts:
        for t in (1, 2):
            # bins that are wrong for every start of the task
            _, rewards, dones, infos = env.step(np.full((1, 7), 0 if task_id == 1 else 255))
            assert rewards[0] == pytest.approx(0.25 if mode == "delta" else 0.25 * t) and dones[0] == (t == 2)
        assert infos[0]["task_id"] == task_id
    for _ in range(2):
        assert env.step(np.zeros((1, 7), np.int64))[1] == 0.0
