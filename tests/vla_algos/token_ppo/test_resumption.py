"""A run that was stopped, however, goes on with the same bits."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch as th
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.env_util import make_vec_env

from vla_algos import TokenPPO
from vla_algos.errors import TrainingDivergedError
from vla_algos.models import load_vla, save_vla
from vla_gym.envs.toy_env import ToyLiberoEnv

N_STEPS, N_ENVS, N_ITERATIONS = 4, 2, 5


def make_env():
    return make_vec_env(lambda: ToyLiberoEnv(image_size=32, horizon=3), N_ENVS)


def make_model(folder, **kwargs):
    return TokenPPO(
        "VLAPolicy",
        make_env(),
        n_steps=N_STEPS,
        batch_size=8,
        learning_rate=lambda progress: 1e-3 * progress,
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
    states = [{**model.policy.state_dict(), **model.reference.state_dict()} for model in (one, other)]
    assert states[0].keys() == states[1].keys()
    assert all(th.equal(tensor, states[1][name]) for name, tensor in states[0].items())
    moments = [model.policy.optimizer.state_dict()["state"] for model in (one, other)]
    assert all(th.equal(moments[0][i]["exp_avg"], moments[1][i]["exp_avg"]) for i in moments[0])


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    return learn(tmp_path_factory.mktemp("whole"))


def test_a_killed_process_goes_on_with_the_same_bits(tmp_path, whole):
    script = f"from {Path(__file__).stem} import *\nlearn({str(tmp_path)!r}, Stop(signal.SIGKILL, 14))\n"
    paths = [str(Path(__file__).parent), *sys.path]
    done = subprocess.run([sys.executable, "-c", script], env={**os.environ, "PYTHONPATH": os.pathsep.join(paths)})
    assert done.returncode == -signal.SIGKILL
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
    with pytest.raises(TrainingDivergedError, match="of the actor in a row"):
        model.learn(64, callback=Poison())
    saved = TokenPPO.load(tmp_path / "last.zip", device="cpu")
    assert all(th.equal(p, q) for p, q in zip(model.policy.parameters(), saved.policy.parameters(), strict=True))


def test_a_run_without_a_reference_can_go_on_with_one(tmp_path):
    model = TokenPPO("VLAPolicy", make_env(), n_steps=N_STEPS, policy_kwargs={"vla": "nano"}, device="cpu").learn(8)
    model.save(tmp_path / "model")
    loaded = TokenPPO.load(tmp_path / "model", env=make_env(), device="cpu", kl_coef=0.1, critic_warmup_iterations=0)
    loaded.learn(8, reset_num_timesteps=False)
    assert abs(loaded.logger.name_to_value["train/reference_kl"]) < 1e-6


def test_three_updates_that_are_not_finite_end_the_run_with_a_checkpoint(tmp_path):
    class Poison(BaseCallback):
        """Advantages that no optimizer can use, from the second iteration on."""

        def _on_step(self):
            return True

        def _on_rollout_end(self):
            if self.num_timesteps > N_STEPS * N_ENVS:
                self.model.rollout_buffer.advantages[:] = float("nan")

    with pytest.raises(TrainingDivergedError, match=r"3 updates of the actor.*nan.*last\.zip.*Lower learning_rate"):
        make_model(tmp_path, n_epochs=3).learn(64, callback=Poison())
    saved = TokenPPO.load(tmp_path / "last.zip", device="cpu")
    assert saved._n_skipped_updates == 3
    assert all(p.isfinite().all() for p in saved.policy.parameters())
