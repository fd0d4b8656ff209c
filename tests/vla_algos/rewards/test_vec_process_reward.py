"""The process reward pays for the right frames, in the right order, and leaves everything else alone."""

from __future__ import annotations

import gymnasium as gym
import numpy as np
import pytest
from gymnasium import spaces
from stable_baselines3.common.vec_env import (
    DummyVecEnv,
    VecEnvWrapper,
    VecFrameStack,
    VecMonitor,
    VecNormalize,
    VecTransposeImage,
)

from vla_algos.common.vec_env import SB3VecEnv, announce_training
from vla_algos.errors import (
    DiscountError,
    RewardHackingWarning,
    RewardModelError,
    SpaceError,
    UnknownNameError,
    WrapperOrderError,
    WrapperOrderWarning,
)
from vla_algos.rewards.vec_process_reward import MIN_SCORES, VecProcessReward
from vla_gym.errors import SnapshotError
from vla_gym.instructions import encode_instruction
from vla_gym.snapshots import restore_snapshot, take_snapshot
from vla_gym.vector import vector_env_class


class Corridor(gym.Env):
    """Action 1 goes one step ahead; the image's brightness is 10 per step; 4 steps are the goal, 6 the horizon."""

    def __init__(self, name="walk", ends=4, horizon=6, unstable_at=None, size=2):
        self.observation_space = spaces.Dict(
            {
                "agentview": spaces.Box(0, 255, (size, size, 3), np.uint8),
                "instruction": spaces.Box(0, 255, (256,), np.uint8),
            }
        )
        self.action_space = spaces.MultiDiscrete([256])
        self.name, self.ends, self.horizon, self.unstable_at = name, ends, horizon, unstable_at
        self.place = self.clock = 0

    def _see(self):
        image = np.full(self.observation_space["agentview"].shape, 10 * self.place, np.uint8)
        return {"agentview": image, "instruction": encode_instruction(self.name)}

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.place, self.clock = 1, 0
        return self._see(), {}

    def snapshot(self):
        return {"place": self.place, "clock": self.clock}

    def restore(self, snapshot):
        self.place, self.clock = snapshot["place"], snapshot["clock"]

    def step(self, action):
        self.place += int(np.ravel(action)[0])
        self.clock += 1
        unstable = self.clock == self.unstable_at
        success = self.place >= self.ends + 1
        info = {"is_success": success, "unstable": unstable}
        return self._see(), float(success), success, not success and (self.clock >= self.horizon or unstable), info


class Brightness:
    """Phi = brightness / 100, so a step ahead is worth 0.1; remembers what it was shown."""

    key = "agentview"

    def __init__(self):
        self.seen = []

    def score(self, frames, instructions):
        assert frames.dtype == np.uint8 and frames.shape == (len(instructions), 2, 2, 2, 3)
        self.seen.append((frames[:, 0, 0, 0, 0].tolist(), frames[:, 1, 0, 0, 0].tolist(), list(instructions)))
        return frames[:, 1, 0, 0, 0].astype(np.float32) / 100


def make(*envs, model=None, **kwargs):
    makers = [lambda env=env: Corridor(**env) for env in (envs or [{}])]
    venv = VecMonitor(SB3VecEnv(vector_env_class("sync")(makers)))
    return VecProcessReward(venv, model or Brightness(), **kwargs)


def run(env, *actions):
    """Rewards and infos of each step, for one action per environment."""
    env.reset()
    steps = [env.step(np.array(action).reshape(env.num_envs, 1)) for action in actions]
    return np.array([rewards for _, rewards, _, _ in steps]), [infos for _, _, _, infos in steps]


def test_delta_pays_for_progress_and_an_episode_for_its_end_alone():
    rewards, infos = run(make(weight=2.0), 1, 0, 0, 1, 1, 1)
    # from 0.1 to 0.5: four steps ahead, two without; the last one reaches the goal
    np.testing.assert_allclose(rewards[:, 0], [0.2, 0, 0, 0.2, 0.2, 0.2 + 1.0], atol=1e-6)
    assert infos[-1][0]["env_reward"] == 1.0 and infos[-1][0]["process_reward"] == pytest.approx(0.2)
    assert infos[-1][0]["is_success"] and infos[-1][0]["progress"] == pytest.approx(0.5)


