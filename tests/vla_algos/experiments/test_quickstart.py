"""The quickstart leaves a model, a curve, films and figures."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import imageio.v2 as imageio
import numpy as np
import pytest

from vla_algos import TokenPPO
from vla_algos.experiments.quickstart import quickstart_settings, run_quickstart
from vla_algos.models import load_vla


@pytest.mark.slow
def test_it_leaves_model_curve_films_and_figures(tmp_path: Path) -> None:
    settings = quickstart_settings(smoke=True, assets="primitive", n_eval_states=2, total_timesteps=8)
    settings = replace(settings, algorithm_kwargs={**settings.algorithm_kwargs, "n_steps": 4})
    stages: list[str] = []
    outcome = run_quickstart(settings, tmp_path, stages.append)
    assert {path.name for path in tmp_path.iterdir()} >= {
        "model",
        "model.zip",
        "curve.png",
        "before.mp4",
        "after.mp4",
        "results.json",
        "logs",
    }
    assert len(stages) == 5
    assert all(evaluation.n_episodes == 2 for evaluation in (*outcome.before.values(), *outcome.after.values()))
    saved = json.loads((tmp_path / "results.json").read_text())
    assert saved["evaluations"]["after"]["greedy"]["assets"] == "primitive"
    assert saved["history"][0]["timesteps"] == 8 == saved["n_timesteps"]
    assert load_vla(tmp_path / "model").config.chunk_size == 8
    assert isinstance(TokenPPO.load(tmp_path / "model.zip"), TokenPPO)
    for film in ("before.mp4", "after.mp4"):
        assert np.stack(imageio.mimread(tmp_path / film, memtest=False)).std() > 0
    assert imageio.imread(tmp_path / "curve.png").shape[0] > 100
