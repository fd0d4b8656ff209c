"""A run that was stopped, however, goes on with the same bits."""

import itertools
import os
import signal
from pathlib import Path

import gymnasium as gym
import numpy as np
import pytest
import torch as th
from gymnasium import spaces
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.utils import LinearSchedule
from stable_baselines3.common.vec_env import VecMonitor

from vla_algos import TokenPPO
from vla_algos.common.vec_env import SB3VecEnv
from vla_algos.curriculum import CurriculumCallback, SuccessSampler
from vla_algos.errors import TrainingDivergedError
from vla_algos.models import load_vla, save_vla
from vla_gym.envs.toy_env import ToyLiberoEnv
from vla_gym.vector import vector_env_class

N_STEPS, N_ENVS, N_ITERATIONS = 4, 2, 5


def make_env():
    return make_vec_env(lambda: ToyLiberoEnv(image_size=32, horizon=3), N_ENVS)


def make_model(folder, **kwargs):
    return TokenPPO(
        "VLAPolicy",
        make_env(),
        n_steps=N_STEPS,
        batch_size=8,
        learning_rate=LinearSchedule(1e-3, 0.0, 1.0),
        critic_warmup_iterations=1,
        kl_coef=0.1,
        policy_kwargs={"vla": "nano"},
        checkpoint_folder=folder,
        checkpoint_interval=1,
        seed=3,
        device="cpu",
        **kwargs,
    )


class Stop(BaseCallback):
    """Sends a signal to the own process in the middle of a roll-out."""

    def __init__(self, number, at_step):
        super().__init__()
        self.number, self.at_step = number, at_step

    def _on_step(self):
        if self.n_calls == self.at_step:
            os.kill(os.getpid(), self.number)
        return True


def learn(folder, callback=None):
    return make_model(folder).learn(N_ITERATIONS * N_STEPS * N_ENVS, callback=callback)


def resume(folder):
    model = TokenPPO.load(Path(folder) / "last.zip", env=make_env(), device="cpu")
    return model.learn(model.remaining_timesteps, reset_num_timesteps=False)


def assert_same(one, other):
    assert (one.num_timesteps, one._n_iterations, one._n_updates) == (
        other.num_timesteps,
        other._n_iterations,
        other._n_updates,
    )
    states = [{**m.policy.state_dict(), **(m.reference.state_dict() if m.reference else {})} for m in (one, other)]
    assert states[0].keys() == states[1].keys()
    assert all(th.equal(tensor, states[1][name]) for name, tensor in states[0].items())
    moments = [model.policy.optimizer.state_dict()["state"] for model in (one, other)]
    assert all(th.equal(moments[0][i][name], moments[1][i][name]) for i in moments[0] for name in moments[0][i])


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    return learn(tmp_path_factory.mktemp("whole"))


def test_a_killed_process_goes_on_with_the_same_bits(tmp_path, whole, run_in_child):
    script = f"from {Path(__file__).stem} import *\nlearn({str(tmp_path)!r}, Stop(signal.SIGKILL, 14))\n"
    assert run_in_child(script, Path(__file__).parent) == -signal.SIGKILL
    resumed = resume(tmp_path)
    assert resumed.num_timesteps == N_ITERATIONS * N_STEPS * N_ENVS
    assert_same(resumed, whole)


def test_ctrl_c_finishes_the_iteration_and_leaves_a_checkpoint(tmp_path, whole):
    with pytest.raises(KeyboardInterrupt):
        learn(tmp_path, Stop(signal.SIGINT, 6))
    stopped = TokenPPO.load(tmp_path / "last.zip", device="cpu")
    assert (stopped._n_iterations, stopped.remaining_timesteps) == (2, 3 * N_STEPS * N_ENVS)
    assert_same(resume(tmp_path), whole)


def test_a_second_ctrl_c_ends_it_at_once(tmp_path):
    class Twice(Stop):
        def _on_step(self):
            super()._on_step()
            return super()._on_step()

    with pytest.raises(KeyboardInterrupt):
        learn(tmp_path, Twice(signal.SIGINT, 6))
    assert TokenPPO.load(tmp_path / "last.zip", device="cpu")._n_iterations == 1


def test_divergence_while_only_the_critic_learns_leaves_a_whole_checkpoint(tmp_path):
    """The weights of a checkpoint folder that are not learned are left out, and those that wait are not among them."""
    save_vla(load_vla("nano", seed=1), tmp_path / "vla")

    class Poison(BaseCallback):
        def _on_step(self):
            return True

        def _on_rollout_end(self):
            self.model.rollout_buffer.returns[:] = float("nan")

    model = TokenPPO(
        "VLAPolicy",
        make_env(),
        n_steps=N_STEPS,
        batch_size=2,
        checkpoint_folder=tmp_path,
        policy_kwargs={"vla": str(tmp_path / "vla")},
        device="cpu",
    )
    with pytest.raises(TrainingDivergedError, match="of the critic in a row"):
        model.learn(64, callback=Poison())
    saved = TokenPPO.load(tmp_path / "diverged.zip", device="cpu")
    assert all(th.equal(p, q) for p, q in zip(model.policy.parameters(), saved.policy.parameters(), strict=True))


