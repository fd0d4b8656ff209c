"""LeRobot's format: what goes out comes back, and other datasets are refused by name."""

from __future__ import annotations

import io
import json
import os
import shutil
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from vla_gym.datasets.conventions import Conventions
from vla_gym.datasets.episode import Episode
from vla_gym.datasets.lerobot import export, export_lerobot, frames, load_lerobot, parquet
from vla_gym.errors import DemonstrationFileError, MissingPackageError

pytest.importorskip("pyarrow", reason="needs the lerobot extra: pip install 'vla-gym[lerobot]'")


def make_episode(n_steps: int, seed: int, size: int = 32, instruction: str = "put the bowl on the plate") -> Episode:
    """A coloured square that moves over a gradient; noise would be no fair test of a video."""
    rng = np.random.default_rng(seed)
    ramp = np.linspace(40, 200, size).astype(np.uint8)
    images = np.repeat(np.broadcast_to(ramp[:, None, None], (size, size, 3))[None], n_steps, axis=0).copy()
    color = rng.integers(0, 256, 3)
    for t in range(n_steps):
        images[t, 4:12, 2 * t : 2 * t + 8] = color
    return Episode(
        images=images,
        proprio=rng.normal(size=(n_steps, 8)).astype(np.float32),
        commands=rng.uniform(-1, 1, (n_steps, 7)).astype(np.float32).astype(np.float64),
        instruction=instruction,
        task_id=seed,
        init_state_id=seed + 10,
        success=True,
        wrist_images=images[:, ::-1].copy(),
    )


def assert_alike(one: Episode, other: Episode) -> None:
    for name in ("proprio", "commands"):
        assert getattr(one, name).dtype == getattr(other, name).dtype
        np.testing.assert_array_equal(getattr(one, name), getattr(other, name))
    for name in ("instruction", "task_id", "init_state_id", "success"):
        assert getattr(one, name) == getattr(other, name)
    for first, second in ((one.images, other.images), (one.wrist_images, other.wrist_images)):
        assert first.shape == second.shape and first.dtype == second.dtype
        assert np.abs(first.astype(int) - second.astype(int)).mean(axis=(1, 2, 3)).max() < 4


