"""Settings of a run, kept in its folder: it can go on with these alone."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator
from dataclasses import asdict, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vla_algos.errors import CheckpointError, SettingsError
from vla_algos.experiments.names import SETTINGS_FILE, check_run_folder
from vla_algos.policies.saving import LAST_FILE
from vla_gym.files import write_then_rename

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

_REMEDY = "Name the folder of an interrupted run, or begin one, without resume."


def store_settings(settings: DataclassInstance, folder: Path) -> None:
    """
    Write them down.

    :param settings: of the run
    :param folder: of the run
    """
    with write_then_rename(folder / SETTINGS_FILE) as temporary:
        temporary.write_text(json.dumps(_plain(settings), indent=2) + "\n", encoding="utf-8")


def read_settings(kind: type[DataclassInstance], folder: str | Path) -> dict[str, Any]:
    """
    Settings that the run in a folder was begun with.

    :param kind: of the settings, with a default for every field
    :param folder: of the run
    :return: its fields, as JSON gives them back
    :raises CheckpointError: if no run was begun there, or the file is damaged
    """
    path = Path(folder) / SETTINGS_FILE
    check_run_folder(folder)
    try:
        content = dict(json.loads(path.read_text(encoding="utf-8")))
    except (ValueError, TypeError) as error:
        raise damaged_settings(folder, error) from error
    unknown = content.keys() - {field.name for field in fields(kind)}
    if unknown:
        raise damaged_settings(folder, f"unknown: {', '.join(sorted(unknown))}")
    # what a later version has added was not asked for
    return {**_plain(kind()), **content}


def damaged_settings(folder: str | Path, reason: object) -> CheckpointError:
    """
    What to raise if the settings cannot be understood.

    :param folder: of the run
    :param reason: why not
    :return: the error
    """
    path = Path(folder) / SETTINGS_FILE
    return CheckpointError(f"{path} does not hold the settings of a run ({reason}). {_REMEDY}")


def check_resumable(settings: DataclassInstance, folder: Path, may_differ: Collection[str]) -> None:
    """
    See whether the run in a folder can go on with these settings.

    :param settings: to go on with
    :param folder: of the run
    :param may_differ: fields that the training does not depend on
    :raises CheckpointError: if no run was begun there
    :raises SettingsError: if the run was begun with other settings
    """
    stored, given = dict(_flat(read_settings(type(settings), folder))), dict(_flat(_plain(settings)))
    keys = [key for key in {**stored, **given} if key not in may_differ]
    # None is not the same as left open
    differing = [key for key in keys if stored.get(key, ...) != given.get(key, ...)]
    if differing:
        pairs = (f"{key} was {_shown(stored, key)}, not {_shown(given, key)}" for key in differing)
        raise SettingsError(
            f"The run in {folder} was begun with other settings: {'; '.join(pairs)}. "
            "Repeat its settings (vla-rl train: leave these options away), or begin a new run in another folder."
        )


def differs(settings: DataclassInstance, folder: Path) -> bool:
    """
    Whether anything at all is not as the run in a folder was begun.

    :param settings: to go on with
    :param folder: of the run
    :return: True if a field has another value
    """
    return read_settings(type(settings), folder) != _plain(settings)


def check_saved(folder: Path) -> None:
    """
    See whether the run in a folder was saved.

    :param folder: of the run
    :raises CheckpointError: if it was not
    """
    if not (folder / LAST_FILE).is_file():
        raise CheckpointError(
            f"{folder} holds no {LAST_FILE}: the run was stopped before it was saved for the first time. "
            "Begin it again, without resume."
        )


def _plain(settings: DataclassInstance) -> dict[str, Any]:
    """Settings as JSON gives them back."""
    return dict(json.loads(json.dumps(asdict(settings), default=str)))


def _flat(values: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in values.items():
        if isinstance(value, dict) and value:
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def _shown(values: dict[str, Any], key: str) -> str:
    return repr(values[key]) if key in values else "absent"
