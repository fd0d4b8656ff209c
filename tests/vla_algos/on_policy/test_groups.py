"""Groups share their start, advantages are those of the papers, and groups that say nothing are left out."""

import gymnasium as gym
import numpy as np
import pytest
import torch as th
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.env_util import make_vec_env

from vla_algos import TPO, TokenGRPO, TokenRLOO
from vla_algos.errors import UnknownNameError
from vla_algos.on_policy.episodes import SampledEpisode
from vla_gym.envs.toy_env import ToyLiberoEnv


class Fixed(gym.Wrapper):
    """Every step fails, or succeeds, whatever is done; the reward may be anything."""

    def __init__(self, env, is_success, reward=0.0):
        super().__init__(env)
        self.is_success, self.reward = is_success, reward

    def step(self, action):
        obs, _, _, truncated, info = self.env.step(action)
        done = self.is_success or truncated
        return obs, self.reward, self.is_success, done and not self.is_success, {**info, "is_success": self.is_success}


def toy(**kwargs):
    return ToyLiberoEnv(**{"image_size": 32, "horizon": 3, **kwargs})


def make_model(algorithm=TokenGRPO, make_env=toy, n_envs=4, **kwargs):
    defaults = {"group_size": 4, "n_groups": 2, "learning_rate": 1e-3, "seed": 0, "policy_kwargs": {"vla": "nano"}}
    return algorithm("VLAPolicy", make_vec_env(make_env, n_envs), device="cpu", **{**defaults, **kwargs})


class Keep(BaseCallback):
    """Keeps the infos of all steps and counts calls."""

    def __init__(self):
        super().__init__()
        self.starts, self.episodes = [], 0

    def _on_step(self):
        infos, dones = self.locals["infos"], self.locals["dones"]
        self.starts += [
            (info["task_id"], info["init_state_id"]) for info, done in zip(infos, dones, strict=True) if done
        ]
        return True

    def _on_rollout_end(self):
        self.episodes += 1


@pytest.mark.parametrize("algorithm", [TokenGRPO, TokenRLOO, TPO])
def test_episodes_of_a_group_have_the_same_start(algorithm):
    model, keep = make_model(algorithm, n_envs=4, group_size=4, n_groups=3), Keep()
    model.learn(1, callback=keep)
    assert keep.episodes == 1 and len(keep.starts) == 12
    groups = [set(keep.starts[i : i + 4]) for i in (0, 4, 8)]
    assert all(len(group) == 1 for group in groups)
    assert len(set.union(*groups)) > 1
    assert [episode.group for episode in model.rollout_buffer.episodes] == [0] * 4 + [1] * 4 + [2] * 4
    # decisions of ended episodes are not counted
    assert model.num_timesteps == sum(len(episode.rows) for episode in model.rollout_buffer.episodes)


def test_rows_belong_to_their_episode():
    model = make_model(n_envs=2, group_size=2, n_groups=3)
    model.learn(1)
    buffer = model.rollout_buffer
    rows = sorted(row for episode in buffer.episodes for row in episode.rows)
    assert rows == list(range(len(buffer.actions)))
    for episode in buffer.episodes:
        samples = buffer.samples(np.array(episode.rows))
        # the toy task tells the share of the horizon that has passed, and ends at success or after three steps
        th.testing.assert_close(samples.observations["proprio"][:, 0], th.arange(len(episode.rows)) / 3)
        assert len({text.numpy().tobytes() for text in samples.observations["instruction"]}) == 1
        assert episode.rewards == [0.0] * (len(episode.rows) - 1) + [float(episode.is_success)]
        assert episode.is_success or len(episode.rows) == 3


def test_advantages():
    returns = np.array([1.0, 0.0, 0.0, 3.0])
    grpo = make_model(n_envs=1)
    np.testing.assert_allclose(grpo._advantages(returns), (returns - 1.0) / np.sqrt(1.5), rtol=1e-5)
    grpo.normalize_advantage = False
    np.testing.assert_allclose(grpo._advantages(returns), returns - 1.0)
    rloo = make_model(TokenRLOO, n_envs=1)._advantages(returns)
    np.testing.assert_allclose(rloo, [1.0 - 1.0, 0.0 - 4 / 3, 0.0 - 4 / 3, 3.0 - 1 / 3])
    assert SampledEpisode(0, rewards=[1.0, 0.0, 4.0]).discounted_return(0.5) == 2.0


