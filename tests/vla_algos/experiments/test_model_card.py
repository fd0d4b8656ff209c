from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from vla_algos.evaluation.harness import EpisodeRecord, EvaluationResult
from vla_algos.experiments.model_card import model_card, write_model_card
from vla_algos.experiments.results import RunResult
from vla_algos.experiments.settings import SFTSettings

VALIDATION = {"step": 10} | {
    f"{name}_{mode}": value
    for name, value in (("accuracy", 0.5), ("l1_error", 0.04), ("bin_error", 9.7))
    for mode in ("forced", "free")
}


def result() -> RunResult:
    records = tuple(EpisodeRecord(task, k, k > task, 10) for task in (0, 1) for k in range(4))
    evaluation = EvaluationResult(
        "LIBERO-Goal-v0", "primitive", True, 0, {0: "open it", 1: "close it"}, records, {}, "abc"
    )
    provenance = {
        "versions": {"torch": "2"},
        "commit": "def",
        "hardware": "a GPU",
        "command": "vla-rl sft",
        "data": {"kept": 3},
    }
    return RunResult(
        SFTSettings(weights_dtype="bfloat16").resolved(), Path(), {"after": {"greedy": evaluation}},
        {0: {0, 1}, 1: {0}}, 10, provenance, {"training": 5400.0}, 0.0, validations=[VALIDATION], n_episodes=3,
        n_decisions=1234,
    )  # fmt: skip


def test_it_states_training_data_and_success() -> None:
    card = model_card(result())
    assert card.startswith("---\nlicense: mit\n")
    for text in (
        "8 commands of seven action tokens",
        "1,234 control steps",
        "2 tasks",
        "10 gradient steps, 1.50 hours on a GPU",
        "commit def",
        "vla-rl sft",
        "kept 3",
    ):
        assert text in card
    assert "| 10 | 0.500 / 0.500 | 0.040 / 0.040 | 9.7 / 9.7 |" in card
    assert "| 0 | open it | 3/4 | 30-95 % |" in card and "| all |  | 5/8 | 31-86 % |" in card
    assert "Demonstrated initial states 1/3 (6-79 %); held out initial states 4/5 (38-96 %)." in card


def test_without_evaluation_it_says_so(tmp_path: Path) -> None:
    write_model_card(replace(result(), evaluations={"after": {}}, validations=[]), tmp_path)
    text = (tmp_path / "README.md").read_text()
    assert "Not evaluated." in text and "Validation" not in text
