import numpy as np
import pytest
import torch as th

from vla_algos.bc.dataset import DemonstrationSet
from vla_gym.actions.tokenizer import ActionTokenizer
from vla_gym.datasets.collect import Episode


def make(m=10, **changes):
    arrays = {
        "images": np.arange(m, dtype=np.uint8)[:, None, None, None] * np.ones((1, 4, 6, 3), np.uint8),
        "instructions": ("left", "right"),
        "instruction_ids": np.arange(m) % 2,
        "proprio": np.arange(m, dtype=np.float32)[:, None] * np.ones((1, 8), np.float32),
        "bins": np.arange(m)[:, None] * np.ones((1, 7), np.int64),
        "episode_ids": np.arange(m) // 3,
    }
    return DemonstrationSet(**{**arrays, **changes})


def test_batches_keep_rows_together_in_the_models_layout():
    inputs, bins = make().batch(np.array([7, 2]), "cpu")
    assert inputs["images"].shape == (2, 3, 4, 6) and inputs["images"].dtype == th.uint8
    assert inputs["instructions"] == ["right", "left"]
    assert inputs["images"][:, 0, 0, 0].tolist() == inputs["proprio"][:, 0].tolist() == bins[:, 0].tolist() == [7, 2]


@pytest.mark.parametrize(("fraction", "n_held_out"), [(0.0, 0), (0.01, 1), (0.5, 2)])
def test_split_keeps_episodes_whole(fraction, n_held_out):
    train, validation = make().split_by_episode(fraction, np.random.default_rng(0))
    assert len(set(validation.episode_ids)) == n_held_out
    assert not set(train.episode_ids) & set(validation.episode_ids)
    assert sorted([*train.bins[:, 0], *validation.bins[:, 0]]) == list(range(10))


def test_split_that_leaves_nothing_is_refused():
    with pytest.raises(ValueError, match="of 1 episodes leaves none to train on"):
        make(3).split_by_episode(0.1, np.random.default_rng(0))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"images": np.zeros((10, 4, 6, 3), np.float32)}, r"images is \(10, 4, 6, 3\) float32; expected .* uint8"),
        ({"proprio": np.zeros((9, 8), np.float32)}, r"proprio is \(9, 8\)"),
        ({"bins": np.full((10, 7), 256)}, r"range over 256..256; expected 0..255"),
        ({"bins": np.zeros((10, 6), np.int64)}, "6 columns; expected a multiple of 7"),
        ({"instruction_ids": np.full(10, 2)}, "beyond the 2 instructions"),
    ],
)
def test_arrays_that_do_not_fit_are_named(changes, message):
    with pytest.raises(ValueError, match=message):
        make(**changes)


def test_from_episodes_pairs_each_observation_with_the_commands_from_there_on() -> None:
    tokenizer = ActionTokenizer()
    rng = np.random.default_rng(0)

    def episode(length: int, instruction: str) -> Episode:
        commands = rng.uniform(-1, 1, (length, 7))
        commands[:, 6] = np.where(commands[:, 6] < 0, -1.0, 1.0)
        return Episode(
            images=rng.integers(0, 256, (length, 4, 4, 3), dtype=np.uint8),
            proprio=rng.normal(size=(length, 8)).astype(np.float32),
            commands=commands,
            instruction=instruction,
            task_id=0,
            init_state_id=0,
            success=True,
        )

    episodes = [episode(5, "a"), episode(3, "b"), episode(2, "a")]
    data = DemonstrationSet.from_episodes(episodes, tokenizer, chunk_size=3)
    assert len(data) == 10 and data.n_tokens == 21
    assert data.instructions == ("a", "b")
    np.testing.assert_array_equal(data.instruction_ids, [0] * 5 + [1] * 3 + [0] * 2)
    np.testing.assert_array_equal(data.episode_ids, [0] * 5 + [1] * 3 + [2] * 2)
    row = 0
    for one in episodes:
        for t in range(len(one)):
            np.testing.assert_array_equal(data.images[row], one.images[t])
            np.testing.assert_array_equal(data.proprio[row], one.proprio[t])
            chunk = data.bins[row].reshape(3, 7)
            for ahead in range(3):
                standing = np.array([0.0] * 6 + [one.commands[-1, 6]])
                command = one.commands[t + ahead] if t + ahead < len(one) else standing
                np.testing.assert_array_equal(chunk[ahead], tokenizer.encode(command))
            row += 1
    with pytest.raises(ValueError, match="no episodes"):
        DemonstrationSet.from_episodes([], tokenizer)
