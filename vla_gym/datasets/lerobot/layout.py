"""Names and places in LeRobot's dataset format v3.0."""

from __future__ import annotations

from types import ModuleType

from vla_gym.errors import MissingPackageError

VERSION = "v3.0"
IMAGE_KEYS = {"images": "observation.images.image", "wrist_images": "observation.images.image2"}
"""Field of :class:`Episode` -> key."""
_FILE = "chunk-{chunk_index:03d}/file-{file_index:03d}"
DATA_PATH = f"data/{_FILE}.parquet"
VIDEO_PATH = f"videos/{{video_key}}/{_FILE}.mp4"
EPISODES_PATH = f"meta/episodes/{_FILE}.parquet"
TASK_ID_KEY, INIT_STATE_ID_KEY = "vla_gym/task_id", "vla_gym/init_state_id"


def pyarrow_parquet() -> ModuleType:
    """
    ``pyarrow.parquet``.

    :raises MissingPackageError: if it is not installed
    """
    try:
        import pyarrow.parquet
    except ImportError as error:
        raise MissingPackageError("LeRobot's format needs pyarrow: pip install 'vla-gym[lerobot]'") from error
    return pyarrow.parquet
