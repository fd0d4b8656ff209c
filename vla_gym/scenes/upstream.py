"""
Replay recorded commands in upstream LIBERO itself, in a separate process.

It is brought into an episode's initial state as in OpenVLA's evaluation: seed 0, resets until the fixtures stand as in
that initial state, the state, the settle commands.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path
from typing import NamedTuple

import numpy as np

from vla_gym.processes.program import ProgramError, restart_clock
from vla_gym.scenes.libero_files import task_files
from vla_gym.scenes.libero_process import (
    call_libero,
    import_libero,
    reset_libero,
    run_libero,
)
from vla_gym.tasks.registry import EVALUATION_SEED, SETTLE_COMMAND, SETTLE_STEPS, TaskSpec
from vla_gym.type_aliases import BoolArray, Float64Array


class UpstreamReplay(NamedTuple):
    """
    States and success in upstream LIBERO during T commands.

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
    Execute commands in upstream LIBERO, ignoring success and failure.

    This takes ``init_state_id + 1`` resets of about a second each.

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
        np.save(folder / "init.npy", init_state)
        np.save(folder / "commands.npy", np.concatenate([np.tile(SETTLE_COMMAND, (SETTLE_STEPS, 1)), commands]))
        arguments = ["--assets", str(assets.absolute()), "--bddl", str(task_files(task)[0])]
        arguments += ["--folder", temporary, "--resets", str(init_state_id + 1)]
        try:
            for _ in run_libero(__name__, arguments, folder):
                pass
        except ProgramError as error:
            raise RuntimeError(
                f"Upstream LIBERO could not replay {len(commands)} commands of {task.name}. Its output:\n{error.output}"
            ) from error
        with np.load(folder / "out.npz") as out:
            return UpstreamReplay(out["states"][SETTLE_STEPS - 1 :], out["success"][SETTLE_STEPS:])


def _replay(arguments: argparse.Namespace) -> int:
    """Replay the commands in the folder, in the separate process."""
    control_env = import_libero(arguments.assets)(
        bddl_file_name=str(arguments.bddl), has_offscreen_renderer=False, use_camera_obs=False
    )
    control_env.seed(EVALUATION_SEED)
    for number in range(arguments.resets):
        reset_libero(control_env)
        # each restarts the clock
        restart_clock(arguments.time_limit)
        print(number, flush=True)
    control_env.set_init_state(np.load(arguments.folder / "init.npy"))
    states, success = [], []
    for command in np.load(arguments.folder / "commands.npy"):
        success.append(bool(control_env.step(command)[2]))
        states.append(control_env.get_sim_state())
    np.savez(arguments.folder / "out.npz", states=np.stack(states), success=np.array(success))
    return 0


def main(argv: list[str]) -> int:
    """Entry point of the separate process."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--assets", type=Path, required=True)
    parser.add_argument("--bddl", type=Path, required=True)
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--resets", type=int, required=True)
    return call_libero(parser, _replay, argv)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
