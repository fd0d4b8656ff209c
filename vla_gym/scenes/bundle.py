"""
Scene bundles: all that is stored for a task, as files and as an object.

Layout of the scene cache, and of folders with imported scenes::

    <key>-<source>/meta.json             names, goal, what it was built with
                   arrays.npz            init_states (50, 1+nq+nv), fixture_pos (50, F, 3), fixture_quat
                   SHA256SUMS            checksums of these
    models/<scene>.physics.mjb           model to simulate, shared by the tasks that compile to it
           <scene>.full.mjb              models to render, each written when it is first asked for
           <scene>.fast.mjb
           <scene>.<kind>.mjb.sha256     checksum of each

The key is a hash of task, asset pack and MuJoCo's version, which every machine can compute. The source is a hash of
LIBERO's version and files; a machine without LIBERO takes any source. Models are stored in binary form because an XML
that MuJoCo saves loses ``inertiagrouprange`` and would compile to other masses.

Every file is compared with its checksum once per process. ``store.py`` finds bundles and builds missing ones. The
simulation imports only this module of ``scenes``.
"""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import mujoco
import numpy as np

from vla_gym.assets.resolve import AssetPack
from vla_gym.files import check_sums
from vla_gym.scenes.meta import check_model_header, read_arrays, read_bundle_meta
from vla_gym.tasks.goals import JOINT_RULES, Atom, Goal, JointRule
from vla_gym.tasks.registry import TaskSpec
from vla_gym.type_aliases import Float64Array

BUNDLE_VERSION = 4
"""Incremented whenever the content of a bundle changes."""
SUMS = "SHA256SUMS"


@dataclass(frozen=True)
class RobotIds:
    """
    Addresses of the robot in a compiled model.

    :param qpos: addresses of the arm joints in qpos, (7,)
    :param qvel: addresses of the arm joints in qvel, (7,)
    :param ctrl: arm actuators, (7,)
    :param gripper_qpos: addresses of the finger joints in qpos, (2,)
    :param gripper_ctrl: finger actuators, (2,)
    :param eef_site: site that is controlled
    :param eef_body: body whose orientation is observed
    """

    qpos: Any
    qvel: Any
    ctrl: Any
    gripper_qpos: Any
    gripper_ctrl: Any
    eef_site: int
    eef_body: int

    @classmethod
    def from_names(cls, model: mujoco.MjModel, robot: Mapping[str, Any]) -> RobotIds:
        """
        Look up the robot's names in a model.

        :param model: compiled scene
        :param robot: names, as stored in a scene bundle
        """

        def joints(names: list[str], addresses: Any) -> Any:
            return np.array([addresses[model.joint(name).id] for name in names])

        return cls(
            qpos=joints(robot["joints"], model.jnt_qposadr),
            qvel=joints(robot["joints"], model.jnt_dofadr),
            ctrl=np.array([model.actuator(name).id for name in robot["actuators"]]),
            gripper_qpos=joints(robot["gripper_joints"], model.jnt_qposadr),
            gripper_ctrl=np.array([model.actuator(name).id for name in robot["gripper_actuators"]]),
            eef_site=model.site(robot["eef_site"]).id,
            eef_body=model.body(robot["eef_body"]).id,
        )


@dataclass(frozen=True)
class HeatSite:
    """
    A site that is shown while an appliance is on.

    :param site: the site in the compiled model
    :param qpos: addresses in qpos of the joints that turn it on
    :param rule: rule that each of them is compared with
    """

    site: int
    qpos: tuple[int, ...]
    rule: JointRule


@dataclass(frozen=True)
class SceneBundle:
    """
    One task, ready to simulate.

    :param task: the task
    :param pack: name of the asset pack it was built with
    :param scene: hash of the scene's source; equal for tasks that share a model
    :param folder: folder of its description and arrays
    :param models: folder of the compiled models
    :param goal: atoms of the goal
    :param init_states: (50, 1 + nq + nv) float64: time (s), qpos, qvel
    :param fixture_names: instance names of the fixtures
    :param fixture_bodies: their root bodies
    :param fixture_pos: pose of each fixture at each evaluation reset (m), (50, F, 3) float64
    :param fixture_quat: the same, orientation (wxyz), (50, F, 4) float64
    :param fixture_regions: fixture -> where LIBERO's sampler may put it
    :param object_bodies: movable object -> root body
    :param heat_sites: sites shown while an appliance is on
    :param robot: joint, actuator, site and body names of the arm and gripper, and the rest positions of the arm (rad)
    """

    task: TaskSpec
    pack: str
    scene: str
    folder: Path
    models: Path
    goal: tuple[Atom, ...]
    init_states: Float64Array
    fixture_names: tuple[str, ...]
    fixture_bodies: tuple[str, ...]
    fixture_pos: Float64Array
    fixture_quat: Float64Array
    fixture_regions: Mapping[str, Any]
    object_bodies: Mapping[str, str]
    heat_sites: tuple[Mapping[str, Any], ...]
    robot: Mapping[str, Any]

    def load_model(self) -> mujoco.MjModel:
        """Copy the model to simulate, as each environment changes fixture poses in its own."""
        return copy.copy(_physics_model(self.model_file("physics")))

    def fixture_ids(self, model: mujoco.MjModel) -> list[int]:
        """Look up the root bodies of the fixtures in the compiled model, in the order of ``fixture_bodies``."""
        return [model.body(name).id for name in self.fixture_bodies]

    def heat_site_ids(self, model: mujoco.MjModel) -> list[HeatSite]:
        """Look up the sites of ``heat_sites`` in the compiled model, in order."""
        return [
            HeatSite(
                site=model.site(entry["site"]).id,
                qpos=tuple(int(model.joint(name).qposadr[0]) for name in entry["joints"]),
                rule=JOINT_RULES[entry["category"]]["turnon"],
            )
            for entry in self.heat_sites
        ]

    def model_file(self, kind: str) -> Path:
        """
        Return the file of a compiled model.

        :param kind: ``physics``, ``full`` or ``fast``
        """
        return self.models / f"{self.scene}.{kind}.mjb"


