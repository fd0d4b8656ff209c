"""Episodes read from a LeRobot dataset."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import imageio_ffmpeg
import numpy as np

from vla_gym.datasets.episode import Episode
from vla_gym.datasets.lerobot.layout import IMAGE_KEYS, INIT_STATE_ID_KEY, TASK_ID_KEY, VERSION, pyarrow_parquet
from vla_gym.errors import DemonstrationFileError
from vla_gym.tasks.registry import COMMAND_DIM
from vla_gym.type_aliases import UInt8Array


def load_lerobot(folder: str | Path) -> Iterator[Episode]:
    """
    Episodes of a LeRobot dataset v3.0 of LIBERO's robot, one after the other; only one is in memory at a time.

    :param folder: folder of the dataset
    :return: episodes in order
    :raises MissingPackageError: without pyarrow
    :raises DemonstrationFileError: if it is no such dataset
    """
    pyarrow_parquet()
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


class _Importer:
    """A dataset that is being read."""

    def __init__(self, folder: Path, info: dict[str, Any]) -> None:
        self._folder = folder
        self._info = info
        self._parquet = pyarrow_parquet()
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
        images: dict[str, Any] = {"images": np.zeros((n, 0, 0, 3), dtype=np.uint8)}
        for name, video in self._videos.items():
            key = f"videos/{IMAGE_KEYS[name]}"
            first = round(row[f"{key}/from_timestamp"] * self._info["fps"])
            images[name] = video.frames(self._path(self._info["video_path"], row, key), first, n)
        return Episode(
            proprio=np.array(steps["observation.state"].to_pylist(), dtype=np.float32),
            commands=np.array(steps["action"].to_pylist(), dtype=np.float64),
            instruction=row["tasks"][0],
            task_id=int(row.get(TASK_ID_KEY, -1)),
            init_state_id=int(row.get(INIT_STATE_ID_KEY, -1)),
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