def test_a_run_without_a_reference_can_go_on_with_one(tmp_path):
    model = TokenPPO("VLAPolicy", make_env(), n_steps=N_STEPS, policy_kwargs={"vla": "nano"}, device="cpu").learn(8)
    model.save(tmp_path / "model")
    loaded = TokenPPO.load(tmp_path / "model", env=make_env(), device="cpu", kl_coef=0.1, critic_warmup_iterations=0)
    loaded.learn(8, reset_num_timesteps=False)
    assert abs(loaded.logger.name_to_value["train/reference_kl"]) < 1e-6


class Poison(BaseCallback):
    """Advantages that no optimizer can use, from the second iteration on."""

    def _on_step(self):
        return True

    def _on_rollout_end(self):
        if self.num_timesteps > N_STEPS * N_ENVS:
            self.model.rollout_buffer.advantages[:] = float("nan")


def test_three_updates_that_are_not_finite_end_the_run_and_leave_the_checkpoint_before(tmp_path):
    message = r"3 updates of the actor.*nan.*Lower learning_rate.*diverged\.zip; last\.zip beside it"
    with pytest.raises(TrainingDivergedError, match=message):
        make_model(tmp_path, n_epochs=3).learn(64, callback=Poison())
    diverged = TokenPPO.load(tmp_path / "diverged.zip", env=make_env(), device="cpu")
    assert diverged._skipped_updates.total == 3
    assert all(p.isfinite().all() for p in diverged.policy.parameters())
    last = TokenPPO.load(tmp_path / "last.zip", env=make_env(), device="cpu")
    assert (last._n_iterations, last.num_timesteps) == (1, N_STEPS * N_ENVS)
    # who goes on has three again, not one
    diverged.n_epochs = 2
    diverged.learn(N_STEPS * N_ENVS, callback=Poison(), reset_num_timesteps=False)
    assert diverged._skipped_updates.total == 5
    diverged.learn(N_STEPS * N_ENVS)
    assert diverged._skipped_updates.total == 0


def test_without_a_folder_divergence_says_that_nothing_was_saved():
    with pytest.raises(TrainingDivergedError, match="Nothing was saved, as there is no checkpoint_folder"):
        make_model(None, n_epochs=3).learn(64, callback=Poison())


@pytest.mark.parametrize("after", [0, 1, 2])
def test_ctrl_c_between_iterations_loses_none(after, tmp_path, monkeypatch):
    """When no roll-out is in progress, and no checkpoint is due."""
    collect = TokenPPO.collect_rollouts

    def interrupted_collect(model, *args, **kwargs):
        if model._n_iterations == after:
            os.kill(os.getpid(), signal.SIGINT)
        return collect(model, *args, **kwargs)

    monkeypatch.setattr(TokenPPO, "collect_rollouts", interrupted_collect)
    model = make_model(tmp_path)
    model.checkpoint_interval = 2
    with pytest.raises(KeyboardInterrupt):
        model.learn(N_ITERATIONS * N_STEPS * N_ENVS)
    monkeypatch.undo()
    stopped = TokenPPO.load(tmp_path / "last.zip", device="cpu")
    assert (stopped._n_iterations, stopped.num_timesteps) == (after, after * N_STEPS * N_ENVS)
    assert resume(tmp_path).num_timesteps == N_ITERATIONS * N_STEPS * N_ENVS


class Privileged(gym.ObservationWrapper):
    """Tells the critic which task it is."""

    def __init__(self, env):
        super().__init__(env)
        told = spaces.Box(-10, 10, (1,), np.float32)
        self.observation_space = spaces.Dict({**env.observation_space.spaces, "privileged": told})

    def observation(self, observation):
        return {**observation, "privileged": np.array([self.env.unwrapped.task_id], dtype=np.float32)}


@pytest.mark.parametrize(
    ("policy_kwargs", "use_bf16"),
    [({"critic": "privileged", "freeze_vision": True}, False), ({"detach_value": True}, True)],
)
def test_curriculum_and_own_critics_go_on_too(policy_kwargs, use_bf16, tmp_path):
    def make_env():
        return VecMonitor(SB3VecEnv(vector_env_class("sync")([lambda: Privileged(ToyLiberoEnv(32, horizon=2))] * 2)))

    def learn(folder, n_iterations):
        model = TokenPPO(
            "VLAPolicy",
            make_env(),
            n_steps=4,
            batch_size=4,
            learning_rate=1e-3,
            critic_warmup_iterations=1,
            use_bf16=use_bf16,
            policy_kwargs={"vla": "nano", **policy_kwargs},
            checkpoint_folder=folder,
            checkpoint_interval=2,
            seed=3,
            device="cpu",
        )
        sampler = SuccessSampler(itertools.product(range(2), range(8)), half_life=5)
        return model.learn(8 * n_iterations, CurriculumCallback(sampler))

    whole = learn(tmp_path / "whole", 6)
    learn(tmp_path / "part", 4)
    part = TokenPPO.load(tmp_path / "part" / "last.zip", env=make_env(), device="cpu")
    part.learn(16, CurriculumCallback(part.success_sampler), reset_num_timesteps=False)
    assert_same(whole, part)
    assert whole.success_sampler.n_episodes > 0
    assert whole.success_sampler.state_dict() == part.success_sampler.state_dict()
