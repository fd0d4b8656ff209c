"""
Cost of stepping, rendering and resetting, as ratios to bare MuJoCo and to upstream LIBERO in the same run.

    python benchmarks/env_step.py [--assets FOLDER|primitive] [--suite goal 10] [--repeats 3] [--no-upstream]

Upstream runs in a process of its own on the same assets; the two take turns, so that both meet the same noise. Bare
``mj_step`` is timed on the model that upstream simulates, from the same state.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gymnasium as gym
import mujoco
import numpy as np

import vla_gym  # noqa: F401  (registers the environments)
from vla_gym.assets.resolve import AssetPack, resolve_assets
from vla_gym.scenes.libero_files import task_files, write_libero_config
from vla_gym.tasks.registry import SUBSTEPS, get_suite

TASK_IDS = {"spatial": 0, "object": 0, "goal": 8, "10": 0, "90": 16}
"""One scene per suite."""
STEPS = 40
COMMAND = np.array([0.2, -0.1, -0.2, 0.0, 0.05, 0.0, -1.0])

UPSTREAM = """
import json, sys, time
import numpy as np
import libero.libero as libero_package
assets, bddl, init, steps = sys.argv[1], sys.argv[2], sys.argv[3], int(sys.argv[4])
libero_package._assets_path_cache = assets
from libero.libero.envs.env_wrapper import ControlEnv
command = np.array(json.loads(sys.argv[5]))
init = np.load(init)
def clock(f):
    start = time.perf_counter(); result = f(); return time.perf_counter() - start, result
def make(camera):
    return ControlEnv(bddl_file_name=bddl, has_offscreen_renderer=camera, use_camera_obs=camera,
                      camera_names=["agentview"], camera_heights=256, camera_widths=256)
make(False)  # imports and compiles
figures = {}
figures["make"], env = clock(lambda: make(False))
env.seed(0)
def reset():
    env.reset(); env.set_init_state(init)
def run():
    for _ in range(steps): env.step(command)
reset()
figures["reset"] = min(clock(reset)[0] for _ in range(3))
figures["make and reset"] = figures["make"] + figures["reset"]
run()
figures["step"] = clock(run)[0] / steps
env.close()
env = make(True); env.reset(); env.set_init_state(init); env.step(command)
with_camera = clock(run)[0] / steps
figures["render_256"] = with_camera - figures["step"]
print(json.dumps(figures))
"""


def clock(function: Callable[[], Any]) -> float:
    start = time.perf_counter()
    function()
    return time.perf_counter() - start


def measure_ours(suite: str, assets: str) -> dict[str, float]:
    figures: dict[str, float] = {}
    env: Any = None

    def make(**kwargs: Any) -> Any:
        return gym.make(
            get_suite(suite).env_id, task_ids=[TASK_IDS[suite]], assets=assets, action_type="continuous", **kwargs
        ).unwrapped

    def make_and_load() -> None:
        nonlocal env
        env = make(cameras=())
        env.reset(options={"init_state_id": 0})

    make_and_load()  # builds and compiles
    figures["make"] = clock(lambda: make(cameras=()))
    figures["make and first reset"] = clock(make_and_load)
    env.settle_steps = 0
    figures["reset"] = min(clock(lambda: env.reset(options={"init_state_id": 0})) for _ in range(5))
    for _ in range(STEPS):
        env.step(COMMAND)
    state = env.get_state()
    figures["step"] = clock(lambda: [env.step(COMMAND) for _ in range(STEPS)]) / STEPS
    for quality in ("full", "fast"):
        for size in (128, 256):
            env = make(image_size=size, render_quality=quality)
            env.reset(options={"init_state_id": 0})

            def draw(env: Any = env) -> None:
                env._observation()

            draw()
            figures[f"render_{size} {quality}"] = clock(lambda draw=draw: [draw() for _ in range(20)]) / 20
            if (quality, size) == ("full", 256):
                figures["25 x mj_step"] = bare_steps(env, state)
            env.close()
    return figures


def bare_steps(env: Any, state: np.ndarray) -> float:
    """Seconds that MuJoCo alone takes for a control step of upstream's model, actuators held."""
    model = mujoco.MjModel.from_binary_path(str(env.bundle.model_file("full")))
    model.body_pos[:], model.body_quat[:] = env.core.model.body_pos, env.core.model.body_quat
    data = mujoco.MjData(model)
    data.qpos[:], data.qvel[:] = state[1 : 1 + model.nq], state[1 + model.nq :]
    data.ctrl[:] = env.core.data.ctrl
    return clock(lambda: mujoco.mj_step(model, data, STEPS * SUBSTEPS)) / STEPS


def measure_upstream(suite: str, assets: Path) -> dict[str, float]:
    bddl, _ = task_files(get_suite(suite).task(TASK_IDS[suite]))
    env = gym.make(get_suite(suite).env_id, task_ids=[TASK_IDS[suite]], assets=assets, cameras=()).unwrapped
    with tempfile.TemporaryDirectory() as folder:
        write_libero_config(Path(folder))
        np.save(Path(folder) / "init.npy", env.bundle.init_states[0])
        arguments = [str(assets), str(bddl), str(Path(folder) / "init.npy"), str(STEPS), json.dumps(COMMAND.tolist())]
        result = subprocess.run(
            [sys.executable, "-c", UPSTREAM, *arguments],
            env={**os.environ, "LIBERO_CONFIG_PATH": folder, "MUJOCO_GL": "egl"},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=True,
        )
    return json.loads(result.stdout.strip().splitlines()[-1])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--assets", default="auto")
    parser.add_argument("--suite", nargs="+", default=list(TASK_IDS), choices=list(TASK_IDS))
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--no-upstream", action="store_true")
    args = parser.parse_args()
    for suite in args.suite:
        report(suite, resolve_assets(args.assets), args.repeats, not args.no_upstream)


def report(suite: str, pack: AssetPack, repeats: int, with_upstream: bool) -> None:
    """Measure one suite's scene and print times and ratios."""
    runs = []
    for _ in range(repeats):
        ours = measure_ours(suite, str(pack.path))
        runs.append((ours, measure_upstream(suite, pack.path) if with_upstream else {}))
    name = get_suite(suite).task(TASK_IDS[suite]).name
    print(f"{suite}: {name}; assets: {pack.name}; medians of {repeats} runs, ms")
    for which, side in enumerate(("ours", "upstream")):
        for figure in runs[0][which]:
            median = statistics.median(run[which][figure] for run in runs)
            print(f"  {side:9s} {figure:22s} {1e3 * median:9.2f}")
    ratios = [("control step / 25 bare mj_step", "step", 0, "25 x mj_step")]
    if with_upstream:
        ratios += [
            ("control step / upstream's without cameras", "step", 1, "step"),
            ("reset to an initial state / upstream's", "reset", 1, "reset"),
            ("gym.make of a cached scene / upstream's", "make", 1, "make"),
            ("make and first reset / upstream's make and reset", "make and first reset", 1, "make and reset"),
            ("render full 256 / upstream's camera", "render_256 full", 1, "render_256"),
            ("render fast 256 / upstream's camera", "render_256 fast", 1, "render_256"),
        ]
    print("  ratios, median [smallest, largest]")
    for text, figure, which, other in ratios:
        values = [run[0][figure] / run[which][other] for run in runs]
        print(f"    {text:50s} {statistics.median(values):7.3f}  [{min(values):.3f}, {max(values):.3f}]", flush=True)


if __name__ == "__main__":
    main()
