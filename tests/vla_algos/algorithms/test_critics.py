"""A critic of its own learns apart from the actor, from what it read during the roll-out."""

import gymnasium as gym
import numpy as np
import pytest
import torch as th
from gymnasium import spaces
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.save_util import load_from_zip_file
from stable_baselines3.common.utils import obs_as_tensor

from vla_algos import TokenPPO
from vla_algos.errors import SpaceError, UnknownNameError
from vla_algos.models import load_vla, save_vla
from vla_algos.models.base import CRITIC_INPUTS
from vla_algos.policies.critics import PrivilegedCritic
from vla_algos.policies.vla_policy import FEATURES
from vla_gym.envs.toy_env import ToyLiberoEnv


class Privileged(gym.ObservationWrapper):
    """Tells the critic which task and initial state it is."""

    def __init__(self, env):
        super().__init__(env)
        self.observation_space = spaces.Dict(
            {**env.observation_space.spaces, "privileged": spaces.Box(-10, 10, (3,), np.float32)}
        )

    def observation(self, observation):
        env = self.env.unwrapped
        told = np.array([env.task_id, env.init_state_id, env._elapsed], dtype=np.float32)
        return {**observation, "privileged": told}


class RewardOfTask(gym.Wrapper):
    """Rewards task 1 at every step, whatever is done."""

    def step(self, action):
        observation, _, terminated, truncated, info = self.env.step(action)
        return observation, float(self.env.unwrapped.task_id), terminated, truncated, info


def make_model(n_envs=2, env=None, **kwargs):
    policy_kwargs = {"vla": "nano", **kwargs.pop("policy_kwargs", {})}
    defaults = {"n_steps": 8, "batch_size": 8, "learning_rate": 1e-3, "critic_warmup_iterations": 0, "seed": 0}
    env = env or make_vec_env(lambda: Privileged(ToyLiberoEnv(image_size=32)), n_envs)
    return TokenPPO("VLAPolicy", env, device="cpu", policy_kwargs=policy_kwargs, **{**defaults, **kwargs})


def snapshot(model):
    return {name: p.detach().clone() for name, p in model.policy.named_parameters()}


def changed(model, before):
    return {name for name, p in model.policy.named_parameters() if not th.equal(p, before[name])}


PRIVILEGED = {"critic": "privileged", "critic_kwargs": {"net_arch": [16]}}
DETACHED = {"detach_value": True}


@pytest.mark.parametrize(
    ("kwargs", "prefix"), [(PRIVILEGED, "critic."), (DETACHED, "vla.value_head."), ({}, "vla.value_head.")]
)
def test_warm_up_trains_nothing_but_the_critic(kwargs, prefix):
    model = make_model(policy_kwargs=kwargs, critic_warmup_iterations=1)
    before = snapshot(model)
    model.learn(16)
    # 16 decisions in minibatches of 8, by default 10 times
    assert {int(state["step"]) for state in model.policy.optimizer.state.values()} == {20}
    assert changed(model, before) and all(name.startswith(prefix) for name in changed(model, before))
    model.learn(16, reset_num_timesteps=False)
    after = changed(model, before)
    assert any(name.startswith(prefix) for name in after) and "vla.language_model.lm_head.weight" in after


def test_the_actor_does_not_depend_on_the_critic():
    """Two runs that differ in the critic's learning alone move the actor in the same first step."""
    actors = []
    for epochs in (1, 7):
        model = make_model(policy_kwargs=PRIVILEGED, critic_epochs=epochs, batch_size=16)
        model.learn(16)
        actors.append({n: p for n, p in model.policy.named_parameters() if not n.startswith("critic.")})
    assert all(th.equal(p, actors[1][name]) for name, p in actors[0].items())


def test_the_actor_never_sees_the_privileged_entry():
    model = make_model(policy_kwargs=PRIVILEGED)
    obs = obs_as_tensor(model.env.reset(), "cpu")
    other = {**obs, "privileged": obs["privileged"] + 1.0}
    assert th.equal(model.policy._predict(obs, True), model.policy._predict(other, True))
    del other["privileged"]
    assert model.predict({key: value.numpy() for key, value in other.items()})[0].shape == (2, 7)
    other = {**obs, "privileged": obs["privileged"] + 1.0}
    with th.no_grad():
        model.policy.critic.out.weight.normal_()
    assert not th.equal(model.policy.predict_values(obs), model.policy.predict_values(other))


def test_the_shared_critic_warms_up_without_the_backbone(monkeypatch):
    """What it must come to explain is the task, which the hidden state knows."""
    env = make_vec_env(lambda: RewardOfTask(ToyLiberoEnv(image_size=32)), 4)
    model = make_model(env=env, n_steps=16, critic_warmup_iterations=5, critic_epochs=20, learning_rate=2e-5)
    monkeypatch.setattr(model.policy, "evaluate_actions", lambda *args: pytest.fail("no pass is needed"))
    model.learn(16 * 4 * 5)
    assert model.logger.name_to_value["train/explained_variance"] > 0.3


def test_the_critic_has_a_learning_rate_of_its_own_and_no_clipping():
    for policy_kwargs in (PRIVILEGED, DETACHED, {}):
        model = make_model(policy_kwargs=policy_kwargs, learning_rate=2e-5)
        model.learn(16)
        rates = {group["name"]: group["lr"] for group in model.policy.optimizer.param_groups}
        assert rates["value"] == model.logger.name_to_value["train/value_learning_rate"] == 1e-3
        assert model.clip_range_vf is None
    model = make_model(learning_rate=2e-5, value_learning_rate=None).learn(16)
    assert {group["lr"] for group in model.policy.optimizer.param_groups if group["name"] == "value"} == {2e-5}


