"""What a run of reinforcement learning keeps in its folder, beside the model, to go on after an interruption."""

from __future__ import annotations

import json
import logging
import time
from dataclasses import asdict, replace
from pathlib import Path

from vla_algos.common.callbacks import RolloutHistoryCallback, RolloutRecord
from vla_algos.errors import SettingsError
from vla_algos.experiments.rl_settings import RLSettings
from vla_algos.experiments.stored_settings import damaged_settings, read_settings, store_settings
from vla_algos.policies.saving import LAST_FILE, saved_timesteps
from vla_gym.files import write_then_rename

logger = logging.getLogger(__name__)

HISTORY_FILE = "history.json"
FIRST_EPISODES = "before_*.jsonl"
"""Files with the episodes of the evaluation before training."""
MAY_DIFFER = ("n_eval_states", "total_timesteps")
"""Settings that may change when a run is resumed."""


def begin_run(settings: RLSettings, folder: Path) -> None:
    """
    Note the settings, and take away what belongs to an earlier run in this folder.

    :param settings: of the run
    :param folder: of the run
    """
    evaluations = (*folder.glob("before_*.json"), *folder.glob(FIRST_EPISODES), *folder.glob("after_*.jsonl"))
    for path in (folder / LAST_FILE, folder / HISTORY_FILE, *evaluations):
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


def extend_run(settings: RLSettings, folder: Path, n_done: int) -> None:
    """
    Note that a run shall take more decisions, or fewer, than it was begun with.

    :param settings: to go on with
    :param folder: of the run
    :param n_done: decisions that it has taken
    :raises SettingsError: if it has taken as many already
    """
    stored = settings_of_run(folder)
    if settings.total_timesteps == stored.total_timesteps:
        return
    if settings.total_timesteps <= n_done:
        raise SettingsError(
            f"total_timesteps is {settings.total_timesteps}, but the run in {folder} has taken {n_done} decisions "
            f"already. Give more than {n_done} to extend it (vla-rl train: --timesteps)."
        )
    store_settings(replace(stored, total_timesteps=settings.total_timesteps), folder)


def what_was_saved(folder: str | Path) -> str | None:
    """
    Say what an interrupted run has left in its folder.

    :param folder: of the run
    :return: one sentence; None if there is nothing to go on from
    """
    folder = Path(folder)
    n_done = saved_timesteps(folder / LAST_FILE)
    n_episodes = {
        when: sum(max(0, path.read_bytes().count(b"\n") - 1) for path in folder.glob(f"{when}_*.jsonl"))
        for when in ("before", "after")
    }
    if n_done is not None:
        of_after = f", and {n_episodes['after']} episode(s) evaluated after training" if n_episodes["after"] else ""
        return f"The run is saved in {folder / LAST_FILE}: {n_done} decisions{of_after}."
    if n_episodes["before"]:
        return f"{n_episodes['before']} episode(s) evaluated before training are saved in {folder}."
    return None


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
