import numpy as np
import pytest
import torch as th
from gymnasium import spaces

from vla_algos.common.buffers import TokenRolloutBuffer, learned_rewards
from vla_gym.envs.toy_env import ToyLiberoEnv

T, N, CHUNK = 3, 2, 2
A = 7 * CHUNK


def tag(step: int, env_index: int) -> int:
    return 10 * step + env_index


def filled_buffer() -> TokenRolloutBuffer:
    """Every array holds, in its own way, the step and environment that it belongs to."""
    env = ToyLiberoEnv(image_size=16, chunk_size=CHUNK)
    buffer = TokenRolloutBuffer(T, env.observation_space, env.action_space, "cpu", gae_lambda=0.9, gamma=0.5, n_envs=N)
    for step in range(T):
        tags = np.array([tag(step, i) for i in range(N)])
        obs = {
            key: np.stack([np.full(space.shape, t, space.dtype) for t in tags])
            for key, space in env.observation_space.items()
        }
        buffer.add(
            obs,
            np.repeat(tags[:, None], A, axis=1),
            np.array([1.0, 0.0]),
            np.array([step == 2, False]),
            th.tensor([[0.5], [0.25]]),
            -th.tensor(tags)[:, None] - th.arange(A) / 100,
            np.array([[t != tag(1, 1) or a < 7 for a in range(A)] for t in tags]),
            {"tag": th.tensor(tags)},
        )
    buffer.compute_returns_and_advantage(th.tensor([[2.0], [4.0]]), np.array([False, True]))
    return buffer


def test_samples_keep_rows_of_tokens_together():
    samples = next(filled_buffer().get(None))
    assert samples.actions.dtype == th.int64 and samples.actions.shape == (T * N, A)
    assert samples.observations["agentview"].dtype == th.uint8
    tags = samples.actions[:, 0]
    assert sorted(tags.tolist()) == [0, 1, 10, 11, 20, 21]
    assert th.equal(samples.observations["proprio"][:, 3], tags.float())
    assert th.equal(samples.observations["instruction"][:, 9].long(), tags)
    assert th.allclose(samples.old_log_prob, -tags[:, None].float() - th.arange(A) / 100)
    assert th.equal(samples.extras["tag"], tags)


def test_only_the_tokens_of_skipped_commands_are_masked():
    samples = next(filled_buffer().get(None))
    shortened = samples.actions[:, 0] == tag(1, 1)
    assert samples.token_mask.dtype == th.bool
    assert samples.token_mask[~shortened].all()
    assert samples.token_mask[shortened].tolist() == [[True] * 7 + [False] * 7]


def test_mask_is_whole_again_after_reset():
    buffer = filled_buffer()
    buffer.reset()
    assert buffer.token_mask.all() and not buffer.extras


def test_second_epoch_sees_the_same_samples():
    buffer = filled_buffer()
    first = {int(s.actions[0, 0]): s for s in buffer.get(1)}
    for sample in buffer.get(1):
        twin = first[int(sample.actions[0, 0])]
        assert th.equal(sample.token_mask, twin.token_mask) and th.equal(sample.old_log_prob, twin.old_log_prob)
    assert len(first) == T * N


def test_advantages_by_hand():
    buffer = filled_buffer()
    gamma, lam = 0.5, 0.9
    # env 0: an episode starts at step 2, so step 1 sees no value behind it; the last step bootstraps with 2.0
    last = 1.0 + gamma * 2.0 - 0.5
    middle = 1.0 - 0.5
    first = (1.0 + gamma * 0.5 - 0.5) + gamma * lam * middle
    assert buffer.advantages[:, 0] == pytest.approx([first, middle, last])
    # env 1: done after the last step, so 4.0 is not used
    last = 0.0 - 0.25
    middle = (gamma * 0.25 - 0.25) + gamma * lam * last
    first = (gamma * 0.25 - 0.25) + gamma * lam * middle
    assert buffer.advantages[:, 1] == pytest.approx([first, middle, last])
    assert buffer.returns == pytest.approx(buffer.advantages + np.array([0.5, 0.25]))


