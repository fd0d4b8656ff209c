"""Has LIBERO build scenes in a process of its own, and files the results in the cache."""

from __future__ import annotations

import errno
import hashlib
import json
import logging
import os
import shutil
import subprocess
import sys
import tempfile
import zlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from tqdm import tqdm

from vla_gym.assets.resolve import AssetPack
from vla_gym.errors import SceneBuildError
from vla_gym.sim.libero_files import write_libero_config
from vla_gym.tasks.registry import TaskSpec

logger = logging.getLogger(__name__)

BUILT = "built "
"""What the builder writes on standard output before the name of a finished task."""


def build_bundles(
    root: Path, tasks: Sequence[TaskSpec], keys: Mapping[TaskSpec, str], pack: AssetPack, quality: str | None
) -> None:
    """
    Build some tasks of one suite and put them into the cache; the caller holds its lock.

    :param root: folder of the cache
    :param tasks: the tasks
    :param keys: name of each task's folder
    :param pack: the assets to build with
    :param quality: of the render model, or ``None`` for none
    :raises SceneBuildError: if LIBERO cannot build a scene
    :raises OSError: if the folder cannot take the files
    """
    logger.info("Building %d scene(s) of %s with the %s assets (once).", len(tasks), tasks[0].suite, pack.name)
    by_name = {task.name: task for task in tasks}
    with tempfile.TemporaryDirectory(dir=root, prefix="building-") as temporary:
        out = Path(temporary)
        # one by one, so that an interruption loses one scene and not a suite
        for name in _run_builder(tasks, pack, out, quality):
            _install(root, root / keys[by_name[name]], by_name[name], pack, out)


def _run_builder(tasks: Sequence[TaskSpec], pack: AssetPack, out: Path, quality: str | None) -> Iterator[str]:
    """Run LIBERO; yields the name of each task as soon as it is built."""
    config = out / "libero_config"
    write_libero_config(config)
    package_parent = str(Path(__file__).resolve().parents[2])
    environment = {
        **os.environ,
        "LIBERO_CONFIG_PATH": str(config),
        # robosuite imports a GL back end although nothing is rendered; this one needs no GPU, display or EGL library
        "MUJOCO_GL": "glx",
        "PYTHONPATH": os.pathsep.join(filter(None, [package_parent, os.environ.get("PYTHONPATH")])),
    }
    command = [sys.executable, "-m", "vla_gym.sim.scene_builder", "--suite", tasks[0].suite]
    command += ["--task-ids", *(str(task.task_id) for task in tasks)]
    command += ["--assets", str(pack.path), "--out", str(out)]
    command += ["--quality", quality] if quality else []
    # standard error goes to a file: a pipe that nobody reads would block the builder
    with tempfile.TemporaryFile("w+", dir=out) as errors:
        with subprocess.Popen(
            command, env=environment, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=errors, text=True
        ) as process:
            assert process.stdout is not None
            # the bar appears on a terminal only
            with tqdm(total=len(tasks), desc=f"Building {tasks[0].suite}", unit="scene", disable=None) as bar:
                for line in process.stdout:
                    if line.startswith(BUILT):
                        yield line.removeprefix(BUILT).strip()
                        bar.update()
        errors.seek(0)
        output = errors.read().strip()
    if process.returncode == errno.ENOSPC:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(out))
    if process.returncode != 0:
        tail = "\n".join(output.splitlines()[-15:])
        missing_library = "libGL" in output or "libgthread" in output
        remedy = "apt-get install libgl1 libglib2.0-0 (OpenCV, which robosuite imports, needs them).\n"
        raise SceneBuildError(
            f"LIBERO could not build {[task.name for task in tasks]} from the assets in {pack.path}. "
            f"{remedy if missing_library else ''}Last lines of its output:\n{tail}"
        )


def _install(root: Path, target: Path, task: TaskSpec, pack: AssetPack, out: Path) -> None:
    """Move one built task into the cache: the model first, the folder that refers to it last and at once."""
    meta = json.loads((out / f"{task.name}.json").read_text())
    scene = f"{meta['scene']}-{hashlib.sha256(pack.fingerprint().encode()).hexdigest()[:8]}"
    models = root / "models"
    models.mkdir(exist_ok=True)
    for built in out.glob(f"{meta['scene']}.*.mjb"):
        os.replace(built, models / built.name.replace(meta["scene"], scene))
    folder = out / "bundle"
    folder.mkdir()
    os.replace(out / f"{task.name}.npz", folder / "arrays.npz")
    meta |= {
        "scene": scene,
        "model_crc32": crc32(models / f"{scene}.physics.mjb"),
        "arrays_crc32": crc32(folder / "arrays.npz"),
    }
    (folder / "meta.json").write_text(json.dumps(meta, indent=1))
    if target.exists():
        shutil.rmtree(target)
    os.replace(folder, target)


def crc32(path: Path) -> int:
    """Checksum of a file."""
    checksum = 0
    with open(path, "rb") as file:
        while chunk := file.read(1 << 22):
            checksum = zlib.crc32(chunk, checksum)
    return checksum
