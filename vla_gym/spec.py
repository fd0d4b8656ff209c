"""Numbers and names of the action and observation spaces, each defined once."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

COMMAND_DIM = 7
"""Length of a command: translation (3), axis-angle rotation (3), gripper (1)."""
GRIPPER_OPEN = -1.0
GRIPPER_CLOSE = 1.0
N_BINS = 256
"""Bins per entry of a command, and so a model's action tokens."""
PROPRIO_DIM = 8
"""Length of the robot's own state: end-effector position (3), axis-angle orientation (3), fingers (2)."""

AGENTVIEW = "agentview"
WRIST = "wrist"
CAMERAS: Mapping[str, str] = MappingProxyType({AGENTVIEW: "agentview", WRIST: "robot0_eye_in_hand"})
"""Observation key -> camera name in the scene."""
PROPRIO = "proprio"
INSTRUCTION = "instruction"
PRIVILEGED = "privileged"
"""Key of the state that only a simulator knows, for critics."""
