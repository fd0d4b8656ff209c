import itertools
from functools import partial

import gymnasium as gym
import numpy as np
import pytest
import stable_baselines3.common.save_util
import torch as th
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.utils import LinearSchedule, obs_as_tensor
from stable_baselines3.common.vec_env import DummyVecEnv, VecEnvWrapper

from vla_algos import TokenPPO
from vla_algos.common.losses import clipped_value_loss
from vla_algos.curriculum import CurriculumCallback, SuccessSampler
from vla_algos.errors import TrainingDivergedError, UnknownNameError
from vla_algos.models import save_vla
from vla_gym.envs.toy_env import ToyLiberoEnv


def make_model(env, **kwargs):
    defaults = {"n_steps": 8, "batch_size": 8, "learning_rate": 1e-3, "critic_warmup_iterations": 0, "seed": 0}
    return TokenPPO("VLAPolicy", env, device="cpu", policy_kwargs={"vla": "nano"}, **{**defaults, **kwargs})


def parameters(model, prefix=""):
    return {name: p.detach().clone() for name, p in model.policy.named_parameters() if name.startswith(prefix)}


def equal(first, second):
    return all(th.equal(first[name], second[name]) for name in first)


class OnRolloutEnd(BaseCallback):
    """Calls a function with the buffer, before it is trained on, and keeps the infos of all steps."""

    def __init__(self, function):
        super().__init__()
        self.function = function
        self.infos = []

    def _on_step(self):
        self.infos.append(self.locals["infos"])
        return True

    def _on_rollout_end(self):
        self.function(self.model, self.model.rollout_buffer, self.infos)
        self.infos = []


@pytest.mark.parametrize("ratio_level", ["token", "action"])
def test_first_ratio_is_one(ratio_level, toy_vec_env):
    model = make_model(toy_vec_env(2, chunk_size=2), ratio_level=ratio_level)
    for _ in range(2):
        model.learn(16, reset_num_timesteps=False)
        assert model.logger.name_to_value["train/ratio_deviation"] < 1e-4
        # and the step that followed did move the policy, so the figure is not a constant
        assert model.logger.name_to_value["train/approx_kl"] > 1e-6


def test_ratio_deviation_sees_a_wrong_temperature(toy_vec_env):
    model = make_model(toy_vec_env(2))

    def change_temperature(model, buffer, infos):
        model.policy.temperature = 1.0

    model.learn(16, callback=OnRolloutEnd(change_temperature))
    assert model.logger.name_to_value["train/ratio_deviation"] > 1e-2


class Counting(gym.Wrapper):
    """Numbers all observations and remembers which action followed which number."""

    def __init__(self, env):
        super().__init__(env)
        self.count = 0
        self.actions = {}

    def _number(self, obs):
        self.count += 1
        obs["proprio"][1] = self.count
        return obs

    def reset(self, **kwargs):
        obs, info = self.env.reset(**kwargs)
        return self._number(obs), info

    def step(self, action):
        self.actions[self.count] = action.copy()
        obs, *rest = self.env.step(action)
        return self._number(obs), *rest


def test_stored_observations_are_those_that_were_acted_on():
    envs = [Counting(ToyLiberoEnv(horizon=3)) for _ in range(2)]
    compared = 0

    def compare(model, buffer, infos):
        nonlocal compared
        for i, env in enumerate(envs):
            for step in range(buffer.buffer_size):
                number = int(buffer.observations["proprio"][step, i, 1])
                assert np.array_equal(env.actions[number], buffer.actions[step, i])
                compared += 1

    model = make_model(DummyVecEnv([lambda env=env: env for env in envs]))
    model.learn(32, callback=OnRolloutEnd(compare))
    assert compared == 32