def test_the_last_frame_of_an_episode_counts_and_the_first_one_of_the_next_is_no_loss():
    env = make()
    rewards, infos = run(env, 1, 1, 1, 1, 1)
    assert infos[3][0]["progress"] == pytest.approx(0.5) and infos[4][0]["progress"] == pytest.approx(0.2)
    # the next episode starts at 0.1 again, which costs nothing
    np.testing.assert_allclose(rewards[:, 0], [0.1, 0.1, 0.1, 1.1, 0.1], atol=1e-6)


def test_frames_are_the_first_and_the_current_of_the_same_episode_with_its_instruction():
    model = Brightness()
    run(make({"name": "one"}, {"name": "two", "ends": 2}, model=model), (1, 1), (1, 1), (1, 1))
    assert model.seen == [
        ([10, 10], [10, 10], ["one", "two"]),
        ([10, 10], [20, 20], ["one", "two"]),
        ([10, 10], [30, 30], ["one", "two"]),
        # the second environment has started anew
        ([10], [10], ["two"]),
        ([10, 10], [40, 20], ["one", "two"]),
    ]


def test_potential_changes_returns_by_the_first_state_alone():
    gamma = 0.9
    for actions in ([1, 0, 1, 1, 1], [1, 1, 1, 1]):
        rewards, infos = run(make(mode="potential", gamma=gamma), *actions)
        discounts = gamma ** np.arange(len(actions))
        sparse = np.array([infos[t][0]["env_reward"] for t in range(len(actions))])
        # Ng et al.: the return from the first state changes by -Phi of that state
        assert discounts @ rewards[:, 0] == pytest.approx(discounts @ sparse - 0.1, abs=1e-6)


def test_potential_gives_the_sparse_advantages_to_a_critic_that_starts_at_phi_lower():
    gamma, lam = 0.9, 0.8
    actions = [1, 0, 1, 1, 1]
    rewards, infos = run(make(mode="potential", gamma=gamma), *actions)
    sparse = np.array([info[0]["env_reward"] for info in infos])
    phi = np.array([0.1, *(info[0]["progress"] for info in infos)])
    phi[-1] = 0.0
    values = np.array([0.3, 0.5, 0.1, 0.7, 0.2, 0.0])

    def gae(rewards, values):
        deltas = rewards + gamma * values[1:] - values[:-1]
        advantages = np.zeros(len(deltas) + 1)
        for t in reversed(range(len(deltas))):
            advantages[t] = deltas[t] + gamma * lam * advantages[t + 1]
        return advantages[:-1]

    np.testing.assert_allclose(gae(rewards[:, 0], values - phi), gae(sparse, values), atol=1e-6)


def test_a_time_limit_is_no_end_of_the_task():
    rewards, infos = run(make({"horizon": 2}, mode="potential", gamma=0.5), 1, 1)
    assert infos[1][0]["TimeLimit.truncated"]
    np.testing.assert_allclose(rewards[:, 0], [0.5 * 0.2 - 0.1, 0.5 * 0.3 - 0.2], atol=1e-6)


def test_sum_pays_for_every_decision_up_to_the_cap_of_an_episode():
    np.testing.assert_allclose(run(make(mode="sum", weight=1.0), 0, 0, 0)[0][:, 0], [0.1, 0.1, 0.1], atol=1e-6)
    env = make({"horizon": 3}, mode="sum", weight=1.0, episode_cap=0.25)
    rewards, _ = run(env, 0, 0, 0, 0)
    np.testing.assert_allclose(rewards[:, 0], [0.1, 0.1, 0.05, 0.1], atol=1e-6)


def test_nothing_is_paid_where_an_episode_was_broken_off():
    for mode in ("delta", "sum"):
        rewards, infos = run(make({"unstable_at": 2}, mode=mode, weight=1.0), 1, 1, 1)
        assert infos[1][0]["unstable"] and rewards[1, 0] == 0.0 == infos[1][0]["process_reward"]
        assert rewards[2, 0] == pytest.approx(0.1 if mode == "delta" else 0.2)


def test_environments_that_are_left_out_earn_nothing_and_go_on_where_they_were():
    model = Brightness()
    env = make({}, {}, model=model)
    env.reset()
    env.step_only([1])
    _, rewards, _, infos = env.step(np.array([[1], [1]]))
    np.testing.assert_allclose(rewards, [0.0, 0.1], atol=1e-6)
    assert infos[0]["process_reward"] == 0.0 and model.seen[-1][1] == [20]
    _, rewards, _, _ = env.step(np.array([[1], [1]]))
    np.testing.assert_allclose(rewards, [0.1, 0.1], atol=1e-6)