def test_split_keeps_order_and_covers_all():
    samples = next(filled_buffer().get(None))
    parts = list(samples.split(4))
    assert [len(p.actions) for p in parts] == [4, 2]
    for name in ("actions", "old_values", "old_log_prob", "advantages", "returns", "token_mask"):
        assert th.equal(th.cat([getattr(p, name) for p in parts]), getattr(samples, name))
    assert th.equal(th.cat([p.observations["proprio"] for p in parts]), samples.observations["proprio"])
    assert [len(p.actions) for p in samples.split(None)] == [6]


@pytest.mark.parametrize(("time_limit", "expected"), [("terminal", 0.86), ("bootstrap", 0.33)])
def test_a_critic_that_feeds_on_its_own_value_at_the_limit_belittles_success(time_limit, expected):
    """
    Episodes of one decision, of which 14 % succeed: success is worth 0.86 more than what is to be expected.

    The critic sees no difference between start and limit, and takes the mean return of each roll-out for its value:
    with bootstrapping it comes to rest at V = 0.14 + 0.86 * 0.92 * V.
    """
    env, gamma, n_steps = ToyLiberoEnv(image_size=16), 0.92, 50
    buffer = TokenRolloutBuffer(n_steps, env.observation_space, env.action_space, "cpu", gamma=gamma)
    obs = {key: np.zeros((1, *space.shape), space.dtype) for key, space in env.observation_space.items()}
    value = 0.0
    for _ in range(30):
        buffer.reset()
        for step in range(n_steps):
            is_success = step < 7
            reward = np.array([float(is_success)], dtype=np.float32)
            dones, at_limit = np.array([True]), {} if is_success else {0: th.tensor([value])}
            reward = learned_rewards(reward, [{}], th.tensor([value]), at_limit, gamma, time_limit)
            mask = np.ones((1, 7), dtype=bool)
            buffer.add(obs, np.zeros((1, 7)), reward, dones, th.tensor([value]), th.zeros(1, 7), mask, {})
        buffer.compute_returns_and_advantage(th.zeros(1), dones)
        advantage, value = buffer.advantages[0, 0], float(buffer.returns.mean())
    assert advantage == pytest.approx(expected, abs=0.005)


def test_rewards_at_limits_and_of_broken_episodes():
    rewards = np.array([0.5, 0.0, 1.0, 0.25])
    infos = [{}, {"TimeLimit.truncated": True}, {"unstable": True}, {"worker_restarted": True}]
    values, at_limit = th.tensor([0.1, 0.2, 0.3, 0.4]), {1: th.tensor([0.5])}
    learned = learned_rewards(rewards, infos, values, at_limit, 0.5, "bootstrap")
    np.testing.assert_allclose(learned, [0.5, 0.25, 0.3, 0.4], rtol=1e-6)
    assert learned.dtype == np.float32 and rewards[1] == 0.0
    learned = learned_rewards(rewards, infos, values, at_limit, 0.5, "terminal")
    np.testing.assert_allclose(learned, [0.5, 0.0, 0.3, 0.4], rtol=1e-6)


def test_continuous_actions_of_any_shape_stay_as_they_are():
    env = ToyLiberoEnv(image_size=16)
    space = spaces.Box(-1, 1, (2, 3), np.float32)
    buffer = TokenRolloutBuffer(1, env.observation_space, space, "cpu", n_envs=2)
    obs = {key: np.zeros((2, *space.shape), space.dtype) for key, space in env.observation_space.items()}
    actions = np.arange(12, dtype=np.float32).reshape(2, 2, 3) / 7
    zeros = np.zeros(2)
    buffer.add(obs, actions, zeros, zeros, th.zeros(2), th.zeros(2, 1), np.ones((2, 1), dtype=bool), {})
    samples = buffer.samples(np.array([1, 0]))
    assert samples.actions.dtype == th.float32 and np.array_equal(samples.actions, actions[::-1])
    assert samples.old_log_prob.shape == samples.token_mask.shape == (2, 1)