@pytest.mark.parametrize("time_limit", ["bootstrap", "terminal"])
def test_time_limits_are_worth_what_the_keyword_says(time_limit):
    """Every episode lasts one step, so each reward is 1 (success), or what the limit is worth."""
    values, logged = [], []

    def compare(model, buffer, infos):
        for step in range(buffer.buffer_size):
            for i in range(buffer.n_envs):
                info = infos[step][i]
                if info["is_success"]:
                    expected = 1.0
                else:
                    assert info["TimeLimit.truncated"]
                    obs, _ = model.policy.obs_to_tensor(info["terminal_observation"])
                    assert obs["proprio"][0, 0] == 1.0
                    values.append(model.policy.predict_values(obs).item())
                    assert abs(values[-1]) > 1e-4
                    expected = 0.9 * values[-1] if time_limit == "bootstrap" else 0.0
                assert buffer.rewards[step, i] == pytest.approx(expected, abs=1e-5)
                # nothing flows over the end of an episode
                advantage = buffer.rewards[step, i] - buffer.values[step, i]
                assert buffer.advantages[step, i] == pytest.approx(advantage, abs=1e-5)
        logged.append(model.logger.name_to_value["rollout/value_at_limit"])

    env = DummyVecEnv([partial(ToyLiberoEnv, horizon=1)] * 2)
    make_model(env, gamma=0.9, time_limit=time_limit).learn(16, callback=OnRolloutEnd(compare))
    assert len(values) > 4 and logged == [pytest.approx(np.mean(values), abs=1e-5)]


def test_mask_holds_the_commands_that_ran(toy_vec_env):
    seen = set()

    def compare(model, buffer, infos):
        for step in range(buffer.buffer_size):
            for i in range(buffer.n_envs):
                executed = infos[step][i]["executed_steps"]
                seen.add(executed)
                assert buffer.token_mask[step, i].tolist() == [True] * 7 * executed + [False] * 7 * (2 - executed)

    model = make_model(toy_vec_env(2, chunk_size=2, horizon=3))
    model.learn(32, callback=OnRolloutEnd(compare))
    assert seen == {1, 2}


def test_user_callbacks_of_every_kind_still_run(toy_vec_env):
    calls = []
    stop = OnRolloutEnd(lambda *_: calls.append("object"))
    make_model(toy_vec_env(2)).learn(16, callback=stop)
    make_model(toy_vec_env(2)).learn(16, callback=[stop])
    model = make_model(toy_vec_env(2)).learn(16, callback=lambda *_: calls.append("function") or False)
    assert calls == ["object", "object", "function"] and model.num_timesteps == 2


def test_same_seed_gives_the_same_bits(toy_vec_env):
    runs = [parameters(make_model(toy_vec_env(2), n_epochs=2).learn(32)) for _ in range(2)]
    assert equal(*runs)
    assert not equal(runs[0], parameters(make_model(toy_vec_env(2), n_epochs=2, seed=1).learn(32)))


def test_critic_warmup_leaves_the_actor_alone(toy_vec_env):
    model = make_model(toy_vec_env(2), critic_warmup_iterations=2)
    actor_names = set(parameters(model)) - set(parameters(model, "vla.value_head"))
    start = parameters(model)
    model.learn(32)
    warm = parameters(model)
    assert all(th.equal(start[name], warm[name]) for name in actor_names)
    assert not th.equal(start["vla.value_head.fc1.weight"], warm["vla.value_head.fc1.weight"])
    assert model.logger.name_to_value["train/is_critic_warmup"] == 1
    model.learn(16, reset_num_timesteps=False)
    assert not th.equal(warm["vla.projector.fc1.weight"], parameters(model)["vla.projector.fc1.weight"])
    assert model.logger.name_to_value["train/is_critic_warmup"] == 0


@pytest.mark.parametrize("ratio_level", ["token", "action"])
def test_micro_batches_give_the_gradient_of_the_minibatch(ratio_level, toy_vec_env):
    gradients = []
    for size in (None, 3):
        model = make_model(
            toy_vec_env(2, chunk_size=2, horizon=3),
            batch_size=16,
            micro_batch_size=size,
            ratio_level=ratio_level,
            ent_coef=0.1,
            max_grad_norm=1e9,
        )
        model._step = lambda loss: None
        model.learn(16)
        gradients.append({name: p.grad for name, p in model.policy.named_parameters() if p.grad is not None})
    assert gradients[0].keys() == gradients[1].keys() and gradients[0]
    for name, gradient in gradients[0].items():
        assert th.allclose(gradient, gradients[1][name], atol=1e-6, rtol=1e-3), name
    assert any(gradient.abs().max() > 1e-3 for gradient in gradients[0].values())


