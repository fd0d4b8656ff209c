"""
Demonstrations in LIBERO's own HDF5 layout, one file per task, which LIBERO's and robomimic's tools read.

- ``data``: attributes of the task; ``data/demo_<i>``: ``actions``, ``states``, ``robot_states``, ``rewards``, ``dones``
  and ``obs``: ``agentview_rgb``, ``eye_in_hand_rgb``, ``ee_pos``, ``ee_ori``, ``ee_states``, ``gripper_states``,
  ``joint_states``.
- Images are stored as LIBERO's cameras give them: an :class:`Episode`'s rotated by 180 degrees.
- Row t is from before command t. (LIBERO's own recorder stores what was seen after it; its rows are read as they are.)
- What LIBERO has no place for is in attributes that begin with ``vla_gym_``.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from vla_gym.datasets.episode import Episode, SimulatorTrace
from vla_gym.datasets.libero_attributes import find_task
from vla_gym.errors import DemonstrationFileError
from vla_gym.tasks.registry import COMMAND_DIM
from vla_gym.type_aliases import UInt8Array

SUFFIX = "_demo.hdf5"
PREFIX = "vla_gym_"
DEMO_KEY = "demo_"


class DemonstrationFile:
    """
    Demonstrations of one task on disk, by this library or by LIBERO: a sequence of episodes, each read when asked for.

    :param path: file in LIBERO's layout
    :raises DemonstrationFileError: if it is missing, damaged or of another layout
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        if not self.path.is_file():
            raise DemonstrationFileError(f"{self.path} is no file; expected demonstrations in LIBERO's HDF5 layout.")
        try:
            self._file = h5py.File(self.path, "r")
        except OSError as error:
            raise DemonstrationFileError(
                f"{self.path} cannot be read as HDF5: it is cut off or something else ({error}). Remove it and record "
                "or copy it anew."
            ) from error
        try:
            self._check()
        except DemonstrationFileError:
            self.close()
            raise

    def _check(self) -> None:
        data = self._file.get("data")
        if not isinstance(data, h5py.Group):
            raise DemonstrationFileError(
                f"{self.path} has no group 'data', but {sorted(self._file)}; expected LIBERO's layout."
            )
        numbers = [name.removeprefix(DEMO_KEY) for name in data]
        if not all(number.isdigit() for number in numbers):
            raise DemonstrationFileError(f"{self.path}: 'data' holds {sorted(data)[:5]}; expected demo_0, demo_1, ...")
        self.names = tuple(f"{DEMO_KEY}{number}" for number in sorted(numbers, key=int))
        self.attributes: dict[str, Any] = dict(data.attrs)
        said = self.attributes.get("num_demos", len(self.names))
        if said != len(self.names):
            raise DemonstrationFileError(
                f"{self.path} says that it has {said} demonstrations but has {len(self.names)}. Record or copy it anew."
            )
        self.task = find_task(self.attributes, self.path)

    @property
    def metadata(self) -> dict[str, Any]:
        """What this library noted about the file, without its prefix; empty for files recorded by LIBERO."""
        return _unprefixed(self.attributes)

    @property
    def instruction(self) -> str:
        """
        The task in words.

        :raises DemonstrationFileError: if neither the file says so nor its name is that of a task
        """
        if "problem_info" in self.attributes:
            # LIBERO writes a text or a list of its pieces, some of them in quotes
            return "".join(json.loads(self.attributes["problem_info"])["language_instruction"]).strip('"')
        if self.task is None:
            raise DemonstrationFileError(
                f"{self.path} has no 'problem_info', and its name is not that of a LIBERO task."
            )
        return self.task.instruction

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, index: int) -> Episode:
        demo = self.group(index)
        actions = self._array(demo, "actions")
        parts = [self._array(demo, f"obs/{name}") for name in ("ee_pos", "ee_ori", "gripper_states")]
        lengths = {len(actions), *map(len, parts)}
        if len(lengths) > 1 or len(actions) == 0 or actions.shape[1:] != (COMMAND_DIM,):
            raise DemonstrationFileError(
                f"{self.path}: {demo.name} has actions {actions.shape} and observations of lengths {sorted(lengths)}; "
                f"expected (T, {COMMAND_DIM}) and T."
            )
        images = self._images(demo, "agentview_rgb", len(actions))
        return Episode(
            images=np.zeros((len(actions), 0, 0, 3), dtype=np.uint8) if images is None else images,
            proprio=np.concatenate(parts, axis=1).astype(np.float32),
            commands=actions.astype(np.float64),
            instruction=self.instruction,
            task_id=-1 if self.task is None else self.task.task_id,
            init_state_id=int(demo.attrs.get(f"{PREFIX}init_state_id", -1)),
            success=bool(demo["rewards"][-1]) if "rewards" in demo else True,
            wrist_images=self._images(demo, "eye_in_hand_rgb", len(actions)),
            trace=self._trace(demo),
        )

    def __iter__(self) -> Iterator[Episode]:
        return (self[i] for i in range(len(self)))

    def episode_metadata(self, index: int) -> dict[str, Any]:
        """
        What this library noted about a demonstration, without its prefix.

        :param index: position
        """
        return _unprefixed(self.group(index).attrs)

    def group(self, index: int) -> h5py.Group:
        """
        HDF5 group of a demonstration.

        :param index: position
        :raises IndexError: if there is none
        """
        return self._file["data"][self.names[index]]

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def __enter__(self) -> DemonstrationFile:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _array(self, demo: h5py.Group, name: str) -> Any:
        if name not in demo:
            raise DemonstrationFileError(f"{self.path}: {demo.name} lacks {name!r}; expected LIBERO's layout.")
        try:
            return demo[name][()]
        except OSError as error:
            raise DemonstrationFileError(f"{self.path}: {demo.name}/{name} is damaged ({error}).") from error

    def _images(self, demo: h5py.Group, name: str, n_steps: int) -> UInt8Array | None:
        if name not in demo["obs"]:
            return None
        images = self._array(demo, f"obs/{name}")
        if images.dtype != np.uint8 or images.ndim != 4 or len(images) != n_steps or images.shape[-1] != 3:
            raise DemonstrationFileError(
                f"{self.path}: {demo.name}/obs/{name} is {images.shape} {images.dtype}; "
                f"expected ({n_steps}, H, W, 3) uint8."
            )
        return np.ascontiguousarray(images[:, ::-1, ::-1])

    def _trace(self, demo: h5py.Group) -> SimulatorTrace | None:
        names = ("states", "obs/joint_states", "obs/ee_states", "robot_states")
        if not all(name in demo for name in names):
            return None
        states, joint_states, ee_states, robot_states = (self._array(demo, name) for name in names)
        init_state = demo.attrs.get(f"{PREFIX}init_state", states[0])
        return SimulatorTrace(np.asarray(init_state), states, joint_states, ee_states, robot_states)


