from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest

from vla_algos.common.provenance import peak_memory_mb


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_peak_memory_is_in_megabytes_of_a_million_bytes() -> None:
    (kibibytes,) = re.findall(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())
    # the kernel brings the two figures up to date at different moments; 2**20 instead of 1e6 would be 5 % off
    assert peak_memory_mb() == pytest.approx(int(kibibytes) * 1024 / 1e6, rel=0.02)
