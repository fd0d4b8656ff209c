"""Where physics diverge or a worker is restarted, nothing is learned of it, and nothing false of what came before."""

from functools import partial

import gymnasium as gym
import numpy as np
import pytest
import torch as th
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.vec_env import DummyVecEnv, VecMonitor

from vla_algos import TokenPPO
from vla_algos.common.callbacks import RolloutHistoryCallback
from vla_algos.common.vec_env import SB3VecEnv
from vla_gym.envs.toy_env import ToyLiberoEnv
from vla_gym.vector import vector_env_class

N_STEPS = 8


class Breaking(gym.Wrapper):
    """Never succeeds, and breaks in every third step, with a frame and an info that nobody may believe."""

    def __init__(self, cause, image_size=32):
        super().__init__(ToyLiberoEnv(image_size=image_size, horizon=100))
        self.cause, self.steps = cause, 0

    def step(self, action):
        self.steps += 1
        obs, _, _, _, info = self.env.step(action)
        is_broken = self.steps % 3 == 0
        if is_broken:
            obs["proprio"][:] = np.nan
        return obs, 0.25, False, is_broken, {**info, "is_success": is_broken, self.cause: is_broken}


def make_env(kind, cause):
    env_fns = [partial(Breaking, cause)] * 2
    env = DummyVecEnv(env_fns) if kind == "sb3" else SB3VecEnv(vector_env_class("sync")(env_fns))
    return VecMonitor(env)


def make_model(env, **kwargs):
    defaults = {"n_steps": N_STEPS, "batch_size": 4, "gamma": 0.9, "critic_warmup_iterations": 0, "seed": 0}
    kwargs = {**defaults, **kwargs}
    return TokenPPO("VLAPolicy", env, device="cpu", policy_kwargs={"vla": "nano"}, **kwargs)


class Keep(BaseCallback):
    def __init__(self):
        super().__init__()
        self.returns = []

    def _on_step(self):
        self.returns += [float(info["episode"]["r"]) for info in self.locals["infos"] if "episode" in info]
        return True

    def _on_rollout_end(self):
        buffer = self.model.rollout_buffer
        names = ("rewards", "values", "advantages", "returns", "token_mask")
        self.stored = {name: getattr(buffer, name).copy() for name in names}


@pytest.mark.parametrize("cause", ["unstable", "worker_restarted"])
@pytest.mark.parametrize("kind", ["sb3", "vla_gym"])
def test_the_decision_teaches_nothing_and_those_before_it_look_no_further(kind, cause):
    keep, history = Keep(), RolloutHistoryCallback()
    model = make_model(make_env(kind, cause))
    model.learn(2 * N_STEPS, callback=[keep, history])
    stored = keep.stored
    is_broken = np.arange(1, N_STEPS + 1) % 3 == 0
    assert np.array_equal(stored["token_mask"].any(axis=(1, 2)), ~is_broken)
    assert not stored["advantages"][is_broken].any()
    np.testing.assert_array_equal(stored["returns"][is_broken], stored["values"][is_broken])
    # a decision before: what it earned, and the last state that a policy was in
    values = stored["values"]
    expected = 0.25 + 0.9 * values[2] - values[1]
    np.testing.assert_allclose(stored["advantages"][1], expected, rtol=1e-5)
    np.testing.assert_allclose(
        stored["advantages"][0], 0.25 + 0.9 * values[1] - values[0] + 0.9 * 0.95 * expected, rtol=1e-5
    )
    assert all(th.isfinite(p).all() for p in model.policy.parameters())
    # neither success nor failure, but the reward of the task is told as it was
    assert len(model.ep_success_buffer) == 0 and history.history[0].episodes == 0
    assert keep.returns == [0.75] * 4


def test_no_gradient_comes_from_it():
    """What is stored of such decisions may be anything: the step is the same."""
    steps = []
    for change in (0.0, 7.0):
        model = make_model(make_env("sb3", "unstable"), batch_size=N_STEPS * 2, normalize_advantage=False)

        class Change(BaseCallback):
            def _on_step(self):
                return True

            def _on_rollout_end(self, change=change):
                buffer = self.model.rollout_buffer
                rows = ~buffer.token_mask.any(axis=-1)
                for array in (buffer.advantages, buffer.returns, buffer.values):
                    array[rows] += change
                buffer.log_probs[rows] -= change

        model.learn(2 * N_STEPS, callback=Change())
        steps.append([p.detach().clone() for p in model.policy.parameters()])
    assert all(th.equal(p, q) for p, q in zip(*steps, strict=True))


@pytest.mark.parametrize("policy_kwargs", [{}, {"detach_value": True}])
def test_a_roll_out_of_nothing_else_changes_nothing(policy_kwargs):
    class Always(Breaking):
        def step(self, action):
            self.steps = 2
            return super().step(action)

    kwargs = {"n_steps": 4, "batch_size": 4, "critic_warmup_iterations": 0, "device": "cpu"}
    env = DummyVecEnv([partial(Always, "unstable")] * 2)
    model = TokenPPO("VLAPolicy", env, policy_kwargs={"vla": "nano", **policy_kwargs}, **kwargs)
    before = [p.detach().clone() for p in model.policy.parameters()]
    model.learn(8)
    assert all(th.equal(p, q) for p, q in zip(before, model.policy.parameters(), strict=True))
    assert model.logger.name_to_value["train/skipped_updates"] == 0