def demonstration_files(path: str | Path) -> list[Path]:
    """
    HDF5 files to read.

    :param path: a file, or a folder that is searched with its subfolders; hidden names are left out
    :return: files in order of their names
    :raises DemonstrationFileError: if there are none
    """
    path = Path(path)
    if not path.is_dir():
        return [path]
    files = [
        file
        for file in sorted(path.rglob("*.hdf5"))
        if not any(part.startswith(".") for part in file.relative_to(path).parts)
    ]
    if not files:
        raise DemonstrationFileError(f"{path} holds no .hdf5 files; record some with: vla-rl collect --out {path}")
    return files


def load_episodes(path: str | Path) -> Iterator[Episode]:
    """
    Demonstrations of a file or a folder, one after the other; only one is in memory at a time.

    :param path: a file, or a folder that is searched with its subfolders
    :return: episodes in order of file names
    :raises DemonstrationFileError: if there are no files; while iterating, if one of them is damaged
    """
    return _episodes(demonstration_files(path))


def _episodes(files: list[Path]) -> Iterator[Episode]:
    for path in files:
        with DemonstrationFile(path) as file:
            yield from file


def _unprefixed(attributes: Mapping[str, Any]) -> dict[str, Any]:
    return {name.removeprefix(PREFIX): value for name, value in attributes.items() if name.startswith(PREFIX)}
