"""``vla-rl doctor`` finds what is wrong, says what to do, and survives what it examines."""

from __future__ import annotations

import configparser
import importlib.metadata
import platform
import sys
from pathlib import Path

import numpy as np
import pytest

from vla_algos.cli import checks, doctor
from vla_algos.cli.checks import BUILDERS, PACKAGES, PYTHON, TORCH, Check, Status
from vla_algos.cli.main import main
from vla_gym.assets.resolve import AssetPack, resolve_assets
from vla_gym.errors import RenderingError
from vla_gym.scenes import libero_files, store
from vla_gym.scenes.archive import export_scenes, import_scenes
from vla_gym.scenes.bundle import SceneBundle
from vla_gym.scenes.store import load_bundles
from vla_gym.sim import egl, probe, render
from vla_gym.sim.probe import Settled, probe_task
from vla_gym.tasks.registry import get_suite

ROOT = Path(__file__).resolve().parents[3]


@pytest.fixture(scope="module")
def bundle() -> SceneBundle:
    return load_bundles([probe_task()], resolve_assets("primitive"), "fast")[0]


def run(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
    monkeypatch.setattr(sys, "argv", ["vla-rl", "doctor", *arguments])
    with pytest.raises(SystemExit) as stop:
        main()
    return int(stop.value.code or 0)


def one(name: str, found: list[Check]) -> Check:
    (check,) = [check for check in found if check.name == name]
    return check


def test_the_whole_table_in_a_narrow_terminal(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], bundle: SceneBundle
) -> None:
    monkeypatch.setenv("COLUMNS", "60")
    assert run(monkeypatch, "--assets", "primitive") == 0
    output = capsys.readouterr().out
    for name in ("python", *PACKAGES, "torch", "EGL devices", "cache", "assets", "OpenGL", "settling"):
        assert f"│ {name} " in output
    assert "Problems: 0" in output
    assert "[/]" not in output and max(map(len, output.splitlines())) <= 60


def test_a_problem_is_shown_with_its_remedy_and_sets_the_exit_status(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    found = [Check("x", Status.WARNING, "odd [1]"), Check("y", Status.PROBLEM, "broken", "mend [it]")]
    monkeypatch.setattr(doctor, "_checks", lambda assets, console: iter(found))
    assert run(monkeypatch) == 1
    output = capsys.readouterr().out
    assert "odd [1]" in output and "Remedy: mend [it]" in output and "Problems: 1, warnings: 1." in output
    monkeypatch.setattr(doctor, "_checks", lambda assets, console: iter(found[:1]))
    assert run(monkeypatch) == 0


def test_what_breaks_one_check_leaves_the_others(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], bundle: SceneBundle
) -> None:
    def broken(*_: object) -> Check:
        raise AttributeError("no glGetError")

    monkeypatch.setenv("MUJOCO_GL", "egl")
    monkeypatch.setattr(doctor, "check_egl", broken)
    monkeypatch.setattr(doctor, "check_rendering", broken)
    assert run(monkeypatch, "--assets", "primitive") == 1
    output = " ".join(capsys.readouterr().out.replace("│", " ").split())
    assert output.count("AttributeError: no glGetError") == 2
    assert "unset MUJOCO_GL=egl" in output and "as expected" in output