@pytest.mark.parametrize("frames_per_file", [20_000, 12])
def test_what_goes_out_comes_back(frames_per_file: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(export, "FRAMES_PER_FILE", frames_per_file)
    episodes = [make_episode(8 + i, i, instruction="open the drawer" if i == 1 else "put it down") for i in range(4)]
    folder = export_lerobot(iter(episodes), tmp_path / "set")
    assert len(list(folder.glob("data/*/*.parquet"))) == (1 if frames_per_file > 100 else 2)
    back = list(load_lerobot(folder))
    assert len(back) == 4
    for one, other in zip(episodes, back, strict=True):
        assert_alike(one, other)
        distance = np.abs(one.images[:, None].astype(int) - other.images[None].astype(int)).mean(axis=(2, 3, 4))
        assert distance.argmin(axis=0).tolist() == list(range(len(one))), "no frame comes too early or too late"


def test_meta_says_what_is_where(tmp_path: Path) -> None:
    episodes = [make_episode(9, 0), make_episode(5, 1)]
    folder = export_lerobot(episodes, tmp_path / "set")
    info = json.loads((folder / "meta" / "info.json").read_text())
    assert (info["codebase_version"], info["fps"], info["total_frames"]) == ("v3.0", 20, 14)
    assert info["features"]["observation.images.image"]["shape"] == [32, 32, 3]
    statistics = json.loads((folder / "meta" / "stats.json").read_text())
    actions = np.concatenate([episode.commands for episode in episodes])
    for name in ("min", "max", "mean", "std"):
        np.testing.assert_allclose(statistics["action"][name], getattr(actions, name)(0), atol=1e-6)
    assert statistics["action"]["count"] == [14]
    assert np.shape(statistics["observation.images.image2"]["mean"]) == (3, 1, 1)
    assert 0 < statistics["observation.images.image2"]["mean"][0][0][0] < 1


def test_without_images_there_are_no_videos(tmp_path: Path) -> None:
    blind = replace(make_episode(6, 0), images=np.zeros((6, 0, 0, 3), dtype=np.uint8), wrist_images=None)
    (back,) = load_lerobot(export_lerobot([blind], tmp_path / "set"))
    assert back.images.shape == (6, 0, 0, 3) and back.wrist_images is None
    assert not (tmp_path / "set" / "videos").exists()


def test_an_error_leaves_nothing(tmp_path: Path) -> None:
    def broken() -> Iterator[Episode]:
        yield make_episode(5, 0)
        raise RuntimeError("power cut")

    with pytest.raises(RuntimeError, match="power cut"):
        export_lerobot(broken(), tmp_path / "set")
    with pytest.raises(ValueError, match="no episodes to export"):
        export_lerobot([], tmp_path / "set")
    with pytest.raises(ValueError, match=r"Episode 1 has images .*\(16, 16, 3\)"):
        export_lerobot([make_episode(5, 0), make_episode(5, 0, size=16)], tmp_path / "set")
    with pytest.raises(ValueError, match="33 x 33 pixels; video needs even numbers"):
        export_lerobot([make_episode(5, 0, size=33)], tmp_path / "set")
    assert list(tmp_path.iterdir()) == []


def test_other_datasets_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DemonstrationFileError, match="nothing is no LeRobot dataset"):
        load_lerobot(tmp_path / "nothing")
    folder = export_lerobot([make_episode(9, 0)], tmp_path / "set")
    with pytest.raises(DemonstrationFileError, match="set exists already"):
        export_lerobot([make_episode(5, 0)], folder)
    path = folder / "meta" / "info.json"
    info = json.loads(path.read_text())
    for change, message in (
        ({"codebase_version": "v1.6"}, r"has format 'v1\.6'; expected one of v2\.0, v2\.1, v3\.0"),
        ({"features": {**info["features"], "action": {"shape": [14]}}}, r"'action' has shape \[14\]; expected \[7\]"),
        ({"total_episodes": 2}, "says that it has 2 episodes but lists 1"),
    ):
        path.write_text(json.dumps({**info, **change}))
        with pytest.raises(DemonstrationFileError, match=message):
            list(load_lerobot(folder))
    path.write_text(json.dumps(info))
    (video,) = folder.glob("videos/observation.images.image/*/*.mp4")
    video.unlink()
    with pytest.raises(DemonstrationFileError, match=r"file-000\.mp4 is missing"):
        list(load_lerobot(folder))


def test_without_pyarrow_the_remedy_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow.parquet", None)
    for call in (lambda: export_lerobot([], tmp_path / "set"), lambda: load_lerobot(tmp_path)):
        with pytest.raises(MissingPackageError, match=r"pip install 'vla-gym\[lerobot\]'"):
            call()


OPENPI_KEYS = {"images": "image", "wrist_images": "wrist_image", "proprio": "state", "commands": "actions"}
IPEC_KEYS = {
    "images": "observation.images.image",
    "wrist_images": "observation.images.wrist_image",
    "proprio": "observation.state",
    "commands": "action",
}


def png(image: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "PNG")
    return buffer.getvalue()