@pytest.mark.parametrize("kwargs", [PRIVILEGED, DETACHED, {}])
def test_the_buffer_remembers_what_the_critic_read(kwargs):
    model = make_model(policy_kwargs=kwargs, critic_epochs=1)

    class Check(BaseCallback):
        def _on_step(self):
            return True

        def _on_rollout_end(self):
            buffer = self.model.rollout_buffer
            values = self.model.policy.values_of(buffer.extras[CRITIC_INPUTS].flatten(0, 1))
            np.testing.assert_allclose(values.detach().numpy(), buffer.values.flatten(), atol=1e-6)
            for step in range(8):
                obs = obs_as_tensor({key: array[step] for key, array in buffer.observations.items()}, "cpu")
                with th.no_grad():
                    expected = self.model.policy.predict_values(obs).numpy()
                np.testing.assert_allclose(buffer.values[step], expected[:, 0], atol=1e-5)
            self.n_checked = step + 1

    check = Check()
    model.learn(16, callback=check)
    assert check.n_checked == 8


def test_values_follow_the_returns():
    """The reward is known from the privileged entry, so the critic must come to explain it."""
    env = make_vec_env(lambda: RewardOfTask(Privileged(ToyLiberoEnv(image_size=32))), 4)
    model = make_model(
        policy_kwargs=PRIVILEGED, learning_rate=0.0, n_steps=16, critic_epochs=50, clip_range_vf=None, env=env
    )
    model.learn(16 * 4 * 5)
    assert model.logger.name_to_value["train/explained_variance"] > 0.5


def test_frozen_vision_is_encoded_once_and_gives_the_same_step():
    steps = []
    for freeze in (True, False):
        model = make_model(policy_kwargs={"freeze_vision": freeze}, batch_size=16)
        before = snapshot(model)
        if not freeze:
            model.policy.vla.vision_backbone.requires_grad_(False)
        model.learn(16)
        assert (FEATURES in model.rollout_buffer.extras) == freeze
        assert not any("vision_backbone" in name for name in changed(model, before))
        assert model.logger.name_to_value["train/ratio_deviation"] < 1e-4
        steps.append(snapshot(model))
    assert all(th.allclose(p, steps[1][name], atol=1e-6) for name, p in steps[0].items())


@pytest.mark.filterwarnings("ignore:Weights that can learn")
@pytest.mark.parametrize("kwargs", [PRIVILEGED, DETACHED, {}])
def test_weights_in_bfloat16_learn(kwargs):
    dtype = {"vla_kwargs": {"dtype": th.bfloat16}}
    model = make_model(policy_kwargs={**dtype, **kwargs})
    before = snapshot(model)
    model.learn(16)
    assert "vla.language_model.lm_head.weight" in changed(model, before)
    assert all(p.isfinite().all() for p in model.policy.parameters())


def test_updates_under_autocast_are_nearly_those_without():
    steps = []
    for use_bf16 in (True, False):
        model = make_model(use_bf16=use_bf16, batch_size=16, learning_rate=1e-4, value_learning_rate=1e-4)
        model.learn(16)
        steps.append(snapshot(model))
        assert all(p.dtype == th.float32 for p in model.policy.parameters())
    differences = [(p - steps[1][name]).abs().max().item() for name, p in steps[0].items()]
    assert 0.0 < max(differences) <= 2.1e-4, "at most two steps of Adam apart"


def test_adapters_learn_are_saved_alone_and_go_on(tmp_path):
    pytest.importorskip("peft")
    save_vla(load_vla("nano", seed=1), tmp_path / "vla")
    model = make_model(policy_kwargs={"vla": str(tmp_path / "vla"), "lora": {"rank": 2, "dropout": 0.2}})
    model.learn(16)
    assert model.logger.name_to_value["train/ratio_deviation"] < 1e-4
    model.save(tmp_path / "model")
    saved = load_from_zip_file(tmp_path / "model.zip", device="cpu")[1]["policy"]
    assert saved and not any("base_layer" in name for name in saved)
    loaded = TokenPPO.load(tmp_path / "model", env=model.env, device="cpu")
    assert all(th.equal(p, q) for p, q in zip(model.policy.parameters(), loaded.policy.parameters(), strict=True))
    loaded.learn(16, reset_num_timesteps=False)


def test_observed_inputs_are_normalised():
    generator = th.Generator().manual_seed(0)
    rows = th.randn(300, 2, generator=generator) * th.tensor([3.0, 0.1]) + th.tensor([5.0, -1.0])
    critic = PrivilegedCritic(2)
    for part in rows.split([100, 150, 50]):
        critic.observe(part)
    th.testing.assert_close(critic.mean, rows.mean(dim=0), atol=1e-5, rtol=1e-5)
    th.testing.assert_close(critic.var, rows.var(dim=0, unbiased=False), atol=1e-5, rtol=1e-4)


def test_missing_privileged_observation_is_named(toy_vec_env):
    with pytest.raises(SpaceError, match=r"needs a flat 'privileged'.*privileged_obs=True"):
        TokenPPO("VLAPolicy", toy_vec_env(1), policy_kwargs={"vla": "nano", "critic": "privileged"})
    with pytest.raises(UnknownNameError, match=r"critic.*shared"):
        TokenPPO("VLAPolicy", toy_vec_env(1), policy_kwargs={"vla": "nano", "critic": "both"})
