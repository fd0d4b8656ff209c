"""Groups share their start, advantages are those of the papers, and groups that say nothing are left out."""

import gymnasium as gym
import numpy as np
import pytest
import torch as th
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.vec_env import VecMonitor

from vla_algos import TPO, TokenGRPO, TokenRLOO
from vla_algos.algorithms.episodes import EpisodeBuffer, SampledEpisode, aligned_rewards_to_go, has_spread
from vla_algos.algorithms.updates import Update
from vla_algos.common.divergence import SkippedUpdates
from vla_algos.common.losses import token_ppo_loss
from vla_algos.common.vec_env import SB3VecEnv
from vla_algos.errors import RemovedKeywordError, UnknownNameError
from vla_gym.envs.toy_env import ToyLiberoEnv
from vla_gym.vector import vector_env_class


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
        self.figures = dict(self.model.logger.name_to_value)


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
    np.testing.assert_allclose(grpo._advantages(returns), (returns - 1.0) / np.sqrt(1.5), rtol=1e-12)
    grpo.normalize_advantage = False
    np.testing.assert_allclose(grpo._advantages(returns), returns - 1.0)
    rloo = make_model(TokenRLOO, n_envs=1)._advantages(returns)
    np.testing.assert_allclose(rloo, [1.0 - 1.0, 0.0 - 4 / 3, 0.0 - 4 / 3, 3.0 - 1 / 3])
    assert SampledEpisode(0, rewards=[1.0, 0.0, 4.0]).discounted_return(0.5) == 2.0


def test_returns_that_differ_by_noise_are_not_scaled_up():
    grpo = make_model(n_envs=1)
    noise = np.array([0.01, -0.01, 0.01, -0.01])
    np.testing.assert_allclose(grpo._advantages(5.0 + noise), noise / 0.1, rtol=1e-9)  # 1 without a floor
    # one success among ninety is not touched by the default
    rare = np.eye(1, 90).ravel()
    np.testing.assert_allclose(grpo._advantages(rare)[0], np.sqrt(89))
    grpo.std_floor = 0.001
    np.testing.assert_allclose(grpo._advantages(5.0 + noise), noise / 0.01, rtol=1e-9)
    with pytest.raises(ValueError, match=r"std_floor is 0\.0; expected a number above 0, in units of the return"):
        make_model(std_floor=0.0)


def episodes_of(*rewards):
    """Episodes of one group, whose decisions lie one after the other in a buffer."""
    firsts = np.cumsum([0, *map(len, rewards)])
    return [SampledEpisode(0, list(range(a, a + len(r))), list(r)) for a, r in zip(firsts, rewards, strict=False)]


def test_rewards_to_go_are_returns_from_each_decision():
    np.testing.assert_allclose(SampledEpisode(0, rewards=[1.0, 0.0, 4.0]).rewards_to_go(0.5), [2.0, 2.0, 4.0])
    assert SampledEpisode(0, rewards=[3.0]).rewards_to_go(0.5).tolist() == [3.0]
    # side by side up to where only the longest goes on
    table = aligned_rewards_to_go(episodes_of([1.0], [0.0, 2.0, 5.0, 7.0], [1.0, 1.0]), 1.0)
    np.testing.assert_array_equal(table, [[1.0, np.nan], [14.0, 14.0], [2.0, 1.0]])
    assert aligned_rewards_to_go(episodes_of([1.0, 2.0]), 1.0).shape == (1, 0)


def test_advantages_of_decisions_compare_those_that_run_at_the_same_time():
    returns = np.array([[1.0, np.nan], [14.0, 14.0], [2.0, 1.0]])
    rloo = make_model(TokenRLOO, n_envs=1, credit="decision")._decision_advantages(returns)
    np.testing.assert_allclose(rloo, [[1 - 8.0, np.nan], [14 - 1.5, 14 - 1.0], [2 - 7.5, 1 - 14.0]])
    grpo = make_model(n_envs=1, credit="decision")
    differences = np.array([[1 - 17 / 3, np.nan], [14 - 17 / 3, 6.5], [2 - 17 / 3, -6.5]])
    std = np.sqrt(np.nansum(differences**2) / 5)
    np.testing.assert_allclose(grpo._decision_advantages(returns), differences / std)
    np.testing.assert_allclose(grpo._decision_advantages(returns / 1e4), differences / 1e4 / 0.1)  # the floor
    grpo.normalize_advantage = False
    np.testing.assert_allclose(grpo._decision_advantages(returns), differences)


