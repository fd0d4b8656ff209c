"""The history of a run, stored after every roll-out."""

from __future__ import annotations

import json
import logging
import time
from dataclasses import asdict

from vla_algos.common.callbacks import RolloutHistoryCallback, RolloutRecord
from vla_algos.experiments.run_folder import RunFolder
from vla_gym.files import write_then_rename

logger = logging.getLogger(__name__)


class StoredHistoryCallback(RolloutHistoryCallback):
    """
    Store the history of all parts of a run, with the seconds of training.

    Entries beyond the model's decisions were undone by an interruption, and are dropped.

    :param folder: of the run
    """

    def __init__(self, folder: RunFolder) -> None:
        super().__init__()
        self._folder = folder
        self._seconds: list[float] = []

    @property
    def seconds(self) -> float:
        """Wall time of all roll-outs so far and their updates."""
        return self._seconds[-1] if self._seconds else 0.0

    def _on_training_start(self) -> None:
        entries = [entry for entry in self._folder.history_entries() if entry["timesteps"] <= self.num_timesteps]
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
                with write_then_rename(self._folder.history_file) as temporary:
                    temporary.write_text(json.dumps(entries, indent=2) + "\n", encoding="utf-8")
            except OSError as error:
                # the whole history is written again after the next roll-out
                logger.warning("%s could not be written: %s", self._folder.history_file, error)
