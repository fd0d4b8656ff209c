"""
Read objects of a foreign HDF5 file without leaving the file, and within bounds.

HDF5 files can refer to other files (external links, external storage, virtual datasets) and declare datasets larger
than the file; both are refused.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from vla_gym.errors import DemonstrationFileError

MAX_ARRAY_BYTES = 4 * 2**30
"""Largest dataset; an episode of 1000 steps at 1024 x 1024 pixels has 3 GB."""
MAX_EXPANSION = 2000
"""Largest ratio of a dataset's size to its file's; gzip compresses at most 1032 to 1."""
MAX_ATTRIBUTE_BYTES = 2**24


def child(group: h5py.Group, name: str, path: Path) -> Any:
    """
    Return the group or dataset below a group.

    :param group: the group
    :param name: of the object, parts separated by ``/``
    :param path: the file
    :return: the object, None if there is none
    :raises DemonstrationFileError: if the name is a link to somewhere else
    """
    found: Any = group
    for part in name.split("/"):
        if not isinstance(found, h5py.Group):
            raise DemonstrationFileError(f"{path}: {found.name} is a dataset; expected a group.")
        link = found.get(part, getlink=True)
        if link is None:
            return None
        if not isinstance(link, h5py.HardLink):
            raise DemonstrationFileError(
                f"{path}: {found.name}/{part} is a link to another place ({type(link).__name__}); expected the data "
                "themselves. Copy it with links resolved (h5py: Group.copy(expand_soft=True, expand_external=True))."
            )
        found = found[part]
    return found


def child_group(group: h5py.Group, name: str, path: Path) -> h5py.Group:
    """
    Return the group below a group.

    :param group: the group
    :param name: of the other group
    :param path: the file
    :raises DemonstrationFileError: if it is missing, a dataset or a link
    """
    found = child(group, name, path)
    if not isinstance(found, h5py.Group):
        raise DemonstrationFileError(f"{path}: {group.name} has no group {name!r}; expected LIBERO's layout.")
    return found


def child_dataset(group: h5py.Group, name: str, path: Path) -> h5py.Dataset:
    """
    Return a dataset of numbers below a group, if the file really contains it.

    :param group: the group
    :param name: of the dataset, parts separated by ``/``
    :param path: the file
    :raises DemonstrationFileError: if it is missing, another object, stored elsewhere, or too large
    """
    found = child(group, name, path)
    if found is None:
        raise DemonstrationFileError(f"{path}: {group.name} lacks {name!r}; expected LIBERO's layout.")
    if not isinstance(found, h5py.Dataset):
        raise DemonstrationFileError(f"{path}: {found.name} is a group; expected a dataset.")
    if found.external or found.is_virtual:
        raise DemonstrationFileError(
            f"{path}: {found.name} is stored in other files; expected the data themselves. Copy its content to a "
            "new file."
        )
    if found.shape is None or found.dtype.kind not in "fiub":
        raise DemonstrationFileError(f"{path}: {found.name} is {found.shape} {found.dtype}; expected numbers.")
    # a chunk is unpacked as a whole, and may be larger than its dataset
    n_values = max(math.prod(found.shape), math.prod(found.chunks or ()))
    size, file_size = n_values * found.dtype.itemsize, path.stat().st_size
    limit = min(MAX_ARRAY_BYTES, MAX_EXPANSION * file_size)
    if size > limit:
        raise DemonstrationFileError(
            f"{path}: {found.name} declares {found.shape} {found.dtype} in chunks {found.chunks}, {size} bytes, in "
            f"a file of {file_size}; expected at most {limit}. The file is damaged or made up."
        )
    return found


def attributes(found: h5py.Group | h5py.Dataset, path: Path) -> dict[str, Any]:
    """
    Read the attributes of an object, strings as ``str``.

    :param found: the object
    :param path: the file
    :raises DemonstrationFileError: if one declares too large a shape
    """
    values = {}
    for name in found.attrs:
        identifier = found.attrs.get_id(name)
        if math.prod(identifier.shape) * identifier.dtype.itemsize > MAX_ATTRIBUTE_BYTES:
            raise DemonstrationFileError(f"{path}: attribute {name!r} of {found.name} declares {identifier.shape}.")
        value = found.attrs[name]
        values[name] = value.decode() if isinstance(value, (bytes, np.bytes_)) else value
    return values
