"""What a run of reinforcement learning keeps in its folder, beside the model, to go on after an interruption."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

from vla_algos.common.callbacks import RolloutHistoryCallback, RolloutRecord
from vla_algos.errors import CheckpointError, SettingsError
from vla_algos.policies.saving import LAST_FILE
from vla_algos.recipes.rl_settings import RLSettings
from vla_gym.files import write_then_rename

logger = logging.getLogger(__name__)

SETTINGS_FILE = "settings.json"
HISTORY_FILE = "history.json"
_MAY_DIFFER = ("n_eval_states",)
"""Settings that the training does not depend on."""


def begin_run(settings: RLSettings, folder: Path) -> None:
    """
    Note the settings, and take away what belongs to an earlier run in this folder.

    :param settings: of the run
    :param folder: of the run
    """
    for path in (folder / LAST_FILE, folder / HISTORY_FILE, *folder.glob("before_*.json")):
        path.unlink(missing_ok=True)
    _write(folder / SETTINGS_FILE, _plain(settings))


def stored_settings(folder: str | Path) -> RLSettings:
    """
    Settings that the run in a folder was begun with.

    :param folder: of the run
    :return: its settings
    :raises CheckpointError: if no run was begun there, or the file is damaged
    """
    path = Path(folder) / SETTINGS_FILE
    remedy = "Name the folder of an interrupted run, or begin one, without resume."
    if not path.is_file():
        raise CheckpointError(f"{folder} holds no {SETTINGS_FILE}, thus no run that could go on. {remedy}")
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        return RLSettings(**{**content, "task_ids": tuple(content["task_ids"])})
    except (ValueError, KeyError, TypeError) as error:
        raise CheckpointError(f"{path} does not hold the settings of a run ({error!r}). {remedy}") from error


def check_resumable(settings: RLSettings, folder: Path) -> None:
    """
    See whether the run in a folder can go on with these settings.

    :param settings: to go on with; ``n_eval_states`` may differ
    :param folder: of the run
    :raises CheckpointError: if no run was begun there, or none was saved yet
    :raises SettingsError: if the run was begun with other settings
    """
    stored, given = (dict(_flat(_plain(each))) for each in (stored_settings(folder), settings))
    keys = [key for key in {**stored, **given} if key not in _MAY_DIFFER]
    # None is not the same as left open
    differing = [key for key in keys if stored.get(key, ...) != given.get(key, ...)]
    if differing:
        pairs = (f"{key} was {_shown(stored, key)}, not {_shown(given, key)}" for key in differing)
        raise SettingsError(
            f"The run in {folder} was begun with other settings: {'; '.join(pairs)}. "
            "Leave these options away to go on with it, or begin a new run in another folder."
        )
    if not (folder / LAST_FILE).is_file():
        raise CheckpointError(
            f"{folder} holds no {LAST_FILE}: the run was stopped before it was saved for the first time. "
            "Begin it again, without resume."
        )


class StoredHistoryCallback(RolloutHistoryCallback):
    """
    The history of all parts of a run, and the seconds it has trained, kept in a file.

    What the file has beyond the model's decisions was undone by an interruption, and is dropped.

    :param folder: of the run
    """

    def __init__(self, folder: Path) -> None:
        super().__init__()
        self._path = folder / HISTORY_FILE
        self._seconds: list[float] = []

    @property
    def seconds(self) -> float:
        """Wall time of all roll-outs so far and their updates."""
        return self._seconds[-1] if self._seconds else 0.0

    def _on_training_start(self) -> None:
        entries = json.loads(self._path.read_text(encoding="utf-8")) if self._path.exists() else []
        entries = [entry for entry in entries if entry["timesteps"] <= self.num_timesteps]
        self._seconds = [entry.pop("seconds") for entry in entries]
        self.history = [RolloutRecord(**entry) for entry in entries]
        self._start = time.perf_counter() - self.seconds

    def _on_rollout_start(self) -> None:
        super()._on_rollout_start()
        self._store()

    def _on_rollout_end(self) -> None:
        super()._on_rollout_end()
        self._store()

    def _on_training_end(self) -> None:
        self._store()

    def _store(self) -> None:
        """Write the file; the time of the last roll-out grows by that of its update."""
        if self.history:
            self._seconds[len(self.history) - 1 :] = [time.perf_counter() - self._start]
            pairs = zip(self.history, self._seconds, strict=True)
            try:
                _write(self._path, [{**asdict(record), "seconds": seconds} for record, seconds in pairs])
            except OSError as error:
                # the whole history is written again after the next roll-out
                logger.warning("%s could not be written: %s", self._path, error)


def _plain(settings: RLSettings) -> dict[str, Any]:
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


def _write(path: Path, content: Any) -> None:
    with write_then_rename(path) as temporary:
        temporary.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
