"""Let LIBERO build scenes in a separate process, and store the results in the cache."""

from __future__ import annotations

import errno
import json
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from tqdm import tqdm

from vla_gym.assets.resolve import AssetPack
from vla_gym.errors import SceneBuildError
from vla_gym.files import write_sums
from vla_gym.messages import announce
from vla_gym.processes.program import ProgramError
from vla_gym.scenes.bundle import SUMS, common_digest, facts, model_sums
from vla_gym.scenes.libero_files import libero_versions
from vla_gym.scenes.libero_process import run_libero
from vla_gym.tasks.registry import TaskSpec

BUILT = "built "
"""Prefix of the line that the builder prints for a finished task."""


def build_bundles(
    root: Path, tasks: Sequence[TaskSpec], folders: Mapping[TaskSpec, Path], pack: AssetPack, quality: str | None
) -> None:
    """
    Build some tasks of one suite and put them into the cache; the caller holds its lock.

    :param root: folder of the cache
    :param tasks: the tasks
    :param folders: where each task's bundle goes
    :param pack: the assets to build with
    :param quality: of the render model, or ``None`` for none
    :raises SceneBuildError: if LIBERO cannot build a scene
    :raises OSError: if the folder cannot take the files
    """
    announce(f"Building {len(tasks)} scene(s) of {tasks[0].suite} with the {pack.name} assets (once, 1 to 5 s each).")
    by_name = {task.name: task for task in tasks}
    with tempfile.TemporaryDirectory(dir=root, prefix="building-") as temporary:
        out = Path(temporary)
        # one by one, so that an interruption loses one scene, not a whole suite
        for name in _run_builder(tasks, pack, out, quality):
            _install(root, folders[by_name[name]], by_name[name], pack, out)


def _run_builder(tasks: Sequence[TaskSpec], pack: AssetPack, out: Path, quality: str | None) -> Iterator[str]:
    """Run LIBERO and yield the name of each task as soon as it is built."""
    libero_folder = out / "libero"
    libero_folder.mkdir()
    arguments = ["--suite", tasks[0].suite, "--task-ids", *(str(task.task_id) for task in tasks)]
    arguments += ["--assets", str(pack.path), "--out", str(out)]
    arguments += ["--quality", quality] if quality else []
    try:
        # disable=None: the bar appears on terminals only
        with tqdm(total=len(tasks), desc=f"Building {tasks[0].suite}", unit="scene", disable=None) as bar:
            for line in run_libero("vla_gym.scenes.builder", arguments, libero_folder, compiles=False):
                if line.startswith(BUILT):
                    yield line.removeprefix(BUILT)
                    bar.update()
    except ProgramError as error:
        if error.status == errno.ENOSPC:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(out)) from error
        missing_library = "libGL" in error.output or "libgthread" in error.output
        remedy = "apt-get install libgl1 libglib2.0-0 (OpenCV, which robosuite imports, needs them).\n"
        raise SceneBuildError(
            f"LIBERO could not build {[task.name for task in tasks]} from the assets in {pack.path}. "
            f"{remedy if missing_library else ''}Its output:\n{error.output}"
        ) from error


def _install(root: Path, target: Path, task: TaskSpec, pack: AssetPack, out: Path) -> None:
    """Move one built task into the cache: first the model, then, atomically, the folder that refers to it."""
    meta = json.loads((out / f"{task.name}.json").read_text())
    scene = f"{meta['scene']}-{common_digest(pack)[:8]}"
    models = root / "models"
    models.mkdir(exist_ok=True)
    for built in out.glob(f"{meta['scene']}.*.mjb"):
        renamed = built.rename(out / built.name.replace(meta["scene"], scene))
        write_sums(model_sums(renamed), [renamed])
        os.replace(renamed, models / renamed.name)
        os.replace(model_sums(renamed), model_sums(models / renamed.name))
    folder = out / "bundle"
    folder.mkdir()
    os.replace(out / f"{task.name}.npz", folder / "arrays.npz")
    meta |= facts(task, pack) | {"scene": scene, "pack": pack.name, "built_with": libero_versions()}
    (folder / "meta.json").write_text(json.dumps(meta, indent=1))
    write_sums(folder / SUMS, [folder / "meta.json", folder / "arrays.npz"])
    if target.exists():
        shutil.rmtree(target)
    os.replace(folder, target)
