"""``vla-rl evaluate`` makes the environment that a checkpoint needs, and counts."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from vla_algos import evaluation
from vla_algos.cli.main import app
from vla_algos.errors import EvaluationFileError
from vla_algos.models import TrainingRecord, load_vla, save_vla
from vla_algos.models.loading import load_info
from vla_algos.models.openvla.released import ReleasedFiles


def saved_model(folder: Path, **trained) -> str:
    model = load_vla("nano", seed=0, config_changes={"image_size": 32})
    # 40 commands at a time
    model.config = replace(model.config, chunk_size=40)
    model.record = replace(model.record, **trained)
    save_vla(model, folder)
    return str(folder)


def evaluate(*arguments: str) -> Result:
    return CliRunner().invoke(app, ["evaluate", *arguments, "--tasks", "8", "--assets", "primitive", "--n-envs", "1"])


@pytest.mark.parametrize("mode", [[], ["--sampled"]])
def test_a_checkpoint_is_judged_as_it_was_trained(tmp_path: Path, mode: list[str]) -> None:
    trained = {"trained_temperature": 1.5, "trained_render_quality": "full"} if mode else {}
    arguments = [
        saved_model(tmp_path / "model", **trained),
        "--states",
        "1",
        *mode,
        "--out",
        str(tmp_path / "result.json"),
    ]
    result = evaluate(*arguments)
    assert result.exit_code == 0, result.output
    assert "put the bowl on the plate" in result.output and "0/1" in result.output
    saved = json.loads((tmp_path / "result.json").read_text())
    assert saved["assets"] == "primitive" and saved["deterministic"] == (not mode) and saved["n_episodes"] == 1
    assert saved["episodes"][0]["length"] == 300
    assert (saved["temperature"], saved["render_quality"]) == ((1.5, "full") if mode else (1.0, "fast"))
    assert saved["env_kwargs"]["render_quality"] == saved["render_quality"] and saved["env_kwargs"]["chunk_size"] == 40
    assert (saved["chunk_size"], saved["image_size"], saved["physics"], saved["horizon"]) == (40, 32, "fast", 300)
    header, episode = map(json.loads, (tmp_path / "result.jsonl").read_text().splitlines())
    assert header["checkpoint"] == saved["checkpoint"] and episode["length"] == 300
    again = evaluate(*arguments, "--resume")
    assert again.exit_code == 0 and json.loads((tmp_path / "result.json").read_text()) == saved
    refused = evaluate(*arguments, "--resume", "--seed", "1")
    assert isinstance(refused.exception, EvaluationFileError) and "seed was 0, not 1" in str(refused.exception)


def test_released_checkpoints_are_rendered_in_full() -> None:
    assert TrainingRecord().render_quality == "fast" and TrainingRecord().temperature == 1.0
    released = TrainingRecord(released=ReleasedFiles({}, {}))
    assert released.render_quality == "full"
    assert replace(released, trained_render_quality="fast").render_quality == "fast"
    assert load_info("compact-libero-goal").record.trained_render_quality == "fast"


def test_ctrl_c_says_what_was_saved_and_the_command_that_resumes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop(*_: object, episodes_file: Path, **__: object) -> None:
        episodes_file.write_text("{}\n{}\n{}\n")
        raise KeyboardInterrupt

    monkeypatch.setattr(evaluation, "evaluate_policy_on_suite", stop)
    arguments = [saved_model(tmp_path / "model"), "--out", str(tmp_path / "my result.json")]
    monkeypatch.setattr(sys, "argv", ["vla-rl", "evaluate", *arguments])
    result = evaluate(*arguments)
    assert result.exit_code == 130
    assert f"2 episode(s) are saved in {tmp_path}/my result.jsonl. Resume with:" in result.output
    assert f"vla-rl evaluate {tmp_path}/model --out '{tmp_path}/my result.json' --resume" in result.output


def test_resuming_needs_a_file_and_a_folder_is_none(tmp_path: Path) -> None:
    assert "--resume needs the --out" in evaluate("nano", "--resume").output
    assert "expected a file" in evaluate("nano", "--out", str(tmp_path)).output


def test_an_unknown_checkpoint_is_named(tmp_path: Path) -> None:
    result = CliRunner().invoke(app, ["evaluate", str(tmp_path / "nothing")])
    assert result.exit_code == 1 and "nothing" in str(result.exception)
