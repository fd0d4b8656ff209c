"""Read episodes from a LeRobot dataset."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from vla_gym.datasets.conventions import Conventions, check_proprio
from vla_gym.datasets.episode import Episode
from vla_gym.datasets.lerobot.features import SUCCESS_KEY, DatasetInfo, read_info
from vla_gym.datasets.lerobot.frames import FrameStream, ImageStream, VideoStream
from vla_gym.datasets.lerobot.index import EpisodeRow, read_index
from vla_gym.datasets.lerobot.layout import pyarrow_parquet
from vla_gym.datasets.lerobot.parquet import matrix, read_columns
from vla_gym.errors import DemonstrationFileError
from vla_gym.files import named_errors
from vla_gym.spec import COMMAND_DIM, PROPRIO_DIM


def load_lerobot(folder: str | Path, conventions: Conventions | None = None) -> Iterator[Episode]:
    """
    Read the episodes of a LeRobot dataset (v2.0, v2.1, v3.0) of LIBERO's robot; only one is in memory at a time.

    Images may be videos or columns of the files of steps. The keys of LeRobot's, IPEC's and openpi's sets are known.

    :param folder: folder of the dataset
    :param conventions: how it differs from LIBERO
    :return: episodes in order
    :raises MissingPackageError: without pyarrow
    :raises DemonstrationFileError: if it is not such a dataset, is damaged, or has other conventions
    """
    pyarrow_parquet()
    folder, conventions = Path(folder), conventions or Conventions()
    with _named_errors(folder):
        info = read_info(folder, conventions)
        rows = read_index(info)
        steps = _Steps(info)
        conventions.check_gripper(steps.gripper(rows), folder)
    return _episodes(info, conventions, rows, steps)


def _named_errors(folder: Path) -> Any:
    return named_errors(DemonstrationFileError, f"{folder}: expected a LeRobot dataset of LIBERO's robot")


def _episodes(info: DatasetInfo, conventions: Conventions, rows: list[EpisodeRow], steps: _Steps) -> Iterator[Episode]:
    streams: dict[str, FrameStream] = {
        name: VideoStream() if name in info.videos else ImageStream(info.keys[name]) for name in info.cameras
    }
    try:
        for row in rows:
            with _named_errors(info.folder):
                episode = _episode(info, conventions, row, steps, streams)
            yield episode
    finally:
        for stream in streams.values():
            stream.close()


def _episode(
    info: DatasetInfo, conventions: Conventions, row: EpisodeRow, steps: _Steps, streams: dict[str, FrameStream]
) -> Episode:
    first, arrays = steps.of(row)
    source = f"{info.folder}: episode {row.index}"
    check_proprio(arrays["proprio"], info.state_names, source)
    images: dict[str, Any] = {"images": np.zeros((row.n_steps, 0, 0, 3), dtype=np.uint8)}
    for name, stream in streams.items():
        path, start = row.videos.get(name, (row.data, first))
        stored = stream.frames(path, start, row.n_steps)
        images[name] = conventions.pictures(stored, "upright", info.color_orders[name])
    with named_errors(DemonstrationFileError, source):
        return Episode(
            proprio=arrays["proprio"].astype(np.float32),
            commands=conventions.commands(arrays["commands"]),
            instruction=row.instruction,
            task_id=row.task_id,
            init_state_id=row.init_state_id,
            success=bool(arrays[SUCCESS_KEY][-1]) if info.has_success else True,
            **images,
        )


class _Steps:
    """Numeric columns of the steps; those of the current file are cached."""

    def __init__(self, info: DatasetInfo) -> None:
        self._info = info
        self._path: Path | None = None
        self._arrays: dict[str, Any] = {}

    def gripper(self, rows: list[EpisodeRow]) -> Iterator[tuple[Any, Any]]:
        """Yield commands and fingers of each episode."""
        for row in rows:
            _, arrays = self.of(row)
            yield arrays["commands"], arrays["proprio"][:, -2:]

    def of(self, row: EpisodeRow) -> tuple[int, dict[str, Any]]:
        """
        Read the numeric columns of an episode.

        :return: its first row in the file, and name -> array
        """
        if row.data != self._path:
            self._arrays, self._path = self._read(row.data), row.data
        places = np.flatnonzero(self._arrays["episode_index"] == row.index)
        if len(places) != row.n_steps or not len(places):
            raise DemonstrationFileError(
                f"{self._info.folder}: episode {row.index} has {len(places)} steps; expected {row.n_steps}."
            )
        first = int(places[0])
        arrays = {name: array[places] for name, array in self._arrays.items()}
        order = np.arange(row.n_steps)
        if (places != first + order).any() or (arrays["frame_index"] != order).any():
            raise DemonstrationFileError(
                f"{self._info.folder}: the steps of episode {row.index} are not in order; expected frame_index 0 to "
                f"{row.n_steps - 1} in successive rows."
            )
        return first, arrays

    def _read(self, path: Path) -> dict[str, Any]:
        keys = self._info.keys
        names = ["episode_index", "frame_index", *([SUCCESS_KEY] if self._info.has_success else [])]
        table = read_columns(path, [*names, keys["proprio"], keys["commands"]])
        return {
            **{name: table[name].to_numpy() for name in names},
            "proprio": matrix(table, keys["proprio"], PROPRIO_DIM, path),
            "commands": matrix(table, keys["commands"], COMMAND_DIM, path),
        }