@pytest.mark.parametrize("algorithm", [TokenGRPO, TokenRLOO])
def test_with_a_reward_at_the_end_of_episodes_of_one_length_both_credits_are_the_same(algorithm):
    model = make_model(algorithm, n_envs=1)
    ends = np.array([1.0, 0.0, 0.0, 3.0])
    table = aligned_rewards_to_go(episodes_of(*([0.0, 0.0, end] for end in ends)), 1.0)
    expected = np.repeat(model._advantages(ends)[:, None], 3, axis=1)
    np.testing.assert_allclose(model._decision_advantages(table), expected, rtol=1e-12)


def test_what_a_failure_does_after_the_last_success_is_not_blamed():
    model = make_model(TokenRLOO, n_envs=1)
    table = aligned_rewards_to_go(episodes_of([0.0, 1.0], [0.0] * 5, [0.0] * 5), 1.0)
    advantages = model._decision_advantages(table)
    np.testing.assert_allclose(advantages[0, :2], 1.0)
    np.testing.assert_allclose(advantages[1:, :2], -0.5)
    np.testing.assert_allclose(advantages[1:, 2:], 0.0)


def test_a_dense_reward_blames_the_decision_that_was_bad():
    """Two episodes that reach as far; one loses in its second decision what it wins back in its third."""
    model = make_model(TokenRLOO, n_envs=1)
    group = episodes_of([0.25, 0.25, 0.25], [0.25, -0.25, 0.75])
    assert not has_spread(group, 1.0) and has_spread(group, 1.0, "decision")
    advantages = model._decision_advantages(aligned_rewards_to_go(group, 1.0))
    # before and at the detour both have the same to come; after it, the one has more
    np.testing.assert_allclose(advantages, [[0.0, 0.0, -0.5], [0.0, 0.0, 0.5]], atol=1e-12)


def test_spread_of_decisions():
    assert not has_spread(episodes_of([1.0, 0.0]), 1.0, "decision")
    assert not has_spread(episodes_of([1.0, 0.0], [1.0, 0.0, 0.0]), 1.0, "decision")
    # what the longest does alone is compared with nothing
    assert not has_spread(episodes_of([0.0, 1.0], [0.0, 0.0, 1.0]), 1.0, "decision")
    assert has_spread(episodes_of([0.0, 1.0], [0.0, 0.0, 1.0]), 0.5, "decision")


def test_decisions_get_their_own_advantage_in_the_buffer_and_those_without_are_not_learned_from():
    buffer, group = EpisodeBuffer(0, None, None), episodes_of([0.0], [0.0, 0.0, 0.0], [0.0, 0.0])
    buffer.advantages = th.full((6,), 9.0)
    rows = buffer.set_advantages(group, np.array([[1.0, np.nan], [2.0, 3.0], [4.0, 5.0]]))
    assert rows == [0, 1, 2, 4, 5] and buffer.advantages.tolist() == [1.0, 2.0, 3.0, 9.0, 4.0, 5.0]


@pytest.mark.parametrize("algorithm", [TokenGRPO, TokenRLOO])
def test_a_run_learns_from_what_follows_each_decision(algorithm):
    """A reward for the first decision alone teaches nothing about later ones."""

    class First(gym.Wrapper):
        def reset(self, **kwargs):
            self.n_steps = 0
            return self.env.reset(**kwargs)

        def step(self, action):
            obs, _, _, _, info = self.env.step(action)
            self.n_steps += 1
            reward = float(action[0]) / 255 if self.n_steps == 1 else 0.0
            return obs, reward, False, self.n_steps == 3, {**info, "is_success": False}

    for credit, later in (("episode", False), ("decision", True)):
        model = make_model(algorithm, lambda: First(toy()), credit=credit)
        model.learn(1)
        assert model.logger.name_to_value["train/groups_kept"] == 2
        advantages = model.rollout_buffer.advantages
        for episode in model.rollout_buffer.episodes:
            own = advantages[episode.rows]
            assert own[0] != 0 and bool((own[1:] == 0).all()) == later
            assert later or own.unique().numel() == 1


def test_credit_is_kept_and_an_unknown_one_is_refused(tmp_path):
    model = make_model(credit="decision")
    model.save(tmp_path / "model.zip")
    assert TokenGRPO.load(tmp_path / "model.zip", device="cpu").credit == "decision"
    with pytest.raises(UnknownNameError, match=r"Unknown credit 'decisions'\. Did you mean 'decision'"):
        model.credit = "decisions"
    with pytest.raises(UnknownNameError, match="Unknown credit 'token'"):
        make_model(TokenRLOO, credit="token")
    with pytest.raises(TypeError, match="TPO has no keyword 'credit'"):
        make_model(TPO, credit="decision")


