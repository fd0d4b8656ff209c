"""Demonstrations on disk: the layout is LIBERO's, what is read is what was written, and damage is refused by name."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from dataclasses import fields, replace
from pathlib import Path

import h5py
import numpy as np
import pytest

from vla_gym.datasets.episode import Episode, SimulatorTrace
from vla_gym.datasets.hdf5 import DemonstrationFile, load_episodes
from vla_gym.datasets.hdf5_writer import DemonstrationWriter
from vla_gym.errors import DemonstrationFileError
from vla_gym.sim.libero_files import libero_root
from vla_gym.tasks.registry import SUITES, get_suite

TASK = get_suite("goal").task(8)
FILE = "put_the_bowl_on_the_plate_demo.hdf5"


def make_episode(n_steps: int, seed: int = 0, size: int = 16, init_state_id: int = 3) -> Episode:
    rng = np.random.default_rng(seed)
    trace = SimulatorTrace(
        init_state=rng.normal(size=11),
        states=rng.normal(size=(n_steps, 11)),
        joint_states=rng.normal(size=(n_steps, 7)),
        ee_states=rng.normal(size=(n_steps, 6)),
        robot_states=rng.normal(size=(n_steps, 9)),
    )
    proprio = np.concatenate([trace.ee_states, trace.robot_states[:, :2]], axis=1).astype(np.float32)
    agentview, wrist = rng.integers(0, 256, (2, n_steps, size, size, 3), dtype=np.uint8)
    commands = rng.uniform(-1, 1, (n_steps, 7))
    return Episode(agentview, proprio, commands, TASK.instruction, 8, init_state_id, True, wrist, trace)


def assert_equal(one: Episode, other: Episode) -> None:
    for part in fields(one):
        first, second = getattr(one, part.name), getattr(other, part.name)
        if isinstance(first, np.ndarray):
            assert first.dtype == second.dtype
            np.testing.assert_array_equal(first, second)
        elif part.name != "trace" or first is None:
            assert first == second
        else:
            for inner in fields(first):
                np.testing.assert_array_equal(getattr(first, inner.name), getattr(second, inner.name))


def write(path: Path, *episodes: Episode, **metadata: object) -> Path:
    with DemonstrationWriter(path, TASK, metadata) as writer:
        for episode in episodes:
            writer.add(episode)
    return path


def write_as_libero(path: Path, n_steps: int = 4) -> h5py.File:
    """What LIBERO's recorder writes: its attributes only, no compression, double-precision proprioception."""
    file = h5py.File(path, "w")
    data = file.create_group("data")
    info = {"problem_name": "p", "domain_name": "robosuite", "language_instruction": "open the top drawer"}
    data.attrs["problem_info"] = json.dumps(info)
    data.attrs["bddl_file_name"] = "chiliocosm/bddl_files/libero_goal/open_the_middle_drawer_of_the_cabinet.bddl"
    data.attrs["num_demos"] = 1
    demo = data.create_group("demo_0")
    rng = np.random.default_rng(0)
    ee_states = rng.normal(size=(n_steps, 6))
    demo["actions"], demo["states"] = rng.uniform(-1, 1, (n_steps, 7)), rng.normal(size=(n_steps, 11))
    demo["robot_states"], demo["rewards"] = rng.normal(size=(n_steps, 9)), np.array([0] * (n_steps - 1) + [1], "uint8")
    demo["obs/ee_states"], demo["obs/ee_pos"], demo["obs/ee_ori"] = ee_states, ee_states[:, :3], ee_states[:, 3:]
    demo["obs/gripper_states"], demo["obs/joint_states"] = rng.normal(size=(n_steps, 2)), rng.normal(size=(n_steps, 7))
    for camera in ("agentview_rgb", "eye_in_hand_rgb"):
        demo[f"obs/{camera}"] = rng.integers(0, 256, (n_steps, 128, 128, 3), dtype=np.uint8)
    return file


def test_what_is_read_is_what_was_written(tmp_path: Path) -> None:
    # eleven, so that demo_10 sorts behind demo_9
    episodes = [make_episode(5 + i, seed=i, init_state_id=i) for i in range(11)]
    path = write(tmp_path / FILE, *episodes, seed=7)
    with DemonstrationFile(path) as file:
        assert (file.task, file.instruction, len(file)) == (TASK, "put the bowl on the plate", 11)
        assert file.metadata == {"seed": 7}
        assert file.episode_metadata(4)["init_state_id"] == 4
        for stored, episode in zip(file, episodes, strict=True):
            assert_equal(stored, episode)


