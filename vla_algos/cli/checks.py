"""
The checks of ``vla-rl doctor``.

Nothing that may be missing or broken is imported before its own check, so that the doctor can report it.
"""

from __future__ import annotations

import importlib.metadata
import os
import platform
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from statistics import median
from types import MappingProxyType
from typing import TYPE_CHECKING

from packaging.specifiers import SpecifierSet

from vla_algos.cli.options import megabytes

if TYPE_CHECKING:
    from vla_gym.assets.resolve import AssetPack
    from vla_gym.scenes.bundle import SceneBundle

PYTHON = ">=3.10,<3.14"
PACKAGES: Mapping[str, str] = MappingProxyType(
    {
        "mujoco": ">=3.3.0,<3.4",
        "numba": ">=0.60",
        "gymnasium": ">=1.1",
        "stable-baselines3": ">=2.6",
        "transformers": ">=5",
        "hf-libero": ">=0.1.4,<0.2",
        "robosuite": "==1.4.*",
    }
)
"""Package -> accepted versions; torch has a check of its own."""
BUILDERS = ("hf-libero", "robosuite")
"""Packages that build scenes; what was built elsewhere needs neither."""
TORCH = ">=2.6,<2.14"
EXTRAS: Mapping[str, str] = MappingProxyType(
    {
        "torch": "algos",
        "stable-baselines3": "algos",
        "transformers": "algos",
        "hf-libero": "scenes",
        "robosuite": "scenes",
    }
)
"""Package that environments alone do without -> extra that brings it."""
_REASONS = {"mujoco": "From 3.4 on boxes touch differently, and LIBERO's results change."}
_SOFTWARE_RENDERERS = ("llvmpipe", "softpipe", "swrast", "software")
_IMAGE_SIZE = 128
_TIMED_IMAGES = 20


class Status(Enum):
    """Outcome of a check; only ``PROBLEM`` makes the doctor's exit status non-zero."""

    OK = "ok"
    WARNING = "warning"
    PROBLEM = "problem"


@dataclass(frozen=True)
class Check:
    """
    Outcome of one check.

    :param name: subject
    :param status: outcome
    :param finding: what was found
    :param remedy: what to do about it; empty if all is well or the finding says it
    """

    name: str
    status: Status
    finding: str
    remedy: str = ""


def check_versions() -> list[Check]:
    """Python and the packages that results or tests depend on."""
    python = platform.python_version()
    fits = SpecifierSet(PYTHON).contains(python, prereleases=True)
    remedy = "" if fits else f"Make an environment with Python {PYTHON}."
    checks = [Check("python", Status.OK if fits else Status.PROBLEM, python, remedy)]
    return checks + [_check_package(name, versions) for name, versions in PACKAGES.items()]


def _check_package(name: str, versions: str) -> Check:
    remedy = f"pip install '{name}{versions}'"
    try:
        version = importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        extra = f"pip install 'vla-gym[{EXTRAS.get(name)}]'"
        if name in BUILDERS:
            finding = "not installed: scenes cannot be built here; those that were built elsewhere can be used"
            remedy = (
                f"{extra}, or run vla-rl assets export where it is installed and vla-rl assets import FILE here "
                "(VLA_GYM_SCENES=FOLDER for a folder that machines share)"
            )
            return Check(name, Status.WARNING, finding, remedy)
        if name in EXTRAS:
            return Check(name, Status.WARNING, "not installed", extra)
        return Check(name, Status.PROBLEM, "not installed", remedy)
    if SpecifierSet(versions).contains(version, prereleases=True):
        return Check(name, Status.OK, version)
    reason = _REASONS.get(name, "")
    return Check(name, Status.PROBLEM, f"{version}, expected {versions}. {reason}".rstrip(), remedy)