def load_bundle(root: Path, folder: Path, task: TaskSpec, pack: AssetPack, quality: str | None) -> SceneBundle | None:
    """
    Read one bundle and compare all its files with their checksums.

    :param root: folder with ``models``
    :param folder: the bundle
    :param task: its task
    :param pack: what it was built from
    :param quality: render model that is needed too
    :return: the bundle; ``None`` if it is not there or lacks the render model
    :raises ValueError: if a file is damaged, or is of another task, pack or version
    :raises OSError: if a file cannot be read
    """
    if not folder.is_dir():
        return None
    files = [folder / "meta.json", folder / "arrays.npz"]
    check_sums(folder / SUMS, files)
    meta = read_bundle_meta(files[0])
    expected = facts(task, pack)
    for name, value in expected.items():
        if meta[name] != value:
            raise ValueError(f"{name} is {meta[name]!r}, expected {value!r}")
    bundle = SceneBundle(
        task=task,
        pack=pack.name,
        scene=meta["scene"],
        folder=folder,
        models=root / "models",
        goal=tuple(Atom.from_dict(atom) for atom in meta["goal"]),
        fixture_names=tuple(meta["fixtures"]),
        fixture_bodies=tuple(meta["fixtures"].values()),
        fixture_regions=meta["fixture_regions"],
        object_bodies=meta["objects"],
        heat_sites=tuple(meta["heat_sites"]),
        robot=meta["robot"],
        **read_arrays(files[1], len(meta["fixtures"])),
    )
    check_model(bundle.model_file("physics"))
    if quality is not None:
        if not bundle.model_file(quality).exists():
            return None
        check_model(bundle.model_file(quality))
    return bundle


def facts(task: TaskSpec, pack: AssetPack) -> dict[str, Any]:
    """Return what ``meta.json`` must state for a bundle to be used."""
    return {
        "version": BUNDLE_VERSION,
        "mujoco": mujoco.__version__,
        "pack_digest": pack.fingerprint(),
        "suite": task.suite,
        "task": task.name,
    }


def bundle_keys(tasks: Sequence[TaskSpec], pack: AssetPack) -> dict[TaskSpec, str]:
    """Compute each task's key, a hash of task, pack and MuJoCo's version, 16 hexadecimal digits."""
    common = common_digest(pack)
    return {task: hashlib.sha256(f"{common}\0{task.suite}/{task.name}".encode()).hexdigest()[:16] for task in tasks}


def common_digest(pack: AssetPack) -> str:
    """Compute the hash of all that decides how a pack's scenes are compiled."""
    return hashlib.sha256(f"bundle {BUNDLE_VERSION}\0{mujoco.__version__}\0{pack.fingerprint()}".encode()).hexdigest()


def model_sums(path: Path) -> Path:
    """Return the file with the checksum of a model."""
    return path.with_name(f"{path.name}.sha256")


def check_model(path: Path) -> None:
    """
    Compare a compiled model with its checksum and with the size that it declares.

    :param path: the model; its checksum lies beside it
    :raises ValueError: if they differ
    :raises OSError: if one of them cannot be read
    """
    check_sums(model_sums(path), [path])
    check_model_header(path)


def check_names(bundle: SceneBundle) -> None:
    """
    Make sure that an imported bundle can be simulated: its model loads and has all elements that the bundle names.

    :param bundle: the bundle
    :raises ValueError: if it cannot be simulated
    """
    try:
        model = bundle.load_model()
        size = 1 + model.nq + model.nv
        if bundle.init_states.shape[1] != size:
            raise ValueError(f"initial states have {bundle.init_states.shape[1]} entries, expected {size}")
        for name in bundle.object_bodies.values():
            model.body(name)
        RobotIds.from_names(model, bundle.robot)
        Goal(bundle.goal, model)
        bundle.fixture_ids(model)
        bundle.heat_site_ids(model)
    except Exception as error:  # MuJoCo and its look-ups raise what they like
        raise ValueError(f"its model does not fit ({type(error).__name__}: {error})") from error


@cache
def _physics_model(path: Path) -> mujoco.MjModel:
    return mujoco.MjModel.from_binary_path(str(path))
