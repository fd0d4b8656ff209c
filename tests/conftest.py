"""Fixtures shared by all tests: a cache of their own, the built-in assets, and where optional reference data are."""

from __future__ import annotations

import os
import runpy
import sys
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from vla_gym.assets.completeness import ARENA_FILES, OBJECT_FILES, STYLE_TEXTURES
from vla_gym.assets.resolve import resolve_assets
from vla_gym.scenes.store import load_bundles
from vla_gym.tasks.registry import get_suite

_FOR_WORKERS = "VLA_GYM_TEST_ASSETS"
"""Where the processes of a parallel run find what the first one has taken out of the environment."""
_OUTSIDE_ASSETS = os.environ.pop("VLA_GYM_ASSETS", "") or os.environ.get(_FOR_WORKERS, "")
os.environ[_FOR_WORKERS] = _OUTSIDE_ASSETS
_BESIDE = Path(__file__).parents[2] / "shared" / "golden"
_GOLDEN = os.environ.get("VLA_GYM_GOLDEN", str(_BESIDE) if _BESIDE.is_dir() else "")
_LATE = ("test_benchmarks.py", "test_examples.py", "test_readme.py")
"""Modules that use everything at once, and fail where a smaller test says why."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Run quick tests first."""
    items.sort(key=lambda item: (item.get_closest_marker("slow") is not None, item.path.name in _LATE))


@pytest.fixture
def run_script(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> Callable[..., str]:
    """
    Run a script as ``python script arguments`` does, in an empty folder and on the CPU; gives what it prints.

    In this process, as importing torch and all that comes with it takes longer than most scripts. The warning of random
    weights is an error.
    """

    def run(path: Path, *arguments: str) -> str:
        from vla_algos.errors import RandomWeightsWarning

        monkeypatch.chdir(tmp_path)
        monkeypatch.setattr("torch.cuda.is_available", lambda: False)
        monkeypatch.setattr(sys, "argv", [str(path), *arguments])
        with warnings.catch_warnings():
            warnings.simplefilter("error", RandomWeightsWarning)
            runpy.run_path(str(path), run_name="__main__")
        return capfd.readouterr().out

    return run


@pytest.fixture(scope="session", autouse=True)
def scene_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """
    A scene cache that lives as long as the test session, so that tests neither read nor write the user's.

    All processes of a session share it, and build each scene once.
    """
    base = tmp_path_factory.getbasetemp()
    folder = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "cache"
    folder.mkdir(exist_ok=True)
    before = os.environ.get("VLA_GYM_CACHE")
    os.environ["VLA_GYM_CACHE"] = str(folder)
    yield folder
    if before is None:
        del os.environ["VLA_GYM_CACHE"]
    else:
        os.environ["VLA_GYM_CACHE"] = before


@pytest.fixture(scope="session")
def goal_scenes(scene_cache: Path) -> None:
    """The scenes of LIBERO-Goal, built together: starting LIBERO's code takes longer than building all of them."""
    load_bundles(get_suite("goal").tasks, resolve_assets("primitive"), "fast")


@pytest.fixture(scope="session")
def libero_assets() -> Path:
    """LIBERO's own assets, for tests marked ``assets``."""
    if not _OUTSIDE_ASSETS:
        pytest.skip("needs LIBERO's assets: set VLA_GYM_ASSETS to their folder")
    return Path(_OUTSIDE_ASSETS).resolve()


@pytest.fixture(scope="session")
def golden() -> Path:
    """Reference data recorded from the original LIBERO and OpenVLA code."""
    if not _GOLDEN:
        pytest.skip("needs recorded reference data: set VLA_GYM_GOLDEN to their folder")
    return Path(_GOLDEN).resolve()


@pytest.fixture
def complete_pack(tmp_path: Path) -> Path:
    """A pack with every file that the tasks read, all but empty; its name is LIBERO's, and one object has a mesh."""
    root = tmp_path / "complete_pack"
    for name in (*OBJECT_FILES.values(), *ARENA_FILES):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text("<mujoco/>")
    (root / "textures").mkdir()
    for name in STYLE_TEXTURES:
        (root / "textures" / name).write_bytes(b"picture")
    bowl = root / "stable_scanned_objects" / "akita_black_bowl"
    (bowl / "visual").mkdir()
    (bowl / "visual" / "bowl.msh").write_bytes(b"mesh")
    mesh, wood = "visual/bowl.msh", "../../textures/wood.png"
    (root / "textures" / "wood.png").write_bytes(b"picture")
    (bowl / "akita_black_bowl.xml").write_text(
        f'<mujoco><asset><mesh file="{mesh}"/><texture file="{wood}"/><texture builtin="flat"/></asset></mujoco>'
    )
    return root
