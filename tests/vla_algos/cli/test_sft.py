from __future__ import annotations

from pathlib import Path

import numpy as np
from typer.testing import CliRunner

from vla_algos.cli.main import app
from vla_algos.errors import SettingsError
from vla_gym.datasets.episode import Episode
from vla_gym.datasets.hdf5_writer import DemonstrationWriter
from vla_gym.tasks.registry import get_suite


def record(path: Path, n: int) -> None:
    rng = np.random.default_rng(0)
    task = get_suite("LIBERO-Goal-v0").task(8)
    with DemonstrationWriter(path, task) as writer:
        for k in range(n):
            writer.add(
                Episode(
                    images=rng.integers(0, 256, (6, 40, 40, 3), dtype=np.uint8),
                    proprio=rng.normal(size=(6, 8)).astype(np.float32),
                    commands=0.3 * rng.uniform(-1, 1, (6, 7)),
                    instruction=task.instruction,
                    task_id=8,
                    init_state_id=k,
                    success=True,
                )
            )


def test_files_in_model_out(tmp_path: Path) -> None:
    record(tmp_path / "data" / "put_the_bowl_on_the_plate_demo.hdf5", 4)
    arguments = ["sft", "--data", str(tmp_path / "data"), "--out", str(tmp_path / "out"), "--vla", "nano"]
    arguments += ["--epochs", "1", "--chunk-size", "2", "--batch-size", "8", "--states", "0", "--image-size", "32"]
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 0, result.output
    assert "training on 4 episodes, 24 decisions: 3 gradient steps" in result.output
    assert "teacher-forced | free-running" in result.output and "Peak memory" in result.output
    assert (tmp_path / "out" / "model" / "model.safetensors").exists()
    card = (tmp_path / "out" / "model" / "README.md").read_text()
    assert "vla-rl" in card and "kept 4, attempted 4" in card
    again = CliRunner().invoke(app, [*arguments, "--resume"])
    assert again.exit_code == 0 and "training on 4 episodes, 24 decisions: 0 gradient steps" in again.output
    other = CliRunner().invoke(app, [*arguments, "--resume", "--learning-rate", "1"])
    assert isinstance(other.exception, SettingsError) and "algorithm_kwargs.learning_rate was 0.001, not 1.0" in str(
        other.exception
    )
