"""
Read demonstrations in LIBERO's HDF5 layout, one file per task, as LIBERO's and robomimic's tools do.

- ``data``: attributes of the task; ``data/demo_<i>``: ``actions``, ``states``, ``robot_states``, ``rewards``, ``dones``
  and ``obs``: ``agentview_rgb``, ``eye_in_hand_rgb``, ``ee_pos``, ``ee_ori``, ``ee_states``, ``gripper_states``,
  ``joint_states``.
- Images are stored as LIBERO's cameras give them: those of an :class:`Episode`, rotated by 180 degrees. With the
  attribute ``macros_image_convention = "opencv"`` they are upside down compared with that.
- Row t precedes command t. (LIBERO's own recorder stores the observation after it; its rows are read as they are.)
- Further data are in attributes that begin with ``vla_gym_``.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from vla_gym.datasets.conventions import Conventions, check_proprio
from vla_gym.datasets.episode import Episode, SimulatorTrace
from vla_gym.datasets.hdf5_access import attributes, child, child_dataset, child_group
from vla_gym.datasets.libero_attributes import find_task
from vla_gym.errors import DemonstrationFileError
from vla_gym.files import is_inside, named_errors
from vla_gym.spec import COMMAND_DIM
from vla_gym.type_aliases import UInt8Array

SUFFIX = "_demo.hdf5"
PREFIX = "vla_gym_"
DEMO_KEY = "demo_"
CAMERA_KEYS = {
    "images": ("agentview_rgb", "agentview_image"),
    "wrist_images": ("eye_in_hand_rgb", "robot0_eye_in_hand_image"),
}
"""Field of :class:`Episode` -> known names in ``obs``: LIBERO's and robomimic's."""
_STATE_PARTS = {"ee_pos": 3, "ee_ori": 3, "gripper_states": 2}


class DemonstrationFile:
    """
    Demonstrations of one task on disk, recorded by this library or LIBERO: a sequence of episodes, read on demand.

    :param path: file in LIBERO's layout
    :param conventions: how it differs from LIBERO
    :raises DemonstrationFileError: if it is missing, damaged or of another layout
    """

    def __init__(self, path: str | Path, conventions: Conventions | None = None) -> None:
        self.path = Path(path)
        self.conventions = conventions or Conventions()
        self._is_gripper_checked = False
        if not self.path.is_file():
            raise DemonstrationFileError(f"{self.path} is no file; expected demonstrations in LIBERO's HDF5 layout.")
        try:
            self._file = h5py.File(self.path, "r")
        except OSError as error:
            raise DemonstrationFileError(
                f"{self.path} cannot be read as HDF5: it is cut off or something else ({error}). Remove it and record "
                "or copy it again."
            ) from error
        try:
            with self._named_errors():
                self._check()
        except DemonstrationFileError:
            self.close()
            raise

    def _named_errors(self) -> Any:
        return named_errors(DemonstrationFileError, f"{self.path}: expected demonstrations in LIBERO's HDF5 layout")

    def _check(self) -> None:
        data = child(self._file, "data", self.path)
        if not isinstance(data, h5py.Group):
            raise DemonstrationFileError(
                f"{self.path} has no group 'data', but {sorted(self._file)}; expected LIBERO's layout."
            )
        self._data = data
        numbers = [name.removeprefix(DEMO_KEY) for name in data]
        if not all(number.isdecimal() and number.isascii() for number in numbers):
            raise DemonstrationFileError(f"{self.path}: 'data' holds {sorted(data)[:5]}; expected demo_0, demo_1, ...")
        self.names = tuple(f"{DEMO_KEY}{number}" for number in sorted(numbers, key=int))
        self.attributes: dict[str, Any] = attributes(data, self.path)
        said = self.attributes.get("num_demos", len(self.names))
        if said != len(self.names):
            raise DemonstrationFileError(
                f"{self.path} says that it has {said} demonstrations but has {len(self.names)}. Record or copy it "
                "again."
            )
        self.task = find_task(self.attributes, self.path)
        self._image_convention = self._said("macros_image_convention", "opengl", ("opengl", "opencv"))
        self._color_order = self._said("color_order", "rgb", ("rgb", "bgr"))
        self._check_controller()

    def _said(self, name: str, default: str, valid: tuple[str, ...]) -> str:
        """Read an attribute of the group ``data``, or of the file."""
        value = str({**attributes(self._file, self.path), **self.attributes}.get(name, default)).lower()
        if value not in valid:
            raise DemonstrationFileError(
                f"{self.path}: attribute {name!r} is {value!r}; expected one of {', '.join(valid)}."
            )
        return value

    def _check_controller(self) -> None:
        """Refuse commands that are not relative poses at LIBERO's rate, as far as the file says."""
        env_kwargs = json.loads(self.attributes.get("env_args", "{}")).get("env_kwargs", {})
        if "control_freq" in env_kwargs:
            self.conventions.check_rate(env_kwargs["control_freq"], self.path)
        controller = env_kwargs.get("controller_configs", {})
        kind, is_relative = controller.get("type", "OSC_POSE"), controller.get("control_delta", True)
        if kind != "OSC_POSE" or not is_relative:
            raise DemonstrationFileError(
                f"{self.path} was recorded with controller {kind!r} and control_delta={is_relative!r}; expected "
                "'OSC_POSE' with relative commands. Record it again with LIBERO's controller."
            )

    @property
    def metadata(self) -> dict[str, Any]:
        """Attributes that this library added to the file, without prefix; empty for files recorded by LIBERO."""
        return _unprefixed(self.attributes)

    @property
    def instruction(self) -> str:
        """
        The task in words.

        :raises DemonstrationFileError: if the file does not contain it and is not named after a task
        """
        if "problem_info" in self.attributes:
            with self._named_errors():
                pieces = json.loads(self.attributes["problem_info"])["language_instruction"]
                if not isinstance(pieces, (str, list)):
                    raise TypeError(f"language_instruction is {pieces!r}")
                # LIBERO writes a string or a list of its pieces, some of them in quotes
                return "".join(pieces).strip('"')
        if self.task is None:
            raise DemonstrationFileError(
                f"{self.path} has no 'problem_info', and its name is not that of a LIBERO task."
            )
        return self.task.instruction

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, index: int) -> Episode:
        demo = self.group(index)
        with self._named_errors():
            self._check_gripper()
            return self._episode(demo)

    def _episode(self, demo: h5py.Group) -> Episode:
        stored = self._commands(demo)
        parts = [self._array(demo, f"obs/{name}", (None, width)) for name, width in _STATE_PARTS.items()]
        n_steps, lengths = len(stored), {len(stored), *map(len, parts)}
        if len(lengths) > 1:
            raise DemonstrationFileError(
                f"{self.path}: {demo.name} has actions {stored.shape} and observations of lengths {sorted(lengths)}; "
                f"expected (T, {COMMAND_DIM}) and T."
            )
        proprio = np.concatenate(parts, axis=1)
        check_proprio(proprio, (), f"{self.path}: {demo.name}")
        images = {field: self._images(demo, name, n_steps) for field, name in self._cameras(demo).items()}
        images.setdefault("images", np.zeros((n_steps, 0, 0, 3), dtype=np.uint8))
        return Episode(
            proprio=proprio.astype(np.float32),
            commands=self.conventions.commands(stored),
            instruction=self.instruction,
            task_id=-1 if self.task is None else self.task.task_id,
            init_state_id=int(attributes(demo, self.path).get(f"{PREFIX}init_state_id", -1)),
            success=bool(self._array(demo, "rewards", (n_steps,))[-1]) if "rewards" in demo else True,
            trace=self._trace(demo, n_steps),
            **images,
        )

    def __iter__(self) -> Iterator[Episode]:
        return (self[i] for i in range(len(self)))

    def episode_metadata(self, index: int) -> dict[str, Any]:
        """
        Return the attributes that this library added to a demonstration, without prefix.

        :param index: position
        """
        with self._named_errors():
            return _unprefixed(attributes(self.group(index), self.path))

    def group(self, index: int) -> h5py.Group:
        """
        Return the HDF5 group of a demonstration.

        :param index: position
        :raises IndexError: if there is none
        :raises DemonstrationFileError: if it is not a group in this file
        """
        name = self.names[index]
        with self._named_errors():
            return child_group(self._data, name, self.path)

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def __enter__(self) -> DemonstrationFile:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _check_gripper(self) -> None:
        """Check once, over all demonstrations, as a single one may not be enough."""
        if self._is_gripper_checked:
            return
        groups = [self.group(index) for index in range(len(self))]
        episodes = ((self._commands(demo), self._array(demo, "obs/gripper_states", (None, 2))) for demo in groups)
        self.conventions.check_gripper(episodes, self.path)
        self._is_gripper_checked = True

    def _commands(self, demo: h5py.Group) -> Any:
        return self._array(demo, "actions", (None, COMMAND_DIM))

    def _array(self, demo: h5py.Group, name: str, shape: tuple[int | None, ...]) -> Any:
        """Read a dataset; None in a shape stands for any number above 0."""
        dataset = child_dataset(demo, name, self.path)
        fits = len(dataset.shape) == len(shape) and all(
            n == wanted or (wanted is None and n) for n, wanted in zip(dataset.shape, shape, strict=True)
        )
        if not fits:
            expected = f"({', '.join('T' if n is None else str(n) for n in shape)})"
            raise DemonstrationFileError(f"{self.path}: {demo.name} has {name} {dataset.shape}; expected {expected}.")
        try:
            return dataset[()]
        except OSError as error:
            raise DemonstrationFileError(f"{self.path}: {demo.name}/{name} is damaged ({error}).") from error

    def _cameras(self, demo: h5py.Group) -> dict[str, str]:
        """Map fields of an episode to names in ``obs``; a camera that has no field is an error."""
        observations = child_group(demo, "obs", self.path)
        others = set(self.conventions.keys).difference(CAMERA_KEYS)
        if others:
            raise DemonstrationFileError(
                f"{self.path}: Conventions.keys names {sorted(others)}; for HDF5 expected {list(CAMERA_KEYS)} alone."
            )
        if self.conventions.keys:
            return dict(self.conventions.keys)
        found = {field: [name for name in names if name in observations] for field, names in CAMERA_KEYS.items()}
        known = {name for names in found.values() for name in names}
        unknown = [name for name in observations if name not in known and self._is_camera(observations, name)]
        if unknown or any(len(names) > 1 for names in found.values()):
            raise DemonstrationFileError(
                f"{self.path}: {demo.name}/obs has cameras {sorted({*unknown, *known})}; expected "
                f"{' and '.join(names[0] for names in CAMERA_KEYS.values())}. Say which to read, and leave the others "
                "out, with Conventions(keys={'images': ..., 'wrist_images': ...})."
            )
        return {field: names[0] for field, names in found.items() if names}

    def _is_camera(self, observations: h5py.Group, name: str) -> bool:
        found = child(observations, name, self.path)
        return isinstance(found, h5py.Dataset) and len(found.shape or ()) == 4

    def _images(self, demo: h5py.Group, name: str, n_steps: int) -> UInt8Array:
        dataset = child_dataset(demo, f"obs/{name}", self.path)
        shape = dataset.shape
        if dataset.dtype != np.uint8 or len(shape) != 4 or shape[0] != n_steps or shape[-1] != 3:
            raise DemonstrationFileError(
                f"{self.path}: {demo.name}/obs/{name} is {shape} {dataset.dtype}; expected ({n_steps}, H, W, 3) uint8."
            )
        stored = self._array(demo, f"obs/{name}", shape)
        return self.conventions.pictures(stored, self._image_convention, self._color_order)

    def _trace(self, demo: h5py.Group, n_steps: int) -> SimulatorTrace | None:
        widths = {"states": None, "obs/joint_states": 7, "obs/ee_states": 6, "robot_states": 9}
        if any(child(demo, name, self.path) is None for name in widths):
            return None
        arrays = [self._array(demo, name, (n_steps, width)) for name, width in widths.items()]
        states = arrays[0]
        init_state = np.asarray(attributes(demo, self.path).get(f"{PREFIX}init_state", states[0]))
        if init_state.shape != states.shape[1:]:
            raise DemonstrationFileError(
                f"{self.path}: {demo.name} has an init_state {init_state.shape}; expected {states.shape[1:]}."
            )
        return SimulatorTrace(init_state, *arrays)


