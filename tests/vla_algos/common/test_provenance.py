from __future__ import annotations

import resource
from types import SimpleNamespace

import pytest

from vla_algos.common import provenance


@pytest.mark.parametrize(("platform", "maximum"), [("linux", 2**20), ("darwin", 2**30)])
def test_peak_memory_is_in_megabytes_of_a_million_bytes(
    platform: str, maximum: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The kernel counts kibibytes on Linux, bytes on macOS."""
    monkeypatch.setattr(resource, "getrusage", lambda who: SimpleNamespace(ru_maxrss=maximum))
    monkeypatch.setattr(provenance.sys, "platform", platform)
    assert provenance.peak_memory_mb() == pytest.approx(2**30 / 1e6)