def write_v2(folder: Path, episodes: list[Episode], keys: dict[str, str] = OPENPI_KEYS, **info: Any) -> Path:
    """A set of format v2.1 with images in the parquet, as openpi's and IPEC's, with changes to ``info.json``."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    (folder / "meta").mkdir(parents=True)
    (folder / "data" / "chunk-000").mkdir(parents=True)
    rows = []
    for i, episode in enumerate(episodes):
        n = len(episode)
        columns: dict[str, Any] = {
            keys["proprio"]: pa.array(list(episode.proprio), pa.list_(pa.float32())),
            keys["commands"]: pa.array(list(episode.commands.astype(np.float32)), pa.list_(pa.float32())),
            "episode_index": [i] * n,
            "frame_index": list(range(n)),
            "task_index": [0] * n,
        }
        for name in ("images", "wrist_images"):
            if name in keys:
                columns[keys[name]] = [{"bytes": png(frame), "path": None} for frame in getattr(episode, name)]
        pq.write_table(pa.table(columns), folder / "data" / "chunk-000" / f"episode_{i:06d}.parquet", row_group_size=5)
        rows.append(json.dumps({"episode_index": i, "tasks": [episode.instruction], "length": n}))
    (folder / "meta" / "episodes.jsonl").write_text("\n".join(rows) + "\n")
    image = {"dtype": "image", "shape": [32, 32, 3], "names": ["height", "width", "channel"]}
    features = {
        keys["proprio"]: {"dtype": "float32", "shape": [8], "names": ["state"]},
        keys["commands"]: {"dtype": "float32", "shape": [7], "names": ["actions"]},
        **{keys[name]: dict(image) for name in ("images", "wrist_images") if name in keys},
    }
    said = {
        "codebase_version": "v2.1",
        "fps": 20,
        "total_episodes": len(episodes),
        "chunks_size": 1000,
        "data_path": "data/chunk-{episode_chunk:03d}/episode_{episode_index:06d}.parquet",
        "video_path": "videos/chunk-{episode_chunk:03d}/{video_key}/episode_{episode_index:06d}.mp4",
        "features": features,
    }
    (folder / "meta" / "info.json").write_text(json.dumps(said | info))
    return folder


def change_info(folder: Path, **changes: Any) -> Path:
    path = folder / "meta" / "info.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))
    return folder


def change_feature(folder: Path, key: str, **changes: Any) -> Path:
    features = json.loads((folder / "meta" / "info.json").read_text())["features"]
    return change_info(folder, features={**features, key: {**features.get(key, {}), **changes}})


def read_all(folder: Path, **conventions: Any) -> list[Episode]:
    return list(load_lerobot(folder, Conventions(**conventions)))


def anonymous(episode: Episode) -> Episode:
    return replace(episode, task_id=-1, init_state_id=-1)


@pytest.mark.parametrize("keys", [OPENPI_KEYS, IPEC_KEYS], ids=["openpi", "IPEC"])
@pytest.mark.parametrize("version", ["v2.0", "v2.1"])
def test_sets_of_others_with_images_in_the_parquet_are_read(keys: dict, version: str, tmp_path: Path) -> None:
    episodes = [make_episode(8 + i, i) for i in range(3)]
    back = read_all(write_v2(tmp_path / "set", episodes, keys, codebase_version=version))
    for one, other in zip(episodes, back, strict=True):
        assert_alike(anonymous(one), other)
        np.testing.assert_array_equal(one.images, other.images)
        np.testing.assert_array_equal(one.wrist_images, other.wrist_images)


def test_images_in_the_parquet_of_format_v3_are_read(tmp_path: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    episodes = [make_episode(8, 0), make_episode(5, 1)]
    folder = export_lerobot(episodes, tmp_path / "set")
    path = folder / "data" / "chunk-000" / "file-000.parquet"
    table = pq.read_table(path)
    for name, key in (("images", "observation.images.image"), ("wrist_images", "observation.images.image2")):
        frames = np.concatenate([getattr(episode, name) for episode in episodes])
        table = table.append_column(key, pa.array([{"bytes": png(frame), "path": None} for frame in frames]))
        change_feature(folder, key, dtype="image")
    pq.write_table(table, path)
    shutil.rmtree(folder / "videos")
    for one, other in zip(episodes, read_all(folder), strict=True):
        np.testing.assert_array_equal(one.images, other.images)
        np.testing.assert_array_equal(one.wrist_images, other.wrist_images)


def test_videos_of_format_v2_are_read(tmp_path: Path) -> None:
    """One file per episode, which format v3.0 writes, too, if there is only one episode."""
    episode = make_episode(8, 0)
    source = export_lerobot([episode], tmp_path / "v3")
    folder = write_v2(tmp_path / "v2", [episode], IPEC_KEYS)
    for key, place in (("image", "image"), ("wrist_image", "image2")):
        target = folder / "videos" / "chunk-000" / f"observation.images.{key}" / "episode_000000.mp4"
        target.parent.mkdir(parents=True)
        shutil.copy(source / "videos" / f"observation.images.{place}" / "chunk-000" / "file-000.mp4", target)
        change_feature(folder, f"observation.images.{key}", dtype="video")
    (back,) = read_all(folder)
    assert_alike(anonymous(episode), back)


def test_other_keys_are_read_when_they_are_named(tmp_path: Path) -> None:
    keys = {"images": "front", "wrist_images": "hand", "proprio": "robot", "commands": "moves"}
    episode = make_episode(6, 0)
    folder = write_v2(tmp_path / "set", [episode], keys)
    with pytest.raises(DemonstrationFileError, match=r"has cameras \['front', 'hand'\].*Conventions\(keys="):
        read_all(folder)
    with pytest.raises(DemonstrationFileError, match=r"no feature for proprio, such as 'observation\.state'"):
        read_all(folder, keys={"images": "front"})
    with pytest.raises(DemonstrationFileError, match="no feature 'side' for images; it has"):
        read_all(folder, keys={**keys, "images": "side"})
    (back,) = read_all(folder, keys=keys)
    assert_alike(anonymous(episode), back)
    (back,) = read_all(folder, keys={name: keys[name] for name in ("images", "proprio", "commands")})
    assert back.wrist_images is None


def test_two_keys_that_may_mean_the_same_camera_are_not_guessed_between(tmp_path: Path) -> None:
    folder = write_v2(tmp_path / "set", [make_episode(6, 0)])
    change_feature(folder, "observation.images.wrist_image", dtype="image", shape=[32, 32, 3])
    with pytest.raises(
        DemonstrationFileError, match=r"for wrist_images \['observation\.images\.wrist_image', 'wrist_image'"
    ):
        read_all(folder)


def test_the_gripper_of_the_no_noops_sets_is_read_when_its_meaning_is_said(tmp_path: Path) -> None:
    episode = make_episode(6, 0)
    commands = episode.commands.copy()
    commands[:, 6] = [1, 1, 1, 0, 0, 0]
    stored = replace(episode, commands=commands)
    opened = replace(stored, commands=np.where(np.arange(7) == 6, 1.0, commands))
    # the first episode alone could mean either
    folder = write_v2(tmp_path / "set", [opened, stored])
    with pytest.raises(DemonstrationFileError, match=r"gripper commands range over \[0, 1\].*'one_opens'"):
        load_lerobot(folder)
    back = read_all(folder, gripper="one_opens")
    assert back[0].commands[:, 6].tolist() == [-1] * 6
    assert back[1].commands[:, 6].tolist() == [-1, -1, -1, 1, 1, 1]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"proprio": np.nan}, "proprio holds NaN or infinity in row 0"),
        ({"commands": np.nan}, "commands holds NaN or infinity in row 0"),
        ({"commands": 3.0}, r"commands range over \[3, 3\].*clip=True"),
        ({"proprio": np.array([1, 1, 1, 0, 0.6, 0.8, 0, 0.1], np.float32)}, "orientation is a quaternion"),
        ({"proprio": 90.0}, "the state has positions up to 90"),
    ],
)
def test_values_that_no_episode_of_libero_has_are_refused(
    changes: dict[str, Any], message: str, tmp_path: Path
) -> None:
    folder = write_v2(tmp_path / "set", [make_episode(6, 0)])
    import pyarrow as pa
    import pyarrow.parquet as pq

    path = folder / "data" / "chunk-000" / "episode_000000.parquet"
    table = pq.read_table(path)
    for name, value in changes.items():
        width = 8 if name == "proprio" else 7
        rows = list(np.broadcast_to(np.float32(value), (6, width)))
        place = table.schema.get_field_index(OPENPI_KEYS[name])
        table = table.set_column(place, OPENPI_KEYS[name], pa.array(rows, pa.list_(pa.float32())))
    pq.write_table(table, path)
    with pytest.raises(DemonstrationFileError, match=message):
        read_all(folder)


@pytest.mark.parametrize(
    ("key", "changes", "message"),
    [
        ("state", {"names": ["x", "y", "z", "rx", "ry", "rz", "rw", "gripper"]}, "orientation is a quaternion"),
        ("state", {"names": {"motors": [f"joint_{i}" for i in range(8)]}}, "the state holds joint angles"),
        ("actions", {"names": {"motors": [f"joint_{i}" for i in range(7)]}}, "the commands are joint_0, .*relative"),
        ("actions", {"names": ["gripper", "x", "y", "z", "a", "b", "c"]}, "the commands are gripper, x"),
        ("state", {"shape": [9]}, r"'state' has shape \[9\]; expected \[8\]"),
        ("image", {"info": {"video.is_depth_map": True}}, "'image' is depth; expected colour images"),
        ("wrist_image", {"dtype": "float32"}, "'wrist_image' is float32; expected colour images"),
    ],
)
def test_features_that_mean_something_else_are_refused(
    key: str, changes: dict[str, Any], message: str, tmp_path: Path
) -> None:
    folder = change_feature(write_v2(tmp_path / "set", [make_episode(6, 0)]), key, **changes)
    with pytest.raises(DemonstrationFileError, match=message):
        read_all(folder)


def test_blue_comes_first_where_the_set_or_the_caller_says_so(tmp_path: Path) -> None:
    episode = make_episode(6, 0)
    folder = write_v2(tmp_path / "set", [episode])
    (back,) = read_all(folder, color_order="bgr")
    np.testing.assert_array_equal(back.images, episode.images[..., ::-1])
    change_feature(folder, "image", names=["height", "width", "bgr"])
    (back,) = read_all(folder)
    np.testing.assert_array_equal(back.images, episode.images[..., ::-1])
    np.testing.assert_array_equal(back.wrist_images, episode.wrist_images)
    (back,) = read_all(folder, image_convention="opengl", color_order="rgb")
    np.testing.assert_array_equal(back.images, episode.images[:, ::-1, ::-1])


@pytest.mark.parametrize("hz", [10, 30.0, "20", None, True])
def test_another_rate_is_refused_until_it_is_said_to_be_nominal(hz: Any, tmp_path: Path) -> None:
    folder = write_v2(tmp_path / "set", [make_episode(6, 0)], fps=hz)
    with pytest.raises(DemonstrationFileError, match=r"steps per second; expected 20.*stated_hz="):
        read_all(folder)
    if not isinstance(hz, (str, bool)) and hz:
        assert len(read_all(folder, stated_hz=hz)) == 1


def outside(folder: Path) -> None:
    """Where the templates and links below point to."""
    shutil.copytree(folder / "data", folder.parent / "secret" / "data")


def linked(name: str) -> Callable[[Path], None]:
    def damage(folder: Path) -> None:
        path = folder / name
        path.rename(folder.parent / "secret" / "moved")
        path.symlink_to(folder.parent / "secret" / "moved")

    return damage


def template(path: str) -> Callable[[Path], None]:
    return lambda folder: (change_info(folder, data_path=path.replace("FOLDER", str(folder.parent))), None)[1]


FILE = "chunk-{episode_chunk:03d}/episode_{episode_index:06d}.parquet"


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (template(f"../secret/data/{FILE}"), "leaves the folder"),
        (template(f"FOLDER/secret/data/{FILE}"), "leaves the folder"),
        (template(f"data/../data/{FILE}"), "leaves the folder"),
        (template("data/{episode_index.__class__}"), "asks for more than episode_index"),
        (template("data/{episode_index:99999999999d}"), "asks for more than"),
        (template("data/{secret}"), "asks for more than"),
        (linked("data/chunk-000/episode_000000.parquet"), "leaves the folder"),
        (linked("data/chunk-000"), "leaves the folder"),
        (linked("meta/info.json"), "leaves the folder"),
        (linked("meta/episodes.jsonl"), "leaves the folder"),
    ],
)
def test_nothing_in_a_set_names_a_file_elsewhere(damage: Callable, message: str, tmp_path: Path) -> None:
    folder = write_v2(tmp_path / "set", [make_episode(6, 0)])
    outside(folder)
    damage(folder)
    with pytest.raises(DemonstrationFileError, match=message):
        read_all(folder)


def test_images_named_by_path_are_refused(tmp_path: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    folder = write_v2(tmp_path / "set", [make_episode(6, 0)])
    path = folder / "data" / "chunk-000" / "episode_000000.parquet"
    table = pq.read_table(path)
    images = pa.array(
        [{"bytes": None, "path": "/etc/passwd"}] * 6, pa.struct({"bytes": pa.binary(), "path": pa.string()})
    )
    pq.write_table(table.set_column(table.schema.get_field_index("image"), "image", images), path)
    with pytest.raises(DemonstrationFileError, match="not the image itself"):
        read_all(folder)


def test_a_playlist_under_the_name_of_a_video_is_not_followed(tmp_path: Path) -> None:
    folder = export_lerobot([make_episode(6, 0)], tmp_path / "set")
    (video,) = folder.glob("videos/observation.images.image/*/*.mp4")
    (other,) = folder.glob("videos/observation.images.image2/*/*.mp4")
    shutil.copy(other, video.with_name("secret.mp4"))
    video.write_text("ffconcat version 1.0\nfile secret.mp4\n")
    with pytest.raises(DemonstrationFileError, match="set: expected a LeRobot dataset"):
        read_all(folder)


@pytest.mark.parametrize("content", [lambda whole: whole[:300], lambda whole: b"", lambda whole: bytes(5000)])
def test_a_damaged_video_is_refused_by_name(content: Callable[[bytes], bytes], tmp_path: Path) -> None:
    folder = export_lerobot([make_episode(6, 0)], tmp_path / "set")
    (video,) = folder.glob("videos/observation.images.image/*/*.mp4")
    video.write_bytes(content(video.read_bytes()))
    with pytest.raises(DemonstrationFileError, match="set: expected a LeRobot dataset of LIBERO's robot"):
        read_all(folder)


def test_a_number_of_episodes_is_not_believed(tmp_path: Path) -> None:
    folder = write_v2(tmp_path / "set", [make_episode(6, 0)], total_episodes=10**15)
    with pytest.raises(DemonstrationFileError, match="says that it has 1000000000000000 episodes but lists 1"):
        read_all(folder)


@pytest.mark.parametrize("name", ["meta/info.json", "meta/episodes.jsonl", "data/chunk-000/episode_000000.parquet"])
def test_a_pipe_in_place_of_a_file_is_refused_at_once(name: str, tmp_path: Path) -> None:
    folder = write_v2(tmp_path / "set", [make_episode(6, 0)])
    (folder / name).unlink()
    os.mkfifo(folder / name)
    with pytest.raises(DemonstrationFileError, match="is no regular file"):
        read_all(folder)


@pytest.mark.parametrize("limit", ["MAX_VALUES", "MAX_COLUMN_BYTES"])
def test_sizes_that_a_parquet_file_declares_are_bounded(
    limit: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(parquet, limit, 5)
    with pytest.raises(DemonstrationFileError, match=r"parquet declares \d+ values of \d+ bytes; expected at most"):
        read_all(write_v2(tmp_path / "set", [make_episode(6, 0)]))


def test_images_are_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = write_v2(tmp_path / "set", [make_episode(6, 0)])
    monkeypatch.setattr(frames, "MAX_EPISODE_BYTES", 1000)
    with pytest.raises(DemonstrationFileError, match="at most 1000 bytes per episode"):
        read_all(folder)
    monkeypatch.setattr(frames, "MAX_PIXELS", 1000)
    with pytest.raises(DemonstrationFileError, match="32 x 32 pixels in mode 'RGB'; expected 'RGB' and at most 1000"):
        read_all(folder)
    videos = export_lerobot([make_episode(6, 0)], tmp_path / "videos")
    with pytest.raises(DemonstrationFileError, match=r"has frames of \(32, 32\); expected at most 1000 pixels"):
        read_all(videos)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ({"episode_index": 0, "tasks": [], "length": 6}, r"has the tasks \[\]; expected one instruction"),
        ({"episode_index": 0, "tasks": ["a", "b"], "length": 6}, r"has the tasks \['a', 'b'\]"),
        ({"episode_index": 0, "tasks": ["a"], "length": 10**12}, "has 6 steps; expected 1000000000000"),
        ({"episode_index": 3, "tasks": ["a"], "length": 6}, "expected numbers 0 to 0"),
    ],
)
def test_an_index_that_does_not_fit_is_refused(line: dict, message: str, tmp_path: Path) -> None:
    folder = write_v2(tmp_path / "set", [make_episode(6, 0)])
    (folder / "meta" / "episodes.jsonl").write_text(json.dumps(line))
    with pytest.raises(DemonstrationFileError, match=message):
        read_all(folder)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)
INFO = ("codebase_version", "fps", "features", "total_episodes", "chunks_size", "data_path", "video_path")


@settings(
    max_examples=80,
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(
    info=st.dictionaries(st.sampled_from(INFO), JSON, max_size=1),
    feature=st.dictionaries(st.sampled_from(("dtype", "shape", "names", "info")), JSON, max_size=1),
    row=st.one_of(st.none(), JSON, st.dictionaries(st.sampled_from(("episode_index", "tasks", "length")), JSON)),
    damage=st.lists(st.tuples(st.integers(0, 10_000), st.binary(min_size=1, max_size=3)), max_size=3),
    cut=st.one_of(st.none(), st.integers(0, 10_000)),
)
def test_whatever_a_set_holds_ends_in_the_named_error_or_in_episodes(
    info: dict, feature: dict, row: Any, damage: list[tuple[int, bytes]], cut: int | None, tmp_path: Path
) -> None:
    folder = tmp_path / "set"
    if not folder.exists():
        shutil.copytree(write_v2(tmp_path / "whole", [make_episode(6, 0)]), folder)
    whole = tmp_path / "whole"
    for name in ("meta/info.json", "meta/episodes.jsonl", "data/chunk-000/episode_000000.parquet"):
        shutil.copy(whole / name, folder / name)
    change_feature(folder, "image", **feature)
    change_info(folder, **info)
    if row is not None:
        (folder / "meta" / "episodes.jsonl").write_text(json.dumps(row))
    path = folder / "data" / "chunk-000" / "episode_000000.parquet"
    content = bytearray(path.read_bytes())
    for place, new in damage:
        content[place % len(content) : place % len(content) + len(new)] = new
    path.write_bytes(content[:cut])
    try:
        episodes = read_all(folder)
    except DemonstrationFileError as error:
        assert "set" in str(error) or "path" in str(error)
    else:
        assert all(len(episode) for episode in episodes)


def test_a_stream_of_no_kind_of_file_cannot_be_made() -> None:
    with pytest.raises(TypeError, match="abstract"):
        frames.FrameStream()
