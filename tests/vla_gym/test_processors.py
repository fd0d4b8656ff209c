from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from vla_gym import processors

INTEL = "processor\t: 0\nmodel name\t: Some Xeon\nflags\t\t: fpu avx2 avx512_bf16\n\nprocessor\t: 1\nflags\t\t: fpu\n"
ARM = "processor\t: 0\nBogoMIPS\t: 50.00\nFeatures\t: fp asimd bf16 sve\n"


@pytest.fixture(autouse=True)
def _nothing_remembered() -> Iterator[None]:
    processors._described.cache_clear()
    yield
    processors._described.cache_clear()


@pytest.mark.parametrize(
    ("text", "name", "flags"),
    [(INTEL, "Some Xeon", {"fpu", "avx2", "avx512_bf16"}), (ARM, None, {"fp", "asimd", "bf16", "sve"})],
)
def test_name_and_flags_are_those_of_the_first_processor(
    text: str, name: str | None, flags: set[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "cpuinfo").write_text(text)
    monkeypatch.setattr(processors, "_CPUINFO", tmp_path / "cpuinfo")
    assert processors.processor_flags() == flags
    assert processors.processor_name() == (name or processors.processor_name())


def test_other_systems_have_a_name_and_no_flags(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(processors, "_CPUINFO", tmp_path / "missing")
    assert processors.processor_name() and processors.processor_flags() == frozenset()


@pytest.mark.parametrize(
    ("quota", "cpus"),
    [("max 100000", 16), ("200000 100000", 2), ("150000 100000", 2), ("10000 100000", 1), ("", 16), (None, 16)],
)
def test_a_container_may_use_as_many_cores_as_its_quota_allows(
    quota: str | None, cpus: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if quota is not None:
        (tmp_path / "cpu.max").write_text(quota)
    monkeypatch.setattr(processors, "_CGROUP", tmp_path)
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(16)))
    assert processors.available_cpus() == cpus
