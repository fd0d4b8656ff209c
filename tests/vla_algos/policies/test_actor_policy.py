"""A network of one's own, with any kind of action, learns with every algorithm; what it lacks is named."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch as th
from gymnasium import spaces
from stable_baselines3 import A2C, PPO
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.policies import MultiInputActorCriticPolicy
from torch import nn
from torch.distributions import Categorical

from vla_algos import TPO, ActorPolicy, TokenGRPO, TokenPPO, TokenRLOO
from vla_algos.errors import ActorError, CheckpointError, SpaceError
from vla_algos.experiments.components import load_object
from vla_algos.models.base import CRITIC_INPUTS, Sample, Scores
from vla_gym.envs.toy_env import ToyLiberoEnv

SmallPolicy: Any = load_object(f"{Path(__file__).parents[3] / 'examples' / 'own_policy.py'}:SmallPolicy")


class Continuous(gym.ActionWrapper):
    """The toy task with numbers in [-1, 1] for bins."""

    def __init__(self, env):
        super().__init__(env)
        self.action_space = spaces.Box(-1.0, 1.0, (len(env.action_space.nvec),), np.float32)
        self.bounds = []

    def action(self, action):
        self.bounds.append(np.abs(action).max())
        return np.round((action + 1) / 2 * 255).astype(np.int64)


class OneNumber(SmallPolicy):
    """One log-probability for the whole action, and no entropy."""

    has_entropy = False

    def act(self, *args, **kwargs):
        sample = super().act(*args, **kwargs)
        return sample._replace(log_prob=sample.log_prob.sum(dim=1, keepdim=True))

    def score(self, *args, **kwargs):
        scores = super().score(*args, **kwargs)
        return Scores(scores.log_prob.sum(dim=1, keepdim=True), scores.values)

    def action_mask(self, executed):
        return executed.unsqueeze(1) > 0


class ParallelTokens(SmallPolicy):
    """Bins that are chosen all at once."""

    has_exact_kl = True

    def __init__(self, observation_space, action_space, lr_schedule, **kwargs):
        numbers = spaces.Box(0, 255, action_space.shape)
        super().__init__(observation_space, numbers, lr_schedule, **kwargs)
        self.action_space = action_space
        self.logits = nn.Linear(64, self.n_numbers * 256)
        self.setup_optimizer(lr_schedule(1))

    def act(self, obs, temperature=1.0, deterministic=False):
        features = self.critic_inputs(obs)
        bins = self.distributions(features, temperature)
        action = bins.mode if deterministic else bins.sample()
        return Sample(action, bins.log_prob(action), self.values_of(features), {CRITIC_INPUTS: features})

    def score(self, obs, action, extras, temperature=1.0):
        features = self.critic_inputs(obs)
        bins = self.distributions(features, temperature)
        return Scores(bins.log_prob(action), self.values_of(features), bins.entropy(), bins.logits)

    def distributions(self, features, temperature):
        return Categorical(logits=self.logits(features).unflatten(1, (self.n_numbers, 256)) / temperature)


SETTINGS: dict[Any, dict[str, Any]] = {
    TokenPPO: {"n_steps": 8, "batch_size": 8, "critic_warmup_iterations": 1, "critic_epochs": 2, "n_epochs": 2},
    TokenGRPO: {"group_size": 4, "n_groups": 2, "batch_size": 8},
    TokenRLOO: {"group_size": 4, "n_groups": 2},
    TPO: {"group_size": 4, "n_groups": 2, "reference_policy": "start"},
}


def make_env(policy: type = SmallPolicy, chunk_size: int = 2):
    def one() -> gym.Env:
        env = ToyLiberoEnv(image_size=48, horizon=3, chunk_size=chunk_size)
        return env if issubclass(policy, ParallelTokens) else Continuous(env)

    return make_vec_env(one, 2)


def make_model(policy: type = SmallPolicy, algorithm: Any = TokenPPO, **kwargs: Any):
    defaults = {"learning_rate": 1e-3, "temperature": 1.2, "seed": 1, "device": "cpu"}
    return algorithm(policy, make_env(policy), **{**defaults, **SETTINGS[algorithm], **kwargs})


@pytest.mark.parametrize("policy", [SmallPolicy, OneNumber, ParallelTokens])
@pytest.mark.parametrize("algorithm", SETTINGS)
def test_every_algorithm_trains_any_kind_of_action(algorithm, policy):
    model = make_model(policy, algorithm)
    before = {name: p.clone() for name, p in model.policy.named_parameters()}
    model.learn(32)
    moved = {name.split(".")[0] for name, p in model.policy.named_parameters() if not th.equal(p, before[name])}
    heads = {"logits"} if policy is ParallelTokens else {"mean", "log_std"}
    assert moved == {"trunk", *heads} | ({"value_head"} if algorithm is TokenPPO else set())
    assert model.logger.name_to_value["train/ratio_deviation"] < 1e-4
    assert ("train/entropy_loss" in model.logger.name_to_value) == (policy.has_entropy and algorithm is not TPO)
    buffer = model.rollout_buffer
    assert buffer.log_probs.shape[-1] == buffer.token_mask.shape[-1] == (1 if policy is OneNumber else 14)
    assert not buffer.token_mask.all() or policy is OneNumber, "some of the second commands were not carried out"
    if policy is not ParallelTokens:
        executed = np.concatenate([env.get_wrapper_attr("bounds") for env in model.env.unwrapped.envs])
        assert executed.max() == 1.0 < np.abs(np.asarray(buffer.actions)).max(), "clipped, and stored as sampled"


class Actionable(ActorPolicy):
    """No values: one of two actions, by a single weight."""

    def __init__(self, observation_space, action_space, lr_schedule, **kwargs):
        super().__init__(observation_space, action_space, **kwargs)
        self.weight = nn.Parameter(th.zeros(1))
        self.setup_optimizer(lr_schedule(1))

    def act(self, obs, temperature=1.0, deterministic=False):
        is_high = th.rand(len(obs["agentview"]), 1) < self.weight.sigmoid()
        nothing = th.full((len(is_high),), th.nan)
        action = is_high.float().expand(-1, 14) * 2 - 1
        return Sample(action, self.score(obs, action, {}, temperature).log_prob, nothing, {})

    def score(self, obs, action, extras, temperature=1.0):
        log_prob = nn.functional.logsigmoid(self.weight * action[:, :1])
        return Scores(log_prob, th.full((len(action),), th.nan))

    def action_mask(self, executed):
        return executed.unsqueeze(1) > 0


@pytest.mark.parametrize("algorithm", [TokenGRPO, TokenRLOO, TPO])
def test_without_a_critic_no_values_are_needed(algorithm):
    model = make_model(Actionable, algorithm).learn(64)
    assert model.policy.weight.isfinite() and model.policy.weight != 0.0
    with pytest.raises(ActorError, match="TokenPPO has a critic and needs 'critic_inputs'"):
        make_model(Actionable).learn(8)
    with pytest.raises(ActorError, match=r"Actionable has no values\. Implement critic_inputs and values_of\."):
        model.policy.predict_values({})


@pytest.mark.slow
def test_it_learns_where_the_square_is():
    env = make_vec_env(lambda: Continuous(ToyLiberoEnv(image_size=48, horizon=1, task_ids=[1])), 16)
    settings = {"learning_rate": 1e-3, "n_steps": 16, "n_epochs": 4, "critic_warmup_iterations": 1, "temperature": 1.0}
    model = TokenPPO(SmallPolicy, env, ratio_level="token", seed=0, device="cpu", **settings).learn(24 * 256)
    assert np.mean(model.ep_success_buffer) > 0.9, "one in four at the start"


def test_without_a_critic_to_warm_up_the_value_learns_along():
    model = make_model(critic_warmup_iterations=0).learn(16)
    assert model.logger.name_to_value["train/value_loss"] > 0


@pytest.mark.parametrize("algorithm", [PPO, A2C])
def test_algorithms_of_sb3_train_it(algorithm):
    kwargs = {"batch_size": 8, "n_epochs": 1} if algorithm is PPO else {}
    for policy in (SmallPolicy, OneNumber):
        model = algorithm(policy, make_env(), n_steps=8, device="cpu", seed=0, **kwargs).learn(32)
        assert np.isfinite(model.logger.name_to_value["train/value_loss"])


def test_exact_kl_needs_no_tokens_decoded_one_by_one():
    model = make_model(ParallelTokens, kl_coef=0.1, critic_warmup_iterations=0, n_epochs=1, batch_size=16).learn(16)
    assert abs(model.logger.name_to_value["train/reference_kl"]) < 1e-6
    assert not any(name.startswith("value_head") for name in model.reference.names)


def test_it_is_saved_and_goes_on_as_if_nothing_had_happened(tmp_path):
    whole = make_model(checkpoint_folder=tmp_path / "run", checkpoint_interval=1, policy_kwargs={"width": 32})
    whole.learn(32)
    (tmp_path / "run" / "last.zip").rename(tmp_path / "last.zip")
    whole.learn(16, reset_num_timesteps=False)
    with pytest.raises(CheckpointError, match="policy_class"):
        TokenPPO.load(tmp_path / "last.zip")
    own = {"policy_class": SmallPolicy}
    resumed = TokenPPO.load(tmp_path / "last.zip", make_env(), "cpu", custom_objects=own)
    resumed.learn(16, reset_num_timesteps=False)
    pairs = zip(whole.policy.state_dict().values(), resumed.policy.state_dict().values(), strict=True)
    assert all(th.equal(one, other) for one, other in pairs)


def test_a_policy_is_saved_alone(tmp_path):
    policy = make_model().policy
    policy.save(tmp_path / "policy.pt")
    loaded = SmallPolicy.load(tmp_path / "policy.pt", device="cpu")
    obs = ToyLiberoEnv(image_size=48).reset(seed=0)[0]
    assert loaded.temperature == 1.2
    assert np.array_equal(*(each.predict(obs, deterministic=True)[0] for each in (loaded, policy)))


@pytest.mark.parametrize(
    ("policy", "setting", "message"),
    [
        (OneNumber, "ent_coef", r"ent_coef is 0\.1, but OneNumber has no entropies \(has_entropy is False\)\. Set ent"),
        (SmallPolicy, "kl_coef", r"kl_coef is 0\.1, but SmallPolicy has no distributions over all choices .*kl_coef=0"),
    ],
)
def test_settings_that_need_more_than_the_policy_has_are_refused(policy, setting, message):
    with pytest.raises(ActorError, match=message):
        make_model(policy, **{setting: 0.1})
    model = make_model(policy)
    with pytest.raises(ActorError, match=message):
        setattr(model, setting, 0.1)
    assert getattr(model, setting) == 0.0


def broken(**methods: Any) -> type:
    return type("Broken", (SmallPolicy,), methods)


def changed(method: str, **changes: Any) -> type:
    """A policy that gives something else in one field."""

    def replaced(self, *args, **kwargs):
        found = getattr(SmallPolicy, method)(self, *args, **kwargs)
        return found._replace(**{name: change(getattr(found, name)) for name, change in changes.items()})

    return broken(**{method: replaced})


@pytest.mark.parametrize(
    ("policy", "message"),
    [
        (
            changed("act", log_prob=lambda x: x.sum(1)),
            r"act gave log_prob of shape \(2,\) for 2 .*expected \(2, A\)",
        ),
        (changed("act", action=lambda x: x[0]), r"act gave action of shape \(14,\); expected \(2,\)"),
        (changed("act", values=lambda x: x[:, None]), r"act gave values of shape \(2, 1\); expected \(2,\)"),
        (changed("act", extras=lambda x: {}), r"act gave the extras \[\]; TokenPPO has a critic and needs 'critic_inp"),
        (changed("act", extras=lambda x: {"y": th.zeros(3)}), r"extras\['y'\] of shape \(3,\); expected \(2,\)"),
        (changed("score", log_prob=lambda x: x[:, :7]), r"score gave log_prob of shape \(8, 7\); expected \(8, 14\)"),
        (changed("score", entropy=lambda x: x.sum(1)), r"score gave entropy of shape \(8,\); expected \(8, 14\)"),
        (changed("score", entropy=lambda x: None), "score gave no entropy, but has_entropy is True"),
        (broken(action_mask=lambda self, n: n[:, None] > 0), r"action_mask gave shape \(2, 1\) for 2 .*\(2, 14\)"),
    ],
)
def test_what_a_policy_gives_is_checked(policy, message):
    with pytest.raises(ActorError, match=message):
        make_model(policy, critic_warmup_iterations=0).learn(16)


def test_policies_and_spaces_that_do_not_fit_are_refused():
    with pytest.raises(TypeError, match=r"not MultiInput.*derives from vla_algos\.policies\.ActorPolicy"):
        TokenPPO(MultiInputActorCriticPolicy, make_env())
    with pytest.raises(SpaceError, match=r'Action space is MultiDiscrete.*action_type="continuous"'):
        TokenPPO(SmallPolicy, ToyLiberoEnv())
    with pytest.raises(SpaceError, match="use_sde=True is for SB3's own policies"):
        PPO(SmallPolicy, make_env(), use_sde=True)
