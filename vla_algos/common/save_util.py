"""Saving SB3 models so that they exist whole or not at all."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

from vla_gym.files import write_then_rename


def save_zip(save: Callable[..., None], path: str | Path | io.BufferedIOBase, **kwargs: Any) -> None:
    """
    Call SB3's ``save`` so that the zip file appears whole or not at all.

    :param save: bound ``BaseAlgorithm.save``
    :param path: file, ``.zip`` is added if it has no suffix; an open file is written to directly
    :param kwargs: further keywords of ``save``
    """
    if not isinstance(path, (str, Path)):
        save(path, **kwargs)
        return
    with write_then_rename(path if Path(path).suffix else f"{path}.zip") as temporary:
        save(temporary, **kwargs)
