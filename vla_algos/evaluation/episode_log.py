"""Episodes of an evaluation, written down as they end, so that an interruption loses none."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Collection, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from vla_algos.errors import EvaluationFileError
from vla_gym.files import write_then_rename

logger = logging.getLogger(__name__)

_MAY_DIFFER = ("versions", "commit")
"""Entries that may differ when an evaluation is resumed; the result has the new ones."""


@dataclass(frozen=True)
class EpisodeRecord:
    """
    Outcome of one episode.

    :param task_id: the task
    :param init_state_id: its initial state
    :param is_success: whether the goal was reached
    :param length: commands executed, control steps
    """

    task_id: int
    init_state_id: int
    is_success: bool
    length: int


@dataclass(frozen=True)
class LoggedEpisode:
    """
    One line of the file.

    :param record: outcome
    :param instruction: of the task
    :param assets: asset pack that the environment reported
    """

    record: EpisodeRecord
    instruction: str
    assets: str


class EpisodeLog:
    """
    A file of JSON lines: a header that says what is evaluated, then one episode per line, in the order of their ends.

    :param path: the file; None: nothing is written
    :param resume: keep the episodes of an earlier file; False: replace it
    :raises EvaluationFileError: if the earlier file is damaged
    """

    def __init__(self, path: str | Path | None, resume: bool) -> None:
        self._path = None if path is None else Path(path)
        self.episodes: dict[tuple[int, int], LoggedEpisode] = {}
        self._header: dict[str, Any] | None = None
        self._unwritten: list[str] = []
        self._has_warned = False
        if resume and self._path is not None and self._path.exists():
            self._read(self._path)

    def _read(self, path: Path) -> None:
        lines = path.read_bytes().split(b"\n")
        # what follows the last end of a line was being written when the process died
        try:
            contents = [json.loads(line) for line in lines[:-1] if line.strip()]
            if contents:
                self._header = dict(contents[0])
            for content in contents[1:]:
                instruction, assets = str(content.pop("instruction")), str(content.pop("assets"))
                record = EpisodeRecord(**content)
                self.episodes[record.task_id, record.init_state_id] = LoggedEpisode(record, instruction, assets)
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise EvaluationFileError(
                f"{path} does not hold the episodes of an evaluation ({error}). Evaluate again without resume, which "
                "replaces it."
            ) from error

    def begin(self, header: Mapping[str, Any]) -> None:
        """
        Compare the header with that of an earlier file, and write it.

        :param header: plain JSON values
        :raises EvaluationFileError: if the episodes of the earlier file were measured with other settings
        """
        header = json.loads(json.dumps(header))
        if self._header is not None:
            differing = [
                key
                for key in {**self._header, **header}
                if key not in _MAY_DIFFER and self._header.get(key) != header.get(key)
            ]
            if differing:
                pairs = "; ".join(f"{key} was {self._header.get(key)!r}, not {header.get(key)!r}" for key in differing)
                raise EvaluationFileError(
                    f"The episodes in {self._path} were measured with other settings: {pairs}. Repeat these to resume, "
                    "or evaluate again without resume, which replaces them."
                )
        if self._path is None:
            return
        lines = [json.dumps(header), *map(_line, self.episodes.values())]
        try:
            with write_then_rename(self._path) as temporary:
                temporary.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
        except OSError as error:
            raise EvaluationFileError(f"{self._path} cannot be written: {error}. Name another file.") from error

    def append(self, episode: LoggedEpisode) -> None:
        """
        Write an episode that has ended.

        :param episode: the episode
        :raises EvaluationFileError: if it was measured with another asset pack than those before
        """
        others = {logged.assets for logged in self.episodes.values()} - {episode.assets}
        if others:
            raise EvaluationFileError(
                f"The episodes in {self._path} were measured with the assets {', '.join(others)}, not with "
                f"{episode.assets}. Name the same asset pack to resume, or evaluate again without resume."
            )
        record = episode.record
        self.episodes[record.task_id, record.init_state_id] = episode
        self._unwritten.append(_line(episode))
        if self._path is not None:
            self._flush()

    def selected(self, wanted: Collection[tuple[int, int]]) -> list[LoggedEpisode]:
        """
        Select the episodes that were asked for and have ended.

        :param wanted: (task_id, init_state_id) of each
        :return: sorted by task and initial state
        """
        return [self.episodes[key] for key in sorted(self.episodes) if key in wanted]

    def _flush(self) -> None:
        """Write what is not written yet; what a full disk does not take is tried again with the next episode."""
        assert self._path is not None
        size = self._path.stat().st_size if self._path.exists() else 0
        text = "".join(f"{line}\n" for line in self._unwritten).encode()
        try:
            with self._path.open("ab") as file:
                file.write(text)
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            self._cut(size)
            if not self._has_warned:
                logger.warning("%s could not be written: %s. It is tried again with each episode.", self._path, error)
            self._has_warned = True
        else:
            self._unwritten = []

    def _cut(self, size: int) -> None:
        """Take back the part of a line that was written."""
        assert self._path is not None
        try:
            os.truncate(self._path, size)
        except OSError as error:
            logger.warning("%s may hold half a line: %s", self._path, error)


def _line(episode: LoggedEpisode) -> str:
    return json.dumps({**asdict(episode.record), "instruction": episode.instruction, "assets": episode.assets})
