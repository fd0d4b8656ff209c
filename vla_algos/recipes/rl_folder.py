"""What a run of reinforcement learning keeps in its folder, beside the model, to go on after an interruption."""

from __future__ import annotations

import json
import logging
import time
from dataclasses import asdict
from pathlib import Path

from vla_algos.common.callbacks import RolloutHistoryCallback, RolloutRecord
from vla_algos.policies.saving import LAST_FILE
from vla_algos.recipes.rl_settings import RLSettings
from vla_algos.recipes.stored_settings import damaged_settings, read_settings, store_settings
from vla_gym.files import write_then_rename

logger = logging.getLogger(__name__)

HISTORY_FILE = "history.json"
MAY_DIFFER = ("n_eval_states",)
"""Settings that a run may go on with otherwise."""


def begin_run(settings: RLSettings, folder: Path) -> None:
    """
    Note the settings, and take away what belongs to an earlier run in this folder.

    :param settings: of the run
    :param folder: of the run
    """
    for path in (folder / LAST_FILE, folder / HISTORY_FILE, *folder.glob("before_*.json")):
        path.unlink(missing_ok=True)
    store_settings(settings, folder)


def settings_of_run(folder: str | Path) -> RLSettings:
    """
    Settings that the run in a folder was begun with.

    :param folder: of the run
    :return: its settings
    :raises CheckpointError: if no run was begun there, or the file is damaged
    """
    content = read_settings(RLSettings, folder)
    try:
        return RLSettings(**{**content, "task_ids": tuple(content["task_ids"])})
    except (ValueError, TypeError) as error:
        raise damaged_settings(folder, error) from error


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
                entries = [{**asdict(record), "seconds": seconds} for record, seconds in pairs]
                with write_then_rename(self._path) as temporary:
                    temporary.write_text(json.dumps(entries, indent=2) + "\n", encoding="utf-8")
            except OSError as error:
                # the whole history is written again after the next roll-out
                logger.warning("%s could not be written: %s", self._path, error)
