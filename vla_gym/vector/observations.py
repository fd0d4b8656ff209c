"""Storage for batches of observations: two alternating slots, and one for the last observations of episodes."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray

N_SLOTS = 2
_FINAL = N_SLOTS
_ALIGNMENT = 64
_ARRAY_SPACES = (spaces.Box, spaces.Discrete, spaces.MultiDiscrete, spaces.MultiBinary)


class ObservationSlots:
    """
    Keep observations of N environments in one block of memory, which processes may share.

    Batch ``t`` is written to slot ``t % 2``, so that the previous batch stays intact: views of a batch are valid until
    the second batch after it is written. The last observations of episodes are stored separately.

    :param space: observation space of one environment: arrays, or a flat ``Dict`` of arrays
    :param n_envs: N
    :param memory: writable buffer of ``size`` bytes; None: private memory
    :raises ValueError: if the space holds anything else
    """

    def __init__(self, space: spaces.Space[Any], n_envs: int, memory: Any = None) -> None:
        if memory is None:
            memory = np.zeros(self.size(space, n_envs), dtype=np.uint8)
        self._is_dict = isinstance(space, spaces.Dict)
        self._arrays: dict[str, NDArray[Any]] = {}
        offset = 0
        for name, (shape, dtype) in _fields(space).items():
            full_shape = (N_SLOTS + 1, n_envs, *shape)
            count = math.prod(full_shape)
            self._arrays[name] = np.frombuffer(memory, dtype, count, offset).reshape(full_shape)
            offset += _aligned(count * dtype.itemsize)

    @staticmethod
    def size(space: spaces.Space[Any], n_envs: int) -> int:
        """
        Compute the number of bytes needed.

        :param space: observation space of one environment
        :param n_envs: number of environments
        :return: size of ``memory``
        """
        rows = (N_SLOTS + 1) * n_envs
        return sum(_aligned(rows * math.prod(shape) * dtype.itemsize) for shape, dtype in _fields(space).values())

    def write(self, slot: int, index: int, observation: Any) -> None:
        """
        Store one environment's observation.

        :param slot: 0 or 1
        :param index: the environment
        :param observation: element of the space
        """
        for name, array in self._arrays.items():
            array[slot, index] = observation[name] if self._is_dict else observation

    def repeat(self, slot: int, index: int) -> None:
        """
        Copy one environment's observation from the other slot.

        :param slot: where it goes, 0 or 1
        :param index: the environment
        """
        for array in self._arrays.values():
            array[slot, index] = array[1 - slot, index]

    def write_final(self, index: int, observation: Any) -> None:
        """
        Store the last observation of an episode.

        :param index: the environment
        :param observation: element of the space
        """
        self.write(_FINAL, index, observation)

    def batch(self, slot: int) -> Any:
        """
        Return the observations of all environments.

        :param slot: 0 or 1
        :return: views, (N, ...) each
        """
        views = {name: array[slot] for name, array in self._arrays.items()}
        return views if self._is_dict else views[""]

    def row(self, slot: int, index: int) -> Any:
        """
        Return one environment's observation.

        :param slot: 0 or 1
        :param index: the environment
        :return: a copy
        """
        copies = {name: array[slot, index].copy() for name, array in self._arrays.items()}
        return copies if self._is_dict else copies[""]

    def final(self, index: int) -> Any:
        """
        Return the last observation of the environment's latest episode.

        :param index: the environment
        :return: a copy
        """
        return self.row(_FINAL, index)


def _fields(space: spaces.Space[Any]) -> dict[str, tuple[tuple[int, ...], np.dtype[Any]]]:
    parts = dict(space.spaces) if isinstance(space, spaces.Dict) else {"": space}
    fields = {}
    for name, part in parts.items():
        if not isinstance(part, _ARRAY_SPACES) or part.shape is None or part.dtype is None:
            raise ValueError(
                f"Observation space {part} cannot be batched; expected arrays (Box, Discrete, MultiDiscrete, "
                "MultiBinary) or a flat Dict of them."
            )
        fields[name] = (part.shape, np.dtype(part.dtype))
    return fields


def _aligned(n_bytes: int) -> int:
    return -(-n_bytes // _ALIGNMENT) * _ALIGNMENT