def check_torch() -> Check:
    """PyTorch and the CUDA devices it sees."""
    check = _check_package("torch", TORCH)
    if check.status is not Status.OK:
        return check
    try:
        import torch as th
    except (ImportError, OSError) as error:
        return Check("torch", Status.PROBLEM, f"cannot be imported: {error}", "Install it again.")
    names = [th.cuda.get_device_name(i) for i in range(th.cuda.device_count())]
    if names:
        return Check("torch", Status.OK, f"{th.__version__}, CUDA: {', '.join(names)}")
    finding = f"{th.__version__}, no CUDA device"
    if graphics_cards():
        remedy = "Install torch's CUDA build, or a driver that fits it; see CUDA_VISIBLE_DEVICES too."
        return Check("torch", Status.WARNING, f"{finding}, although this machine has a graphics card", remedy)
    return Check("torch", Status.OK, finding)


def graphics_cards() -> list[str]:
    """Device files of NVIDIA cards."""
    return sorted(str(path) for path in Path("/dev").glob("nvidia[0-9]*"))


def check_egl() -> Check:
    """EGL devices, and which of them the workers of a vector environment render on."""
    from vla_gym.errors import RenderingError
    from vla_gym.sim.egl import egl_device_count, egl_device_ids
    from vla_gym.sim.render import gl_backend

    name = "EGL devices"
    try:
        if gl_backend() == "osmesa":
            return Check(name, Status.OK, "not used; OSMesa renders on the CPU")
    except RenderingError as error:
        return Check(name, Status.PROBLEM, str(error))
    count, devices = egl_device_count(), egl_device_ids()
    if not devices:
        return Check(
            name, Status.WARNING, "none listed", "Install libegl1 and a driver: apt-get install libgl1-mesa-dri"
        )
    chosen = os.environ.get("MUJOCO_EGL_DEVICE_ID")
    listed = ", ".join(str(i) for i in devices)
    if chosen is not None:
        finding = f"{count} found; every environment renders on {chosen} (MUJOCO_EGL_DEVICE_ID)"
    elif len(devices) == 1:
        finding = f"{count} found; every environment renders on {listed}"
    else:
        finding = f"{count} found; environment i renders on number i mod {len(devices)} of {listed}"
    return Check(name, Status.OK, finding)


def check_assets(pack: AssetPack) -> Check:
    """Whether the pack in use has what the tasks read."""
    from vla_gym.assets.completeness import check_pack

    if not pack.has_files:
        return Check("assets", Status.OK, f"{pack.name} ({pack.chosen_by}); the scenes in {pack.path} need no more")
    found = check_pack(pack.path)
    name = f"{pack.name} ({pack.chosen_by})"
    if found.is_complete:
        return Check("assets", Status.OK, f"{name}, {found.n_files} files")
    finding = f"{name}, {len(found.problems)} of {found.n_files} files missing or damaged"
    return Check(
        "assets", Status.PROBLEM, finding, "vla-rl assets check lists them, vla-rl assets download fetches them."
    )


def check_cache() -> Check:
    """The cache folder."""
    from vla_gym.scenes.cache import cache_usage

    usage = cache_usage()
    finding = f"{usage.path}: {usage.n_scenes} scenes, {megabytes(usage.size)}, {megabytes(usage.free)} free"
    if usage.is_writable:
        return Check("cache", Status.OK, finding)
    remedy = "Correct its permissions, or name another folder in VLA_GYM_CACHE."
    return Check("cache", Status.WARNING, f"{finding}, not writable: every process builds scenes again", remedy)


