"""Environments stepped one after the other, in the caller's process and thread."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from vla_gym.vector.base import VLAVectorEnv
from vla_gym.vector.observations import ObservationSlots
from vla_gym.vector.runner import Description, EnvRunner, Reply, Request


class SyncVectorEnv(VLAVectorEnv):
    """
    Step the environments one after the other; the tests compare the other back ends with this one.

    Images are rendered on the process's own EGL device. Parameters: see :class:`VLAVectorEnv`.
    """

    def _start(self) -> Sequence[Description]:
        self._runners: list[EnvRunner] = []
        for i, env_fn in enumerate(self.env_fns):
            self._runners.append(EnvRunner(env_fn, i))
        descriptions = [runner.describe() for runner in self._runners]
        self._slots = ObservationSlots(descriptions[0].observation_space, self.num_envs)
        for runner in self._runners:
            runner.attach(self._slots)
        return descriptions

    def _send(self, index: int, request: Request) -> None:
        """Do nothing; the request is answered when the reply is asked for."""

    def _receive(self, index: int, request: Request) -> Reply:
        return self._runners[index].answer(request)

    def close_extras(self, **kwargs: Any) -> None:
        """Close the environments."""
        for runner in self._runners:
            runner.close()
        self._slots = None