def test_each_side_has_its_own_clip():
    clips = []

    def remember(*args):
        clips.append((args[4], args[7]))
        return token_ppo_loss(*args)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("vla_algos.algorithms.token_grpo.token_ppo_loss", remember)
        for kwargs in ({}, {"clip_range_high": None}, {"clip_range": 0.1, "clip_range_high": lambda progress: 0.5}):
            make_model(n_groups=4, **kwargs).learn(1)
    assert sorted(set(clips), key=str) == [(0.1, 0.5), (0.2, 0.28), (0.2, None)]
    with pytest.raises(ValueError, match=r"clip_range_high is 0; expected a number above 0, or None for clip_range"):
        make_model(clip_range_high=0)


class Scripted(gym.Wrapper):
    """Three steps per episode; episodes of roll-outs end with the outcomes given, later ones fail."""

    def __init__(self, env, outcomes=()):
        super().__init__(env)
        self.outcomes = list(outcomes)

    def reset(self, **kwargs):
        # starts are drawn without options
        self.is_success = bool(kwargs.get("options") and self.outcomes and self.outcomes.pop(0))
        self.n_steps = 0
        return self.env.reset(**kwargs)

    def step(self, action):
        obs, _, _, _, info = self.env.step(action)
        self.n_steps += 1
        done = self.n_steps == 3
        is_success = done and self.is_success
        return obs, float(is_success), is_success, done and not is_success, {**info, "is_success": is_success}


@pytest.mark.parametrize("rounds", [0, 1, 3])
def test_groups_without_spread_are_drawn_again_a_bounded_number_of_times(rounds):
    model, keep = make_model(make_env=lambda: Scripted(toy()), resampling_rounds=rounds), Keep()
    model.learn(1, callback=keep)
    # two groups of four in each round, three decisions each
    assert len(keep.starts) == 8 * (1 + rounds) and model.num_timesteps == 24 * (1 + rounds)
    assert keep.figures.get("rollout/resampling_rounds", 0) == rounds
    assert keep.figures.get("rollout/resampled_groups", 0) == 2 * rounds
    assert model.logger.name_to_value["train/groups_all_alike"] == 2
    # only the last ones are kept
    assert len(model.rollout_buffer.episodes) == 8 and len(model.rollout_buffer.actions) == 24
    with pytest.raises(ValueError, match=r"resampling_rounds is -1; expected 0 \(never\) or more"):
        make_model(resampling_rounds=-1)


def test_groups_with_spread_are_kept_when_others_are_drawn_again():
    # one environment rolls out the groups one after the other: episodes 1, 2; 3, 4 with spread; then 5, 6
    model = make_model(make_env=lambda: Scripted(toy(), [0, 0, 0, 1, 0, 1]), n_envs=1, group_size=2, n_groups=2)
    keep = Keep()
    model.learn(1, callback=keep)
    buffer = model.rollout_buffer
    assert [(e.group, e.is_success) for e in buffer.episodes] == [(1, False), (1, True), (0, False), (0, True)]
    assert [e.rows for e in buffer.episodes] == [[0, 1, 2], [3, 4, 5], [6, 7, 8], [9, 10, 11]]
    for episode in buffer.episodes:
        shown = buffer.samples(np.array(episode.rows)).observations
        th.testing.assert_close(shown["proprio"][:, 0], th.arange(3) / 3)
    assert keep.figures["rollout/resampled_groups"] == keep.figures["rollout/resampling_rounds"] == 1
    assert model.logger.name_to_value["train/groups_kept"] == 2


def test_more_environments_than_episodes_to_draw_again():
    model = make_model(make_env=lambda: Scripted(toy()), n_envs=4, group_size=2, n_groups=2, resampling_rounds=1)
    model.learn(1)
    assert len(model.rollout_buffer.episodes) == 4 and model.num_timesteps == 24


