from __future__ import annotations

import json
import zipfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch as th
from safetensors.torch import load_file

from vla_algos.bc import BC
from vla_algos.errors import CheckpointError, SettingsError, SpaceError, UnknownNameError
from vla_algos.evaluation.harness import EpisodeRecord, EvaluationResult
from vla_algos.experiments import stages
from vla_algos.experiments.results import RunResult
from vla_algos.experiments.run_folder import RunFolder
from vla_algos.experiments.settings import PRESET_CHUNK_SIZE, SFTSettings
from vla_algos.experiments.sft import run_sft
from vla_algos.models import load_vla, save_vla
from vla_algos.policies import env_kwargs_for
from vla_gym.actions.tokenizer import ActionTokenizer
from vla_gym.datasets.collect import collect_episode
from vla_gym.datasets.episode import Episode
from vla_gym.envs.libero_env import LiberoEnv
from vla_gym.experts.scripted import ScriptedExpert

SMALL = {
    "vla": "nano",
    "chunk_size": 2,
    "image_size": 32,
    "n_eval_states": 0,
    "algorithm_kwargs": {"batch_size": 8, "device": "cpu"},
}


RECORDS = (EpisodeRecord(3, 0, True, 10),)


def episodes(n: int) -> list[Episode]:
    rng = np.random.default_rng(0)
    return [
        Episode(
            images=rng.integers(0, 256, (6, 40, 40, 3), dtype=np.uint8),
            wrist_images=rng.integers(0, 256, (6, 40, 40, 3), dtype=np.uint8),
            proprio=rng.normal(size=(6, 8)).astype(np.float32),
            commands=0.3 * rng.uniform(-1, 1, (6, 7)),
            instruction="open the drawer",
            task_id=3,
            init_state_id=i,
            success=i != 1,
        )
        for i in range(n)
    ]


def test_it_trains_and_writes_what_it_found(tmp_path: Path) -> None:
    settings = SFTSettings(
        **SMALL,
        epochs=2,
        cameras=("agentview", "wrist"),
        use_proprio=False,
        frames_on_disk=True,
        weights_dtype="bfloat16",
    )
    told: list[str] = []
    result = run_sft(settings, iter(episodes(5)), tmp_path, told.append)
    assert result.n_episodes == 4 and result.n_decisions == 24, "the failed episode is left out"
    assert result.n_timesteps == 6 and [figures["step"] for figures in result.validations] == [1, 2, 3, 4, 5, 6]
    assert result.seen == {3: {0, 2, 3, 4}} and len(told) == 2
    saved = json.loads((tmp_path / "results.json").read_text())
    assert saved["n_timesteps"] == 6 and saved["validations"] == result.validations and saved["peak_memory_mb"] > 50
    vla = load_vla(tmp_path / "model")
    best, record = vla.config, vla.record
    assert best.cameras == ("agentview", "wrist") and best.proprio_dim == 0 and best.image_size == 32
    assert best.chunk_size == 2 and set(record.norm_stats) == {"libero_goal"}
    # frames were recorded at 40 px, and kept at 32
    assert record.trained_camera_size == 40 and env_kwargs_for(tmp_path / "model")["image_size"] == 40
    assert load_file(tmp_path / "model" / "model.safetensors")["projector.fc1.weight"].dtype == th.bfloat16
    assert "Not evaluated." in (tmp_path / "model" / "README.md").read_text()
    assert ActionTokenizer.from_checkpoint(tmp_path / "model").q99[:6].max() < 0.4


def test_a_checkpoint_decides_what_it_reads_and_how_much_it_chooses(tmp_path: Path) -> None:
    start = load_vla("nano", seed=0, config_changes={"image_size": 32, "chunk_size": 3, "proprio_dim": 0})
    save_vla(start, tmp_path / "start")
    settings = SFTSettings(**{**SMALL, "vla": str(tmp_path / "start"), "chunk_size": None, "epochs": 0.3})
    result = run_sft(settings, episodes(4), tmp_path / "out")
    assert load_vla(tmp_path / "out" / "model").config.chunk_size == result.settings.chunk_size == 3
    card = (tmp_path / "out" / "model" / "README.md").read_text()
    assert "camera agentview and an instruction in, 3 commands of seven action tokens out" in card
    with pytest.raises(SpaceError, match=r"start chooses 3 commands per decision.*chunk_size=2. Leave chunk_size out"):
        run_sft(replace(settings, chunk_size=2), iter(()), tmp_path / "other")
    assert SFTSettings().resolved() == SFTSettings(chunk_size=PRESET_CHUNK_SIZE)
    assert SFTSettings(chunk_size=5).resolved().chunk_size == 5


