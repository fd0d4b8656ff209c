"""The numbers and names of the action and camera space, each stated once; they change only with the environments."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

COMMAND_DIM = 7
"""Numbers of a command: translation (3), axis-angle rotation (3), gripper (1)."""
GRIPPER_OPEN = -1.0
GRIPPER_CLOSE = 1.0
N_BINS = 256
"""Bins of each number of a command, and so the action tokens of a model."""
PROPRIO_DIM = 8
"""Numbers of the robot's own state: end-effector position (3), axis-angle orientation (3), fingers (2)."""

AGENTVIEW = "agentview"
WRIST = "wrist"
CAMERAS: Mapping[str, str] = MappingProxyType({AGENTVIEW: "agentview", WRIST: "robot0_eye_in_hand"})
"""Observation key -> camera name in the scene."""
PROPRIO = "proprio"
INSTRUCTION = "instruction"
PRIVILEGED = "privileged"
"""Key of what only a simulator knows, which a critic may read."""
