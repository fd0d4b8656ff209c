"""Variation between demonstrations."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from vla_gym.type_aliases import Float64Array

SPEED_RANGE = (0.75, 0.9)
HEIGHT_RANGE = (0.03, 0.06)
CLOSE_STEPS_RANGE = (10, 12)
MAX_PLACE_OFFSET = 0.008
MAX_GRASP_OFFSET = 0.003


@dataclass(frozen=True)
class Style:
    """
    Style of one episode.

    :param speed: cap on the norm of a translation command, in (0, 1]
    :param height: distance above a grasp or a surface to approach from (m)
    :param close_steps: control steps spent closing the gripper
    :param place_offset: offset of an object from the target's middle (m), (3,)
    :param grasp_offset: offset of the hand from the chosen grasp (m), (3,)
    :param choice: in [0, 1): picks one of the grasps that are nearly as good as the best
    """

    speed: float
    height: float
    close_steps: int
    place_offset: Float64Array
    grasp_offset: Float64Array
    choice: float

    @classmethod
    def sample(cls, rng: np.random.Generator) -> Style:
        """
        Draw a style.

        :param rng: source of randomness
        """
        angle, radius = rng.uniform(0.0, 2.0 * np.pi), MAX_PLACE_OFFSET * np.sqrt(rng.uniform())
        return cls(
            speed=rng.uniform(*SPEED_RANGE),
            height=rng.uniform(*HEIGHT_RANGE),
            close_steps=int(rng.integers(CLOSE_STEPS_RANGE[0], CLOSE_STEPS_RANGE[1] + 1)),
            place_offset=radius * np.array([np.cos(angle), np.sin(angle), 0.0]),
            grasp_offset=np.append(rng.uniform(-MAX_GRASP_OFFSET, MAX_GRASP_OFFSET, 2), 0.0),
            choice=float(rng.uniform()),
        )
