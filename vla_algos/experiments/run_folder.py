"""The folder of a run: everything that a run keeps, where it is, and what may be resumed."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vla_algos.errors import CheckpointError, SettingsError
from vla_algos.experiments.settings import RLSettings, SFTSettings
from vla_gym.files import write_then_rename

if TYPE_CHECKING:
    from vla_algos.common.callbacks import RolloutRecord
    from vla_algos.evaluation.harness import EvaluationResult
    from vla_algos.experiments.results import RunResult

_REMEDY = "Name the folder of an interrupted run, or start one, without resume."


class RunFolder:
    """
    Files of one run, of reinforcement learning or of supervised fine-tuning.

    =========================  =======================================================================================
    ``settings.json``          settings that the run was started with
    ``history.json``           reinforcement learning: each roll-out, with the seconds of training so far
    ``last.zip``               algorithm, to resume training from
    ``best/``                  fine-tuning: checkpoint with the smallest validation error so far
    ``model/``, ``model.zip``  the trained VLA as a checkpoint folder; the algorithm (reinforcement learning)
    ``before_greedy.jsonl``    episodes of an evaluation as they end (``after_``, ``_sampled``)
    ``before_greedy.json``     result of an evaluation before training
    ``results.json``           result of the whole run
    ``logs/``                  CSV and TensorBoard
    =========================  =======================================================================================

    Whoever prints, plots or reports on a run reads it through this class. Nothing is written before :meth:`start`.

    :param path: the folder; it need not exist
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self.settings_file = self.path / "settings.json"
        self.history_file = self.path / "history.json"
        self.results_file = self.path / "results.json"
        self.vla = self.path / "model"
        self.algorithm = self.path / "model.zip"
        self.logs = self.path / "logs"
        self.frames = self.path / "frames"

    @classmethod
    def load(cls, path: str | Path) -> RunFolder:
        """
        Open the folder of a run that was started.

        :param path: the folder
        :return: the folder, whose :attr:`settings` can be read
        :raises CheckpointError: if no run was started there, or its settings are damaged
        """
        folder = cls(path)
        _ = folder.settings
        return folder

    @property
    def last(self) -> Path:
        """Where training is resumed from."""
        from vla_algos.policies.saving import LAST_FILE

        return self.path / LAST_FILE

    @property
    def best(self) -> Path:
        """Best checkpoint of fine-tuning so far."""
        from vla_algos.bc.bc import BEST_FOLDER

        return self.path / BEST_FOLDER

    def episodes_file(self, when: str, mode: str) -> Path:
        """
        Episodes of an evaluation as they end, JSON lines.

        :param when: "before" or "after" training
        :param mode: "greedy" or "sampled"
        """
        return self.path / f"{when}_{mode}.jsonl"

    def evaluation_file(self, when: str, mode: str) -> Path:
        """
        Result of an evaluation.

        :param when: "before" or "after" training
        :param mode: "greedy" or "sampled"
        """
        return self.path / f"{when}_{mode}.json"

    @property
    def settings(self) -> RLSettings | SFTSettings:
        """
        Settings that the run was started with.

        :raises CheckpointError: if no run was started here, or the file is damaged
        """
        self.check_started()
        try:
            content = dict(json.loads(self.settings_file.read_text(encoding="utf-8")))
            kind: type[RLSettings] | type[SFTSettings] = SFTSettings if "epochs" in content else RLSettings
            if "bc_kwargs" in content:
                # the name in the first version
                content["algorithm_kwargs"] = content.pop("bc_kwargs")
            unknown = content.keys() - set(kind.field_names())
            if unknown:
                raise ValueError(f"unknown: {', '.join(sorted(unknown))}")
            # a field that a later version has added keeps its default
            values: dict[str, Any] = {name: tuple(v) if name in kind.lists else v for name, v in content.items()}
            return kind(**values)
        except (ValueError, TypeError) as error:
            raise CheckpointError(
                f"{self.settings_file} does not hold the settings of a run ({error}). {_REMEDY}"
            ) from error

    def check_imports_nothing(self) -> None:
        """
        Check that resuming with the stored settings executes no code that they name: the folder may be a stranger's.

        :raises CheckpointError: if they name code outside of this package and of Stable-Baselines3
        """
        imported = self.settings.imported
        if imported:
            raise CheckpointError(
                f"{self.settings_file} names code to execute: {', '.join(imported)}. If you trust it, name the recipe "
                "that has it once more, with --recipe; settings alone may be anybody's."
            )

    @property
    def history(self) -> list[RolloutRecord]:
        """Roll-outs of reinforcement learning so far."""
        from vla_algos.common.callbacks import RolloutRecord

        return [
            RolloutRecord(**{name: value for name, value in entry.items() if name != "seconds"})
            for entry in self.history_entries()
        ]

    def history_entries(self) -> list[dict[str, Any]]:
        """Roll-outs as they are stored: a :class:`RolloutRecord`'s fields and ``seconds`` of training until its end."""
        return list(json.loads(self.history_file.read_text(encoding="utf-8"))) if self.history_file.exists() else []

    def evaluations(self, when: str) -> dict[str, EvaluationResult]:
        """
        Evaluations that have ended, by mode.

        :param when: "before" or "after" training
        :return: ``greedy``, ``sampled``; those of a finished run's end are in its results
        :raises EvaluationFileError: for a damaged file
        """
        from vla_algos.evaluation.harness import EvaluationResult
        from vla_algos.experiments.results import MODES

        paths = {mode: self.evaluation_file(when, mode) for mode in MODES}
        found = {mode: EvaluationResult.load(path) for mode, path in paths.items() if path.exists()}
        return found or (self.results.evaluations.get(when, {}) if self.results_file.exists() else {})

    @property
    def results(self) -> RunResult:
        """
        Result of the run.

        :raises CheckpointError: if the run has not ended
        :raises EvaluationFileError: if the file is damaged, or of a later version
        """
        from vla_algos.experiments.results import RunResult

        settings = self.settings
        if not self.results_file.is_file():
            raise CheckpointError(f"{self.path} holds no {self.results_file.name}: the run has not ended. Resume it.")
        return RunResult.load(self.results_file, settings)

    def start(self, settings: RLSettings | SFTSettings) -> None:
        """
        Store the settings of a new run, and remove what an earlier run in this folder would be resumed from.

        :param settings: of the run
        """
        evaluations = (*self.path.glob("before_*.json*"), *self.path.glob("after_*.json*"))
        for path in (self.last, self.history_file, self.results_file, *evaluations):
            path.unlink(missing_ok=True)
        self._store(settings)

    def extend(self, settings: RLSettings, n_done: int) -> None:
        """
        Store another number of decisions than the run was started with.

        :param settings: to resume with
        :param n_done: decisions taken so far
        :raises SettingsError: if the run has taken as many already
        """
        stored = self.settings
        assert isinstance(stored, RLSettings)
        if settings.total_timesteps == stored.total_timesteps:
            return
        if settings.total_timesteps <= n_done:
            raise SettingsError(
                f"total_timesteps is {settings.total_timesteps}, but the run in {self.path} has taken {n_done} "
                f"decisions already. Give more than {n_done} to extend it (vla-rl train: --timesteps)."
            )
        self._store(replace(stored, total_timesteps=settings.total_timesteps))

    def forget_evaluation(self, when: str) -> None:
        """
        Remove the episodes of a model that is about to change.

        :param when: "before" or "after" training
        """
        for path in self.path.glob(f"{when}_*.json*"):
            path.unlink()

    def check_started(self) -> None:
        """
        Check that a run was started here.

        :raises CheckpointError: if it was not
        """
        if not self.settings_file.is_file():
            raise CheckpointError(
                f"{self.path} holds no {self.settings_file.name}, so there is no run to resume. Name the folder of an "
                "interrupted run, or start one, without resume."
            )

    def check_saved(self) -> None:
        """
        Check that training was saved.

        :raises CheckpointError: if it was not
        """
        if not self.last.is_file():
            raise CheckpointError(
                f"{self.path} holds no {self.last.name}: the run was stopped before it was saved for the first time. "
                "Start it again, without resume."
            )

    def check_resumable(self, settings: RLSettings | SFTSettings) -> None:
        """
        Check that the run can be resumed with these settings.

        :param settings: to resume with; fields in their ``may_differ`` may be others than those of the run
        :raises CheckpointError: if no run was started here
        :raises SettingsError: if it was started with other settings
        """
        stored, given = dict(_flat(_plain(self.settings))), dict(_flat(_plain(settings)))
        keys = [key for key in {**stored, **given} if key not in settings.may_differ]
        # None is not the same as absent
        differing = [key for key in keys if stored.get(key, ...) != given.get(key, ...)]
        if differing:
            pairs = (f"{key} was {_shown(stored, key)}, not {_shown(given, key)}" for key in differing)
            raise SettingsError(
                f"The run in {self.path} was started with other settings: {'; '.join(pairs)}. "
                f"Repeat its settings ({settings.command} --resume does so where options are left out), or start a new "
                "run in another folder."
            )

    def differs(self, settings: RLSettings | SFTSettings) -> bool:
        """
        Tell whether any setting differs from those that the run was started with.

        :param settings: to resume with
        """
        return _plain(self.settings) != _plain(settings)

    def rename_earlier_files(self) -> None:
        """Rename the files that an earlier version wrote."""
        for path in self.path.glob("evaluation_*.jsonl"):
            path.rename(path.with_name(path.name.replace("evaluation", "after", 1)))

    def n_evaluated(self, when: str) -> int:
        """
        Count the episodes of an evaluation that may be in progress.

        :param when: "before" or "after" training
        """
        # the first line of each file describes the evaluation
        return sum(max(0, path.read_bytes().count(b"\n") - 1) for path in self.path.glob(f"{when}_*.jsonl"))

    @property
    def has_begun_evaluation(self) -> bool:
        """Whether the evaluation before training has begun."""
        return any(self.path.glob("before_*.jsonl"))

    def what_was_saved(self, unit: str = "decisions") -> str | None:
        """
        Describe in one sentence what an interrupted run can be resumed from.

        :param unit: of a time step
        :return: None if there is nothing
        """
        from vla_algos.policies.saving import saved_timesteps

        n_done = saved_timesteps(self.last)
        if n_done is not None:
            n_after = self.n_evaluated("after")
            of_after = f", and {n_after} episode(s) evaluated after training" if n_after else ""
            return f"The run is saved in {self.last}: {n_done} {unit}{of_after}."
        n_before = self.n_evaluated("before")
        return f"{n_before} episode(s) evaluated before training are saved in {self.path}." if n_before else None

    def _store(self, settings: RLSettings | SFTSettings) -> None:
        with write_then_rename(self.settings_file) as temporary:
            temporary.write_text(json.dumps(_plain(settings), indent=2) + "\n", encoding="utf-8")


def _plain(settings: RLSettings | SFTSettings) -> dict[str, Any]:
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