def test_returns_in_logs_are_those_of_the_environment():
    _, infos = run(make(weight=5.0), 1, 1, 1, 1)
    assert infos[-1][0]["episode"]["r"] == 1.0


def test_a_snapshot_goes_on_in_the_middle_of_an_episode():
    env, other = make(mode="sum", weight=0.5, episode_cap=0.5), make(mode="sum", weight=0.5, episode_cap=0.5)
    run(env, 1, 1)
    run(other, 0)
    restore_snapshot(other, take_snapshot(env))
    for _ in range(4):
        expected, found = env.step(np.array([[1]])), other.step(np.array([[1]]))
        np.testing.assert_array_equal(found[1], expected[1])
    np.testing.assert_array_equal(other.first_seen, env.first_seen)


class Failing(Brightness):
    def __init__(self, values):
        super().__init__()
        self.values = iter(values)

    def score(self, frames, instructions):
        return np.array([next(self.values) for _ in instructions], np.float32)


def test_a_score_that_is_none_pays_nothing_and_is_counted():
    env = make(model=Failing([0.1, 0.3, np.nan, 0.4, 1.5]))
    rewards, infos = run(env, 0, 0, 0, 0)
    np.testing.assert_allclose(rewards[:, 0], [0.2, 0.0, 0.1, 0.0], atol=1e-6)
    assert (env.n_invalid, env.n_scores) == (2, 5) and infos[1][0]["progress"] == pytest.approx(0.3)


def test_a_model_that_fails_often_ends_the_run():
    env = make({"horizon": 10**6}, model=Failing([np.nan] * 1000))
    env.reset()
    with pytest.raises(RewardModelError, match=rf"{MIN_SCORES} of {MIN_SCORES} scores.*max_invalid_share=0\.01"):
        for _ in range(MIN_SCORES):
            env.step(np.array([[0]]))


def test_a_model_that_returns_another_shape_is_refused():
    class Odd(Brightness):
        def score(self, frames, instructions):
            return np.zeros((len(instructions), 1))

    with pytest.raises(RewardModelError, match=r"Odd\.score returned shape \(1, 1\) for 1 moments; expected \(1,\)"):
        make(model=Odd()).reset()


@pytest.mark.parametrize(
    ("keywords", "error", "message"),
    [
        ({"mode": "shaped"}, UnknownNameError, "Unknown mode 'shaped'. Valid: delta, potential, sum"),
        ({"weight": -1.0}, ValueError, r"weight is -1\.0"),
        ({"weight": float("nan")}, ValueError, "weight is nan"),
        ({"gamma": 0.9}, ValueError, r"gamma is 0\.9, mode is 'delta'"),
        ({"mode": "potential", "gamma": 1.1}, ValueError, r"gamma is 1\.1"),
        ({"episode_cap": 1.0}, ValueError, r"episode_cap is 1\.0, mode is 'delta'"),
        ({"mode": "sum", "episode_cap": 0.0}, ValueError, r"episode_cap is 0\.0"),
        ({"max_invalid_share": 2.0}, ValueError, r"max_invalid_share is 2\.0"),
    ],
)
def test_keywords_that_make_no_sense_are_refused(keywords, error, message):
    with pytest.raises(error, match=message):
        make(**keywords)


def test_a_camera_that_is_not_observed_is_named():
    model = Brightness()
    model.key = "wrist"
    with pytest.raises(SpaceError, match=r"\['agentview', 'instruction'\]; the reward model needs 'wrist'.*cameras"):
        make(model=model)


def test_models_are_found_by_name_and_others_are_refused():
    with pytest.raises(SpaceError, match=r"needs 'privileged'.*privileged_obs=True"):
        make(model="true-progress")
    with pytest.raises(UnknownNameError, match=r"reward model 'true-progres'.*true-progress.*reward\.json"):
        make(model="true-progres")


def test_it_is_a_wrapper_of_sb3():
    assert isinstance(make(), VecEnvWrapper) and make().reward_seconds == 0.0


