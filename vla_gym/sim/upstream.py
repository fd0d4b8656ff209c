"""
Upstream LIBERO itself, run in a process of its own: what it makes of commands that were recorded here.

It is brought into an episode's initial state as OpenVLA's evaluation does: seed 0, as many resets as fixtures need to
stand where they stand in that initial state, the state, the settle commands.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import NamedTuple

import numpy as np

from vla_gym.sim.libero_files import task_files, write_libero_config
from vla_gym.tasks.registry import SETTLE_COMMAND, SETTLE_STEPS, TaskSpec
from vla_gym.type_aliases import BoolArray, Float64Array

_PROGRAM = """
import sys
import numpy as np
import libero.libero as libero_package
assets, bddl, init, commands, out, resets = sys.argv[1:]
libero_package._assets_path_cache = assets
from libero.libero.envs.env_wrapper import ControlEnv
env = ControlEnv(bddl_file_name=bddl, has_offscreen_renderer=False, use_camera_obs=False)
env.seed(0)
for _ in range(int(resets)):
    env.reset()
env.set_init_state(np.load(init))
states, success = [], []
for command in np.load(commands):
    success.append(bool(env.step(command)[2]))
    states.append(env.get_sim_state())
np.savez(out, states=np.stack(states), success=np.array(success))
"""


class UpstreamReplay(NamedTuple):
    """
    What upstream LIBERO makes of T commands.

    :param states: time (s), qpos, qvel: row t from before command t, the last one from after all of them,
        (T + 1, 1 + nq + nv) float64
    :param success: whether the goal holds after each command, (T,) bool
    """

    states: Float64Array
    success: BoolArray


def replay_upstream(
    task: TaskSpec, init_state: Float64Array, init_state_id: int, commands: Float64Array, assets: Path
) -> UpstreamReplay:
    """
    Give upstream LIBERO commands, whatever happens.

    A reset of upstream takes about a second, and ``init_state_id + 1`` are made.

    :param task: the task
    :param init_state: stored initial state, not settled yet, (1 + nq + nv,)
    :param init_state_id: its number, which says where the fixtures stand
    :param commands: in [-1, 1], (T, 7)
    :param assets: root of the asset pack
    :return: states and success
    :raises RuntimeError: if LIBERO cannot run them; the message ends with its output
    """
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        write_libero_config(folder)
        np.save(folder / "init.npy", init_state)
        np.save(folder / "commands.npy", np.concatenate([np.tile(SETTLE_COMMAND, (SETTLE_STEPS, 1)), commands]))
        files = [task_files(task)[0], folder / "init.npy", folder / "commands.npy", folder / "out.npz"]
        result = subprocess.run(
            [sys.executable, "-c", _PROGRAM, str(assets), *map(str, files), str(init_state_id + 1)],
            # robosuite imports a GL back end although nothing is rendered; this one needs no GPU, display or EGL
            env={**os.environ, "LIBERO_CONFIG_PATH": str(folder), "MUJOCO_GL": "glx"},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
        )
        if result.returncode != 0:
            tail = "\n".join(result.stderr.strip().splitlines()[-15:])
            raise RuntimeError(
                f"Upstream LIBERO could not replay {len(commands)} commands of {task.name}. Last lines of its output:\n"
                f"{tail}"
            )
        with np.load(folder / "out.npz") as out:
            return UpstreamReplay(out["states"][SETTLE_STEPS - 1 :], out["success"][SETTLE_STEPS:])
