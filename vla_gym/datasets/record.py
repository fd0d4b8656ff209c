"""
Record demonstrations of the scripted expert to disk, with any number of processes.

While a task is being recorded, ``<folder>/.recording/<task>/`` contains one file per finished episode: the
demonstration, or a note of its failure. When all episodes are finished, they are merged into ``<task>_demo.hdf5``.
Every file is written under a temporary name and then renamed, so that a recording can be resumed after any
interruption.
"""

from __future__ import annotations

import json
import logging
from collections import Counter, defaultdict
from collections.abc import Callable, Generator, Iterable, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from vla_gym.datasets.hdf5 import SUFFIX, DemonstrationFile, demonstration_files
from vla_gym.datasets.hdf5_writer import DemonstrationWriter
from vla_gym.datasets.recorder import FAILURES, UNKNOWN, EpisodeRecorder, Job, RecordingSettings, part_path
from vla_gym.errors import DemonstrationFileError
from vla_gym.files import named_errors, read_bounded
from vla_gym.owned import own_folder
from vla_gym.processes.jobs import FinishedJob, run_jobs
from vla_gym.provenance import recorded_with
from vla_gym.sim.opengl import share_out_rendering
from vla_gym.tasks.registry import N_INIT_STATES, TaskSpec

logger = logging.getLogger(__name__)

MAX_NOTE_BYTES = 2**20


@dataclass
class TaskReport:
    """
    Result of recording a task.

    :param task: the task
    :param kept: demonstrations on disk
    :param failed: outcome -> numbers of the episodes with that outcome
    :param lost: episodes whose process died or raised an error in this run; the next run repeats them
    :param is_known: whether the expert knows the task
    :param path: file of the demonstrations; None if there is none yet
    """

    task: TaskSpec
    kept: int = 0
    failed: dict[str, list[int]] = field(default_factory=lambda: {kind: [] for kind in FAILURES})
    lost: int = 0
    is_known: bool = True
    path: Path | None = None

    @property
    def attempted(self) -> int:
        """Number of finished episodes."""
        return self.kept + sum(map(len, self.failed.values()))


def record_demonstrations(
    settings: RecordingSettings,
    folder: str | Path,
    episodes: int = 50,
    task_ids: Sequence[int] | None = None,
    workers: int = 1,
    on_progress: Callable[[int, int], None] = lambda n_over, n_episodes: None,
) -> list[TaskReport]:
    """
    Record successful episodes into one file per task, and resume an unfinished recording.

    Episode i starts in initial state i modulo ``settings.n_init_states``.

    :param settings: settings of the recording
    :param folder: folder to write to
    :param episodes: number per task, failures included
    :param task_ids: some tasks of the suite; default: all
    :param workers: number of processes; 0 records in this one
    :param on_progress: called with the numbers of finished and of all episodes, each time one ends
    :return: a report per task; a task that the expert does not know is left out with a warning
    :raises DemonstrationFileError: if the folder contains demonstrations with other settings or from elsewhere
    :raises FolderInUseError: if another process is recording there
    :raises FolderNotWritableError: if the folder cannot be made or written
    :raises KeyboardInterrupt: at Ctrl-C, with the number of episodes kept; the same call resumes
    :raises WorkerError: if processes keep dying
    """
    spec = settings.spec
    tasks = spec.tasks if task_ids is None else tuple(dict.fromkeys(spec.task(task_id) for task_id in task_ids))
    if episodes < 1 or workers < 0:
        raise ValueError(f"episodes is {episodes} and workers {workers}; expected at least 1 and 0.")
    fingerprint = settings.fingerprint()
    with own_folder(folder) as folder:
        recording = _Recording(settings, folder, tasks, episodes, fingerprint)
        try:
            return recording.run(workers, on_progress)
        except KeyboardInterrupt:
            raise KeyboardInterrupt(recording.kept_so_far()) from None


@dataclass
class _Found:
    """Finished episodes of a task: file and position of demonstrations, and numbers of failures by kind."""

    kept: dict[int, tuple[Path, int]] = field(default_factory=dict)
    failed: dict[str, list[int]] = field(default_factory=lambda: {kind: [] for kind in FAILURES})

    def numbers(self) -> set[int]:
        return {*self.kept, *(number for numbers in self.failed.values() for number in numbers)}


