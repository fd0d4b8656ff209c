"""
Build scene bundles with LIBERO's own code, in a separate process (``python -m vla_gym.scenes.builder``).

The process that steps the simulation does not import LIBERO or robosuite.

For each task the builder writes ``<name>.json`` and ``<name>.npz``; tasks that compile to the same scene share the
models ``<hash>.physics.mjb`` and ``<hash>.<render quality>.mjb``. See ``bundle.py`` for their content.
"""

from __future__ import annotations

import argparse
import errno
import hashlib
import json
import os
import sys
from pathlib import Path
from typing import Any

import mujoco
import numpy as np

from vla_gym.processes.program import restart_clock
from vla_gym.scenes.build import BUILT
from vla_gym.scenes.decimation import TriangleMesh
from vla_gym.scenes.init_states import read_init_states
from vla_gym.scenes.libero_files import task_files
from vla_gym.scenes.libero_process import TIME_LIMIT, call_libero, import_libero, reset_libero
from vla_gym.scenes.models import fast_model, full_model, physics_model
from vla_gym.tasks.goals import Atom
from vla_gym.tasks.registry import EVALUATION_SEED, N_INIT_STATES, RENDER_QUALITIES, TaskSpec, get_suite


def build_tasks(
    tasks: list[TaskSpec], assets: Path, out: Path, quality: str | None = None, time_limit: float = TIME_LIMIT
) -> None:
    """
    Build and write the bundles of some tasks.

    :param tasks: the tasks
    :param assets: folder in LIBERO's asset layout
    :param out: existing folder to write to
    :param quality: of the render model, ``full`` or ``fast``; ``None`` writes no render model
    :param time_limit: for each task (s)
    :raises OSError: if the folder cannot take the files
    """
    control_env_class = import_libero(assets)
    write_models = ModelWriter(out, quality)
    for task in tasks:
        bddl_file, init_file = task_files(task)
        init_states = read_init_states(init_file)
        control_env = control_env_class(
            bddl_file_name=str(bddl_file), has_offscreen_renderer=False, use_camera_obs=False
        )
        try:
            _write_task(control_env, task, init_states, out, write_models)
        finally:
            control_env.close()
        print(f"{BUILT}{task.name}", flush=True)
        restart_clock(time_limit)


class ModelWriter:
    """
    Compile and write the models of scenes, each once.

    :param out: folder to write to
    :param quality: of the render model, or ``None`` for none
    """

    def __init__(self, out: Path, quality: str | None) -> None:
        self._out = out
        self._quality = quality
        self._decimated: dict[str, TriangleMesh] = {}
        self._written: set[str] = set()

    def __call__(self, xml: str, site_rgba: np.ndarray) -> str:
        """
        Write the models of a scene if they do not exist yet.

        :param xml: LIBERO's scene
        :param site_rgba: colours of the sites, most of which robosuite hides at run time, (nsite, 4)
        :return: hash of the scene
        :raises OSError: if the disk is full
        """
        scene = hashlib.sha256(xml.encode()).hexdigest()[:16]
        if scene in self._written:
            return scene
        self._written.add(scene)
        models = {"physics": physics_model(xml)}
        if self._quality == "full":
            models["full"] = full_model(xml)
        elif self._quality == "fast":
            models["fast"] = fast_model(xml, self._decimated)
        for kind, model in models.items():
            model.site_rgba[:] = site_rgba
            self._save(model, self._out / f"{scene}.{kind}.mjb")
        return scene

    def _save(self, model: mujoco.MjModel, path: Path) -> None:
        mujoco.mj_saveModel(model, str(path), None)
        if path.stat().st_size != mujoco.mj_sizeModel(model):  # MuJoCo does not report failed writes
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))


def _write_task(
    control_env: Any, task: TaskSpec, init_states: np.ndarray, out: Path, write_models: ModelWriter
) -> None:
    env = control_env.env
    fixture_pos, fixture_quat = _draw_fixture_poses(control_env)
    model = control_env.sim.model
    scene = write_models(env.model.get_xml(), model.site_rgba)
    if init_states.shape != (N_INIT_STATES, 1 + model.nq + model.nv):
        raise ValueError(
            f"{task.name}: initial states of shape {init_states.shape} do not fit a scene with nq={model.nq}, "
            f"nv={model.nv}; expected {(N_INIT_STATES, 1 + model.nq + model.nv)}."
        )
    robot = env.robots[0]
    meta = {
        "task": task.name,
        "scene": scene,
        "bddl_language": " ".join(env.parsed_problem["language_instruction"]),
        "goal": [_atom(env, state).to_dict() for state in env.parsed_problem["goal_state"]],
        "fixtures": {name: fixture.root_body for name, fixture in env.fixtures_dict.items()},
        "fixture_regions": _fixture_regions(env),
        "objects": {name: thing.root_body for name, thing in env.objects_dict.items()},
        "heat_sites": _heat_sites(env),
        "robot": {
            "joints": list(robot.robot_joints),
            "actuators": list(robot.robot_model.actuators),
            "gripper_joints": list(robot.gripper_joints),
            "gripper_actuators": list(robot.gripper.actuators),
            "eef_site": robot.gripper.important_sites["grip_site"],
            "eef_body": robot.robot_model.eef_name,
            "init_qpos": [float(q) for q in robot.init_qpos],
        },
    }
    np.savez(out / f"{task.name}.npz", init_states=init_states, fixture_pos=fixture_pos, fixture_quat=fixture_quat)
    (out / f"{task.name}.json").write_text(json.dumps(meta, indent=1))