@pytest.mark.parametrize("missing", ["trace", "wrist_images", "images"])
def test_parts_that_an_episode_lacks_are_not_invented(missing: str, tmp_path: Path) -> None:
    nothing = np.zeros((4, 0, 0, 3), dtype=np.uint8) if missing == "images" else None
    episode = replace(make_episode(4), **{missing: nothing}, success=False)
    with DemonstrationFile(write(tmp_path / FILE, episode)) as file:
        assert_equal(file[0], episode)


def test_the_layout_is_libero_s(tmp_path: Path) -> None:
    episode = make_episode(6)
    with h5py.File(write(tmp_path / FILE, episode, make_episode(3))) as file:
        data, demo = file["data"], file["data/demo_0"]
        assert (data.attrs["num_demos"], data.attrs["total"], demo.attrs["num_samples"]) == (2, 9, 6)
        assert "(:domain robosuite)" in data.attrs["bddl_file_content"]
        env_args = json.loads(data.attrs["env_args"])
        assert env_args["type"] == 1 and env_args["problem_name"] == "libero_tabletop_manipulation"
        assert env_args["env_kwargs"]["controller_configs"]["type"] == "OSC_POSE"
        assert env_args["env_kwargs"]["camera_heights"] == 16
        assert set(demo) == {"actions", "states", "robot_states", "rewards", "dones", "obs"}
        stored = demo["obs/agentview_rgb"]
        np.testing.assert_array_equal(stored[()], episode.images[:, ::-1, ::-1])
        assert stored.compression == "gzip" and stored.chunks == (1, 16, 16, 3)
        assert demo["rewards"][()].tolist() == demo["dones"][()].tolist() == [0, 0, 0, 0, 0, 1]
        np.testing.assert_array_equal(demo.attrs["init_state"], episode.trace.states[0])
        np.testing.assert_array_equal(demo["obs/ee_ori"][()], episode.trace.ee_states[:, 3:])


ROBOMIMIC = """
import contextlib, io, json, sys
from unittest.mock import MagicMock
# robomimic's networks need it, its data sets do not, and it does not fit every torch
sys.modules.update({"torchvision": MagicMock(), "torchvision.models": MagicMock()})
with contextlib.redirect_stdout(io.StringIO()):
    from robomimic.utils import file_utils, obs_utils
    from robomimic.utils.dataset import SequenceDataset
    keys = {"rgb": ["agentview_rgb", "eye_in_hand_rgb"], "low_dim": ["gripper_states", "joint_states"]}
    obs_utils.initialize_obs_utils_with_obs_specs({"obs": keys})
    names = sum(keys.values(), [])
    shapes = file_utils.get_shape_metadata_from_dataset(sys.argv[1], all_obs_keys=names)
    dataset = SequenceDataset(sys.argv[1], names, ["actions"], frame_stack=1, seq_length=3, load_next_obs=False)
    actions = dataset[6]["actions"].tolist()
print(json.dumps([len(dataset), shapes["ac_dim"], shapes["all_shapes"], actions]))
"""


def test_robomimic_reads_it(tmp_path: Path) -> None:
    pytest.importorskip("six", reason="robomimic needs six, and does not say so")
    path = write(tmp_path / FILE, make_episode(6), make_episode(5, seed=1))
    result = subprocess.run([sys.executable, "-c", ROBOMIMIC, str(path)], capture_output=True, text=True, check=True)
    n_steps, n_commands, shapes, actions = json.loads(result.stdout)
    assert (n_steps, n_commands) == (11, 7)
    assert shapes["agentview_rgb"] == shapes["eye_in_hand_rgb"] == [3, 16, 16]
    np.testing.assert_allclose(actions, make_episode(5, seed=1).commands[:3], atol=1e-6)


