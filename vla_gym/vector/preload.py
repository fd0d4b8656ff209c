"""
Load and compile the simulator, and nothing else, before workers are forked.

Only the server process imports this module, so that workers need not load the same again.
"""

from __future__ import annotations

import logging

import vla_gym.envs.libero_env
import vla_gym.vector.worker  # noqa: F401 - for those who are forked
from vla_gym.sim.compilation import compile_control_step

try:
    compile_control_step()
except Exception:
    # an exception would end the server silently; a worker that fails in the same way reports it
    logging.getLogger(__name__).exception("The control step could not be compiled ahead of time.")
