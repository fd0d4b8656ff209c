"""
Imported once by the server process that workers are forked from, and nowhere else: importing it compiles.

What is loaded here need not be loaded by each worker. It is the simulator and nothing more.
"""

from __future__ import annotations

import logging

import vla_gym.envs.libero_env
import vla_gym.vector.worker  # noqa: F401 - for those who are forked
from vla_gym.sim.compilation import compile_control_step

try:
    compile_control_step()
except Exception:
    # the server would end without a word; a worker that fails at the same thing says why
    logging.getLogger(__name__).exception("The control step could not be compiled ahead of time.")