def find_scene(pack: AssetPack) -> tuple[SceneBundle, str]:
    """
    Load the scene of the drop test, or where it is not there and cannot be built, any other that is there.

    :param pack: the assets in use
    :return: the scene, and the quality of its render model
    :raises SceneBuildError: if there is none
    :raises SceneFileError: if a scene in ``VLA_GYM_SCENES`` is damaged
    """
    from vla_gym.assets.foreign import tasks_of_scenes
    from vla_gym.assets.resolve import scene_cache
    from vla_gym.errors import SceneBuildError, UnknownNameError
    from vla_gym.scenes.libero_files import libero_versions
    from vla_gym.scenes.store import load_bundles
    from vla_gym.sim.probe import probe_task
    from vla_gym.tasks.registry import RENDER_QUALITIES, get_suite

    try:
        # shows a bar of its own
        return load_bundles([probe_task()], pack, "fast")[0], "fast"
    except SceneBuildError:
        if pack.has_files and libero_versions():
            raise
        for suite, name in tasks_of_scenes(scene_cache(), pack.fingerprint()):
            for quality in sorted(RENDER_QUALITIES):
                with suppress(SceneBuildError, UnknownNameError):
                    for task in (task for task in get_suite(suite).tasks if task.name == name):
                        return load_bundles([task], pack, quality)[0], quality
        raise


def check_rendering(bundle: SceneBundle, quality: str = "fast") -> Check:
    """
    Whether images can be rendered, on what, and how fast.

    :param bundle: a bundle
    :param quality: a render model that it has
    """
    from vla_gym.errors import RenderingError
    from vla_gym.sim.core import SimCore
    from vla_gym.sim.render import CameraRenderer, gl_backend
    from vla_gym.spec import AGENTVIEW, CAMERAS

    core = SimCore(bundle)
    core.reset(bundle.init_states[0], bundle.fixture_pos[0], bundle.fixture_quat[0])
    camera = CAMERAS[AGENTVIEW]
    try:
        backend = gl_backend()
        renderer = CameraRenderer(bundle.model_file(quality), _IMAGE_SIZE, (camera,), quality)
    except RenderingError as error:
        return Check("OpenGL", Status.PROBLEM, str(error))
    try:
        image = renderer.render(camera, core.view())
        device = renderer.device()
        seconds = []
        for _ in range(_TIMED_IMAGES):
            start = time.perf_counter()
            renderer.render(camera, core.view())
            seconds.append(time.perf_counter() - start)
    finally:
        renderer.close()
    finding = f"{backend}, {device}: {1000 * median(seconds):.1f} ms per image ({_IMAGE_SIZE} px, {quality})"
    if image.min() == image.max():
        return Check("OpenGL", Status.PROBLEM, f"{finding}, but the image is blank", "Try MUJOCO_GL=osmesa.")
    is_software = any(word in device.lower() for word in _SOFTWARE_RENDERERS)
    if is_software and graphics_cards():
        return Check(
            "OpenGL",
            Status.WARNING,
            f"{finding}; the CPU renders although this machine has a graphics card",
            "Unset MUJOCO_GL=osmesa if it is set; else install the driver's EGL library (libnvidia-gl-...), and in a "
            "container set NVIDIA_DRIVER_CAPABILITIES=all.",
        )
    return Check("OpenGL", Status.OK, finding)


def check_settling(bundle: SceneBundle) -> Check:
    """
    Whether a dropped bowl comes to rest as it does with MuJoCo 3.3.

    :param bundle: bundle of the probe's task; another is not examined
    """
    from vla_gym.sim.probe import EXPECTED, probe_settling, probe_task

    name = "settling"
    if bundle.task != (task := probe_task()):
        finding = f"not examined: the scene of {task.suite}, {task.name} is not here"
        remedy = f"Import it, too: vla-rl assets export --suite spatial --tasks {task.task_id} where it can be built."
        return Check(name, Status.WARNING, finding, remedy)
    settled = probe_settling(bundle)
    expected = EXPECTED.get(bundle.pack)
    if expected is None:
        return Check(name, Status.WARNING, f"bowl {settled}", "No figures are known to compare this pack with.")
    if settled.agrees_with(expected):
        return Check(name, Status.OK, f"bowl {settled}, as expected")
    remedy = "Install the accepted version of mujoco, and see that the asset pack is unchanged; results would differ."
    return Check(name, Status.PROBLEM, f"bowl {settled}; expected {expected}", remedy)