def test_before_the_first_usable_score_nothing_is_paid():
    rewards, infos = run(make(model=Failing([np.nan, np.nan, 0.7, 0.9])), 0, 0, 0)
    np.testing.assert_allclose(rewards[:, 0], [0.0, 0.0, 0.2], atol=1e-6)
    assert np.isnan(infos[0][0]["progress"]) and infos[1][0]["progress"] == pytest.approx(0.7)


def test_a_sum_pays_nothing_for_a_score_that_is_none():
    rewards, _ = run(make(model=Failing([0.1, 0.3, np.nan, 0.4]), mode="sum", weight=1.0), 0, 0, 0)
    np.testing.assert_allclose(rewards[:, 0], [0.3, 0.0, 0.4], atol=1e-6)


@pytest.mark.parametrize(("mode", "weight"), [("delta", 1.0), ("potential", 1.0), ("sum", 0.01)])
def test_each_mode_has_a_weight_of_its_own(mode, weight):
    assert make(mode=mode).shaping.weight == weight
    assert make(mode=mode, weight=0.3).shaping.weight == 0.3


def test_a_failure_that_is_paid_as_much_as_success_warns_once():
    env = make({"horizon": 2}, mode="sum", weight=4.0)
    run(env, 1)
    with pytest.warns(RewardHackingWarning, match=r"failed episode was paid 2\.00.*weight=4, set episode_cap"):
        env.step(np.array([[1]]))
    # neither again, nor for successes, nor below the worth of a success
    run(env, 1, 1)
    run(make(mode="sum", weight=4.0), 1, 1, 1, 1)
    run(make({"horizon": 2}, mode="sum", weight=4.0, episode_cap=0.99), 1, 1)
    run(make({"horizon": 2}, mode="delta", weight=50.0), 1, 1)


def test_what_an_episode_was_paid_is_told_at_its_end():
    _, infos = run(make(weight=2.0), 1, 1, 1, 1, 1)
    assert [info[0].get("process_return") for info in infos] == [None, None, None, pytest.approx(0.8), None]


def test_a_potential_takes_the_discount_of_the_algorithm():
    env = make(mode="potential")
    with pytest.raises(DiscountError, match="mode is 'potential', and gamma is None: no algorithm has told"):
        run(env, 1)
    announce_training(env, 0.5, is_limit_end=False)
    rewards, _ = run(env, 1)
    assert rewards[0, 0] == pytest.approx(0.5 * 0.2 - 0.1)
    announce_training(env, 0.25, is_limit_end=False)
    assert env.shaping.gamma == 0.25


def test_another_discount_than_the_algorithms_is_refused_with_both_numbers():
    env = make(mode="potential", gamma=0.9)
    announce_training(env, 0.9, is_limit_end=False)
    with pytest.raises(DiscountError, match=r"gamma of VecProcessReward is 0\.9, and gamma of the algorithm is 0\.99"):
        announce_training(VecNormalize(env, norm_obs=False), 0.99, is_limit_end=False)
    # other modes have none
    announce_training(make(), 0.99, is_limit_end=False)


@pytest.mark.parametrize(("mode", "expected"), [("potential", -0.2), ("delta", 0.1)])
def test_where_an_algorithm_takes_limits_for_ends_a_potential_is_paid_back_there(mode, expected):
    env = make({"horizon": 2}, mode=mode)
    announce_training(env, 0.5, is_limit_end=True)
    rewards, _ = run(env, 1, 1)
    # Phi = 0 at the end: the return from the first state changes by -Phi of that state
    assert rewards[1, 0] == pytest.approx(expected)


def test_a_monitor_around_it_is_warned_of_once():
    env = VecMonitor(make())
    with pytest.warns(WrapperOrderWarning, match=r"VecMonitor is around.*VecProcessReward\(VecMonitor\(env\)"):
        announce_training(env, 0.9, is_limit_end=False)
    announce_training(env, 0.9, is_limit_end=False)
    announce_training(VecNormalize(make(), norm_obs=False), 0.9, is_limit_end=False)


def monitored(size=2):
    return VecMonitor(SB3VecEnv(vector_env_class("sync")([lambda: Corridor(size=size)])))