def test_decisions_of_discarded_groups_leave_the_buffer():
    buffer = EpisodeBuffer(0, None, None)
    episodes = [SampledEpisode(group) for group in (0, 1, 2)]
    for step, going in enumerate(([0, 1, 2], [1, 2], [1])):
        values = th.tensor([10 * i + step for i in going])
        buffer.add(
            [episodes[i] for i in going],
            {"seen": values},
            values[:, None].expand(-1, 7),
            values[:, None].expand(-1, 7).float(),
            values.numpy().astype(float),
            np.array([[i != 2] * 7 for i in going]),
            {"extra": values},
        )
    buffer.episodes += episodes
    buffer.discard([1])
    buffer.flatten()
    assert [episode.group for episode in buffer.episodes] == [0, 2]
    assert [episode.rows for episode in buffer.episodes] == [[0], [1, 2]]
    for kept in (buffer.observations["seen"], buffer.extras["extra"], buffer.actions[:, 0], buffer.log_probs[:, 6]):
        assert kept.tolist() == [0, 20, 21]
    assert buffer.token_mask.all(dim=1).tolist() == [True, False, False]


@pytest.mark.parametrize("algorithm", [TokenGRPO, TokenRLOO, TPO])
def test_environments_whose_episode_is_over_get_no_request(algorithm):
    asked = []

    class Counting(ToyLiberoEnv):
        def reset(self, **kwargs):
            asked.append("reset")
            return super().reset(**kwargs)

        def step(self, action):
            asked.append("step")
            return super().step(action)

    toys = [lambda h=horizon: Counting(32, horizon=h) for horizon in (1, 2, 3, 4)]
    env = VecMonitor(SB3VecEnv(vector_env_class("sync")(toys)))
    kwargs = {"resampling_rounds": 0} if algorithm is TokenGRPO else {}
    model = algorithm(
        "VLAPolicy", env, group_size=4, n_groups=2, seed=0, policy_kwargs={"vla": "nano"}, device="cpu", **kwargs
    )
    asked.clear()
    model.learn(1)
    assert asked.count("step") == model.num_timesteps < 8 * 4
    # learn(), the draw of the starts, and two rounds; none at the end of an episode
    assert asked.count("reset") == 4 * 4
    assert sorted(info["l"] for info in model.ep_info_buffer) == sorted(
        len(episode.rows) for episode in model.rollout_buffer.episodes
    )


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


def update_of(model):
    return Update(model.policy, model.max_grad_norm, model.micro_batch_size, False, SkippedUpdates())


def rows_learned_from(model):
    return np.array([row for group in model._groups_with_spread() for episode in group for row in episode.rows])


def log_probs_now(model, samples):
    return update_of(model).evaluate(samples).log_prob


def pairs_of(**kwargs):
    """A model with a roll-out that it did not learn from, and its pairs."""
    model = make_model(TPO, group_size=8, n_groups=4, learning_rate=0.0, **kwargs)
    model.learn(1)
    pairs = model._pairs()
    assert pairs and all(one.is_success and not other.is_success and one.group == other.group for one, other in pairs)
    for group in model.policy.optimizer.param_groups:
        group["lr"] = 1e-3
    return model, pairs


@pytest.mark.parametrize("length_handling", ["sum", "mean", "windows"])
def test_preference_learning_separates_the_pairs_it_is_shown(length_handling):
    beta = 0.5 if length_handling == "mean" else 0.1
    model, pairs = pairs_of(reference_policy="start", length_handling=length_handling, window_size=2, beta=beta)
    update = update_of(model)
    update.score_reference(model.reference, model.rollout_buffer)  # every episode: the pairs were drawn again
    for _ in range(11):
        model._train_actor(update, pairs)
    losses = update.history["loss"]
    assert losses[0] == pytest.approx(np.log(2.0), abs=1e-5)  # policy and reference are one
    assert losses[-1] < 0.65 and update.history["preference_accuracy"][-1] > 0.7


def test_against_the_policy_that_sampled_a_step_makes_successes_likelier_than_failures():
    model, pairs = pairs_of()
    update = update_of(model)
    model._train_actor(update, pairs)
    assert update.history["loss"] == pytest.approx([np.log(2.0)])
    gains = []
    for pair in pairs:
        for episode in pair:
            samples = model.rollout_buffer.samples(np.array(episode.rows))
            with th.no_grad():
                gains.append((log_probs_now(model, samples) - samples.old_log_prob).sum().item())
    assert np.mean(gains[::2]) > np.mean(gains[1::2])


@pytest.mark.parametrize(
    ("algorithm", "kwargs"),
    [(TokenRLOO, {}), (TPO, {}), (TPO, {"reference_policy": "start", "length_handling": "mean"})],
)
def test_objectives_without_a_ratio_take_one_step_per_roll_out_in_bounded_batches(algorithm, kwargs):
    model = make_model(algorithm, group_size=8, n_groups=4, micro_batch_size=7, **kwargs)
    steps, sizes, learned = [], [], []
    step, score = model.policy.optimizer.step, model.policy.score
    model.policy.optimizer.step = lambda *args: (steps.append(1), step(*args))

    def watch(observations, actions, *args):
        sizes.append(len(observations["proprio"]))
        learned.append(len(actions) if th.is_grad_enabled() else 0)
        return score(observations, actions, *args)

    model.policy.score = watch
    model.learn(1)
    assert len(steps) == 1 and max(sizes) == 7 and len(sizes) > 3
    # every decision that says something is in that one step, once
    if algorithm is TokenRLOO:
        assert sum(learned) == len(rows_learned_from(model))


