"""The result of a run, of reinforcement learning or of supervised fine-tuning, and its file."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from vla_algos.common.callbacks import RolloutRecord
from vla_algos.errors import EvaluationFileError
from vla_algos.evaluation.harness import EvaluationResult
from vla_algos.experiments.settings import RLSettings, SFTSettings
from vla_gym.files import write_then_rename

MODES = ("greedy", "sampled")
SCHEMA_VERSION = 2
"""Of results.json. Version 1, without this entry, had a layout for each of the two kinds of run."""

Evaluations = dict[str, EvaluationResult]


@dataclass(frozen=True)
class RunResult:
    """
    The result of a run.

    :param settings: of the run, with what the model decides filled in
    :param folder: of the run
    :param evaluations: ``before`` and ``after`` training -> ``greedy`` and ``sampled``; a stage that was not evaluated
        is empty
    :param seen: per task, the initial states that training saw: drawn from, or demonstrated
    :param n_timesteps: decisions in reinforcement learning, or gradient steps of supervised fine-tuning
    :param provenance: ``versions``, ``commit``, ``hardware``; after fine-tuning also ``command``, and ``data`` about
        the demonstrations
    :param seconds: wall time of each stage; ``training`` covers all parts of a resumed run, except for what an
        interruption undid, and evaluations are those of this process
    :param peak_memory_mb: of this process, megabytes
    :param history: reinforcement learning: one record per roll-out, of all parts of the run
    :param task_counts: reinforcement learning with a curriculum: by task_id, (successes, episodes) in training
    :param validations: fine-tuning: figures of every validation, with their ``step``
    :param n_episodes: fine-tuning: demonstrations
    :param n_decisions: fine-tuning: control steps in them
    """

    settings: RLSettings | SFTSettings
    folder: Path
    evaluations: dict[str, Evaluations]
    seen: dict[int, set[int]]
    n_timesteps: int
    provenance: dict[str, Any]
    seconds: dict[str, float]
    peak_memory_mb: float
    history: list[RolloutRecord] = field(default_factory=list)
    task_counts: dict[int, tuple[int, int]] = field(default_factory=dict)
    validations: list[dict[str, float]] = field(default_factory=list)
    n_episodes: int = 0
    n_decisions: int = 0

    @property
    def before(self) -> Evaluations:
        """Evaluations before training, by mode."""
        return self.evaluations.get("before", {})

    @property
    def after(self) -> Evaluations:
        """Evaluations after training, by mode."""
        return self.evaluations.get("after", {})

    def split_success(self, evaluation: EvaluationResult) -> dict[str, tuple[int, int]]:
        """
        Count successes and episodes, separately for initial states that training saw and for held-out ones.

        :param evaluation: one of ``before`` and ``after``
        :return: ``trained on`` (after fine-tuning: ``demonstrated``) and ``held out`` -> (successes, episodes)
        """
        counted = {}
        for name, is_seen in ((self.settings.seen_states, True), ("held out", False)):
            outcomes = [
                episode.is_success
                for episode in evaluation.episodes
                if (episode.init_state_id in self.seen.get(episode.task_id, ())) == is_seen
            ]
            counted[name] = (sum(outcomes), len(outcomes))
        return counted

    def to_dict(self) -> dict[str, Any]:
        """Return everything as plain JSON values, derived figures included."""
        content = {name: value for name, value in vars(self).items() if name != "folder"}
        evaluations = {
            when: {
                mode: {**result.to_dict(), "split_success": self.split_success(result)}
                for mode, result in of_stage.items()
            }
            for when, of_stage in self.evaluations.items()
        }
        return {
            "schema_version": SCHEMA_VERSION,
            **content,
            "settings": asdict(self.settings),
            "evaluations": evaluations,
            "seen": {task_id: sorted(states) for task_id, states in self.seen.items()},
            "history": [asdict(record) for record in self.history],
        }

    def save(self, path: Path) -> None:
        """
        Write :meth:`to_dict` as JSON; the file appears whole or not at all.

        :param path: file to write or replace
        """
        with write_then_rename(path) as temporary:
            temporary.write_text(json.dumps(self.to_dict(), indent=2) + "\n", encoding="utf-8")

    @classmethod
    def load(cls, path: Path, settings: RLSettings | SFTSettings) -> RunResult:
        """
        Inverse of :meth:`save`; files of schema version 1 are read, too.

        :param path: file written by it, in the folder of the run
        :param settings: of the run
        :return: the result
        :raises EvaluationFileError: if the file is damaged, or of a later version
        """
        try:
            content = dict(json.loads(path.read_text(encoding="utf-8")))
            version = content.pop("schema_version", 1)
            if version not in (1, SCHEMA_VERSION):
                raise ValueError(f"schema version {version!r}, this vla_algos reads 1 to {SCHEMA_VERSION}")
            content = content if version == SCHEMA_VERSION else _from_version_1(content, settings)
            content["evaluations"] = {
                when: {mode: EvaluationResult.from_dict(result) for mode, result in of_stage.items()}
                for when, of_stage in content["evaluations"].items()
            }
            content["seen"] = {int(task_id): set(states) for task_id, states in content["seen"].items()}
            content["history"] = [RolloutRecord(**record) for record in content["history"]]
            counts = content["task_counts"].items()
            content["task_counts"] = {int(task_id): (successes, n) for task_id, (successes, n) in counts}
            return cls(**{**content, "settings": settings, "folder": path.parent})
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise EvaluationFileError(
                f"{path} does not hold the result of a run ({error}). Resume the run, which writes it again."
            ) from error


def _from_version_1(content: dict[str, Any], settings: RLSettings | SFTSettings) -> dict[str, Any]:
    if isinstance(settings, SFTSettings):
        content["evaluations"] = {"after": content["evaluations"]}
        content |= {"n_timesteps": content.pop("n_steps"), "seen": content.pop("demonstrated")}
        del content["split_success"]
        return {**content, "history": [], "task_counts": {}}
    content["evaluations"] = {when: content.pop(when) for when in ("before", "after")}
    # the first files had no counts of a curriculum
    return {"task_counts": {}, **content, "seen": settings.seen}