@pytest.mark.parametrize(
    ("wrap", "error", "message"),
    [
        (lambda env: VecProcessReward(env, Brightness()), WrapperOrderError, "VecProcessReward inside this one"),
        (lambda env: VecNormalize(env, norm_obs=False), WrapperOrderError, "scales the environment's reward alone"),
        (
            lambda env: VecNormalize(env, norm_reward=False, norm_obs_keys=["agentview"]),
            WrapperOrderError,
            "changes 'agentview', which the reward model looks at",
        ),
        (lambda env: VecTransposeImage(monitored(4)), SpaceError, r"agentview is Box\(0, 255, \(3, 4, 4\).*single im"),
        (lambda env: VecFrameStack(monitored(4), 2), SpaceError, r"\(4, 4, 6\).*single images \(H, W, 3\)"),
        (lambda env: VecFrameStack(env, 2), SpaceError, r"instruction is Box.*expected \(256,\) uint8"),
    ],
)
def test_wrappers_below_that_spoil_its_work_are_refused(wrap, error, message):
    with pytest.raises(error, match=message):
        VecProcessReward(wrap(monitored()), Brightness())


def test_a_normaliser_around_it_scales_the_sum_of_both_rewards():
    env = VecNormalize(make(), norm_obs=False, norm_reward=True, clip_reward=1e9)
    env.reset()
    _, rewards, _, infos = env.step(np.array([[1]]))
    assert env.get_original_reward() == pytest.approx(0.1) and infos[0]["process_reward"] == pytest.approx(0.1)
    assert rewards[0] == pytest.approx(0.1 / np.sqrt(env.ret_rms.var + env.epsilon))


def test_it_works_around_sb3s_own_vector_environment():
    env = VecProcessReward(VecMonitor(DummyVecEnv([Corridor])), Brightness())
    rewards, infos = run(env, 1, 1, 1, 1, 1)
    np.testing.assert_allclose(rewards[:, 0], [0.1, 0.1, 0.1, 1.1, 0.1], atol=1e-6)
    assert infos[3][0]["episode"]["r"] == 1.0


def test_a_view_for_the_model_alone_is_kept_from_everybody_else():
    model = Brightness()
    env = make(model=model, keep_view=False)
    assert set(env.observation_space.spaces) == {"instruction"}
    assert set(env.reset()) == {"instruction"}
    for _ in range(4):
        observations, _, dones, infos = env.step(np.array([[1]]))
        assert set(observations) == {"instruction"}
    assert dones[0] and set(infos[0]["terminal_observation"]) == {"instruction"}
    # which changes nothing in what is paid
    assert infos[0]["process_return"] == pytest.approx(0.4) and model.seen[4][1] == [50]
    assert set(env.venv.observation_space.spaces) == {"agentview", "instruction"}


def test_a_model_can_be_shown_another_entry_than_its_own():
    class Twice(Corridor):
        """Beside the camera there is a view, twice as bright."""

        def __init__(self):
            super().__init__()
            self.observation_space["judge"] = self.observation_space["agentview"]

        def _see(self):
            return {**super()._see(), "judge": 2 * super()._see()["agentview"]}

    env = VecProcessReward(
        VecMonitor(SB3VecEnv(vector_env_class("sync")([Twice]))), Brightness(), view="judge", keep_view=False
    )
    rewards, _ = run(env, 1, 0)
    np.testing.assert_allclose(rewards[:, 0], [0.2, 0.0], atol=1e-6)
    assert set(env.observation_space.spaces) == {"agentview", "instruction"}
    with pytest.raises(SpaceError, match=r"the reward model needs 'jugde'.*views"):
        make(view="jugde")


def test_a_snapshot_of_a_model_that_saw_something_else_is_refused():
    env, other = make(), make()
    run(env, 1)
    run(other, 1)
    snapshot = take_snapshot(env)
    other.first_seen = np.zeros((1, 4, 4, 3), np.uint8)
    with pytest.raises(SnapshotError, match=r"saw \(1, 2, 2, 3\) uint8, this one sees 'agentview', \(1, 4, 4, 3\)"):
        restore_snapshot(other, snapshot)


def test_a_snapshot_leaves_settings_alone():
    env, other = make(mode="potential", gamma=0.5), make(mode="potential", gamma=0.9, weight=2.0)
    run(env, 1)
    run(other, 0)
    restore_snapshot(other, take_snapshot(env))
    assert (other.shaping.gamma, other.shaping.weight) == (0.9, 2.0) and other.progress[0] == pytest.approx(0.2)
    # what was taken is a copy
    snapshot = take_snapshot(env)
    env.step(np.array([[1]]))
    assert snapshot[0]["own"]["progress"][0] == pytest.approx(0.2)
