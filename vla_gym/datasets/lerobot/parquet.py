"""Read columns of foreign parquet files, within bounds."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from vla_gym.datasets.lerobot.layout import pyarrow_parquet
from vla_gym.errors import DemonstrationFileError

MAX_VALUES = 10**8
"""Most values of a file's columns that are read at once; LIBERO's 270,000 steps have 4 million."""
MAX_COLUMN_BYTES = 2**31


def column_names(path: Path) -> list[str]:
    """
    Read the names of a file's columns.

    :param path: the file
    """
    return list(pyarrow_parquet().read_schema(path).names)


def read_columns(path: Path, columns: Iterable[str]) -> Any:
    """
    Read some columns of a file.

    :param path: the file
    :param columns: their names
    :return: ``pyarrow.Table``
    :raises DemonstrationFileError: if one is missing, or the file declares too much data
    """
    columns = list(columns)
    with pyarrow_parquet().ParquetFile(path) as file:
        missing = set(columns).difference(file.schema_arrow.names)
        if missing:
            raise DemonstrationFileError(f"{path} has no columns {sorted(missing)}; it has {file.schema_arrow.names}.")
        parts = [
            file.metadata.row_group(i).column(j)
            for i in range(file.metadata.num_row_groups)
            for j in range(file.metadata.num_columns)
        ]
        parts = [part for part in parts if part.path_in_schema.startswith(tuple(columns))]
        n_values = max(file.metadata.num_rows, sum(part.num_values for part in parts))
        n_bytes = sum(part.total_uncompressed_size for part in parts)
        if n_values > MAX_VALUES or n_bytes > MAX_COLUMN_BYTES:
            raise DemonstrationFileError(
                f"{path} declares {n_values} values of {n_bytes} bytes; expected at most {MAX_VALUES} of "
                f"{MAX_COLUMN_BYTES}. The file is damaged or made up."
            )
        return file.read(columns)


def matrix(table: Any, name: str, width: int, source: object) -> np.ndarray[Any, Any]:
    """
    Convert a column of equally long lists to a matrix.

    :param table: ``pyarrow.Table`` of T rows
    :param name: of the column
    :param width: length of the lists
    :param source: name of the file
    :return: (T, width)
    :raises DemonstrationFileError: if a list has another length, or contains anything but numbers
    """
    import pyarrow.compute

    column = table[name].combine_chunks()
    widths = set(pyarrow.compute.list_value_length(column).unique().to_pylist())
    if widths != {width}:
        raise DemonstrationFileError(f"{source}: {name!r} has lists of lengths {sorted(widths, key=str)}, not {width}.")
    values: np.ndarray[Any, Any] = column.flatten().to_numpy(zero_copy_only=False)
    if values.dtype.kind not in "fiu":
        raise DemonstrationFileError(f"{source}: {name!r} holds {values.dtype}; expected numbers.")
    return values.reshape(len(column), width)