def demonstration_files(path: str | Path) -> list[Path]:
    """
    List the HDF5 files to read.

    :param path: a file, or a folder that is searched with its subfolders; hidden names are left out
    :return: files in order of their names
    :raises DemonstrationFileError: if there are none, or one is a link that leaves the folder
    """
    path = Path(path)
    if not path.is_dir():
        return [path]
    files = [
        file
        for file in sorted(path.rglob("*.hdf5"))
        if not any(part.startswith(".") for part in file.relative_to(path).parts)
    ]
    for file in files:
        if not is_inside(file, path):
            raise DemonstrationFileError(
                f"{file} is a link to {file.resolve()}, outside of the folder. Name that file itself if it is meant."
            )
    if not files:
        raise DemonstrationFileError(f"{path} holds no .hdf5 files; record some with: vla-rl collect --out {path}")
    return files


def load_episodes(path: str | Path, conventions: Conventions | None = None) -> Iterator[Episode]:
    """
    Read the demonstrations of a file or folder one by one; only one is in memory at a time.

    :param path: a file, or a folder that is searched with its subfolders
    :param conventions: how the files differ from LIBERO
    :return: episodes in order of file names
    :raises DemonstrationFileError: if there are no files; while iterating, if one of them is damaged
    """
    return _episodes(demonstration_files(path), conventions)


def _episodes(files: list[Path], conventions: Conventions | None) -> Iterator[Episode]:
    for path in files:
        with DemonstrationFile(path, conventions) as file:
            yield from file


def _unprefixed(attributes: Mapping[str, Any]) -> dict[str, Any]:
    return {name.removeprefix(PREFIX): value for name, value in attributes.items() if name.startswith(PREFIX)}
