from __future__ import annotations

import resource
from types import SimpleNamespace

import pytest

from vla_gym import provenance


@pytest.mark.parametrize(("platform", "maximum"), [("linux", 2**20), ("darwin", 2**30)])
def test_peak_memory_is_in_megabytes_of_a_million_bytes(
    platform: str, maximum: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The kernel counts kibibytes on Linux, bytes on macOS."""
    monkeypatch.setattr(resource, "getrusage", lambda who: SimpleNamespace(ru_maxrss=maximum))
    monkeypatch.setattr(provenance.sys, "platform", platform)
    assert provenance.peak_memory_mb() == pytest.approx(2**30 / 1e6)


def test_packages_that_are_not_there_are_named_in_results_and_left_out_of_recordings(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    version = provenance.importlib.metadata.version

    def without_robosuite(name: str) -> str:
        if name in {"robosuite", "torch"}:
            raise provenance.importlib.metadata.PackageNotFoundError(name)
        return version(name)

    monkeypatch.setattr(provenance.importlib.metadata, "version", without_robosuite)
    assert provenance.versions()["torch"] == "not installed"
    assert provenance.versions(["mujoco"]) == {"mujoco": version("mujoco")}
    recorded = provenance.recorded_with()
    assert {"version", "commit", "version_mujoco"} <= set(recorded) and "version_robosuite" not in recorded
