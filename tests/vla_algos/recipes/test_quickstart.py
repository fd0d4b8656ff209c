from __future__ import annotations

import json
from pathlib import Path

import imageio.v2 as imageio
import numpy as np
import pytest

from vla_algos import TokenPPO
from vla_algos.evaluation.harness import EpisodeRecord, EvaluationResult
from vla_algos.models import load_vla
from vla_algos.recipes.quickstart import QuickstartSettings, run_quickstart, split_success


def result(outcomes: dict[int, bool]) -> EvaluationResult:
    episodes = tuple(EpisodeRecord(8, k, success, 10) for k, success in outcomes.items())
    return EvaluationResult("LIBERO-Goal-v0", "primitive", True, 0, {8: "text"}, episodes, {}, None)


def test_trained_and_held_out_states_are_counted_apart() -> None:
    assert split_success(result({0: True, 24: False, 25: True, 49: True})) == {"trained": (1, 2), "held out": (2, 2)}


@pytest.mark.slow
def test_it_leaves_model_curve_film_and_figures(tmp_path: Path) -> None:
    settings = QuickstartSettings.smoke(
        assets="primitive", n_demonstrations=2, bc_steps=2, ppo_iterations=1, n_steps=4, n_eval_states=2
    )
    stages: list[str] = []
    outcome = run_quickstart(settings, tmp_path, stages.append)
    assert {path.name for path in tmp_path.iterdir()} == {
        "sft",
        "model.zip",
        "curve.png",
        "episode.mp4",
        "results.json",
        "logs",
    }
    assert len(stages) == 6
    assert outcome.demonstrations[0] == 2
    assert all(evaluation.n_episodes == 2 for evaluation in (*outcome.before.values(), *outcome.after.values()))
    saved = json.loads((tmp_path / "results.json").read_text())
    assert saved["after"]["greedy"]["assets"] == "primitive"
    assert saved["history"][0]["timesteps"] == 8
    assert load_vla(tmp_path / "sft").config.chunk_size == 8
    assert isinstance(TokenPPO.load(tmp_path / "model.zip"), TokenPPO)
    frames = imageio.mimread(tmp_path / "episode.mp4", memtest=False)
    assert np.stack(frames).std() > 0
    assert imageio.imread(tmp_path / "curve.png").shape[0] > 100
