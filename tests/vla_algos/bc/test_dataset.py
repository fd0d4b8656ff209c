from dataclasses import replace

import numpy as np
import pytest
import torch as th

from vla_algos.bc.dataset import DemonstrationSet
from vla_algos.models.openvla.config import get_preset
from vla_algos.models.openvla.processor import Processor
from vla_gym.actions.statistics import dataset_statistics
from vla_gym.actions.tokenizer import ActionTokenizer
from vla_gym.datasets.episode import SimulatorTrace
from vla_gym.errors import DemonstrationFileError, InvalidEpisodeError


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
    inputs, bins, mask = make().batch(np.array([7, 2]), "cpu")
    assert inputs["images"].shape == (2, 3, 4, 6) and inputs["images"].dtype == th.uint8
    assert inputs["instructions"] == ["right", "left"]
    assert inputs["images"][:, 0, 0, 0].tolist() == inputs["proprio"][:, 0].tolist() == bins[:, 0].tolist() == [7, 2]
    assert mask.shape == bins.shape and mask.all()


def test_parts_of_a_batch():
    batch = make().batch(np.arange(6), "cpu")
    part = batch.part(2, 4)
    assert part.bins[:, 0].tolist() == part.inputs["images"][:, 0, 0, 0].tolist() == [2, 3]
    assert part.inputs["instructions"] == ["left", "right"] and part.mask.shape == (2, 7)


def test_cameras_are_stacked_in_the_order_asked_for():
    images = make().images
    data = make(wrist=255 - images)
    both = data.batch(np.array([3]), "cpu", ("agentview", "wrist")).inputs["images"]
    assert both[0, :, 0, 0].tolist() == [3, 3, 3, 252, 252, 252]
    assert data.batch(np.array([3]), "cpu", ("wrist",)).inputs["images"][0, :, 0, 0].tolist() == [252] * 3
    with pytest.raises(ValueError, match="no camera 'wrist'"):
        make().batch(np.array([3]), "cpu", ("wrist",))


def test_selections_share_the_frames():
    data = make()
    part = data.select(np.array([8, 1])).select(np.array([True, False]))
    assert part.images is data.images
    assert part.batch(np.array([0]), "cpu").inputs["images"][0, 0, 0, 0] == part.bins[0, 0] == 8


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
        ({"instruction_ids": np.full(10, 2)}, "instruction_ids range over 2..2; expected 0..1"),
        ({"frame_ids": np.full(10, 10)}, "frame_ids range over 10..10; expected 0..9"),
        ({"n_commands": np.full(10, 2)}, "n_commands range over 2..2; expected 0..1"),
        ({"wrist": np.zeros((10, 4, 4, 3), np.uint8)}, r"wrist is \(10, 4, 4, 3\)"),
    ],
)
def test_arrays_that_do_not_fit_are_named(changes, message):
    with pytest.raises(ValueError, match=message):
        make(**changes)


def test_from_episodes_pairs_each_observation_with_the_commands_from_there_on(episodes) -> None:
    tokenizer = ActionTokenizer()
    three = episodes(3, lengths=(5, 3, 2), instructions=("a", "b", "a"))
    data = DemonstrationSet.from_episodes(iter(three), tokenizer, chunk_size=3)
    assert len(data) == 10 and data.n_tokens == 21
    assert data.instructions == ("a", "b")
    np.testing.assert_array_equal(data.instruction_ids, [0] * 5 + [1] * 3 + [0] * 2)
    np.testing.assert_array_equal(data.episode_ids, [0] * 5 + [1] * 3 + [2] * 2)
    np.testing.assert_array_equal(data.n_commands, [3, 3, 3, 2, 1, 3, 2, 1, 2, 1])
    mask = data.batch(np.arange(10), "cpu").mask.reshape(10, 3, 7)
    row = 0
    for one in three:
        for t in range(len(one)):
            np.testing.assert_array_equal(data.images[row], one.images[t])
            np.testing.assert_array_equal(data.proprio[row], one.proprio[t])
            chunk = data.bins[row].reshape(3, 7)
            for ahead in range(3):
                is_demonstrated = t + ahead < len(one)
                standing = np.array([0.0] * 6 + [one.commands[-1, 6]])
                command = one.commands[t + ahead] if is_demonstrated else standing
                np.testing.assert_array_equal(chunk[ahead], tokenizer.encode(command))
                assert (mask[row, ahead] == is_demonstrated).all()
            row += 1
    assert data.norm_stats == {}
    with pytest.raises(ValueError, match="no episodes"):
        DemonstrationSet.from_episodes([], tokenizer)


def test_without_a_tokenizer_bins_span_the_demonstrated_range(episodes) -> None:
    some = episodes(4)
    data = DemonstrationSet.from_episodes(some, name="mine")
    entry = dataset_statistics([one.commands for one in some], [one.proprio for one in some])
    assert data.norm_stats == {"mine": entry}
    np.testing.assert_array_equal(data.action_tokenizer.q01, entry["action"]["q01"])
    expected = data.action_tokenizer.encode(np.concatenate([one.commands for one in some]))
    np.testing.assert_array_equal(data.bins, expected)