@pytest.mark.parametrize("algorithm", [TokenGRPO, TokenRLOO, TPO])
@pytest.mark.parametrize(("is_success", "kind"), [(True, "all_succeed"), (False, "all_alike")])
def test_groups_that_say_nothing_move_nothing(algorithm, is_success, kind):
    model = make_model(algorithm, lambda: Fixed(toy(), is_success, reward=float(is_success)))
    before = {name: p.detach().clone() for name, p in model.policy.named_parameters()}
    model.learn(1)
    assert all(th.equal(p, before[name]) for name, p in model.policy.named_parameters())
    figures = model.logger.name_to_value
    if algorithm is TPO:
        assert figures["train/pairs"] == 0
    else:
        assert (figures["train/groups_kept"], figures[f"train/groups_{kind}"]) == (0, 2)


@pytest.mark.parametrize("algorithm", [TokenGRPO, TokenRLOO])
def test_rewards_that_are_not_success_are_learned_from(algorithm):
    """A dense reward that never ends an episode with success."""

    class Dense(gym.Wrapper):
        def step(self, action):
            obs, _, terminated, truncated, info = self.env.step(action)
            return obs, float(action[0]) / 255 - 0.3, False, terminated or truncated, {**info, "is_success": False}

    model = make_model(algorithm, lambda: Dense(toy()))
    before = model.policy.vla.language_model.lm_head.weight.detach().clone()
    model.learn(1)
    assert model.logger.name_to_value["train/groups_kept"] == 2
    assert not th.equal(before, model.policy.vla.language_model.lm_head.weight)


@pytest.mark.parametrize("algorithm", [TokenGRPO, TokenRLOO, TPO])
def test_micro_batches_change_nothing(algorithm):
    steps = []
    for size in (3, 64):
        model = make_model(algorithm, micro_batch_size=size, policy_kwargs={"vla": "nano", "seed": 1}, n_groups=4)
        model.policy.optimizer = th.optim.SGD(
            [{"params": group["params"], "name": group["name"]} for group in model.policy.optimizer.param_groups], 1e-2
        )
        model.learn(1)
        steps.append({name: p.detach() for name, p in model.policy.named_parameters()})
    moved = make_model(policy_kwargs={"vla": "nano", "seed": 1})
    assert any(not th.equal(p, steps[0][name]) for name, p in moved.policy.named_parameters())
    for name, p in steps[0].items():
        th.testing.assert_close(p, steps[1][name], atol=1e-6, rtol=1e-5)


def test_first_ratio_is_one():
    model = make_model(n_groups=4)
    model.learn(1)
    assert model.logger.name_to_value["train/ratio_deviation"] < 1e-4


@pytest.mark.parametrize("reference", ["behaviour", "start"])
def test_preference_learning_separates_the_pairs_it_is_shown(reference):
    model = make_model(TPO, group_size=8, n_groups=4, n_epochs=1, learning_rate=0.0, reference_policy=reference)
    model.learn(1)
    pairs = model._pairs()
    assert pairs and all(one.is_success and not other.is_success and one.group == other.group for one, other in pairs)
    model._remember_scores()  # of all episodes, as these pairs are drawn anew
    before = model._accumulate_pairs(pairs)
    assert before["loss"] == pytest.approx(np.log(2.0), abs=1e-5)  # policy and reference are one
    model.policy.optimizer.zero_grad()
    for group in model.policy.optimizer.param_groups:
        group["lr"] = 1e-3
    for _ in range(20):
        figures = model._accumulate_pairs(pairs)
        model.policy.optimizer.step()
        model.policy.optimizer.zero_grad()
    assert figures["loss"] < 0.6 and figures["preference_accuracy"] > 0.7


