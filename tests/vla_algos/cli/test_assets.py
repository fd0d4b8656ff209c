"""``vla-rl assets`` says what the library found, and fits a narrow terminal."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from vla_algos.cli.main import main
from vla_gym.assets.resolve import AssetPack
from vla_gym.scenes import cache
from vla_gym.scenes.cache import FilledSuite
from vla_gym.tasks.registry import SUITES, SuiteSpec


@pytest.fixture(autouse=True)
def narrow(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "60")


def run(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
    monkeypatch.setattr(sys, "argv", ["vla-rl", "assets", *arguments])
    with pytest.raises(SystemExit) as stop:
        main()
    return int(stop.value.code or 0)


def test_check_of_a_complete_pack(
    complete_pack: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("VLA_GYM_ASSETS", str(complete_pack))
    assert run(monkeypatch, "check") == 0
    output = capsys.readouterr().out
    rows = dict(line.split(maxsplit=1) for line in output.splitlines() if line[:1].strip())
    assert rows["pack"].strip() == "libero"
    assert rows["because"].strip() == "named in VLA_GYM_ASSETS"
    assert rows["files"].strip() == "45 that the 130 tasks read, all there"
    assert rows["writable"].strip() == "yes"
    assert max(map(len, output.splitlines())) <= 60


def test_check_lists_what_is_missing_and_fails(
    complete_pack: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    shelf = "turbosquid_objects/wooden_two_layer_shelf/wooden_two_layer_shelf.xml"
    (complete_pack / shelf).unlink()
    assert run(monkeypatch, "check", "--assets", str(complete_pack)) == 1
    output = capsys.readouterr().out
    assert "45 that the 130 tasks read, 1 missing or damaged" in output
    assert f"{shelf}:missing" in "".join(output.split())
    assert "vla-rl assets download" in output
    assert max(map(len, output.splitlines())) <= 60


def test_a_pack_that_is_none_is_a_message(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(monkeypatch, "check", "--assets", str(tmp_path)) == 1
    assert "lacks the folders articulated_objects" in capsys.readouterr().err


def test_build_goes_through_the_suites(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    asked = []

    def fill(suite: SuiteSpec, task_ids: list[int] | None, pack: AssetPack, quality: str | None) -> FilledSuite:
        asked.append((suite.name, task_ids, pack.name, quality))
        return FilledSuite(n_tasks=2, n_scenes=1, seconds=3.21)

    monkeypatch.setattr(cache, "fill_cache", fill)
    some = ("--suite", "spatial", "--suite", "LIBERO-Goal-v0", "--tasks", "5,8", "--assets", "primitive")
    assert run(monkeypatch, "build", *some, "--render-quality", "none") == 0
    assert capsys.readouterr().out.splitlines() == [
        "Assets: primitive (named in assets=)",
        "LIBERO-Spatial-v0: 2 tasks, 1 scene, 3.2 s",
        "LIBERO-Goal-v0: 2 tasks, 1 scene, 3.2 s",
    ]
    assert asked == [(name, [5, 8], "primitive", None) for name in ("libero_spatial", "libero_goal")]
    asked.clear()
    assert run(monkeypatch, "build") == 0
    assert asked == [(suite.name, None, "primitive", "fast") for suite in SUITES.values()]


@pytest.mark.parametrize(
    ("arguments", "status", "message"),
    [
        (("--suite", "goals"), 1, "Unknown suite 'goals'. Did you mean 'goal'?"),
        (("--suite", "goal", "--tasks", "3,11"), 1, "Unknown task_id of LIBERO-Goal-v0 11. Valid: 0..9."),
        (("--tasks", "three"), 2, "0,3,8"),
        (("--render-quality", "best"), 2, "'best'"),
    ],
)
def test_build_explains_wrong_arguments(
    arguments: tuple[str, ...],
    status: int,
    message: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert run(monkeypatch, "build", *arguments) == status
    assert message in capsys.readouterr().err


def test_download_says_where_and_whether_it_is_used(
    complete_pack: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    # what is already in the cache is not fetched
    monkeypatch.setenv("VLA_GYM_CACHE", str(tmp_path / "cache"))
    (tmp_path / "cache").mkdir()
    complete_pack.rename(tmp_path / "cache" / "assets")
    assert run(monkeypatch, "download") == 0
    assert "Not in use" not in capsys.readouterr().out
    monkeypatch.setenv("VLA_GYM_ASSETS", "primitive")
    assert run(monkeypatch, "download") == 0
    assert "another pack is named in VLA_GYM_ASSETS" in " ".join(capsys.readouterr().out.split())


def test_scenes_are_exported_and_imported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    file, folder = tmp_path / "goal.zip", tmp_path / "scenes"
    some = ("--suite", "goal", "--tasks", "8", "--assets", "primitive")
    assert run(monkeypatch, "export", *some, "--render-quality", "none", "--out", str(file)) == 0
    output = capsys.readouterr().out
    assert "1 task, 1 model, pack primitive" in output and "vla-rl assets import goal.zip" in output
    checksum = output.partition("sha256: ")[2].split()[0]
    assert run(monkeypatch, "import", str(file), "--into", str(folder), "--sha256", checksum) == 0
    assert f"export VLA_GYM_SCENES={folder}" in capsys.readouterr().out
    assert run(monkeypatch, "import", str(file), "--sha256", "0" * 64) == 1
    assert "its checksum is" in capsys.readouterr().err
    file.write_bytes(b"PK")
    assert run(monkeypatch, "import", str(file)) == 1
    assert "cannot be imported: not a zip archive" in capsys.readouterr().err


def test_help_of_import_says_what_is_not_checked(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(monkeypatch, "import", "--help") == 0
    assert "import from people you trust" in " ".join(capsys.readouterr().out.replace("│", "").split())
