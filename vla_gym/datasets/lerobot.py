"""
Demonstrations in LeRobot's dataset format v3.0, written and read without LeRobot.

LeRobot itself would bring torch, a video library and pins that exclude this library's own; its format is public:
``data/`` holds steps as parquet, ``videos/<camera>/`` frames as MP4, ``meta/`` what is where. Keys are those of
LeRobot's LIBERO environment: ``observation.images.image`` (agentview), ``observation.images.image2`` (wrist),
``observation.state`` (``proprio``) and ``action``, in single precision. Images are upright, as the policy sees them.
Video is lossy; the simulator's side of an episode has no place in the format.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import imageio_ffmpeg
import numpy as np

from vla_gym.datasets.episode import Episode
from vla_gym.errors import DemonstrationFileError, MissingPackageError
from vla_gym.tasks.registry import COMMAND_DIM, CONTROL_HZ
from vla_gym.type_aliases import UInt8Array

VERSION = "v3.0"
IMAGE_KEYS = {"images": "observation.images.image", "wrist_images": "observation.images.image2"}
"""Field of :class:`Episode` -> key."""
FRAMES_PER_FILE = 20_000
"""An episode begins a new file when the current one has this many frames."""
FILES_PER_CHUNK = 1000
CRF = 18
"""Constant rate factor of H.264: the higher, the smaller and the worse; above 23 compression becomes visible."""
KEYFRAME_INTERVAL = 2
"""Every other frame can be decoded by itself, because training reads single steps."""
_FILE = "chunk-{chunk_index:03d}/file-{file_index:03d}"
_DATA = f"data/{_FILE}.parquet"
_VIDEO = f"videos/{{video_key}}/{_FILE}.mp4"
_EPISODES = f"meta/episodes/{_FILE}.parquet"
_TASK_ID, _INIT_STATE_ID = "vla_gym/task_id", "vla_gym/init_state_id"


def export_lerobot(episodes: Iterable[Episode], folder: str | Path) -> Path:
    """
    Write episodes as a LeRobot dataset; the folder takes its name when all is written.

    :param episodes: with the same cameras and image sizes; taken one by one
    :param folder: folder to make
    :return: the folder
    :raises MissingPackageError: without pyarrow
    :raises DemonstrationFileError: if the folder exists
    :raises ValueError: without episodes, for images of odd height or width, or of another size than the first ones
    """
    _pyarrow()
    folder = Path(folder)
    if folder.exists():
        raise DemonstrationFileError(f"{folder} exists already; name another folder or remove it.")
    partial = folder.with_name(f".{folder.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    try:
        exporter = _Exporter(partial)
        try:
            for episode in episodes:
                exporter.add(episode)
        finally:
            exporter.end_files()
        exporter.write_meta()
        partial.rename(folder)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return folder


def load_lerobot(folder: str | Path) -> Iterator[Episode]:
    """
    Episodes of a LeRobot dataset v3.0 of LIBERO's robot, one after the other; only one is in memory at a time.

    :param folder: folder of the dataset
    :return: episodes in order
    :raises MissingPackageError: without pyarrow
    :raises DemonstrationFileError: if it is no such dataset
    """
    _pyarrow()
    folder = Path(folder)
    try:
        info = json.loads((folder / "meta" / "info.json").read_text())
    except (OSError, ValueError) as error:
        raise DemonstrationFileError(
            f"{folder} is no LeRobot dataset: meta/info.json cannot be read ({error})."
        ) from error
    if info.get("codebase_version") != VERSION:
        raise DemonstrationFileError(
            f"{folder} has format {info.get('codebase_version')!r}; expected {VERSION!r}. "
            "LeRobot converts older datasets."
        )
    for key, size in (("observation.state", 8), ("action", COMMAND_DIM)):
        shape = info["features"].get(key, {}).get("shape")
        if shape is None or list(shape) != [size]:
            raise DemonstrationFileError(f"{folder}: feature {key!r} has shape {shape}; expected [{size}].")
    return _Importer(folder, info).episodes()


class _Exporter:
    """A dataset that is being written."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._parquet = _pyarrow()
        self._instructions: dict[str, int] = {}
        self._rows: list[dict[str, Any]] = []
        self._shapes: dict[str, tuple[int, ...]] = {}
        self._videos: dict[str, Any] = {}
        self._data: Any = None
        self._file_index = -1
        self._n_frames = 0
        self._frames_in_file = 0
        self._statistics: dict[str, _Statistics] = {}

    def add(self, episode: Episode) -> None:
        images = {key: getattr(episode, name) for name, key in IMAGE_KEYS.items()}
        images = {key: frames for key, frames in images.items() if frames is not None and frames.size}
        shapes = {key: frames.shape[1:] for key, frames in images.items()}
        if not self._rows:
            self._shapes = shapes
            for key, shape in shapes.items():
                if shape[0] % 2 or shape[1] % 2:
                    raise ValueError(f"{key} has images of {shape[0]} x {shape[1]} pixels; video needs even numbers.")
        if shapes != self._shapes:
            raise ValueError(f"Episode {len(self._rows)} has images {shapes}; the first one has {self._shapes}.")
        if self._data is None or self._frames_in_file >= FRAMES_PER_FILE:
            self.end_files()
            self._begin_files()
        self._write_data(episode)
        for key, frames in images.items():
            for frame in frames:
                self._videos[key].send(np.ascontiguousarray(frame))
            self._note(key, frames.reshape(-1, 3)[:: max(1, frames.size // 300_000)] / 255.0, len(episode))
        self._write_row(episode)
        self._n_frames += len(episode)
        self._frames_in_file += len(episode)

    def _begin_files(self) -> None:
        self._file_index += 1
        self._frames_in_file = 0
        place = self._place()
        self._data = self._parquet.ParquetWriter(_made(self._folder / _DATA.format(**place)), _data_schema())
        for key, shape in self._shapes.items():
            video = imageio_ffmpeg.write_frames(
                str(_made(self._folder / _VIDEO.format(video_key=key, **place))),
                (shape[1], shape[0]),
                fps=CONTROL_HZ,
                codec="libx264",
                pix_fmt_out="yuv420p",
                macro_block_size=2,
                quality=None,
                output_params=["-crf", str(CRF), "-g", str(KEYFRAME_INTERVAL), "-bf", "0"],
            )
            video.send(None)
            self._videos[key] = video

    def end_files(self) -> None:
        """Finish the files that are open."""
        for video in self._videos.values():
            video.close()
        self._videos.clear()
        if self._data is not None:
            self._data.close()
            self._data = None

    def _place(self) -> dict[str, int]:
        return {"chunk_index": self._file_index // FILES_PER_CHUNK, "file_index": self._file_index % FILES_PER_CHUNK}

    def _write_data(self, episode: Episode) -> None:
        import pyarrow

        n = len(episode)
        task_index = self._instructions.setdefault(episode.instruction, len(self._instructions))
        columns: dict[str, Any] = {
            "observation.state": episode.proprio,
            "action": episode.commands.astype(np.float32),
            "timestamp": np.arange(n, dtype=np.float32) / CONTROL_HZ,
            "frame_index": np.arange(n),
            "episode_index": np.full(n, len(self._rows)),
            "index": np.arange(self._n_frames, self._n_frames + n),
            "task_index": np.full(n, task_index),
        }
        for name, values in columns.items():
            self._note(name, values.reshape(n, -1), n)
        schema = _data_schema()
        arrays = [pyarrow.array(list(columns[entry.name]), entry.type) for entry in schema]
        self._data.write_table(pyarrow.Table.from_arrays(arrays, schema=schema))

    def _write_row(self, episode: Episode) -> None:
        place, n = self._place(), len(episode)
        row: dict[str, Any] = {
            "episode_index": len(self._rows),
            "tasks": [episode.instruction],
            "length": n,
            "dataset_from_index": self._n_frames,
            "dataset_to_index": self._n_frames + n,
            "data/chunk_index": place["chunk_index"],
            "data/file_index": place["file_index"],
            "meta/episodes/chunk_index": 0,
            "meta/episodes/file_index": 0,
            _TASK_ID: episode.task_id,
            _INIT_STATE_ID: episode.init_state_id,
        }
        for key in self._shapes:
            row |= {f"videos/{key}/{name}": value for name, value in place.items()}
            row[f"videos/{key}/from_timestamp"] = self._frames_in_file / CONTROL_HZ
            row[f"videos/{key}/to_timestamp"] = (self._frames_in_file + n) / CONTROL_HZ
        self._rows.append(row)

    def _note(self, key: str, values: Any, n_steps: int) -> None:
        self._statistics.setdefault(key, _Statistics()).add(values, n_steps)

    def write_meta(self) -> None:
        """Write what is where."""
        import pyarrow

        if not self._rows:
            raise ValueError("There are no episodes to export; give at least one.")
        meta = self._folder / "meta"
        place = {"chunk_index": 0, "file_index": 0}
        rows = pyarrow.Table.from_pylist(self._rows)
        self._parquet.write_table(rows, _made(self._folder / _EPISODES.format(**place)))
        self._parquet.write_table(_tasks_table(list(self._instructions)), meta / "tasks.parquet")
        (meta / "info.json").write_text(json.dumps(self._info(), indent=4))
        statistics = {key: part.summary(is_image=key in self._shapes) for key, part in self._statistics.items()}
        (meta / "stats.json").write_text(json.dumps(statistics, indent=4))

    def _info(self) -> dict[str, Any]:
        state = ["x", "y", "z", "axis_angle1", "axis_angle2", "axis_angle3", "gripper", "gripper"]
        action = ["x", "y", "z", "axis_angle1", "axis_angle2", "axis_angle3", "gripper"]
        features: dict[str, Any] = {
            "observation.state": {"dtype": "float32", "shape": [8], "names": {"motors": state}},
            "action": {"dtype": "float32", "shape": [COMMAND_DIM], "names": {"motors": action}},
            "timestamp": {"dtype": "float32", "shape": [1], "names": None},
            **{
                name: {"dtype": "int64", "shape": [1], "names": None}
                for name in ("frame_index", "episode_index", "index", "task_index")
            },
        }
        for key, shape in self._shapes.items():
            video = {
                "video.height": shape[0],
                "video.width": shape[1],
                "video.codec": "h264",
                "video.pix_fmt": "yuv420p",
                "video.is_depth_map": False,
                "video.fps": CONTROL_HZ,
                "video.channels": 3,
                "has_audio": False,
            }
            names = ["height", "width", "rgb"]
            features[key] = {"dtype": "video", "shape": list(shape), "names": names, "info": video}
        return {
            "codebase_version": VERSION,
            "robot_type": "panda",
            "total_episodes": len(self._rows),
            "total_frames": self._n_frames,
            "total_tasks": len(self._instructions),
            "chunks_size": FILES_PER_CHUNK,
            "data_files_size_in_mb": 100,
            "video_files_size_in_mb": 200,
            "fps": CONTROL_HZ,
            "splits": {"train": f"0:{len(self._rows)}"},
            "data_path": _DATA,
            "video_path": _VIDEO if self._shapes else None,
            "features": features,
        }


class _Statistics:
    """Extremes, mean and standard deviation of a feature, gathered episode by episode."""

    def __init__(self) -> None:
        self._low: Any = np.inf
        self._high: Any = -np.inf
        self._sum: Any = 0.0
        self._sum_of_squares: Any = 0.0
        self._n_values = 0
        self._n_steps = 0

    def add(self, values: Any, n_steps: int) -> None:
        values = values.astype(np.float64)
        self._low, self._high = np.minimum(self._low, values.min(0)), np.maximum(self._high, values.max(0))
        self._sum, self._sum_of_squares = self._sum + values.sum(0), self._sum_of_squares + (values**2).sum(0)
        self._n_values += len(values)
        self._n_steps += n_steps

    def summary(self, is_image: bool) -> dict[str, list[Any]]:
        mean = self._sum / self._n_values
        deviation = np.sqrt(np.maximum(self._sum_of_squares / self._n_values - mean**2, 0.0))
        parts = {"min": self._low, "max": self._high, "mean": mean, "std": deviation}
        shape = (3, 1, 1) if is_image else (-1,)
        return {name: part.reshape(shape).tolist() for name, part in parts.items()} | {"count": [self._n_steps]}


class _Importer:
    """A dataset that is being read."""

    def __init__(self, folder: Path, info: dict[str, Any]) -> None:
        self._folder = folder
        self._info = info
        self._parquet = _pyarrow()
        self._videos = {name: _VideoFiles() for name, key in IMAGE_KEYS.items() if key in info["features"]}

    def episodes(self) -> Iterator[Episode]:
        rows = [
            row
            for path in sorted((self._folder / "meta" / "episodes").glob("*/*.parquet"))
            for row in self._parquet.read_table(path).to_pylist()
        ]
        if len(rows) != self._info["total_episodes"]:
            raise DemonstrationFileError(
                f"{self._folder} says that it has {self._info['total_episodes']} episodes but lists {len(rows)}."
            )
        data_path, data = None, None
        try:
            for row in sorted(rows, key=lambda row: int(row["episode_index"])):
                path = self._path(self._info["data_path"], row, "data")
                if path != data_path:
                    data_path, data = path, self._parquet.read_table(path)
                yield self._episode(row, data)
        finally:
            for video in self._videos.values():
                video.close()

    def _path(self, template: str, row: dict[str, Any], key: str) -> Path:
        place = {name: int(row[f"{key}/{name}"]) for name in ("chunk_index", "file_index")}
        return self._folder / template.format(video_key=key.removeprefix("videos/"), **place)

    def _episode(self, row: dict[str, Any], data: Any) -> Episode:
        import pyarrow.compute

        steps = data.filter(pyarrow.compute.equal(data["episode_index"], row["episode_index"]))
        n = int(row["length"])
        if len(steps) != n:
            raise DemonstrationFileError(
                f"{self._folder}: episode {row['episode_index']} has {len(steps)} steps; expected {n}."
            )
        images: dict[str, UInt8Array] = {"images": np.zeros((n, 0, 0, 3), dtype=np.uint8)}
        for name, video in self._videos.items():
            key = f"videos/{IMAGE_KEYS[name]}"
            first = round(row[f"{key}/from_timestamp"] * self._info["fps"])
            images[name] = video.frames(self._path(self._info["video_path"], row, key), first, n)
        return Episode(
            proprio=np.array(steps["observation.state"].to_pylist(), dtype=np.float32),
            commands=np.array(steps["action"].to_pylist(), dtype=np.float64),
            instruction=row["tasks"][0],
            task_id=int(row.get(_TASK_ID, -1)),
            init_state_id=int(row.get(_INIT_STATE_ID, -1)),
            success=True,
            **images,
        )


class _VideoFiles:
    """Frames of video files, decoded as a stream as long as they are asked for in order."""

    def __init__(self) -> None:
        self._path: Path | None = None
        self._stream: Any = None
        self._size = (0, 0)
        self._next = 0

    def frames(self, path: Path, first: int, count: int) -> UInt8Array:
        if path != self._path or first < self._next:
            self.close()
            if not path.is_file():
                raise DemonstrationFileError(f"{path} is missing.")
            self._stream = imageio_ffmpeg.read_frames(str(path), pix_fmt="rgb24")
            self._size = next(self._stream)["size"]
            self._path, self._next = path, 0
        width, height = self._size
        pictures = []
        for frame in self._stream:
            self._next += 1
            if self._next > first:
                pictures.append(np.frombuffer(frame, dtype=np.uint8).reshape(height, width, 3))
            if len(pictures) == count:
                return np.stack(pictures)
        raise DemonstrationFileError(f"{path} ends after {self._next} frames; expected at least {first + count}.")

    def close(self) -> None:
        if self._stream is not None:
            self._stream.close()
            self._stream = None


def _made(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    return path


def _data_schema() -> Any:
    import pyarrow

    return pyarrow.schema(
        [
            ("observation.state", pyarrow.list_(pyarrow.float32(), 8)),
            ("action", pyarrow.list_(pyarrow.float32(), COMMAND_DIM)),
            ("timestamp", pyarrow.float32()),
            *((name, pyarrow.int64()) for name in ("frame_index", "episode_index", "index", "task_index")),
        ]
    )


def _tasks_table(instructions: list[str]) -> Any:
    """Task numbers, indexed by instruction: pandas reads the index from the schema's metadata."""
    import pyarrow

    index = "__index_level_0__"
    table = pyarrow.table({"task_index": pyarrow.array(range(len(instructions)), pyarrow.int64()), index: instructions})
    columns = [("task_index", "task_index", "int64", "int64"), (None, index, "unicode", "object")]
    pandas = {
        "index_columns": [index],
        "column_indexes": [],
        "columns": [
            {"name": name, "field_name": field, "pandas_type": kind, "numpy_type": numpy, "metadata": None}
            for name, field, kind, numpy in columns
        ],
        "creator": {"library": "pyarrow", "version": pyarrow.__version__},
        "pandas_version": "2.0.0",
    }
    return table.replace_schema_metadata({b"pandas": json.dumps(pandas).encode()})


def _pyarrow() -> ModuleType:
    try:
        import pyarrow.parquet
    except ImportError as error:
        raise MissingPackageError("LeRobot's format needs pyarrow: pip install 'vla-gym[lerobot]'") from error
    return pyarrow.parquet