class _Recording:
    """A folder of demonstrations during recording."""

    def __init__(
        self, settings: RecordingSettings, folder: Path, tasks: Sequence[TaskSpec], episodes: int, fingerprint: str
    ) -> None:
        self._settings = settings
        self._folder = folder
        self._tasks = tasks
        self._episodes = episodes
        self._fingerprint = fingerprint
        self._unknown: set[int] = set()
        self._lost: Counter[int] = Counter()
        self._n_open: dict[int, int] | None = None

    def kept_so_far(self) -> str:
        """Describe what is on disk of an interrupted recording."""
        if self._n_open is None:
            return f"No episode was added to {self._folder}."
        n_over = sum(
            self._episodes - n_open for task_id, n_open in self._n_open.items() if task_id not in self._unknown
        )
        total = len(self._tasks) * self._episodes
        return f"{n_over - self._lost.total()} of {total} episodes are over and kept in {self._folder}."

    def run(self, workers: int, on_progress: Callable[[int, int], None]) -> list[TaskReport]:
        missing = {task.task_id: self._missing(task) for task in self._tasks}
        self._n_open = n_open = {task_id: len(numbers) for task_id, numbers in missing.items()}
        for task in self._tasks:
            if n_open[task.task_id] == 0:
                self._merge(task)
        by_id = {task.task_id: task for task in self._tasks}
        jobs = ((task_id, number) for task_id, numbers in missing.items() for number in numbers)
        known_jobs = (job for job in jobs if job[0] not in self._unknown)
        open_ids = [task_id for task_id, n in n_open.items() if n]
        total = len(self._tasks) * self._episodes
        with closing(self._outcomes(known_jobs, open_ids, workers)) as outcomes:
            on_progress(total - sum(n_open.values()), total)
            for finished in outcomes:
                task_id, _ = finished.job
                if finished.failure:
                    self._lost[task_id] += 1
                if finished.result == UNKNOWN:
                    self._unknown.add(task_id)
                    n_open[task_id] = 0
                else:
                    n_open[task_id] -= 1
                    if n_open[task_id] == 0:
                        self._merge(by_id[task_id])
                on_progress(total - sum(n_open.values()), total)
        if self._unknown:
            names = ", ".join(by_id[task_id].name for task_id in sorted(self._unknown))
            logger.warning("Left out, because the scripted expert does not know them: %s", names)
        return [self._report(task) for task in self._tasks]

    def _outcomes(
        self, jobs: Iterable[Job], task_ids: Sequence[int], workers: int
    ) -> Generator[FinishedJob[Job], None, None]:
        make_recorder = partial(EpisodeRecorder, self._settings, self._folder, task_ids)
        if workers:
            yield from run_jobs(make_recorder, jobs, workers, set_up=share_out_rendering)
        elif task_ids:
            recorder = make_recorder()
            yield from (FinishedJob(job, recorder(job)) for job in jobs)

    def _missing(self, task: TaskSpec) -> list[int]:
        over = self._find(task).numbers()
        return [number for number in range(self._episodes) if number not in over]

    def _report(self, task: TaskSpec) -> TaskReport:
        found, path = self._find(task), self._path(task)
        return TaskReport(
            task=task,
            kept=len(found.kept),
            failed=found.failed,
            lost=self._lost[task.task_id],
            is_known=task.task_id not in self._unknown,
            path=path if path.exists() else None,
        )

    def _path(self, task: TaskSpec) -> Path:
        return self._folder / f"{task.name}{SUFFIX}"

    def _find(self, task: TaskSpec) -> _Found:
        """Find the episodes of a task on disk."""
        found = _Found()
        whole = [self._path(task)] if self._path(task).exists() else []
        for path in [*whole, *self._parts(task)]:
            expected = f"{path}: expected a recording of vla-rl collect. Remove it to record its episodes again"
            with named_errors(DemonstrationFileError, expected):
                if path in whole:
                    self._note_whole(path, found)
                else:
                    self._note_part(path, found)
        for numbers in found.failed.values():
            numbers.sort()
        return found

    def _note_whole(self, path: Path, found: _Found) -> None:
        with DemonstrationFile(path) as file:
            self._check_settings(path, file.metadata)
            for index in range(len(file)):
                found.kept[int(file.episode_metadata(index)["episode"])] = (path, index)
            for kind, numbers in found.failed.items():
                numbers.extend(int(number) for number in file.metadata[f"failed_{kind}"])

    def _note_part(self, path: Path, found: _Found) -> None:
        number = int(path.stem.removeprefix("episode_"))
        if number in found.numbers():
            return  # interrupted between the renaming of a file and the removal of its parts
        if path.suffix == ".json":
            note = json.loads(read_bounded(path, MAX_NOTE_BYTES))
            self._check_settings(path, note)
            found.failed[note["outcome"]].append(number)
        else:
            with DemonstrationFile(path) as part:
                self._check_settings(path, part.metadata)
            found.kept[number] = (path, 0)

    def _parts(self, task: TaskSpec) -> list[Path]:
        """List finished parts, and remove leftovers of killed processes."""
        parts = []
        for path in sorted(part_path(self._folder, task, 0).parent.glob("*")):
            if path.name.startswith("."):
                path.unlink()
            else:
                parts.append(path)
        return parts

    def _check_settings(self, path: Path, metadata: dict[str, Any]) -> None:
        if "settings" not in metadata:
            raise DemonstrationFileError(
                f"{path} was not recorded by vla-rl collect, so nothing is added to it; name another folder."
            )
        # files of before this setting started from all initial states
        there = {"n_init_states": N_INIT_STATES, **json.loads(metadata["settings"])}
        wanted = json.loads(self._fingerprint)
        different = [
            f"{name} {there.get(name)!r} instead of {value!r}"
            for name, value in wanted.items()
            if there.get(name) != value
        ]
        if different:
            raise DemonstrationFileError(
                f"{path} was recorded with {', '.join(different)}. To continue give the same settings, else another "
                "folder."
            )

    def _merge(self, task: TaskSpec) -> None:
        """Merge a task's parts into one file; a task without demonstrations keeps its notes."""
        found = self._find(task)
        parts = self._parts(task)
        if not found.kept or not parts:
            return
        settings = {name: _attribute(value) for name, value in json.loads(self._fingerprint).items()}
        metadata = {
            **settings,
            "settings": self._fingerprint,
            **recorded_with(),
            "attempted": len(found.numbers()),
            **{f"failed_{kind}": np.array(numbers, dtype=np.int64) for kind, numbers in found.failed.items()},
        }
        with DemonstrationWriter(self._path(task), task, metadata) as writer:
            for _, (path, index) in sorted(found.kept.items()):
                with DemonstrationFile(path) as file:
                    writer.copy(file, index)
        for path in parts:
            path.unlink()
        parts[0].parent.rmdir()