def test_it_goes_on_where_it_was_stopped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = run_sft(SFTSettings(**SMALL, epochs=2), episodes(5), tmp_path / "whole")
    learn = BC.learn

    def learn_three_steps(self: BC, *args: Any, **kwargs: Any) -> BC:
        return learn(self, *args, **kwargs, callback=lambda *_: self.num_timesteps < 3)

    monkeypatch.setattr(BC, "learn", learn_three_steps)
    run_sft(SFTSettings(**SMALL, epochs=2), episodes(5), tmp_path / "stopped")
    monkeypatch.undo()
    (tmp_path / "stopped").rename(tmp_path / "moved")
    resumed = run_sft(SFTSettings(**SMALL, epochs=2), episodes(5), tmp_path / "moved", resume=True)
    assert resumed.validations == whole.validations and not (tmp_path / "stopped").exists()
    for name in ("model/model.safetensors", "model/config.json"):
        assert (tmp_path / "moved" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()


def test_it_goes_on_with_its_own_settings_alone(tmp_path: Path) -> None:
    settings = SFTSettings(**SMALL, epochs=2)
    with pytest.raises(CheckpointError, match=r"nothing holds no settings\.json"):
        run_sft(settings, iter(()), tmp_path / "nothing", resume=True)
    assert not (tmp_path / "nothing").exists()
    RunFolder(tmp_path).start(settings.resolved())
    with pytest.raises(CheckpointError, match=r"holds no last\.zip"):
        run_sft(settings, iter(()), tmp_path, resume=True)
    (tmp_path / "last.zip").touch()
    other = replace(settings, epochs=3, algorithm_kwargs={**settings.algorithm_kwargs, "batch_size": 4})
    with pytest.raises(SettingsError, match=r"algorithm_kwargs\.batch_size was 8, not 4; epochs was 2, not 3\."):
        run_sft(other, iter(()), tmp_path, resume=True)
    RunFolder(tmp_path).check_resumable(replace(settings, n_eval_states=3))


def test_a_new_run_leaves_nothing_to_go_on_from_of_an_earlier_one(tmp_path: Path) -> None:
    settings = SFTSettings(**SMALL, epochs=2)
    (tmp_path / "last.zip").touch()
    with pytest.raises(ValueError, match="no episodes"):
        run_sft(settings, iter(()), tmp_path)
    with pytest.raises(UnknownNameError):
        run_sft(replace(settings, lora={"targets": ["nowhere"]}), episodes(4), tmp_path)
    assert (tmp_path / "last.zip").exists(), "there was no new run"
    run_sft(replace(settings, epochs=0.1), episodes(4), tmp_path)
    assert zipfile.is_zipfile(tmp_path / "last.zip")
    assert RunFolder(tmp_path).settings == replace(settings, epochs=0.1).resolved()


def test_initial_states_that_were_demonstrated_are_counted_apart() -> None:
    outcomes = ((3, 0, True), (3, 7, False), (4, 0, True))
    records = tuple(EpisodeRecord(task, k, success, 10) for task, k, success in outcomes)
    evaluation = EvaluationResult("LIBERO-Goal-v0", "primitive", True, 0, {3: "a", 4: "b"}, records, {}, None)
    result = RunResult(SFTSettings(), Path(), {"after": {"greedy": evaluation}}, {3: {0}}, 1, {}, {}, 0.0)
    assert result.split_success(evaluation) == {"demonstrated": (1, 1), "held out": (1, 2)}


def test_it_is_judged_where_everyone_will_use_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[dict[str, Any]] = []

    def evaluate(*args: Any, env_kwargs: dict[str, Any], deterministic: bool, **kwargs: Any) -> EvaluationResult:
        asked.append(dict(env_kwargs))
        return EvaluationResult("LIBERO-Goal-v0", "primitive", deterministic, 0, {3: "a"}, RECORDS, {}, None)

    monkeypatch.setattr(stages, "evaluate_policy_on_suite", evaluate)
    settings = SFTSettings(**{**SMALL, "n_eval_states": 1, "assets": "primitive", "epochs": 0.3})
    result = run_sft(settings, episodes(4), tmp_path)
    assert set(result.after) == {"greedy", "sampled"} and "evaluation after" in result.seconds
    for kwargs in asked:
        tokenizer, own = kwargs.pop("action_tokenizer"), env_kwargs_for(tmp_path / "model")
        assert tokenizer.agrees_with(own.pop("action_tokenizer"))
        assert kwargs == {**own, "render_quality": "fast", "assets": "primitive"} and kwargs["image_size"] == 40
    assert len(asked) == 2


@pytest.mark.slow
def test_it_is_judged_in_the_simulator(tmp_path: Path) -> None:
    env = LiberoEnv("LIBERO-Goal-v0", task_ids=[8], action_type="continuous", image_size=64, render_quality="fast")
    expert = ScriptedExpert(env, np.random.default_rng(0))
    recorded = [collect_episode(env, expert, {"task_id": 8, "init_state_id": k}) for k in (0, 5)]
    env.close()
    settings = SFTSettings(**{**SMALL, "chunk_size": 8, "n_eval_states": 2, "n_envs": 1, "epochs": 0.2})
    result = run_sft(settings, recorded, tmp_path)
    for mode, evaluation in result.after.items():
        assert evaluation.n_episodes == 2 and evaluation.deterministic == (mode == "greedy")
        assert result.split_success(evaluation)["held out"][1] == 1
    assert set(json.loads((tmp_path / "results.json").read_text())["evaluations"]["after"]) == {"greedy", "sampled"}
