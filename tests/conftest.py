"""Fixtures shared by all tests: a cache of their own, the built-in assets, and where optional reference data are."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

_OUTSIDE_ASSETS = os.environ.pop("VLA_GYM_ASSETS", "")
_GOLDEN = os.environ.get("VLA_GYM_GOLDEN", "")


@pytest.fixture(scope="session", autouse=True)
def scene_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A scene cache that lives as long as the test session, so that tests neither read nor write the user's."""
    folder = tmp_path_factory.mktemp("cache")
    before = os.environ.get("VLA_GYM_CACHE")
    os.environ["VLA_GYM_CACHE"] = str(folder)
    yield folder
    if before is None:
        del os.environ["VLA_GYM_CACHE"]
    else:
        os.environ["VLA_GYM_CACHE"] = before


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
