"""Read and check a LeRobot dataset's ``meta/info.json``."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vla_gym.datasets.conventions import Conventions, check_command_names
from vla_gym.datasets.lerobot.layout import IMAGE_KEYS, READ_VERSIONS, file_of
from vla_gym.errors import DemonstrationFileError
from vla_gym.files import read_bounded
from vla_gym.spec import COMMAND_DIM, PROPRIO_DIM

MAX_META_BYTES = 2**26
KNOWN_KEYS = {
    "images": (IMAGE_KEYS["images"], "observation.images.agentview", "observation.image", "image"),
    "wrist_images": (
        IMAGE_KEYS["wrist_images"],
        "observation.images.wrist_image",
        "observation.images.wrist",
        "observation.wrist_image",
        "wrist_image",
    ),
    "proprio": ("observation.state", "state"),
    "commands": ("action", "actions"),
}
"""Field of :class:`Episode` -> keys of public sets: LeRobot's own, IPEC's, openpi's."""
_SIZES = {"proprio": PROPRIO_DIM, "commands": COMMAND_DIM}
_CAMERA_FIELDS = tuple(IMAGE_KEYS)
_CAMERA_TYPES = ("image", "video")
SUCCESS_KEY = "next.success"


@dataclass(frozen=True)
class DatasetInfo:
    """
    Description of a data set.

    :param folder: its folder
    :param version: of the format
    :param hz: stated steps per second, which time stamps refer to (Hz)
    :param n_episodes: number of episodes
    :param chunk_size: episodes per folder, in formats before v3.0
    :param data_path: template of the files of steps
    :param video_path: template of the files of frames; empty without videos
    :param keys: field of :class:`Episode` -> key
    :param videos: fields whose images are in video files; those of other cameras are in the files of steps
    :param color_orders: field -> ``rgb`` or ``bgr``
    :param has_success: whether steps say if the goal was reached
    """

    folder: Path
    version: str
    hz: float
    n_episodes: int
    chunk_size: int
    data_path: str
    video_path: str
    keys: Mapping[str, str]
    state_names: tuple[str, ...]
    videos: tuple[str, ...]
    color_orders: Mapping[str, str]
    has_success: bool

    @property
    def cameras(self) -> tuple[str, ...]:
        """Fields with images."""
        return tuple(name for name in _CAMERA_FIELDS if name in self.keys)


def read_info(folder: Path, conventions: Conventions) -> DatasetInfo:
    """
    Read and check a data set's description.

    :param folder: its folder
    :param conventions: how it differs from LIBERO
    :raises DemonstrationFileError: if it is of another version, or has other features
    """
    try:
        info = json.loads(read_bounded(file_of(folder, "meta/info.json"), MAX_META_BYTES))
    except (OSError, ValueError, RecursionError) as error:
        raise DemonstrationFileError(
            f"{folder} is no LeRobot dataset: meta/info.json cannot be read ({error})."
        ) from error
    if not isinstance(info, dict) or info.get("codebase_version") not in READ_VERSIONS:
        found = info.get("codebase_version") if isinstance(info, dict) else info
        raise DemonstrationFileError(
            f"{folder} has format {found!r}; expected one of {', '.join(READ_VERSIONS)}. LeRobot converts older "
            "datasets."
        )
    conventions.check_rate(info["fps"], folder)
    features = info["features"]
    keys = _keys(folder, features, conventions.keys)
    _check_keys(folder, features, keys)
    check_command_names(tuple(_texts(features[keys["commands"]].get("names"))), folder)
    cameras = {name: features[key] for name, key in keys.items() if name in _CAMERA_FIELDS}
    return DatasetInfo(
        folder=folder,
        version=info["codebase_version"],
        hz=float(info["fps"]),
        n_episodes=int(info["total_episodes"]),
        chunk_size=int(info.get("chunks_size", 1000)),
        data_path=str(info["data_path"]),
        video_path=str(info.get("video_path") or ""),
        keys=keys,
        state_names=tuple(_texts(features[keys["proprio"]].get("names"))),
        videos=tuple(name for name, feature in cameras.items() if feature["dtype"] == "video"),
        color_orders={name: _color_order(feature) for name, feature in cameras.items()},
        has_success=SUCCESS_KEY in features,
    )


def _keys(folder: Path, features: Mapping[str, Any], named: Mapping[str, str]) -> dict[str, str]:
    """Return the keys that are named, else known ones; a camera that is neither is an error."""
    found = {
        name: [named[name]] if name in named else [key for key in known if key in features]
        for name, known in KNOWN_KEYS.items()
    }
    cameras = [key for key, feature in features.items() if feature.get("dtype") in _CAMERA_TYPES]
    others = set(cameras).difference(*found.values())
    if any(name in named for name in _CAMERA_FIELDS):
        others = set()
        found = {name: keys for name, keys in found.items() if name in named or name not in _CAMERA_FIELDS}
    doubtful = {name: keys for name, keys in found.items() if len(keys) > 1}
    if others or doubtful:
        raise DemonstrationFileError(
            f"{folder} has cameras {sorted(cameras)}"
            + "".join(f", and for {name} {keys}" for name, keys in doubtful.items())
            + "; expected one known key for each field. Say which to read, and leave other cameras out, with "
            "Conventions(keys={'images': ..., 'wrist_images': ..., 'proprio': ..., 'commands': ...})."
        )
    return {name: keys[0] for name, keys in found.items() if keys}


def _check_keys(folder: Path, features: Mapping[str, Any], keys: Mapping[str, str]) -> None:
    for name, key in keys.items():
        if key not in features:
            raise DemonstrationFileError(f"{folder} has no feature {key!r} for {name}; it has {sorted(features)}.")
    for name, size in _SIZES.items():
        if name not in keys:
            raise DemonstrationFileError(
                f"{folder} has no feature for {name}, such as {KNOWN_KEYS[name][0]!r}; it has {sorted(features)}. Name "
                f"it with Conventions(keys={{{name!r}: ...}})."
            )
        shape = features[keys[name]].get("shape")
        if shape != [size]:
            raise DemonstrationFileError(f"{folder}: feature {keys[name]!r} has shape {shape}; expected [{size}].")
    for name in _CAMERA_FIELDS:
        feature = features[keys[name]] if name in keys else {"dtype": "video"}
        is_depth = any("depth" in entry for entry, value in _items(feature) if value is True)
        kind = "depth" if is_depth else feature.get("dtype")
        if kind not in _CAMERA_TYPES:
            raise DemonstrationFileError(f"{folder}: feature {keys[name]!r} is {kind}; expected colour images.")


def _color_order(feature: Mapping[str, Any]) -> str:
    return "bgr" if "bgr" in [text.lower() for text in _texts(feature.get("names"))] else "rgb"


def _texts(value: Any) -> Iterator[str]:
    """Yield the strings in nested lists and mappings."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, (list, dict)):
        for part in value.values() if isinstance(value, dict) else value:
            yield from _texts(part)


def _items(value: Any) -> Iterator[tuple[str, Any]]:
    """Yield names and values in nested mappings."""
    if isinstance(value, dict):
        for name, part in value.items():
            yield name, part
            yield from _items(part)