def test_without_a_scene_nothing_is_rendered(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(monkeypatch, "--assets", str(tmp_path / "nowhere")) == 1
    output = capsys.readouterr().out
    assert "is not a folder" in " ".join(output.replace("│", " ").split())
    assert "settling" not in output


def test_accepted_versions_are_those_that_are_installed() -> None:
    setup = configparser.ConfigParser()
    setup.read(ROOT / "setup.cfg")
    assert setup["options"]["python_requires"] == PYTHON
    extras = setup["options.extras_require"]
    required = "\n".join([setup["options"]["install_requires"], extras["algos"], extras["scenes"]]).splitlines()
    for name, versions in {**PACKAGES, "torch": TORCH}.items():
        if name != "robosuite":  # hf-libero brings it
            assert f"{name}{versions}" in required


def test_versions(monkeypatch: pytest.MonkeyPatch) -> None:
    installed = {**dict.fromkeys(PACKAGES, "99"), "mujoco": "3.4.0", "numba": "0.61.0"}
    del installed["robosuite"]

    def version(name: str) -> str:
        if name not in installed:
            raise importlib.metadata.PackageNotFoundError(name)
        return installed[name]

    monkeypatch.setattr(importlib.metadata, "version", version)
    monkeypatch.setattr(platform, "python_version", lambda: "3.9.1")
    found = checks.check_versions()
    assert one("python", found).status is Status.PROBLEM
    assert one("numba", found) == Check("numba", Status.OK, "0.61.0")
    mujoco = one("mujoco", found)
    assert mujoco.status is Status.PROBLEM and "LIBERO's results change" in mujoco.finding
    assert mujoco.remedy == "pip install 'mujoco>=3.3.0,<3.4'"
    robosuite = one("robosuite", found)
    assert robosuite.status is Status.WARNING and robosuite.remedy.startswith("pip install 'vla-gym[scenes]', or run ")
    del installed["gymnasium"]
    assert one("gymnasium", checks.check_versions()) == Check(
        "gymnasium", Status.PROBLEM, "not installed", "pip install 'gymnasium>=1.1'"
    )


@pytest.mark.parametrize("name", sorted(set(checks.EXTRAS) - set(BUILDERS)))
def test_what_environments_do_without_is_a_warning_with_its_extra(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def version(asked: str) -> str:
        raise importlib.metadata.PackageNotFoundError(asked)

    monkeypatch.setattr(importlib.metadata, "version", version)
    check = checks.check_torch() if name == "torch" else one(name, checks.check_versions())
    assert (check.status, check.remedy) == (Status.WARNING, f"pip install 'vla-gym[{checks.EXTRAS[name]}]'")


@pytest.mark.parametrize("name", BUILDERS)
def test_what_builds_scenes_may_be_missing_where_they_are_imported(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def version(asked: str) -> str:
        raise importlib.metadata.PackageNotFoundError(asked)

    monkeypatch.setattr(importlib.metadata, "version", version)
    check = one(name, checks.check_versions())
    assert check.status is Status.WARNING
    assert "cannot be built here; those that were built elsewhere can be used" in check.finding
    words = ("pip install 'vla-gym[scenes]'", "assets export", "assets import", "SCENES=")
    assert all(word in check.remedy for word in words)


@pytest.mark.parametrize("quality", ["fast", "full"])
def test_a_bare_machine_with_scenes_of_other_tasks_has_no_problem(
    quality: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    tasks = [get_suite("goal").task(8)]
    export_scenes(tasks, resolve_assets("primitive"), quality, tmp_path / "goal.zip")
    monkeypatch.setattr(store, "libero_versions", lambda: None)
    monkeypatch.setattr(libero_files, "libero_versions", lambda: None)
    monkeypatch.setenv("VLA_GYM_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("COLUMNS", "200")
    assert run(monkeypatch, "--assets", "primitive") == 1
    assert "vla-rl assets import" in capsys.readouterr().out
    import_scenes(tmp_path / "goal.zip")
    assert run(monkeypatch, "--assets", "primitive") == 0
    output = capsys.readouterr().out
    assert f"ms per image (128 px, {quality})" in output and "not examined: the scene of libero_spatial" in output
    assert "export --suite spatial --tasks 5" in output


def test_a_pack_that_is_elsewhere_lacks_nothing(tmp_path: Path) -> None:
    pack = AssetPack("libero", tmp_path, "named in assets=", has_files=False, digest="ab" * 32)
    assert checks.check_assets(pack).status is Status.OK


@pytest.mark.parametrize(
    ("names", "cards", "status", "words"),
    [
        ([], [], Status.OK, "no CUDA device"),
        ([], ["/dev/nvidia0"], Status.WARNING, "although this machine has a graphics card"),
        (["H200", "H200"], ["/dev/nvidia0"], Status.OK, "CUDA: H200, H200"),
    ],
)
def test_torch(names: list[str], cards: list[str], status: Status, words: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.device_count", lambda: len(names))
    monkeypatch.setattr("torch.cuda.get_device_name", lambda i: names[i])
    monkeypatch.setattr(checks, "graphics_cards", lambda: cards)
    check = checks.check_torch()
    assert check.status is status and check.finding.endswith(words)


@pytest.mark.parametrize(
    ("devices", "chosen", "status", "words"),
    [
        ([], None, Status.WARNING, "none listed"),
        ([0], None, Status.OK, "every environment renders on 0"),
        ([0, 2], None, Status.OK, "environment i renders on number i mod 2 of 0, 2"),
        ([0, 2], "2", Status.OK, "every environment renders on 2 (MUJOCO_EGL_DEVICE_ID)"),
    ],
)
def test_egl_devices(
    devices: list[int], chosen: str | None, status: Status, words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(render, "gl_backend", lambda: "egl")
    monkeypatch.setattr(egl, "egl_device_ids", lambda: devices)
    monkeypatch.setattr(egl, "egl_device_count", lambda: len(devices) + 1)
    monkeypatch.delenv("MUJOCO_EGL_DEVICE_ID", raising=False)
    if chosen is not None:
        monkeypatch.setenv("MUJOCO_EGL_DEVICE_ID", chosen)
    check = checks.check_egl()
    assert check.status is status and check.finding.endswith(words)


def test_osmesa_needs_no_egl_device(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(render, "gl_backend", lambda: "osmesa")
    assert checks.check_egl().status is Status.OK


def test_assets(complete_pack: Path) -> None:
    assert checks.check_assets(resolve_assets(complete_pack)) == Check(
        "assets", Status.OK, "libero (named in assets=), 45 files"
    )
    (complete_pack / "textures" / "wood.png").unlink()
    check = checks.check_assets(resolve_assets(complete_pack))
    assert check.status is Status.PROBLEM and "1 of 45 files missing" in check.finding


def test_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VLA_GYM_CACHE", str(tmp_path))
    assert checks.check_cache().status is Status.OK
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("VLA_GYM_CACHE", str(tmp_path / "file"))
    check = checks.check_cache()
    assert check.status is Status.WARNING and "VLA_GYM_CACHE" in check.remedy


@pytest.mark.parametrize(
    ("device", "cards", "status"),
    [
        ("llvmpipe (LLVM 15)", [], Status.OK),
        ("llvmpipe (LLVM 15)", ["/dev/nvidia0"], Status.WARNING),
        ("NVIDIA H200/PCIe/SSE2", ["/dev/nvidia0"], Status.OK),
    ],
)
def test_rendering(
    device: str, cards: list[str], status: Status, bundle: SceneBundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(render.CameraRenderer, "device", lambda self: device)
    monkeypatch.setattr(checks, "graphics_cards", lambda: cards)
    check = checks.check_rendering(bundle)
    assert check.status is status and device in check.finding and "ms per image" in check.finding


def test_blank_images_are_a_problem(bundle: SceneBundle, monkeypatch: pytest.MonkeyPatch) -> None:
    blank = np.zeros((128, 128, 3), dtype=np.uint8)
    monkeypatch.setattr(render.CameraRenderer, "render", lambda self, camera, view: blank)
    check = checks.check_rendering(bundle)
    assert check.status is Status.PROBLEM and "blank" in check.finding


def test_rendering_that_cannot_start_is_a_problem(bundle: SceneBundle, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse() -> str:
        raise RenderingError("neither EGL nor OSMesa was found")

    monkeypatch.setattr(render, "gl_backend", refuse)
    for check in (checks.check_rendering(bundle), checks.check_egl()):
        assert check.status is Status.PROBLEM and "neither EGL nor OSMesa" in check.finding


@pytest.mark.parametrize(
    ("expected", "status"),
    [
        ({"primitive": Settled(0.0, 0.0)}, Status.OK),
        ({"primitive": Settled(0.0145, 16.0)}, Status.PROBLEM),
        ({}, Status.WARNING),
    ],
)
def test_settling(
    expected: dict[str, Settled], status: Status, bundle: SceneBundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(probe, "EXPECTED", expected)
    assert checks.check_settling(bundle).status is status