def describe_demonstrations(path: str | Path) -> dict[str, Any]:
    """
    Summarise the recorded files of a folder: what they have in common, and where they differ.

    :param path: a file, or a folder that is searched with its subfolders
    :return: ``kept`` and ``attempted`` episodes; then for each entry of the recorder's notes (``assets``, ``seed``,
        ``action_noise``, ``commit``, ...) the value, or a list of the distinct ones. Files of other recorders count as
        kept and add nothing else
    :raises DemonstrationFileError: if there are no files, or one of them is damaged
    """
    kept, attempted = 0, 0
    found: dict[str, list[Any]] = defaultdict(list)
    for file_path in demonstration_files(path):
        with (
            DemonstrationFile(file_path) as file,
            named_errors(DemonstrationFileError, f"{file_path}: expected notes of vla-rl collect in its attributes"),
        ):
            kept += len(file)
            attempted += int(file.metadata.get("attempted", len(file)))
            noted = json.loads(str(file.metadata.get("settings", "{}")))
            noted |= {name: str(file.metadata[name]) for name in ("version", "commit") if name in file.metadata}
        for name, value in noted.items():
            if value not in found[name]:
                found[name].append(value)
    distinct = {name: values[0] if len(values) == 1 else values for name, values in found.items()}
    return {"kept": kept, "attempted": attempted, **distinct}


def _attribute(value: Any) -> Any:
    return ",".join(value) if isinstance(value, list) else value
