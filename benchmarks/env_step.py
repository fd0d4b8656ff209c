"""
Cost of stepping, rendering and resetting, as ratios to bare MuJoCo and to upstream LIBERO in the same run.

    python benchmarks/env_step.py [--assets FOLDER|primitive] [--repeats 5] [--no-upstream]

Upstream runs in a process of its own on the same assets; the two take turns, so that both meet the same noise.
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
from vla_gym.assets.resolve import resolve_assets
from vla_gym.sim.scene_builder import task_files, write_libero_config
from vla_gym.tasks.registry import SUBSTEPS, get_suite

TASK_ID = 8
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


def measure_ours(assets: str) -> dict[str, float]:
    figures: dict[str, float] = {}
    env: Any = None

    def make(**kwargs: Any) -> Any:
        return gym.make(
            "LIBERO-Goal-v0", task_ids=[TASK_ID], assets=assets, action_type="continuous", **kwargs
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
    env.set_state(state)
    model, data = env.core.model, env.core.data
    bare = clock(lambda: [mujoco.mj_step(model, data) for _ in range(STEPS * SUBSTEPS)])
    figures["25 x mj_step"] = bare / STEPS
    for quality in ("full", "fast"):
        for size in (128, 256):
            env = make(image_size=size, render_quality=quality)
            env.reset(options={"init_state_id": 0})

            def draw(env: Any = env) -> None:
                env._observe()
                env._observation()

            draw()
            figures[f"render_{size} {quality}"] = clock(lambda draw=draw: [draw() for _ in range(20)]) / 20
            env.close()
    return figures


def measure_upstream(assets: Path) -> dict[str, float]:
    task = get_suite("goal").task(TASK_ID)
    bddl, _ = task_files(task)
    env = gym.make("LIBERO-Goal-v0", task_ids=[TASK_ID], assets=assets, cameras=()).unwrapped
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
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--no-upstream", action="store_true")
    args = parser.parse_args()
    pack = resolve_assets(args.assets)

    runs = []
    for _ in range(args.repeats):
        ours = measure_ours(str(pack.path))
        upstream = {} if args.no_upstream else measure_upstream(pack.path)
        runs.append((ours, upstream))

    def median(which: int, name: str) -> float:
        return statistics.median(run[which][name] for run in runs)

    print(f"assets: {pack.name}; task: {get_suite('goal').task(TASK_ID).name}; medians of {args.repeats} runs, ms")
    for name in runs[0][0]:
        print(f"  ours      {name:22s} {1e3 * median(0, name):9.2f}")
    for name in runs[0][1]:
        print(f"  upstream  {name:22s} {1e3 * median(1, name):9.2f}")
    ratios = [("control step / 25 bare mj_step", "step", 0, "25 x mj_step")]
    if not args.no_upstream:
        ratios += [
            ("control step / upstream's without cameras", "step", 1, "step"),
            ("reset to an initial state / upstream's", "reset", 1, "reset"),
            ("gym.make of a cached scene / upstream's", "make", 1, "make"),
            ("make and first reset / upstream's make and reset", "make and first reset", 1, "make"),
            ("render full 256 / upstream's camera", "render_256 full", 1, "render_256"),
            ("render fast 256 / upstream's camera", "render_256 fast", 1, "render_256"),
        ]
    print("ratios, median [smallest, largest]")
    for text, name, which, other in ratios:
        values = [run[0][name] / run[which][other] for run in runs]
        print(f"  {text:50s} {statistics.median(values):7.3f}  [{min(values):.3f}, {max(values):.3f}]")


if __name__ == "__main__":
    main()
