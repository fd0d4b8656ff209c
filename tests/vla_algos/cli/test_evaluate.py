"""``vla-rl evaluate`` makes the environment that a checkpoint needs, and counts."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from vla_algos.cli.main import app
from vla_algos.models import load_vla, save_vla


@pytest.mark.parametrize("mode", [[], ["--sampled"]])
def test_a_checkpoint_is_judged(tmp_path: Path, mode: list[str]) -> None:
    model = load_vla("nano", seed=0, config_changes={"image_size": 32})
    # 40 commands at a time
    model.config.chunk_size = 40
    save_vla(model, tmp_path / "model")
    arguments = [
        "evaluate",
        str(tmp_path / "model"),
        "--task-ids",
        "8",
        "--states",
        "1",
        "--assets",
        "primitive",
        *mode,
    ]
    result = CliRunner().invoke(app, [*arguments, "--n-envs", "1", "--out", str(tmp_path / "result.json")])
    assert result.exit_code == 0, result.output
    assert "put the bowl on the plate" in result.output and "0/1" in result.output
    saved = json.loads((tmp_path / "result.json").read_text())
    assert saved["assets"] == "primitive" and saved["deterministic"] == (not mode) and saved["n_episodes"] == 1
    assert saved["episodes"][0]["length"] == 300


def test_an_unknown_checkpoint_is_named(tmp_path: Path) -> None:
    result = CliRunner().invoke(app, ["evaluate", str(tmp_path / "nothing")])
    assert result.exit_code == 1 and "nothing" in str(result.exception)