def test_the_one_step_has_the_gradient_of_the_whole_roll_out():
    model = make_model(TokenRLOO, group_size=8, n_groups=4, micro_batch_size=7, max_grad_norm=1e9, learning_rate=0.0)
    gradients = {}
    model.policy.optimizer.step = lambda: gradients.update(
        {name: p.grad.clone() for name, p in model.policy.named_parameters() if p.grad is not None}
    )
    model.learn(1)
    samples = model.rollout_buffer.samples(rows_learned_from(model))
    model.policy.optimizer.zero_grad()
    log_prob = log_probs_now(model, samples).sum(dim=1)
    (-(samples.advantages * log_prob).mean()).backward()
    assert len(samples.actions) > 7 and gradients
    for name, p in model.policy.named_parameters():
        if name in gradients:
            th.testing.assert_close(gradients[name], p.grad, atol=1e-6, rtol=1e-4)


@pytest.mark.parametrize(
    ("algorithm", "keyword"),
    [(TokenRLOO, "batch_size"), (TokenRLOO, "n_epochs"), (TPO, "pairs_per_step"), (TPO, "n_epochs")],
)
def test_keywords_without_a_meaning_are_refused_with_the_reason(algorithm, keyword):
    with pytest.raises(
        RemovedKeywordError, match=rf"{algorithm.__name__} has no {keyword}: it takes one gradient step per roll-out"
    ):
        make_model(algorithm, **{keyword: 4})
    with pytest.raises(TypeError, match=f"{algorithm.__name__} has no keyword 'nonsense'"):
        make_model(algorithm, nonsense=4)


@pytest.mark.parametrize("algorithm", [TokenGRPO, TokenRLOO])
def test_a_step_makes_better_episodes_likelier(algorithm):
    kwargs = {"batch_size": 10_000} if algorithm is TokenGRPO else {}
    model = make_model(algorithm, n_groups=4, group_size=8, learning_rate=1e-3, **kwargs)
    model.learn(1)
    buffer = model.rollout_buffer
    samples = buffer.samples(rows_learned_from(model))
    with th.no_grad():
        gain = (log_probs_now(model, samples) - samples.old_log_prob).sum(dim=1)
    better, worse = gain[samples.advantages > 0], gain[samples.advantages < 0]
    assert len(better) and len(worse) and better.mean() > worse.mean()


@pytest.mark.parametrize("name", ["unstable", "worker_restarted"])
@pytest.mark.parametrize("algorithm", [TokenGRPO, TokenRLOO, TPO])
def test_episodes_of_broken_environments_say_nothing(algorithm, name):
    class Broken(gym.Wrapper):
        def step(self, action):
            obs, reward, terminated, truncated, info = self.env.step(action)
            return obs, reward, terminated, truncated, {**info, name: terminated or truncated}

    model = make_model(algorithm, lambda: Broken(toy()), n_groups=4)
    before, keep = {key: p.detach().clone() for key, p in model.policy.named_parameters()}, Keep()
    model.learn(1, callback=keep)
    assert model._comparable_groups() == [] and keep.figures["rollout/broken_episodes"] == 16
    assert len(model.ep_success_buffer) == 0
    assert all(th.equal(p, before[key]) for key, p in model.policy.named_parameters())


def test_the_rest_of_a_group_is_compared_without_its_broken_episodes():
    model = make_model(n_envs=1)
    model.rollout_buffer.episodes = [SampledEpisode(0, rewards=[float(i == 1)], is_broken=i == 3) for i in range(4)] + [
        SampledEpisode(1, is_broken=i > 0) for i in range(4)
    ]
    assert [len(group) for group in model._comparable_groups()] == [3]
    assert [has_spread(group, 1.0) for group in model._whole_groups()] == [True, False]


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
    with pytest.raises(UnknownNameError, match=r"length_handling 'median'.*sum, mean, windows"):
        make_model(TPO, length_handling="median")
    with pytest.raises(ValueError, match="window_size is 0; expected at least 1 decision"):
        make_model(TPO, window_size=0)
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
