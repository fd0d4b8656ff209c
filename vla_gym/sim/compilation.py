"""Compiles the control step ahead of its first use, for processes that are forked afterwards."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import mujoco
import numba
import numpy as np

from vla_gym.sim.control_step import Observed, control_step, make_arm_memory, make_views, read_arm, sense
from vla_gym.sim.controller import RobotIds
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


@lru_cache(maxsize=1)
def compile_control_step() -> None:
    """
    Compile what :class:`vla_gym.sim.core.SimCore` calls, or load it from numba's cache; nothing is executed.

    Compiling takes some 10 s. Without this, every process would do it by itself at its first reset, all at once.
    """
    model = mujoco.MjModel.from_xml_string(_ANY_SCENE)
    # types do not depend on the scene, so any joint and any actuator will do
    first = np.zeros(1, dtype=np.int64)
    ids = RobotIds(qpos=first, qvel=first, ctrl=first, gripper_qpos=first, gripper_ctrl=first, eef_site=0, eef_body=1)
    calls, views = typeof(mujoco_calls()), typeof(make_views(model, mujoco.MjData(model), ids))
    arm = typeof(make_arm_memory(np.zeros(7), model.nv))
    observed = typeof(Observed(*(np.zeros(1) for _ in Observed._fields)))
    read_arm.compile((calls, views, arm))
    sense.compile((views, observed))
    control_step.compile((calls, views, arm, observed, typeof(np.zeros(7)), typeof(True)))
