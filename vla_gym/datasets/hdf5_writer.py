"""Write demonstrations in the layout that :mod:`vla_gym.datasets.hdf5` describes and reads."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Any

import h5py
import numpy as np

from vla_gym.datasets.episode import Episode
from vla_gym.datasets.hdf5 import DEMO_KEY, PREFIX, DemonstrationFile
from vla_gym.datasets.libero_attributes import task_attributes
from vla_gym.files import write_then_rename
from vla_gym.tasks.registry import TaskSpec
from vla_gym.type_aliases import UInt8Array

GZIP_LEVEL = 4


class DemonstrationWriter:
    """
    Write demonstrations of one task; the file gets its name when the ``with`` block ends without an error.

    :param path: file to write or replace
    :param task: the task
    :param metadata: further attributes of the file, stored with ``vla_gym_`` before their names
    """

    def __init__(self, path: str | Path, task: TaskSpec, metadata: Mapping[str, Any] | None = None) -> None:
        self.path = Path(path)
        self.task = task
        self._metadata = dict(metadata or {})
        self._stack = ExitStack()
        self._n_demos = 0
        self._n_steps = 0
        self._image_size = 0

    def __enter__(self) -> DemonstrationWriter:
        temporary = self._stack.enter_context(write_then_rename(self.path))
        self._file = self._stack.enter_context(h5py.File(temporary, "w"))
        self._data = self._file.create_group("data")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            attributes = task_attributes(self.task, self._image_size)
            attributes |= {"num_demos": self._n_demos, "total": self._n_steps, **_prefixed(self._metadata)}
            self._data.attrs.update(attributes)
        self._stack.__exit__(kind, error, trace)

    def add(self, episode: Episode, metadata: Mapping[str, Any] | None = None) -> None:
        """
        Append an episode.

        :param episode: of this task
        :param metadata: further attributes, stored with ``vla_gym_`` before their names
        """
        demo = self._data.create_group(f"{DEMO_KEY}{self._n_demos}")
        outcome = np.zeros(len(episode), dtype=np.uint8)
        outcome[-1] = episode.success
        arrays: dict[str, Any] = {"actions": episode.commands, "rewards": outcome, "dones": outcome}
        observations: dict[str, Any] = {}
        ee_states: Any = episode.proprio[:, :6]
        fingers: Any = episode.proprio[:, 6:]
        if episode.trace is not None:
            ee_states, fingers = episode.trace.ee_states, episode.trace.robot_states[:, :2]
            arrays |= {"states": episode.trace.states, "robot_states": episode.trace.robot_states}
            observations["joint_states"] = episode.trace.joint_states
            demo.attrs["init_state"] = episode.trace.states[0]
            demo.attrs[f"{PREFIX}init_state"] = episode.trace.init_state
        observations |= {
            "ee_states": ee_states,
            "ee_pos": ee_states[:, :3],
            "ee_ori": ee_states[:, 3:],
            "gripper_states": fingers,
        }
        for name, array in arrays.items():
            demo.create_dataset(name, data=array)
        for name, array in observations.items():
            demo.create_dataset(f"obs/{name}", data=array)
        for name, images in (("agentview_rgb", episode.images), ("eye_in_hand_rgb", episode.wrist_images)):
            if images is not None and images.size:
                _write_images(demo, f"obs/{name}", images)
                self._image_size = images.shape[1]
        demo.attrs["num_samples"] = len(episode)
        demo.attrs.update(_prefixed({"init_state_id": episode.init_state_id, **(metadata or {})}))
        self._count(len(episode))

    def copy(self, file: DemonstrationFile, index: int) -> None:
        """
        Append a demonstration of another file unchanged.

        :param file: the other file
        :param index: position there
        """
        demo = file.group(index)
        demo.file.copy(demo, self._data, name=f"{DEMO_KEY}{self._n_demos}")
        for name in ("agentview_rgb", "eye_in_hand_rgb"):
            if name in demo["obs"]:
                self._image_size = demo["obs"][name].shape[1]
        self._count(len(demo["actions"]))

    def _count(self, n_steps: int) -> None:
        self._n_demos += 1
        self._n_steps += n_steps


def _write_images(demo: h5py.Group, name: str, images: UInt8Array) -> None:
    raw = images[:, ::-1, ::-1]
    # one picture per chunk, because training reads single steps
    demo.create_dataset(name, data=raw, chunks=(1, *raw.shape[1:]), compression="gzip", compression_opts=GZIP_LEVEL)


def _prefixed(metadata: Mapping[str, Any]) -> dict[str, Any]:
    return {f"{PREFIX}{name}": value for name, value in metadata.items()}
