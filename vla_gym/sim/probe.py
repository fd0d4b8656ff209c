"""
A drop test that tells whether contacts behave as they did when LIBERO's results were produced.

In task 5 of LIBERO-Spatial every stored state drops a bowl from 11 cm onto the centre of a ramekin. Where it comes to
rest depends on how MuJoCo treats contacts between boxes: with LIBERO's assets it leans on the ramekin's rim up to
MuJoCo 3.3.7, and slides off from 3.4.0 on. The primitive bowl and ramekin are symmetric and rest centred in either
case, so with primitives the probe finds a damaged scene or simulation, but not another version of MuJoCo.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

import numpy as np

from vla_gym.scenes.bundle import SceneBundle
from vla_gym.sim.core import SimCore
from vla_gym.tasks.registry import SETTLE_COMMAND, TaskSpec, get_suite

PROBE_STEPS = 20
"""Control steps after which the bowl is certainly at rest; after the evaluation's 10 it may still move at 2 mm/s."""
OFFSET_TOLERANCE = 0.002
"""Accepted difference of the offset (m)."""
TILT_TOLERANCE = 2.0
"""Accepted difference of the tilt (degrees)."""


@dataclass(frozen=True)
class Settled:
    """
    Resting place of the bowl on the ramekin.

    :param offset: horizontal distance of the bowl's origin from the ramekin's (m)
    :param tilt: angle between the bowl's axis and the vertical (degrees)
    """

    offset: float
    tilt: float

    def agrees_with(self, expected: Settled) -> bool:
        """Tell whether both figures are within the tolerances."""
        return (
            abs(self.offset - expected.offset) <= OFFSET_TOLERANCE and abs(self.tilt - expected.tilt) <= TILT_TOLERANCE
        )

    def __str__(self) -> str:
        return f"{1000 * self.offset:.1f} mm off centre, tilted by {self.tilt:.1f} degrees"


EXPECTED: Mapping[str, Settled] = MappingProxyType(
    {"libero": Settled(offset=0.01453, tilt=15.95), "primitive": Settled(offset=0.0, tilt=0.0)}
)
"""Name of an asset pack -> figures with mujoco 3.3.7."""


def probe_task() -> TaskSpec:
    """Return the task with the bowl on the ramekin."""
    return get_suite("spatial").task(5)


def probe_settling(bundle: SceneBundle) -> Settled:
    """
    Drop the bowl of initial state 0 onto the ramekin and measure where it comes to rest.

    :param bundle: bundle of ``probe_task()``
    """
    core = SimCore(bundle)
    core.reset(bundle.init_states[0], bundle.fixture_pos[0], bundle.fixture_quat[0])
    command = np.array(SETTLE_COMMAND)
    for _ in range(PROBE_STEPS):
        core.step(command)
    bowl = core.data.body(bundle.object_bodies["akita_black_bowl_1"])
    ramekin = core.data.body(bundle.object_bodies["glazed_rim_porcelain_ramekin_1"])
    offset = float(np.hypot(*(bowl.xpos - ramekin.xpos)[:2]))
    tilt = float(np.degrees(np.arccos(np.clip(bowl.xmat[8], -1.0, 1.0))))
    return Settled(offset, tilt)
