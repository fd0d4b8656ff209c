"""What a process reward model is to those who use it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from vla_gym.type_aliases import Float32Array, UInt8Array


class RewardModel(Protocol):
    """Judges from images how much of a task is done. It is called outside of gradients, and keeps nothing."""

    camera: str
    """Key of the observation that it looks at."""

    def score(self, frames: UInt8Array, instructions: Sequence[str]) -> Float32Array:
        """
        Judge N moments.

        :param frames: the first image of the episode and the one to judge, (N, 2, H, W, 3) uint8 RGB
        :param instructions: N texts
        :return: how much is done, (N,) float32 in [0, 1]; NaN where the model has no answer
        """
        ...
