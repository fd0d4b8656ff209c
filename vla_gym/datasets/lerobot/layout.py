"""File names of LeRobot's dataset format."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType

from vla_gym.errors import DemonstrationFileError, MissingPackageError
from vla_gym.files import is_inside

VERSION = "v3.0"
READ_VERSIONS = ("v2.0", "v2.1", VERSION)
IMAGE_KEYS = {"images": "observation.images.image", "wrist_images": "observation.images.image2"}
"""Field of :class:`Episode` -> key."""
_FILE = "chunk-{chunk_index:03d}/file-{file_index:03d}"
DATA_PATH = f"data/{_FILE}.parquet"
VIDEO_PATH = f"videos/{{video_key}}/{_FILE}.mp4"
EPISODES_PATH = f"meta/episodes/{_FILE}.parquet"
TASK_ID_KEY, INIT_STATE_ID_KEY = "vla_gym/task_id", "vla_gym/init_state_id"
_PLACE = re.compile(r"\{(\w+)(?::0?(\d{1,2})d)?\}")


def fill(template: str, values: Mapping[str, int | str]) -> str:
    """
    Fill numbers and names into a path template.

    :param template: as for ``str.format``, but with ``{name}`` and ``{name:03d}`` only
    :param values: name -> value
    :return: relative path
    :raises DemonstrationFileError: if the template contains anything else
    """
    filled = _PLACE.sub(lambda place: str(values.get(place[1], place[0])).zfill(int(place[2] or 0)), template)
    if "{" in filled or "}" in filled:
        raise DemonstrationFileError(f"The path {template!r} asks for more than {', '.join(values)}.")
    return filled


def file_of(folder: Path, name: str) -> Path:
    """
    Return the path of a data set's file.

    :param folder: folder of the data set
    :param name: path in it, as the data set says
    :return: its path
    :raises DemonstrationFileError: if it lies elsewhere, is missing, or is not a regular file
    """
    path = folder / name
    if Path(name).is_absolute() or ".." in Path(name).parts or not is_inside(path, folder):
        raise DemonstrationFileError(
            f"{folder} names the file {name}, which leaves the folder; expected files of the data set itself."
        )
    if not path.is_file():
        raise DemonstrationFileError(f"{path} is {'no regular file' if path.exists() else 'missing'}.")
    return path


def pyarrow_parquet() -> ModuleType:
    """
    Import ``pyarrow.parquet``.

    :raises MissingPackageError: if it is not installed
    """
    try:
        import pyarrow.parquet
    except ImportError as error:
        raise MissingPackageError("LeRobot's format needs pyarrow: pip install 'vla-gym[lerobot]'") from error
    return pyarrow.parquet