def test_non_finite_updates_are_skipped_and_counted(toy_vec_env, monkeypatch):
    model = make_model(toy_vec_env(2))
    start = parameters(model)
    score = model.policy.score

    def not_a_number(*args):
        scores = score(*args)
        return scores._replace(log_prob=scores.log_prob * float("nan"))

    monkeypatch.setattr(model.policy, "score", not_a_number)
    model.learn(16)
    assert equal(start, parameters(model))
    assert model.logger.name_to_value["train/skipped_updates"] == 2


def test_target_kl_stops_before_the_step(toy_vec_env):
    model = make_model(toy_vec_env(2), target_kl=1e-9, n_epochs=5)
    model.learn(16)
    # the first minibatch has ratio 1 and passes, the second stops
    assert model.logger.name_to_value["train/early_stop_epoch"] == 0
    assert {int(s["step"]) for s in model.policy.optimizer.state.values()} == {1}


def test_a_loss_that_is_not_finite_is_no_early_stop(toy_vec_env):
    """Ratios that overflow have an infinite KL too, which must not pass for one that is too large."""

    def overflow(model, buffer, infos):
        buffer.log_probs -= 200.0
        buffer.advantages[:] = -1.0

    model = make_model(toy_vec_env(2), target_kl=0.01, normalize_advantage=False)
    model.learn(16, callback=OnRolloutEnd(overflow))
    assert model.logger.name_to_value["train/skipped_updates"] == 2
    assert "train/early_stop_epoch" not in model.logger.name_to_value
    with pytest.raises(TrainingDivergedError, match="updates of the actor in a row"):
        model.learn(16, callback=OnRolloutEnd(overflow), reset_num_timesteps=False)


@pytest.mark.parametrize("detach_value", [True, False])
def test_values_are_clipped_around_those_of_the_roll_out(detach_value, toy_vec_env, monkeypatch):
    calls = []

    def spy(values, old_values, returns, clip_range, *args):
        calls.append((set(old_values.tolist()), set(returns.tolist()), clip_range))
        return clipped_value_loss(values, old_values, returns, clip_range, *args)

    def remember(model, buffer, infos):
        stored.update(buffer.values.flatten().tolist()), returns.update(buffer.returns.flatten().tolist())

    stored, returns = set(), set()
    monkeypatch.setattr("vla_algos.algorithms.token_ppo.clipped_value_loss", spy)
    model = make_model(toy_vec_env(2), clip_range_vf=lambda progress: 0.5 + progress, critic_epochs=1)
    model.policy.vla.detach_value = detach_value
    model.learn(32, callback=OnRolloutEnd(remember))
    assert len(calls) == 4 and all(old <= stored and target <= returns for old, target, _ in calls)
    assert [clip_range for *_, clip_range in calls] == [1.0, 1.0, 0.5, 0.5]


class ShapedReward(VecEnvWrapper):
    """A reward of its own, which says nothing about success."""

    def reset(self):
        return self.venv.reset()

    def step_wait(self):
        obs, rewards, dones, infos = self.venv.step_wait()
        return obs, np.full_like(rewards, -3.5), dones, infos


def test_a_reward_is_not_taken_for_success(toy_vec_env):
    outcomes, seen = [], []

    def check(model, buffer, infos):
        seen.append(set(np.unique(buffer.rewards)))
        outcomes.extend(info["is_success"] for step in infos for info in step if "episode" in info)

    sampler = SuccessSampler(itertools.product(range(2), range(8)))
    model = make_model(ShapedReward(toy_vec_env(2, horizon=1)), gamma=0.0)
    model.learn(48, callback=[OnRolloutEnd(check), CurriculumCallback(sampler)])
    assert seen == [{-3.5}] * 3
    assert 0 < sum(outcomes) < len(outcomes) == 48 == sampler.n_episodes
    # what rollout/success_rate is the mean of
    assert list(model.ep_success_buffer) == outcomes
    assert sum(successes for successes, _ in sampler.task_counts().values()) == sum(outcomes)


