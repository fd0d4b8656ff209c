"""Demonstrations on disk: the layout is LIBERO's, what is read is what was written, and damage is refused by name."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from dataclasses import fields, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import h5py
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vla_gym.datasets.conventions import Conventions
from vla_gym.datasets.episode import Episode, SimulatorTrace
from vla_gym.datasets.hdf5 import DemonstrationFile, load_episodes
from vla_gym.datasets.hdf5_writer import DemonstrationWriter
from vla_gym.errors import DemonstrationFileError
from vla_gym.scenes.libero_files import libero_root
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


def changed(tmp_path: Path, damage: Any, n_steps: int = 4) -> Path:
    """A file of two demonstrations after a change to it."""
    path = write(tmp_path / FILE, make_episode(n_steps), make_episode(n_steps, seed=1))
    with h5py.File(path, "r+") as file:
        damage(file)
    return path


def read_one(path: Path, **conventions: Any) -> Episode:
    return next(load_episodes(path, Conventions(**conventions)))


def with_gripper(*values: float, fingers: np.ndarray | None = None) -> Any:
    def damage(file: h5py.File) -> None:
        for demo in file["data"].values():
            demo["actions"][:, 6] = values
            if fingers is not None:
                demo["obs/gripper_states"][:] = fingers

    return damage


def test_gripper_commands_of_0_and_1_are_refused_until_their_meaning_is_said(tmp_path: Path) -> None:
    path = changed(tmp_path, with_gripper(1, 1, 1, 0, 0, 0), n_steps=6)
    with pytest.raises(DemonstrationFileError, match=r"range over \[0, 1\].*'minus_opens'.*'one_opens' \(1 is open"):
        read_one(path)
    assert read_one(path, gripper="one_opens").commands[:, 6].tolist() == [-1, -1, -1, 1, 1, 1]
    assert read_one(path, gripper="one_closes").commands[:, 6].tolist() == [1, 1, 1, -1, -1, -1]


def test_gripper_commands_of_both_signs_are_not_taken_for_0_and_1(tmp_path: Path) -> None:
    path = changed(tmp_path, with_gripper(1, 1, -1, -1))
    assert read_one(path).commands[:, 6].tolist() == [1, 1, -1, -1]
    assert read_one(path, gripper="plus_opens").commands[:, 6].tolist() == [-1, -1, 1, 1]
    for gripper in ("one_opens", "one_closes"):
        with pytest.raises(DemonstrationFileError, match=rf"range over \[-1, 1\], which does not fit '{gripper}'"):
            read_one(path, gripper=gripper)


OPEN_THEN_CLOSED = np.concatenate([np.linspace(0.02, 0.04, 10), [0.04] * 10, np.linspace(0.04, 0.01, 10), [0.01] * 10])
FINGERS = np.stack([OPEN_THEN_CLOSED, -OPEN_THEN_CLOSED], axis=1)


@pytest.mark.parametrize(
    ("values", "right", "wrong"),
    [
        ([-1] * 20 + [1] * 20, "minus_opens", "plus_opens"),
        ([1] * 20 + [-1] * 20, "plus_opens", "minus_opens"),
        ([1] * 20 + [0] * 20, "one_opens", "one_closes"),
        ([0] * 20 + [1] * 20, "one_closes", "one_opens"),
    ],
)
def test_fingers_tell_which_sign_opens(values: list[float], right: str, wrong: str, tmp_path: Path) -> None:
    path = changed(tmp_path, with_gripper(*values, fingers=FINGERS), n_steps=40)
    assert read_one(path, gripper=right).commands[:, 6].tolist() == [-1.0] * 20 + [1.0] * 20
    with pytest.raises(DemonstrationFileError, match=rf"fingers move against the gripper commands if '{wrong}'"):
        read_one(path, gripper=wrong)


def test_fingers_that_stay_open_tell_that_1_does_not_close(tmp_path: Path) -> None:
    path = changed(tmp_path, with_gripper(*[1] * 20, fingers=np.full((20, 2), [0.04, -0.04])), n_steps=20)
    with pytest.raises(DemonstrationFileError, match="fingers move against"):
        read_one(path)
    assert (read_one(path, gripper="one_opens").commands[:, 6] == -1).all()


def test_commands_beyond_the_controller_s_range_are_refused_or_limited(tmp_path: Path) -> None:
    path = changed(tmp_path, lambda file: replace_array(file, "actions", np.full((4, 7), -1.5)))
    with pytest.raises(DemonstrationFileError, match=r"commands range over \[-1\.5, -1\.5\].*Conventions\(clip=True\)"):
        read_one(path)
    assert (read_one(path, clip=True).commands == -1).all()
    rounded = changed(tmp_path, lambda file: replace_array(file, "actions", np.full((4, 7), -1 - 1e-7)))
    assert (read_one(rounded).commands == -1).all()


@pytest.mark.parametrize("name", ["actions", "obs/ee_pos", "obs/gripper_states", "states", "robot_states"])
@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_numbers_that_are_not_finite_are_refused(name: str, value: float, tmp_path: Path) -> None:
    def damage(file: h5py.File) -> None:
        file["data/demo_0"][name][2, 1] = value

    with pytest.raises(DemonstrationFileError, match="holds NaN or infinity in row 2"):
        read_one(changed(tmp_path, damage))


def corner(file: h5py.File) -> None:
    """A red pixel in the first corner of the stored images."""
    images = np.zeros((4, 16, 16, 3), dtype=np.uint8)
    images[:, 0, 0, 0] = 255
    replace_array(file, "obs/agentview_rgb", images)


@pytest.mark.parametrize(
    ("said", "conventions", "place"),
    [
        ({}, {}, (-1, -1, 0)),
        ({"macros_image_convention": "opengl"}, {}, (-1, -1, 0)),
        ({"macros_image_convention": "opencv"}, {}, (0, -1, 0)),
        ({"macros_image_convention": np.bytes_(b"opencv")}, {}, (0, -1, 0)),
        ({"macros_image_convention": "opencv"}, {"image_convention": "opengl"}, (-1, -1, 0)),
        ({}, {"image_convention": "upright"}, (0, 0, 0)),
        ({"color_order": "BGR"}, {}, (-1, -1, 2)),
        ({}, {"color_order": "bgr"}, (-1, -1, 2)),
    ],
)
def test_images_are_turned_as_the_file_or_the_caller_says(
    said: dict[str, str], conventions: dict[str, str], place: tuple[int, ...], tmp_path: Path
) -> None:
    path = changed(tmp_path, corner)
    with h5py.File(path, "r+") as file:
        del file["data"].attrs["macros_image_convention"]
        file["data"].attrs.update(said)
    images = read_one(path, **conventions).images
    assert images.shape == (4, 16, 16, 3) and (images[(slice(None), *place)] == 255).all()
    assert images.sum() == 4 * 255


@pytest.mark.parametrize(
    ("attributes", "message"),
    [
        (
            {"macros_image_convention": "vulkan"},
            "'macros_image_convention' is 'vulkan'; expected one of opengl, opencv",
        ),
        ({"env_args": json.dumps({"env_kwargs": {"control_freq": 10}})}, r"states 10 steps.*stated_hz=10"),
        (
            {"env_args": json.dumps({"env_kwargs": {"controller_configs": {"type": "JOINT_POSITION"}}})},
            "controller 'JOINT_POSITION'",
        ),
        (
            {"env_args": json.dumps({"env_kwargs": {"controller_configs": {"control_delta": False}}})},
            "control_delta=False; expected 'OSC_POSE' with relative",
        ),
        ({"env_args": "{"}, "expected demonstrations in LIBERO's HDF5 layout"),
        ({"num_demos": np.zeros(3)}, "expected demonstrations in LIBERO's HDF5 layout"),
        ({"problem_info": "[]"}, "expected demonstrations in LIBERO's HDF5 layout"),
        ({"problem_info": json.dumps({"language_instruction": {"a": 1}})}, "language_instruction is"),
    ],
)
def test_attributes_that_mean_something_else_are_refused(attributes: dict, message: str, tmp_path: Path) -> None:
    path = changed(tmp_path, lambda file: file["data"].attrs.update(attributes))
    with pytest.raises(DemonstrationFileError, match=message):
        read_one(path)


def test_another_control_rate_is_read_if_the_caller_says_that_it_is_nominal(tmp_path: Path) -> None:
    rate = {"env_args": json.dumps({"env_kwargs": {"control_freq": 10}})}
    assert len(read_one(changed(tmp_path, lambda file: file["data"].attrs.update(rate)), stated_hz=10)) == 4


def test_no_camera_is_dropped_without_a_word(tmp_path: Path) -> None:
    path = changed(tmp_path, lambda file: file["data/demo_0/obs"].move("eye_in_hand_rgb", "hand"))
    with pytest.raises(DemonstrationFileError, match=r"has cameras \['agentview_rgb', 'hand'\].*Conventions\(keys="):
        read_one(path)
    keys = {"images": "agentview_rgb", "wrist_images": "hand"}
    np.testing.assert_array_equal(read_one(path, keys=keys).wrist_images, make_episode(4).wrist_images)
    assert read_one(path, keys={"images": "hand"}).wrist_images is None
    with pytest.raises(DemonstrationFileError, match="lacks 'obs/front'"):
        read_one(path, keys={"images": "front"})


def test_names_of_robomimic_s_cameras_are_known(tmp_path: Path) -> None:
    def rename(file: h5py.File) -> None:
        file["data/demo_0/obs"].move("agentview_rgb", "agentview_image")
        file["data/demo_0/obs"].move("eye_in_hand_rgb", "robot0_eye_in_hand_image")

    assert_equal(read_one(changed(tmp_path, rename)), make_episode(4))


def test_orientations_that_are_no_axis_angle_are_refused(tmp_path: Path) -> None:
    quaternion = np.tile([0.0, 0.6, 0.8, 0.0], (4, 1))
    path = changed(tmp_path, lambda file: replace_array(file, "obs/ee_ori", quaternion))
    with pytest.raises(DemonstrationFileError, match=r"obs/ee_ori \(4, 4\); expected \(T, 3\)"):
        read_one(path)
    degrees = changed(tmp_path, lambda file: replace_array(file, "obs/ee_ori", np.full((4, 3), 90.0)))
    with pytest.raises(DemonstrationFileError, match=r"angles up to 155\.885; expected position \(3, m\)"):
        read_one(degrees)


def external_storage(file: h5py.File) -> None:
    secret = Path(file.filename).with_name("secret")
    secret.write_bytes(bytes(4 * 16 * 16 * 3))
    del file["data/demo_0/obs/agentview_rgb"]
    file["data/demo_0/obs"].create_dataset(
        "agentview_rgb", (4, 16, 16, 3), np.uint8, external=[(str(secret), 0, h5py.h5f.UNLIMITED)]
    )


def virtual_dataset(file: h5py.File) -> None:
    layout = h5py.VirtualLayout((4, 7), np.float64)
    layout[:] = h5py.VirtualSource("other.hdf5", "actions", (4, 7))
    del file["data/demo_0/actions"]
    file["data/demo_0"].create_virtual_dataset("actions", layout)


def link(name: str, target: Any) -> Any:
    def damage(file: h5py.File) -> None:
        del file[name]
        file[name] = target

    return damage


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (external_storage, "agentview_rgb is stored in other files"),
        (virtual_dataset, "actions is stored in other files"),
        (link("data", h5py.ExternalLink("other.hdf5", "/data")), r"/data is a link to another place \(ExternalLink\)"),
        (link("data/demo_0", h5py.SoftLink("/data/demo_1")), r"demo_0 is a link to another place \(SoftLink\)"),
        (link("data/demo_0/obs", h5py.ExternalLink("o", "/o")), "obs is a link to another place"),
        (link("data/demo_0/obs/ee_pos", h5py.SoftLink("/x")), "ee_pos is a link to another place"),
        (link("data/demo_0/rewards", h5py.ExternalLink("o", "/o")), "rewards is a link to another place"),
        (link("data/demo_0/states", h5py.ExternalLink("o", "/o")), "states is a link to another place"),
    ],
)
def test_nothing_in_a_file_names_another_one(damage: Any, message: str, tmp_path: Path) -> None:
    with pytest.raises(DemonstrationFileError, match=message):
        read_one(changed(tmp_path, damage))


def test_a_link_that_leaves_the_folder_is_refused(tmp_path: Path) -> None:
    outside = write(tmp_path / "outside_demo.hdf5", make_episode(2))
    folder = tmp_path / "shared"
    folder.mkdir()
    (folder / FILE).symlink_to(outside)
    with pytest.raises(DemonstrationFileError, match=r"is a link to .*outside_demo\.hdf5, outside of the folder"):
        load_episodes(folder)
    assert len(list(load_episodes(folder / FILE))) == 1, "one that the caller names is followed"
    inside = write(folder / "sub" / FILE, make_episode(3))
    (folder / FILE).unlink()
    (folder / FILE).symlink_to(inside)
    assert len(list(load_episodes(folder))) == 2


def test_links_of_hugging_face_s_cache_are_followed(tmp_path: Path) -> None:
    repository = tmp_path / "datasets--who--what"
    blob = write(repository / "blobs" / "blob.hdf5", make_episode(2))
    snapshot = repository / "snapshots" / "0123"
    snapshot.mkdir(parents=True)
    (snapshot / FILE).symlink_to(blob)
    assert len(list(load_episodes(snapshot))) == 1


@pytest.mark.parametrize(
    ("name", "shape"), [("actions", (10**11, 7)), ("obs/agentview_rgb", (4, 10**6, 10**6, 3)), ("states", (4, 10**11))]
)
def test_declared_sizes_are_not_believed(name: str, shape: tuple[int, ...], tmp_path: Path) -> None:
    def damage(file: h5py.File) -> None:
        del file["data/demo_0"][name]
        kind = np.uint8 if "rgb" in name else np.float64
        file["data/demo_0"].create_dataset(name, shape, kind, chunks=(1,) * len(shape))

    path = changed(tmp_path, damage)
    with pytest.raises(DemonstrationFileError, match=rf"{name} declares .* bytes, in a file of {path.stat().st_size}"):
        read_one(path)


def test_a_chunk_larger_than_its_dataset_is_not_unpacked(tmp_path: Path) -> None:
    def damage(file: h5py.File) -> None:
        del file["data/demo_0/actions"]
        chunks, limits = (4, 10**8), (None, None)
        file["data/demo_0"].create_dataset("actions", (4, 7), np.float64, chunks=chunks, maxshape=limits)

    with pytest.raises(DemonstrationFileError, match=r"in chunks \(4, 100000000\), 3200000000 bytes"):
        read_one(changed(tmp_path, damage))


def test_a_pipe_among_the_files_is_refused_at_once(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / FILE)
    with pytest.raises(DemonstrationFileError, match="is no file"):
        list(load_episodes(tmp_path))


OBJECTS = ("", "/actions", "/obs", "/obs/ee_pos", "/obs/gripper_states", "/obs/agentview_rgb", "/rewards", "/states")
VALUES = st.one_of(
    st.none(),
    st.text('a1[]{}"é', max_size=5),  # HDF5 takes no zero bytes in texts
    st.text('a1[]{}"é', max_size=5).map(str.encode),
    st.integers(-(2**40), 2**40),
    st.floats(),
    st.builds(
        lambda shape, kind: np.zeros(shape, kind),
        st.lists(st.integers(0, 7), max_size=4).map(tuple),
        st.sampled_from(["f8", "u1", "i8", "?", "c16", "S3", "f8,i4"]),
    ),
)
ATTRIBUTES = ("num_demos", "problem_info", "bddl_file_name", "env_args", "macros_image_convention", "color_order")


@settings(max_examples=60, deadline=None, derandomize=True, database=None)
@given(
    objects=st.dictionaries(st.sampled_from(OBJECTS), VALUES, max_size=2),
    attributes=st.dictionaries(st.sampled_from(ATTRIBUTES), VALUES.filter(lambda value: value is not None), max_size=2),
    length=st.one_of(st.none(), st.integers(0, 20_000)),
)
def test_whatever_a_file_holds_ends_in_the_named_error_or_in_episodes(
    objects: dict[str, Any], attributes: dict[str, Any], length: int | None
) -> None:
    """Any object replaced by another, None being an empty group; any attribute by another; and the file cut off."""
    with TemporaryDirectory() as folder:
        path = Path(folder) / FILE
        with write_as_libero(path) as file:
            for name, value in objects.items():
                name = f"data/demo_0{name}"
                if name in file:
                    del file[name]
                if "/".join(name.split("/")[:-1]) not in file:
                    continue
                if value is None:
                    file.create_group(name)
                elif isinstance(file[name.rpartition("/")[0]], h5py.Group):
                    file[name] = value
            for name, value in attributes.items():
                file["data"].attrs[name] = value
        if length is not None:
            path.write_bytes(path.read_bytes()[:length])
        try:
            episodes = list(load_episodes(path))
        except DemonstrationFileError as error:
            assert FILE in str(error)
        else:
            assert all(len(episode) for episode in episodes)