@pytest.mark.parametrize("algorithm", [TokenGRPO, TokenRLOO])
def test_a_step_makes_better_episodes_likelier(algorithm):
    model = make_model(algorithm, n_groups=4, group_size=8, batch_size=10_000, learning_rate=1e-3)
    model.learn(1)
    buffer = model.rollout_buffer
    samples = buffer.samples(model._rows)
    with th.no_grad():
        gain = (model._evaluate(samples)[1] - samples.old_log_prob).sum(dim=1)
    better, worse = gain[samples.advantages > 0], gain[samples.advantages < 0]
    assert len(better) and len(worse) and better.mean() > worse.mean()


def test_episodes_of_broken_environments_say_nothing():
    class Broken(gym.Wrapper):
        def step(self, action):
            obs, reward, terminated, truncated, info = self.env.step(action)
            return obs, reward, terminated, truncated, {**info, "worker_restarted": terminated or truncated}

    for algorithm in (TokenGRPO, TPO):
        model = make_model(algorithm, lambda: Broken(toy()), n_groups=4)
        model.learn(1)
        assert model._groups() == []


def test_a_stopped_run_goes_on_with_the_same_bits(tmp_path):
    def learn(folder, n, **kwargs):
        model = make_model(checkpoint_folder=folder, checkpoint_interval=1, n_groups=4, **kwargs)
        return model.learn(n)

    whole = learn(tmp_path / "whole", 60)
    learn(tmp_path / "stopped", 1)
    stopped = TokenGRPO.load(tmp_path / "stopped" / "last.zip", env=make_vec_env(toy, 4), device="cpu")
    stopped.learn(60 - stopped.num_timesteps, reset_num_timesteps=False)
    assert stopped.num_timesteps == whole.num_timesteps > 60
    assert all(th.equal(p, q) for p, q in zip(stopped.policy.parameters(), whole.policy.parameters(), strict=True))


def test_wrong_arguments_are_named():
    with pytest.raises(ValueError, match="group_size is 1"):
        make_model(group_size=1)
    with pytest.raises(ValueError, match="n_groups is 0"):
        make_model(n_groups=0)
    with pytest.raises(ValueError, match="checkpoint_interval is 0"):
        make_model(checkpoint_interval=0)
    with pytest.raises(UnknownNameError, match=r"reference_policy 'begin'.*behaviour, start"):
        make_model(TPO, reference_policy="begin")
    with pytest.raises(ValueError, match=r"2 groups of 4 episodes cannot be shared evenly by 3 environments"):
        make_model(n_envs=3)


def test_the_reference_of_preferences_is_as_old_as_asked_for():
    models = {
        name: make_model(TPO, n_groups=4, learning_rate=1e-3, reference_policy=name) for name in ("behaviour", "start")
    }
    losses = {name: [] for name in models}
    for name, model in models.items():
        assert (model.reference is None) == (name == "behaviour")
        model.learn(1)
        model.lr_schedule = lambda _: 0.0
        model.learn(1, reset_num_timesteps=False)
        losses[name] = model.logger.name_to_value.get("train/loss")
    # after an update the policy of the next roll-out is its own reference, and not that of the start any more
    assert losses["behaviour"] == pytest.approx(np.log(2.0), abs=1e-4)
    assert losses["start"] != pytest.approx(np.log(2.0), abs=1e-3)


def test_a_saved_run_goes_on(tmp_path):
    model = make_model(TPO, n_groups=4, reference_policy="start")
    model.learn(1)
    model.save(tmp_path / "model")
    loaded = TPO.load(tmp_path / "model", env=make_vec_env(toy, 4), device="cpu")
    for one, other in zip(model.reference.buffers(), loaded.reference.buffers(), strict=True):
        assert th.equal(one, other)
    loaded.learn(1, reset_num_timesteps=False)
    assert loaded.num_timesteps > model.num_timesteps
    # what it is compared with may be changed, in either direction
    env = make_vec_env(toy, 4)
    changed = TPO.load(tmp_path / "model", env=env, device="cpu", reference_policy="behaviour")
    assert changed.reference is None
    changed.save(tmp_path / "changed")
    again = TPO.load(tmp_path / "changed", env=env, device="cpu", reference_policy="start")
    assert again.reference is not None