def test_value_learning_rate_is_its_own(toy_vec_env):
    model = make_model(toy_vec_env(2), learning_rate=lambda progress: progress, value_learning_rate=0.25)
    model.learn(32)
    # the last update of a run has no progress remaining
    assert {g["name"]: g["lr"] for g in model.policy.optimizer.param_groups} == {"actor": 0.0, "value": 0.25}


def test_saved_model_predicts_the_same_and_goes_on(tmp_path, toy_vec_env):
    model = make_model(toy_vec_env(2), temperature=1.2, value_learning_rate=LinearSchedule(1e-3, 0.0, 1.0))
    model.learn(16)
    model.save(tmp_path / "model")
    assert [p.name for p in tmp_path.iterdir()] == ["model.zip"]
    env = toy_vec_env(3)
    loaded = TokenPPO.load(tmp_path / "model", env=env, device="cpu")
    assert equal(parameters(model), parameters(loaded))
    assert loaded.policy.temperature == 1.2
    obs = env.reset()
    assert np.array_equal(model.predict(obs, deterministic=True)[0], loaded.predict(obs, deterministic=True)[0])
    single, _ = ToyLiberoEnv().reset(seed=0)
    expected, _ = model.predict(single, deterministic=True)
    assert np.array_equal(
        TokenPPO.load(tmp_path / "model.zip", device="cpu").predict(single, deterministic=True)[0], expected
    )
    loaded.learn(24)
    assert loaded.num_timesteps == 24


def test_interrupted_save_keeps_the_earlier_file(tmp_path, toy_vec_env, monkeypatch):
    model = make_model(toy_vec_env(2))
    model.save(tmp_path / "model.zip")
    earlier = (tmp_path / "model.zip").read_bytes()

    def full_disk(*args, **kwargs):
        raise OSError("No space left on device")

    monkeypatch.setattr(stable_baselines3.common.save_util.th, "save", full_disk)
    with pytest.raises(OSError, match="No space left"):
        model.save(tmp_path / "model.zip")
    assert [p.name for p in tmp_path.iterdir()] == ["model.zip"]
    assert (tmp_path / "model.zip").read_bytes() == earlier


def test_wrong_arguments_are_named(toy_vec_env):
    with pytest.raises(ValueError, match=r"ratio_level 'step'. Valid: token, action"):
        make_model(toy_vec_env(1), ratio_level="step")
    with pytest.raises(UnknownNameError, match=r"time_limit 'ignore'. Valid: bootstrap, terminal"):
        make_model(toy_vec_env(1), time_limit="ignore")
    with pytest.raises(ValueError, match="Pass temperature to TokenPPO"):
        TokenPPO("VLAPolicy", toy_vec_env(1), policy_kwargs={"vla": "nano", "temperature": 1.0})


def test_bare_env_works():
    make_model(ToyLiberoEnv(image_size=32), n_steps=8).learn(8)


def test_values_have_no_gradient_into_the_image_when_detached(toy_vec_env):
    model = make_model(toy_vec_env(1))
    model.policy.vla.detach_value = True
    obs = obs_as_tensor(model.env.reset(), "cpu")
    model.policy.predict_values(obs).sum().backward()
    with_gradient = {name for name, p in model.policy.named_parameters() if p.grad is not None}
    assert with_gradient == set(parameters(model, "vla.value_head"))


def test_a_moved_checkpoint_can_be_named_at_load(tmp_path, toy_vec_env):
    save_vla(make_model(toy_vec_env(1)).policy.vla, tmp_path / "vla")
    model = TokenPPO("VLAPolicy", toy_vec_env(1), policy_kwargs={"vla": str(tmp_path / "vla")}, device="cpu")
    model.save(tmp_path / "model")
    (tmp_path / "vla").rename(tmp_path / "moved")
    with pytest.raises(UnknownNameError, match="There is no such checkpoint folder"):
        TokenPPO.load(tmp_path / "model", device="cpu")
    replaced = {"policy_kwargs": {"vla": str(tmp_path / "moved")}}
    loaded = TokenPPO.load(tmp_path / "model", device="cpu", custom_objects=replaced)
    assert equal(parameters(model), parameters(loaded))
