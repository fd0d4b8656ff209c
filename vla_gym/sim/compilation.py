"""Compile the control step ahead of its first use, and announce it."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import mujoco
import numba
import numpy as np
from numba.core import event

from vla_gym.messages import announce
from vla_gym.scenes.bundle import RobotIds
from vla_gym.sim.control_step import (
    ObservedState,
    control_step,
    make_controller_state,
    make_sim_arrays,
    read_arm,
    read_sensors,
)
from vla_gym.sim.mujoco_calls import mujoco_calls

typeof: Any = numba.typeof

_ANY_SCENE = """
<mujoco>
  <worldbody>
    <body><joint name="joint"/><geom size="1"/><site/></body>
  </worldbody>
  <actuator><motor joint="joint" ctrlrange="-1 1"/></actuator>
</mujoco>
"""


class _FirstCompilation(event.Listener):  # type: ignore[misc]
    """Announce the first function that numba compiles; loading from its cache causes no event."""

    def __init__(self) -> None:
        self._is_announced = False

    def on_start(self, event: event.Event) -> None:
        if not self._is_announced:
            self._is_announced = True
            announce("Compiling the control step (once per installation, 10 to 30 s).")

    def on_end(self, event: event.Event) -> None:
        pass


@lru_cache(maxsize=1)
def compile_control_step() -> None:
    """
    Compile the functions that :class:`vla_gym.sim.core.SimCore` calls, or load them from numba's cache, without running
    them.

    Compiling takes about 10 s. The server of worker processes does it before it forks them; otherwise all workers would
    compile at their first reset, at the same time.
    """
    model = mujoco.MjModel.from_xml_string(_ANY_SCENE)
    # types do not depend on the scene, so any joint and any actuator will do
    first = np.zeros(1, dtype=np.int64)
    ids = RobotIds(qpos=first, qvel=first, ctrl=first, gripper_qpos=first, gripper_ctrl=first, eef_site=0, eef_body=1)
    calls, arrays = typeof(mujoco_calls()), typeof(make_sim_arrays(model, mujoco.MjData(model), ids))
    arm = typeof(make_controller_state(np.zeros(7), model.nv))
    observed = typeof(ObservedState(*(np.zeros(1) for _ in ObservedState._fields)))
    with event.install_listener("numba:compile", _FirstCompilation()):
        read_arm.compile((calls, arrays, arm))
        read_sensors.compile((arrays, observed))
        control_step.compile((calls, arrays, arm, observed, typeof(np.zeros(7)), typeof(True)))