def test_libero_s_own_summary_reads_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = libero_root() / "utils" / "dataset_utils.py"
    spec = importlib.util.spec_from_file_location("libero_dataset_utils", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    module.get_dataset_info(str(write(tmp_path / FILE, make_episode(6), make_episode(5))), verbose=True)
    output = capsys.readouterr().out
    assert "total transitions: 11" in output and "language instruction: put the bowl on the plate" in output
    assert "observation key agentview_rgb with shape (6, 16, 16, 3)" in output


def test_files_of_libero_s_own_recorder_are_read(tmp_path: Path) -> None:
    path = tmp_path / "open_the_middle_drawer_of_the_cabinet_demo.hdf5"
    with write_as_libero(path) as file:
        demo = file["data/demo_0"]
        images, actions, fingers = (demo[k][()] for k in ("obs/agentview_rgb", "actions", "obs/gripper_states"))
        ee_states, states = demo["obs/ee_states"][()], demo["states"][()]
    (episode,) = load_episodes(path)
    assert (episode.instruction, episode.task_id, episode.init_state_id) == ("open the top drawer", 0, -1)
    assert episode.success
    np.testing.assert_array_equal(episode.images, images[:, ::-1, ::-1])
    np.testing.assert_array_equal(episode.commands, actions)
    np.testing.assert_array_equal(episode.proprio, np.concatenate([ee_states, fingers], axis=1).astype(np.float32))
    np.testing.assert_array_equal(episode.trace.init_state, states[0])
    with DemonstrationFile(path) as file:
        assert file.metadata == {}


def test_without_attributes_the_name_of_the_file_says_the_task(tmp_path: Path) -> None:
    with write_as_libero(tmp_path / FILE) as file:
        file["data"].attrs.clear()
    (episode,) = load_episodes(tmp_path / FILE)
    assert (episode.instruction, episode.task_id) == ("put the bowl on the plate", 8)
    unknown = (tmp_path / FILE).rename(tmp_path / "stir_the_soup_demo.hdf5")
    with pytest.raises(DemonstrationFileError, match=r"stir_the_soup_demo.hdf5 has no 'problem_info'"):
        next(load_episodes(unknown))


def test_names_of_tasks_are_unique() -> None:
    names = [task.name for suite in SUITES.values() for task in suite.tasks]
    assert len(names) == len(set(names)), "else a file's name does not say its task"


def test_a_folder_is_read_in_order_and_hidden_files_are_left_out(tmp_path: Path) -> None:
    write(tmp_path / "b_demo.hdf5", make_episode(2))
    write(tmp_path / "sub" / "c_demo.hdf5", make_episode(3))
    write(tmp_path / "a_demo.hdf5", make_episode(4), make_episode(5))
    write(tmp_path / ".recording" / "episode_000000.hdf5", make_episode(6))
    (tmp_path / ".d_demo.hdf5").write_bytes(b"half")
    assert [len(episode) for episode in load_episodes(tmp_path)] == [4, 5, 2, 3]


def test_an_error_while_writing_leaves_the_earlier_file(tmp_path: Path) -> None:
    path = write(tmp_path / FILE, make_episode(2))
    with pytest.raises(RuntimeError, match="power cut"), DemonstrationWriter(path, TASK) as writer:
        writer.add(make_episode(5))
        raise RuntimeError("power cut")
    assert [len(episode) for episode in load_episodes(path)] == [2]
    assert [file.name for file in tmp_path.iterdir()] == [FILE]


def test_damage_is_refused_by_name(tmp_path: Path) -> None:
    path = write(tmp_path / FILE, make_episode(30))
    whole = path.read_bytes()
    for content in (whole[: len(whole) // 2], b"", b"PK\x03\x04 not this"):
        path.write_bytes(content)
        with pytest.raises(DemonstrationFileError, match=rf"{FILE} cannot be read as HDF5.*Remove it"):
            DemonstrationFile(path)
    with pytest.raises(DemonstrationFileError, match=r"nothing\.hdf5 is no file"):
        DemonstrationFile(tmp_path / "nothing.hdf5")
    empty = tmp_path / "empty"
    empty.mkdir()
    with pytest.raises(DemonstrationFileError, match=r"empty holds no .hdf5 files; record some with"):
        load_episodes(empty)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda file: file.move("data", "episodes"), r"has no group 'data', but \['episodes'\]"),
        (lambda file: file["data"].move("demo_1", "episode"), "expected demo_0, demo_1"),
        (lambda file: file["data"].pop("demo_1"), "says that it has 2 demonstrations but has 1"),
        (lambda file: file["data/demo_0"].pop("actions"), "demo_0 lacks 'actions'"),
        (lambda file: file["data/demo_0/obs"].pop("ee_ori"), "demo_0 lacks 'obs/ee_ori'"),
        (lambda file: replace_array(file, "actions", np.zeros((3, 7))), r"has actions \(3, 7\)"),
        (lambda file: replace_array(file, "actions", np.zeros((4, 6))), r"has actions \(4, 6\)"),
        (lambda file: replace_array(file, "obs/agentview_rgb", np.zeros((4, 16, 16, 3))), "float64; expected"),
    ],
)
def test_another_layout_is_refused(damage, message: str, tmp_path: Path) -> None:
    path = write(tmp_path / FILE, make_episode(4), make_episode(4))
    with h5py.File(path, "r+") as file:
        damage(file)
    with pytest.raises(DemonstrationFileError, match=message):
        list(load_episodes(path))


def replace_array(file: h5py.File, name: str, array: np.ndarray) -> None:
    del file["data/demo_0"][name]
    file["data/demo_0"][name] = array
