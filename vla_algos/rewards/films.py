"""
Films: what was seen in an episode, decision by decision, for a reward model to learn from.

A file holds any number of films, an HDF5 group each (``film_<i>``): datasets ``frames``, ``steps``, ``proprio`` and, if
known, ``privileged``, ``trace``, ``states`` and ``progress_under``; all else in attributes. The file's attribute
``about`` is JSON and says what they were recorded with. A folder of such files is a data set.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from vla_algos.errors import FilmError
from vla_gym.datasets.hdf5_access import attributes, child_dataset, child_group
from vla_gym.errors import DemonstrationFileError
from vla_gym.files import named_errors, write_then_rename
from vla_gym.spec import PROPRIO_DIM
from vla_gym.type_aliases import Float32Array, Float64Array, Int64Array, UInt8Array

MIN_FRAMES = 2
"""Fewest frames of a film: its start, and what came of the first decision."""
DEMONSTRATION = "demonstration"
"""The source of films of demonstrations."""
_PREFIX, _ABOUT = "film_", "about"


@dataclass(frozen=True)
class Film:
    """
    An episode of K - 1 decisions.

    :param frames: at the start and after each decision, (K, H, W, 3) uint8 RGB
    :param steps: control steps that were over at each frame, ascending from 0, (K,) int64
    :param proprio: at each frame, (K, 8) float32
    :param instruction: what was to be done
    :param task_id: task; -1 if its source does not say
    :param init_state_id: initial state; -1 if its source does not say
    :param is_success: whether the goal was reached, in the last frame
    :param source: who acted: a policy, or "demonstration"
    :param privileged: the simulator's own state at each frame, (K, 69) float32; None if it was not asked
    :param trace: proprioception before each control step, (T, 8) float32, which labels by the paper's rule need; None
        if its source does not say
    :param states: the simulation at each frame, as ``get_state`` returns it, (K, S) float64; None if it is not known
    :param progress_under: by other instructions of the scene, how much of what they ask for is done at each frame, as
        the simulator has it, (K,) float32 in [0, 1]; None if it is not known
    :raises FilmError: if an array has another shape or type, there are fewer than ``MIN_FRAMES`` frames, or a number is
        not finite
    """

    frames: UInt8Array
    steps: Int64Array
    proprio: Float32Array
    instruction: str
    task_id: int
    init_state_id: int
    is_success: bool
    source: str
    privileged: Float32Array | None = None
    trace: Float32Array | None = None
    states: Float64Array | None = None
    progress_under: Mapping[str, Float32Array] | None = None

    def __post_init__(self) -> None:
        n = len(self.frames)
        if self.frames.ndim != 4 or self.frames.shape[-1] != 3 or self.frames.dtype != np.uint8:
            raise FilmError(f"frames is {self.frames.shape} {self.frames.dtype}; expected (K, H, W, 3) uint8.")
        if n < MIN_FRAMES:
            raise FilmError(f"The film has {n} frame(s); expected at least {MIN_FRAMES}. Leave it out.")
        if self.steps.shape != (n,) or self.steps[0] != 0 or (np.diff(self.steps) <= 0).any():
            raise FilmError(f"steps is {self.steps.tolist()}; expected {n} numbers that ascend from 0.")
        if self.proprio.shape != (n, PROPRIO_DIM):
            raise FilmError(f"proprio is {self.proprio.shape}; expected {(n, PROPRIO_DIM)}.")
        if self.privileged is not None and (self.privileged.ndim != 2 or len(self.privileged) != n):
            raise FilmError(f"privileged is {self.privileged.shape}; expected one row for each of {n} frames.")
        for name, array in {"states": self.states, **(self.progress_under or {})}.items():
            if array is not None and (array.ndim != (2 if name == "states" else 1) or len(array) != n):
                raise FilmError(f"{name} is {array.shape}; expected one row for each of {n} frames.")
        if self.trace is not None and self.trace.shape != (self.steps[-1], PROPRIO_DIM):
            raise FilmError(f"trace is {self.trace.shape}; expected {(int(self.steps[-1]), PROPRIO_DIM)}.")
        numbers = {name: getattr(self, name) for name in ("proprio", "privileged", "trace", "states")}
        for name, array in {**numbers, **(self.progress_under or {})}.items():
            if array is not None and not np.isfinite(array).all():
                raise FilmError(f"{name} holds NaN or infinity. Leave this film out.")

    def __len__(self) -> int:
        return len(self.frames)


def save_films(path: str | Path, films: Iterable[Film], about: Mapping[str, Any] | None = None) -> int:
    """
    Write films as they come; the file appears whole or not at all.

    :param path: HDF5 file to write or replace
    :param films: any number
    :param about: what they were recorded with, plain JSON values
    :return: how many there were
    """
    n = 0
    with write_then_rename(path) as temporary, h5py.File(temporary, "w") as file:
        file.attrs[_ABOUT] = json.dumps(dict(about or {}))
        for film in films:
            group = file.create_group(f"{_PREFIX}{n}")
            for name in ("frames", "steps", "proprio", "privileged", "trace", "states"):
                array = getattr(film, name)
                if array is not None:
                    group.create_dataset(name, data=array, compression="gzip", compression_opts=1)
            if film.progress_under is not None:
                group.attrs["instructions"] = json.dumps(list(film.progress_under))
                rows = np.reshape(list(film.progress_under.values()), (-1, len(film)))
                group.create_dataset("progress_under", data=rows.astype(np.float32))
            for name in ("instruction", "task_id", "init_state_id", "is_success", "source"):
                group.attrs[name] = getattr(film, name)
            n += 1
    return n


def film_files(path: str | Path) -> list[Path]:
    """
    Find the files of a data set.

    :param path: a file, or a folder of them
    :return: the files, sorted by name
    :raises FilmError: if there are none
    """
    path = Path(path)
    files = [path] if path.is_file() else sorted(path.glob("*.hdf5"))
    if not files:
        raise FilmError(f"{path} holds no films; expected a file or folder of them. Record some: vla-rl reward data.")
    return files


def load_films(path: str | Path) -> list[Film]:
    """
    Read films.

    :param path: a file that :func:`save_films` wrote, or a folder of them
    :return: the films, in order
    :raises FilmError: if it is missing, damaged or something else, or stores its data elsewhere
    """
    films = []
    for each in film_files(path):
        with _opened(each) as file:
            names = sorted(file, key=lambda name: int(name.removeprefix(_PREFIX)))
            films += [_read(child_group(file, name, each), each) for name in names]
    return films


def describe_films(path: str | Path) -> tuple[dict[str, Any], list[bool]]:
    """
    Read what a file says about its films, without the films.

    :param path: of one file
    :return: what they were recorded with, and which of them are successes
    :raises FilmError: as :func:`load_films`
    """
    path = Path(path)
    with _opened(path) as file:
        about = json.loads(str(attributes(file, path).get(_ABOUT, "{}")))
        groups = [child_group(file, name, path) for name in file]
        return dict(about), [bool(attributes(group, path)["is_success"]) for group in groups]


@contextmanager
def _opened(path: Path) -> Iterator[h5py.File]:
    with named_errors(FilmError, f"{path}: expected films as save_films writes them"), h5py.File(path, "r") as file:
        yield file


def _read(group: h5py.Group, path: Path) -> Film:
    kept = attributes(group, path)

    def optional(name: str, dtype: type = np.float32) -> Any:
        return child_dataset(group, name, path)[()].astype(dtype) if name in group else None

    try:
        return Film(
            frames=child_dataset(group, "frames", path)[()],
            steps=child_dataset(group, "steps", path)[()].astype(np.int64),
            proprio=child_dataset(group, "proprio", path)[()].astype(np.float32),
            instruction=str(kept["instruction"]),
            task_id=int(kept["task_id"]),
            init_state_id=int(kept["init_state_id"]),
            is_success=bool(kept["is_success"]),
            source=str(kept["source"]),
            privileged=optional("privileged"),
            trace=optional("trace"),
            states=optional("states", np.float64),
            progress_under=_progress_under(kept, optional("progress_under")),
        )
    except (DemonstrationFileError, FilmError) as error:
        raise FilmError(f"{path}, {group.name}: {error}") from error


def _progress_under(kept: Mapping[str, Any], rows: Float32Array | None) -> dict[str, Float32Array] | None:
    if rows is None:
        return None
    texts = json.loads(str(kept["instructions"]))
    return {str(text): row for text, row in zip(texts, rows, strict=True)}


def demonstration_film(episode: Any, interval: int, privileged: Float32Array | None = None) -> Film:
    """
    Film of a demonstration, as a policy with chunks would have seen it.

    :param episode: a :class:`vla_gym.datasets.episode.Episode` with images
    :param interval: control steps between frames
    :param privileged: the simulator's state in each of its rows, (T, 69) float32, if known
    :return: frames at rows 0, ``interval``, ... and the last one
    :raises FilmError: if the episode has no images, or too few steps
    """
    n_steps = len(episode)
    if episode.images.shape[1] == 0:
        raise FilmError("The demonstration has no images. Collect it again, or convert it with its cameras.")
    # row t is from before command t, and the last row is the last that was seen
    rows = np.unique([*range(0, n_steps, interval), n_steps - 1])
    return Film(
        frames=episode.images[rows],
        steps=rows.astype(np.int64),
        proprio=episode.proprio[rows],
        instruction=episode.instruction,
        task_id=episode.task_id,
        init_state_id=episode.init_state_id,
        is_success=episode.success,
        source=DEMONSTRATION,
        privileged=None if privileged is None else privileged[rows],
        trace=episode.proprio[: n_steps - 1],
    )


def split_films(
    films: Sequence[Film],
    held_out_states: Sequence[int] = (),
    held_out_sources: Sequence[str] = (),
    held_out_tasks: Sequence[int] = (),
) -> tuple[list[Film], list[Film]]:
    """
    Divide films so that no initial state, policy or task that is held out is learned from.

    :param films: all
    :param held_out_states: initial states, of every task
    :param held_out_sources: who acted
    :param held_out_tasks: tasks
    :return: to train on; held out
    """
    states, sources, tasks = set(held_out_states), set(held_out_sources), set(held_out_tasks)
    is_held_out = [film.init_state_id in states or film.source in sources or film.task_id in tasks for film in films]
    return (
        [film for film, out in zip(films, is_held_out, strict=True) if not out],
        [film for film, out in zip(films, is_held_out, strict=True) if out],
    )
