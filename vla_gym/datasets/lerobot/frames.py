"""Decode frames of videos and image columns as a stream, as long as they are requested in order."""

from __future__ import annotations

import io
from abc import ABC, abstractmethod
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import imageio_ffmpeg
import numpy as np
from PIL import Image

from vla_gym.datasets.lerobot.layout import pyarrow_parquet
from vla_gym.errors import DemonstrationFileError
from vla_gym.type_aliases import UInt8Array

MAX_PIXELS = 2**24
"""Of one image."""
MAX_EPISODE_BYTES = 4 * 2**30
_IMAGES_AT_ONCE = 16


class FrameStream(ABC):
    """Frames of one camera, across files."""

    def __init__(self) -> None:
        self._path: Path | None = None
        self._stream: Any = iter(())
        self._next = 0

    def frames(self, path: Path, first: int, count: int) -> UInt8Array:
        """
        Read successive frames.

        :param path: file
        :param first: number of the first one
        :param count: how many
        :return: (count, H, W, 3) uint8
        :raises DemonstrationFileError: if the file has too few frames, or images of different or excessive size
        """
        if path != self._path or first < self._next:
            self.close()
            self._stream, self._path, self._next = self._open(path), path, 0
        pictures: list[UInt8Array] = []
        for frame in self._stream:
            self._next += 1
            if self._next > first:
                pictures.append(self._decoded(frame, path))
                if pictures[-1].shape != pictures[0].shape or pictures[0].size * count > MAX_EPISODE_BYTES:
                    raise DemonstrationFileError(
                        f"{path} has {count} frames of {pictures[0].shape} and one of {pictures[-1].shape}; expected "
                        f"one size, and at most {MAX_EPISODE_BYTES} bytes per episode."
                    )
            if len(pictures) == count:
                return np.stack(pictures)
        raise DemonstrationFileError(f"{path} ends after {self._next} frames; expected at least {first + count}.")

    def close(self) -> None:
        """Close the file."""
        if hasattr(self._stream, "close"):
            self._stream.close()
        self._stream, self._path = iter(()), None

    @abstractmethod
    def _open(self, path: Path) -> Iterator[Any]:
        """Start reading a file at its first frame."""

    @abstractmethod
    def _decoded(self, frame: Any, path: Path) -> UInt8Array:
        """Decode an item of the stream, (H, W, 3) uint8."""


class VideoStream(FrameStream):
    """Frames of MP4 files."""

    _size = (0, 0)

    def _open(self, path: Path) -> Iterator[bytes]:
        # format given as MP4: otherwise ffmpeg would follow file names in a playlist
        stream = imageio_ffmpeg.read_frames(str(path.resolve()), pix_fmt="rgb24", input_params=["-f", "mp4"])
        self._size = next(stream)["size"]
        if np.prod(self._size) > MAX_PIXELS:
            stream.close()
            raise DemonstrationFileError(f"{path} has frames of {self._size}; expected at most {MAX_PIXELS} pixels.")
        return stream  # type: ignore[no-any-return]

    def _decoded(self, frame: bytes, path: Path) -> UInt8Array:
        width, height = self._size
        return np.frombuffer(frame, dtype=np.uint8).reshape(height, width, 3)


class ImageStream(FrameStream):
    """
    Images in a column of parquet files, as PNG or JPEG.

    :param key: name of the column
    """

    def __init__(self, key: str) -> None:
        super().__init__()
        self._key = key

    def _open(self, path: Path) -> Iterator[dict[str, Any]]:
        with pyarrow_parquet().ParquetFile(path) as file:
            for batch in file.iter_batches(batch_size=_IMAGES_AT_ONCE, columns=[self._key]):
                yield from batch.column(0).to_pylist()

    def _decoded(self, frame: dict[str, Any], path: Path) -> UInt8Array:
        content = frame.get("bytes") if isinstance(frame, dict) else frame
        if not isinstance(content, bytes):
            raise DemonstrationFileError(
                f"{path}: {self._key!r} holds {frame!r:.80}, not the image itself; expected PNG or JPEG. Embed the "
                "images."
            )
        with Image.open(io.BytesIO(content), formats=["PNG", "JPEG"]) as image:
            if image.mode != "RGB" or image.width * image.height > MAX_PIXELS:
                raise DemonstrationFileError(
                    f"{path}: {self._key!r} holds images of {image.width} x {image.height} pixels in mode "
                    f"{image.mode!r}; expected 'RGB' and at most {MAX_PIXELS} pixels."
                )
            return np.asarray(image)