def test_episodes_from_one_initial_state_are_never_divided():
    """Ten decisions in five episodes, of which 0, 2 and 4 begin alike."""
    data = make(10, episode_ids=np.arange(10) // 2, start_ids=np.array([0, 1, 0, 2, 0]).repeat(2))
    for seed in range(10):
        train, validation = data.split_by_episode(0.4, np.random.default_rng(seed))
        assert not set(train.start_ids) & set(validation.start_ids)
        assert len(set(validation.episode_ids)) in (2, 3, 4) and len(train) + len(validation) == 10
    with pytest.raises(ValueError, match="from one of the 1 initial states stay together"):
        make(10, start_ids=np.zeros(10, dtype=np.int64)).split_by_episode(0.1, np.random.default_rng(0))


def test_split_of_different_initial_states_is_the_draw_of_episodes():
    data = make(30)
    for seed in range(5):
        _, validation = data.split_by_episode(0.3, np.random.default_rng(seed))
        expected = np.random.default_rng(seed).permutation(np.arange(10))[:3]
        assert set(validation.episode_ids) == set(expected)


def without_start(episode, **changes):
    return replace(episode, init_state_id=-1, **changes)


def test_initial_states_are_told_by_number_state_or_first_image(episodes) -> None:
    one, two, three = episodes(3, lengths=[3, 3, 3])
    data = DemonstrationSet.from_episodes([one, two, replace(three, init_state_id=0)])
    assert data.start_ids.reshape(3, 3)[:, 0].tolist() == [0, 1, 0]
    other_task = replace(three, init_state_id=0, task_id=5)
    assert len(set(DemonstrationSet.from_episodes([one, other_task]).start_ids)) == 2
    same_look = without_start(two, images=one.images, proprio=one.proprio)
    data = DemonstrationSet.from_episodes([without_start(one), same_look, without_start(three)])
    assert data.start_ids.reshape(3, 3)[:, 0].tolist() == [0, 0, 1]
    states = [SimulatorTrace(np.full(5, number), *[np.zeros((3, 5))] * 4) for number in (1.0, 1.0, 2.0)]
    traced = [without_start(e, trace=state) for e, state in zip((one, two, three), states, strict=True)]
    data = DemonstrationSet.from_episodes(traced)
    assert data.start_ids.reshape(3, 3)[:, 0].tolist() == [0, 0, 1]


@pytest.mark.parametrize("name", ["commands", "proprio"])
def test_numbers_that_are_not_finite_are_refused(name, episodes) -> None:
    array = getattr(episodes(1)[0], name).copy()
    array[1, 2] = np.nan
    with pytest.raises(InvalidEpisodeError, match=f"{name} holds NaN or infinity in row 1. Leave this episode out"):
        DemonstrationSet.from_episodes([replace(episodes(1)[0], **{name: array})])


def test_gripper_commands_of_another_convention_are_not_learnt(episodes) -> None:
    (episode,) = episodes(1, lengths=[6])
    commands = episode.commands.copy()
    commands[:, 6] = [1, 1, 1, 0, 0, 0]
    with pytest.raises(DemonstrationFileError, match=r"demonstrations: gripper commands range over \[0, 1\]"):
        DemonstrationSet.from_episodes([replace(episode, commands=commands)])


def test_episodes_without_images_are_refused(episodes) -> None:
    with pytest.raises(ValueError, match="no images of camera 'agentview'"):
        DemonstrationSet.from_episodes(episodes(2, image_size=0), image_size=8)


def test_frames_on_disk_are_those_in_memory(tmp_path, episodes) -> None:
    some = episodes(3, image_size=8)
    for size in (None, 4):
        kept = [
            DemonstrationSet.from_episodes(some, image_size=size, image_folder=folder) for folder in (None, tmp_path)
        ]
        assert isinstance(kept[1].images, np.memmap) and kept[0].images.shape[1] == (size or 8)
        np.testing.assert_array_equal(kept[0].images, kept[1].images)
        np.testing.assert_array_equal(kept[0].wrist, kept[1].wrist)


@pytest.mark.parametrize("on_disk", [False, True])
def test_images_of_different_sizes_want_one_size(on_disk, tmp_path, episodes) -> None:
    folder = tmp_path if on_disk else None
    small, large = episodes(1, image_size=8)[0], episodes(1, image_size=16)[0]
    mixed = replace(small, wrist_images=large.wrist_images)
    for some in ([small, large], [mixed]):
        with pytest.raises(ValueError, match=r"of \(16, 16, 3\), others before \(8, 8, 3\).*Give image_size"):
            DemonstrationSet.from_episodes(some, image_folder=folder)
        assert DemonstrationSet.from_episodes(some, image_size=8, image_folder=folder).images.shape[1:] == (8, 8, 3)


def test_frames_shrink_as_the_model_would_do_it(episodes) -> None:
    some = episodes(2, image_size=128)
    processor = Processor(get_preset("nano"))
    whole = DemonstrationSet.from_episodes(some).batch(np.arange(3), "cpu").inputs["images"]
    small = DemonstrationSet.from_episodes(some, image_size=64).batch(np.arange(3), "cpu").inputs["images"]
    assert small.shape == (3, 3, 64, 64)
    assert DemonstrationSet.from_episodes(some, image_size=64).camera_size == (128, 128)
    th.testing.assert_close(processor.images(small), processor.images(whole), atol=0, rtol=0)
