"""Write episodes as a LeRobot dataset."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import imageio_ffmpeg
import numpy as np

from vla_gym.datasets.episode import Episode
from vla_gym.datasets.lerobot.layout import (
    DATA_PATH,
    EPISODES_PATH,
    IMAGE_KEYS,
    INIT_STATE_ID_KEY,
    TASK_ID_KEY,
    VERSION,
    VIDEO_PATH,
    pyarrow_parquet,
)
from vla_gym.errors import DemonstrationFileError
from vla_gym.spec import COMMAND_DIM
from vla_gym.tasks.registry import CONTROL_HZ

FRAMES_PER_FILE = 20_000
"""Number of frames in a file after which the next episode starts a new one."""
FILES_PER_CHUNK = 1000
CRF = 18
"""Constant rate factor of H.264: higher is smaller and worse; above 23 compression becomes visible."""
KEYFRAME_INTERVAL = 2
"""Distance of key frames: short, because training reads single steps."""


def export_lerobot(episodes: Iterable[Episode], folder: str | Path) -> Path:
    """
    Write episodes as a LeRobot dataset; the folder gets its name when all is written.

    :param episodes: with the same cameras and image sizes; taken one by one
    :param folder: folder to create
    :return: the folder
    :raises MissingPackageError: without pyarrow
    :raises DemonstrationFileError: if the folder exists
    :raises ValueError: without episodes, for images of odd height or width, or of another size than the first ones
    """
    pyarrow_parquet()
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


class _Exporter:
    """A dataset during writing."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._parquet = pyarrow_parquet()
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
            # a subset of the pixels is enough for statistics
            self._note(key, frames.reshape(-1, 3)[:: max(1, frames.size // 300_000)] / 255.0, len(episode))
        self._write_row(episode)
        self._n_frames += len(episode)
        self._frames_in_file += len(episode)

    def _begin_files(self) -> None:
        self._file_index += 1
        self._frames_in_file = 0
        place = self._place()
        self._data = self._parquet.ParquetWriter(_made(self._folder / DATA_PATH.format(**place)), _data_schema())
        for key, shape in self._shapes.items():
            video = imageio_ffmpeg.write_frames(
                str(_made(self._folder / VIDEO_PATH.format(video_key=key, **place))),
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
            TASK_ID_KEY: episode.task_id,
            INIT_STATE_ID_KEY: episode.init_state_id,
        }
        for key in self._shapes:
            row |= {f"videos/{key}/{name}": value for name, value in place.items()}
            row[f"videos/{key}/from_timestamp"] = self._frames_in_file / CONTROL_HZ
            row[f"videos/{key}/to_timestamp"] = (self._frames_in_file + n) / CONTROL_HZ
        self._rows.append(row)

    def _note(self, key: str, values: Any, n_steps: int) -> None:
        self._statistics.setdefault(key, _Statistics()).add(values, n_steps)

    def write_meta(self) -> None:
        """Write the index of episodes and files."""
        import pyarrow

        if not self._rows:
            raise ValueError("There are no episodes to export; give at least one.")
        meta = self._folder / "meta"
        place = {"chunk_index": 0, "file_index": 0}
        rows = pyarrow.Table.from_pylist(self._rows)
        self._parquet.write_table(rows, _made(self._folder / EPISODES_PATH.format(**place)))
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
            "data_path": DATA_PATH,
            "video_path": VIDEO_PATH if self._shapes else None,
            "features": features,
        }


class _Statistics:
    """Extremes, mean and standard deviation of a feature, accumulated episode by episode."""

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
    """Make the table of task numbers, indexed by instruction: pandas reads the index from the schema's metadata."""
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