def _draw_fixture_poses(control_env: Any) -> tuple[np.ndarray, np.ndarray]:
    """
    Draw the fixtures' poses after each of the first 50 resets of OpenVLA's evaluation (seed 0).

    The scene is not rebuilt between resets, as rebuilding consumes no random numbers, but two of its side effects are
    imitated. Each rebuilding registers the samplers of doors, drawers and knobs again without dropping the old ones, so
    that every reset draws more numbers than the one before. And it moves the fixtures back to their original poses.
    """
    env = control_env.env
    samplers = env.object_property_initializers
    samplers_of_one_build = list(samplers)
    env.hard_reset = False
    model = control_env.sim.model
    ids = [model.body_name2id(fixture.root_body) for fixture in env.fixtures_dict.values()]
    built_pos, built_quat = model.body_pos[ids].copy(), model.body_quat[ids].copy()
    control_env.seed(EVALUATION_SEED)
    positions, quaternions = [], []
    for _ in range(N_INIT_STATES):
        samplers.extend(samplers_of_one_build)
        model.body_pos[ids], model.body_quat[ids] = built_pos, built_quat
        reset_libero(control_env)
        positions.append(model.body_pos[ids].copy())
        quaternions.append(model.body_quat[ids].copy())
    return np.stack(positions), np.stack(quaternions)


def _fixture_regions(env: Any) -> dict[str, Any]:
    """Read the samplers' region of each fixture: rectangles (m, world frame), height (m) and yaw range (rad)."""
    regions: dict[str, Any] = {}
    for sampler in env.placement_initializer.samplers.values():
        for thing in sampler.mujoco_objects:
            if thing.name not in env.fixtures_dict:
                continue
            x0, y0 = sampler.reference_pos[0], sampler.reference_pos[1]
            yaw = sampler.rotation
            regions[thing.name] = {
                "x_ranges": [[float(v + x0) for v in pair] for pair in sampler.x_ranges],
                "y_ranges": [[float(v + y0) for v in pair] for pair in sampler.y_ranges],
                "yaw_range": [float(min(yaw)), float(max(yaw))] if np.ndim(yaw) else [float(yaw), float(yaw)],
            }
    return regions


def _heat_sites(env: Any) -> list[dict[str, Any]]:
    """Find the sites that LIBERO shows while an appliance is on (the stove's burner), and the joints that decide it."""
    return [
        {"site": site, "joints": list(thing.joints), "category": thing.category_name}
        for thing in env.fixtures_dict.values()
        for site, _ in thing.object_properties["vis_site_names"].values()
    ]


def _atom(env: Any, state: list[str]) -> Atom:
    predicate, *arguments = state
    if predicate in ("open", "close", "turnon", "turnoff"):
        (name,) = arguments
        site = env.object_sites_dict.get(name)
        owner = env.get_object(site.parent_name if site is not None else name)
        joints = site.joints if site is not None else owner.joints
        return Atom(predicate, tuple(arguments), joints=tuple(joints), category=owner.category_name)
    first, second = arguments
    thing = env.get_object(first)
    common = {"body": thing.root_body, "geoms": tuple(thing.contact_geoms)}
    site = env.object_sites_dict.get(second)
    if site is None:
        target = env.get_object(second)
        return Atom(
            predicate,
            tuple(arguments),
            target_body=target.root_body,
            target_geoms=tuple(target.contact_geoms),
            **common,
        )
    owner = env.get_object(site.parent_name)
    return Atom(
        predicate,
        tuple(arguments),
        target_site=second,
        target_size=tuple(float(s) for s in site.size),
        target_geoms=() if owner is None else tuple(owner.contact_geoms),
        **common,
    )


def _build(arguments: argparse.Namespace) -> int:
    suite = get_suite(arguments.suite)
    tasks = [suite.task(task_id) for task_id in arguments.task_ids]
    try:
        build_tasks(tasks, arguments.assets, arguments.out, arguments.quality, arguments.time_limit)
    except OSError as error:
        if error.errno != errno.ENOSPC:
            raise
        return errno.ENOSPC
    return 0


def main(argv: list[str]) -> int:
    """Entry point of the building process."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--suite", required=True)
    parser.add_argument("--task-ids", type=int, nargs="+", required=True)
    parser.add_argument("--assets", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--quality", choices=RENDER_QUALITIES)
    return call_libero(parser, _build, argv)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
