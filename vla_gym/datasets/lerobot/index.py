"""Read which episodes a LeRobot dataset has, and where they are."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vla_gym.datasets.lerobot.features import MAX_META_BYTES, DatasetInfo
from vla_gym.datasets.lerobot.layout import INIT_STATE_ID_KEY, TASK_ID_KEY, VERSION, file_of, fill
from vla_gym.datasets.lerobot.parquet import column_names, read_columns
from vla_gym.errors import DemonstrationFileError
from vla_gym.files import read_bounded


@dataclass(frozen=True)
class EpisodeRow:
    """
    Location of an episode.

    :param index: its number
    :param n_steps: its length
    :param instruction: the task in words
    :param task_id: task; -1 if the data set does not say
    :param init_state_id: initial state; -1 if the data set does not say
    :param data: file of its steps
    :param videos: field of :class:`Episode` -> file of its frames, and number of its first frame there
    """

    index: int
    n_steps: int
    instruction: str
    task_id: int
    init_state_id: int
    data: Path
    videos: Mapping[str, tuple[Path, int]]


def read_index(info: DatasetInfo) -> list[EpisodeRow]:
    """
    Read the locations of a data set's episodes, in order.

    :param info: the data set
    :raises DemonstrationFileError: if their number differs from the stated one
    """
    stored = _rows_v3(info) if info.version == VERSION else _rows_v2(info)
    numbers = sorted(int(row["episode_index"]) for row in stored)
    if len(numbers) != info.n_episodes or numbers != list(range(len(numbers))):
        raise DemonstrationFileError(
            f"{info.folder} says that it has {info.n_episodes} episodes but lists {len(stored)}; expected numbers 0 to "
            f"{info.n_episodes - 1}, each once."
        )
    return [_row(info, row) for row in sorted(stored, key=lambda row: int(row["episode_index"]))]


def _row(info: DatasetInfo, row: Mapping[str, Any]) -> EpisodeRow:
    index = int(row["episode_index"])
    instructions = set(row["tasks"])
    if len(instructions) != 1 or not all(isinstance(text, str) for text in instructions):
        raise DemonstrationFileError(
            f"{info.folder}: episode {index} has the tasks {sorted(map(str, instructions))}; expected one instruction."
        )
    return EpisodeRow(
        index=index,
        n_steps=int(row["length"]),
        instruction=instructions.pop(),
        task_id=int(row.get(TASK_ID_KEY, -1)),
        init_state_id=int(row.get(INIT_STATE_ID_KEY, -1)),
        data=file_of(info.folder, fill(info.data_path, _place(info, row, "data"))),
        videos={name: _video(info, row, info.keys[name]) for name in info.videos},
    )


def _video(info: DatasetInfo, row: Mapping[str, Any], key: str) -> tuple[Path, int]:
    place = {**_place(info, row, f"videos/{key}"), "video_key": key}
    first = round(row[f"videos/{key}/from_timestamp"] * info.hz) if info.version == VERSION else 0
    return file_of(info.folder, fill(info.video_path, place)), first


def _place(info: DatasetInfo, row: Mapping[str, Any], prefix: str) -> dict[str, Any]:
    """Numbers in the templates of paths."""
    index = int(row["episode_index"])
    if info.version != VERSION:
        return {"episode_index": index, "episode_chunk": index // info.chunk_size}
    return {name: int(row[f"{prefix}/{name}"]) for name in ("chunk_index", "file_index")}


def _rows_v3(info: DatasetInfo) -> list[dict[str, Any]]:
    videos = [
        f"videos/{info.keys[name]}/{column}"
        for name in info.videos
        for column in ("chunk_index", "file_index", "from_timestamp")
    ]
    columns = ["episode_index", "tasks", "length", "data/chunk_index", "data/file_index", *videos]
    rows = []
    for path in sorted((info.folder / "meta" / "episodes").glob("*/*.parquet")):
        path = file_of(info.folder, str(path.relative_to(info.folder)))
        own = [name for name in (TASK_ID_KEY, INIT_STATE_ID_KEY) if name in column_names(path)]
        rows += read_columns(path, [*columns, *own]).to_pylist()
    return rows


def _rows_v2(info: DatasetInfo) -> list[dict[str, Any]]:
    lines = read_bounded(file_of(info.folder, "meta/episodes.jsonl"), MAX_META_BYTES).splitlines()
    return [json.loads(line) for line in lines if line.strip()]
