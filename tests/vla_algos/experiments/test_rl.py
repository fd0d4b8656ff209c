"""A run is judged before and after, and goes on after it was stopped, with its own settings."""

from __future__ import annotations

import json
import re
import threading
from dataclasses import replace
from pathlib import Path

import pytest
import torch as th
from safetensors.torch import load_file

from vla_algos.algorithms import TokenPPO
from vla_algos.errors import CheckpointError, SettingsError, UnknownNameError
from vla_algos.experiments import rl
from vla_algos.experiments.recipe import load_recipe
from vla_algos.experiments.rl import run_rl
from vla_algos.experiments.run_folder import RunFolder
from vla_algos.experiments.settings import RLSettings
from vla_algos.models import load_vla, save_vla
from vla_algos.models.loading import load_info
from vla_algos.policies import VLAPolicy
from vla_gym.errors import FolderInUseError
from vla_gym.owned import own_folder


def small(**changes) -> RLSettings:
    settings = load_recipe(
        "goal", task_ids=[1, 7], n_train_states=1, n_envs=2, n_eval_states=2, assets="primitive", total_timesteps=16
    )
    kwargs = {**settings.algorithm_kwargs, "n_steps": 4, "batch_size": 8}
    return replace(settings, **{"algorithm_kwargs": kwargs, **changes})


@pytest.mark.slow
def test_a_stopped_run_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = small()
    settings.algorithm_kwargs["checkpoint_interval"] = 1
    train = TokenPPO.train

    def stop(model: TokenPPO) -> None:
        train(model)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(TokenPPO, "train", stop)
        with pytest.raises(KeyboardInterrupt):
            run_rl(settings, tmp_path / "run")
    assert not (tmp_path / "run" / "results.json").exists()
    folder = (tmp_path / "run").rename(tmp_path / "moved")
    before = json.loads((folder / "before_greedy.json").read_text())
    (first,) = json.loads((folder / "history.json").read_text())
    # and a roll-out that was undone
    undone = {**first, "timesteps": 16, "seconds": 9e9}
    (folder / "history.json").write_text(json.dumps([{**first, "seconds": 5000.0}, undone]))
    saved_at = (folder / "last.zip").stat().st_mtime_ns
    result = run_rl(settings, folder, resume=True)
    assert (folder / "last.zip").stat().st_mtime_ns > saved_at and not (tmp_path / "run").exists()
    assert (result.n_timesteps, [record.timesteps for record in result.history]) == (16, [8, 16])
    assert 5000.0 < result.seconds["training"] < 9e9
    assert json.loads((folder / "history.json").read_text())[-1]["seconds"] == result.seconds["training"]
    assert json.loads(json.dumps(result.before["greedy"].to_dict())) == before
    for evaluation in (*result.before.values(), *result.after.values()):
        assert [(e.task_id, e.init_state_id) for e in evaluation.episodes] == [(1, 0), (1, 1), (7, 0), (7, 1)]
        parts = result.split_success(evaluation)
        assert parts["trained on"][1] == parts["held out"][1] == 2
    assert {path.name for path in (folder / "logs").iterdir()} == {"from_0", "from_8"}
    model = TokenPPO.load(folder / "model.zip", device="cpu")
    assert len(model.success_sampler.starts) == 2
    assert result.task_counts == model.success_sampler.task_counts() and set(result.task_counts) == {1, 7}
    stored = json.loads((folder / "results.json").read_text())["task_counts"]
    assert stored == {str(task_id): list(counts) for task_id, counts in result.task_counts.items()}


@pytest.mark.slow
def test_another_algorithm_needs_its_name_alone(tmp_path: Path) -> None:
    kwargs = {"group_size": 2, "n_groups": 1, "batch_size": 8}
    result = run_rl(small(algorithm="TokenGRPO", algorithm_kwargs=kwargs, n_eval_states=0, total_timesteps=1), tmp_path)
    assert result.n_timesteps > 1 and result.before == result.after == {}
    assert (tmp_path / "model" / "config.json").exists()


@pytest.mark.slow
def test_training_is_the_same_with_and_without_an_evaluation(tmp_path: Path) -> None:
    vla = load_vla("nano", seed=0, config_changes={"image_size": 32})
    # 40 commands at a time
    vla.config = replace(vla.config, chunk_size=40)
    save_vla(vla, tmp_path / "vla")
    kwargs = {"n_steps": 4, "batch_size": 2, "n_epochs": 2, "critic_warmup_iterations": 0}
    trained = []
    for n_eval_states in (0, 1):
        settings = RLSettings(
            vla=str(tmp_path / "vla"),
            task_ids=(8,),
            n_train_states=1,
            n_envs=1,
            total_timesteps=4,
            algorithm_kwargs=kwargs,
            assets="primitive",
            n_eval_states=n_eval_states,
        )
        result = run_rl(settings, tmp_path / str(n_eval_states))
        assert len(result.before) == (2 if n_eval_states else 0)
        trained.append(load_file(result.folder / "model" / "model.safetensors"))
    assert trained[0].keys() == trained[1].keys()
    assert all(th.equal(trained[0][name], trained[1][name]) for name in trained[0])
    start = load_file(tmp_path / "vla" / "model.safetensors")
    assert any(not th.equal(trained[0][name], start[name]) for name in start)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"seed": 4},
            r"other settings: seed was 3, not 4. Repeat its settings \(vla-rl train --resume does so where",
        ),
        ({"algorithm_kwargs": {"n_steps": 8}}, r"algorithm_kwargs\.n_steps was 4, not 8\."),
        ({"task_ids": (1, 2)}, r"task_ids was \[1\], not \[1, 2\]\."),
        (
            {"curriculum": {"scheme": "paper"}},
            r"curriculum was None, not absent; curriculum\.scheme was absent",
        ),
    ],
)
def test_a_run_goes_on_with_its_own_settings_alone(changes: dict, message: str, tmp_path: Path) -> None:
    settings = RLSettings(task_ids=(1,), seed=3, algorithm_kwargs={"n_steps": 4})
    RunFolder(tmp_path).start(settings)
    (tmp_path / "last.zip").touch()
    assert RunFolder(tmp_path).settings == settings
    RunFolder(tmp_path).check_resumable(replace(settings, n_eval_states=0))
    with pytest.raises(SettingsError, match=message):
        run_rl(replace(settings, **changes), tmp_path, resume=True)


def test_what_cannot_go_on_says_so(tmp_path: Path) -> None:
    settings = RLSettings()
    with pytest.raises(CheckpointError, match=r"nothing holds no settings\.json, so there is no run to resume"):
        run_rl(settings, tmp_path / "nothing", resume=True)
    assert not (tmp_path / "nothing").exists()
    RunFolder(tmp_path).start(settings)
    with pytest.raises(CheckpointError, match=r"no last\.zip: the run was stopped.*Start it again, without resume"):
        run_rl(settings, tmp_path, resume=True)
    (tmp_path / "settings.json").write_text('{"seeds": 1}')
    with pytest.raises(CheckpointError, match=r"does not hold the settings of a run \(unknown: seeds\)"):
        run_rl(settings, tmp_path, resume=True)
    (tmp_path / "settings.json").write_text('{"n_envs": 3}')
    assert RunFolder(tmp_path).settings == replace(settings, n_envs=3), "what is not there is as by default"


def test_a_new_run_leaves_nothing_to_go_on_from_of_an_earlier_one(tmp_path: Path) -> None:
    for name in (
        "last.zip",
        "history.json",
        "results.json",
        "before_greedy.json",
        "before_greedy.jsonl",
        "after_sampled.jsonl",
    ):
        (tmp_path / name).touch()
    RunFolder(tmp_path).start(RLSettings())
    assert [path.name for path in tmp_path.iterdir()] == ["settings.json"]


@pytest.mark.parametrize(
    "changes", [{"algorithm": "TokenPOP"}, {"curriculum": {"scheme": "forntier"}}, {"curriculum": {"tua": 1}}]
)
def test_mistakes_show_before_anything_is_started(
    changes: dict, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rl, "make_env", lambda settings: pytest.fail("environments were started"))
    with pytest.raises((UnknownNameError, TypeError), match=r"TokenPPO|frontier|tua"):
        run_rl(RLSettings(**changes), tmp_path)


def chunked(folder: Path) -> str:
    """A checkpoint that chooses 40 commands at a time, so that an episode takes eight decisions."""
    vla = load_vla("nano", seed=0, config_changes={"image_size": 32})
    vla.config = replace(vla.config, chunk_size=40)
    save_vla(vla, folder)
    return str(folder)


def quick(folder: Path, **changes) -> RLSettings:
    kwargs = {"n_steps": 4, "batch_size": 2, "n_epochs": 1, "critic_warmup_iterations": 0, "temperature": 1.5}
    settings = RLSettings(
        vla=chunked(folder), task_ids=(8,), n_train_states=1, n_envs=1, total_timesteps=4, algorithm_kwargs=kwargs,
        assets="primitive", n_eval_states=2,
    )  # fmt: skip
    return replace(settings, **changes)


@pytest.mark.slow
def test_every_stage_of_a_run_is_resumed_and_a_finished_run_is_extended(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings, folder = quick(tmp_path / "vla"), tmp_path / "run"
    predict, n_decisions = VLAPolicy.predict, 0

    def run(stop_at: int | None, resume: bool, settings: RLSettings = settings):
        """Ctrl-C at a decision of an evaluation."""
        nonlocal n_decisions
        n_decisions = 0

        def counted(*args, **kwargs):
            nonlocal n_decisions
            n_decisions += 1
            if n_decisions == stop_at:
                raise KeyboardInterrupt
            return predict(*args, **kwargs)

        with monkeypatch.context() as patch:
            patch.setattr(VLAPolicy, "predict", counted)
            return run_rl(settings, folder, resume=resume)

    with pytest.raises(KeyboardInterrupt):
        run(12, resume=False)
    assert "1 episode(s) evaluated before training are saved" in str(RunFolder(folder).what_was_saved())
    with pytest.raises(KeyboardInterrupt):
        run(36, resume=True)
    first = n_lines(folder / "before_greedy.jsonl"), n_lines(folder / "before_sampled.jsonl")
    assert first == (3, 3) and n_lines(folder / "after_greedy.jsonl") == 2
    assert re.search(r"saved in .*last\.zip: 4 decisions", str(RunFolder(folder).what_was_saved()))
    result = run(None, resume=True)
    assert n_decisions < 32 and result.n_timesteps == 4 and len(result.history) == 1
    record = load_info(folder / "model").record
    assert (record.temperature, record.trained_render_quality) == (1.5, "fast")
    assert result.after["sampled"].temperature == 1.5
    assert result.after["greedy"].checkpoint != result.before["greedy"].checkpoint
    # finished: nothing is left to do, and the result is the same
    again = run(None, resume=True)
    assert n_decisions == 0 and again.after == result.after and again.n_timesteps == 4
    with pytest.raises(SettingsError, match=r"total_timesteps is 3, but the run in .* has taken 4 decisions already"):
        run(None, True, replace(settings, total_timesteps=3))
    longer = run(None, True, replace(settings, total_timesteps=12, n_eval_states=1))
    assert (longer.n_timesteps, [record.timesteps for record in longer.history]) == (12, [4, 8, 12])
    assert RunFolder(folder).settings.total_timesteps == 12 and longer.before == result.before
    assert longer.after["greedy"].checkpoint != result.after["greedy"].checkpoint
    assert not list(folder.glob(".last*")) and not (folder / ".owner.json").exists()


def n_lines(path: Path) -> int:
    return len(path.read_text().splitlines())


def test_a_run_in_a_folder_that_is_in_use_changes_nothing_there(tmp_path: Path) -> None:
    RunFolder(tmp_path).start(RLSettings(seed=3))
    refused: list[str] = []

    def run() -> None:
        try:
            run_rl(RLSettings(seed=4, assets="primitive"), tmp_path)
        except FolderInUseError as error:
            refused.append(str(error))

    with own_folder(tmp_path):
        thread = threading.Thread(target=run)
        thread.start()
        thread.join()
    assert str(tmp_path) in refused[0] and RunFolder(tmp_path).settings.seed == 3


@pytest.mark.parametrize(
    "changes",
    [
        {"vla": "kompact"},
        {"env_id": "gaol"},
        {"task_ids": (12,)},
        {"assets": "/nowhere"},
        {"render_quality": "ful"},
        {"algorithm": "PPPO"},
        {"algorithm_kwargs": {"n_stepz": 3}},
        {"algorithm_kwargs": {"policy_kwargs": {"critic": "none"}}},
    ],
)
def test_a_wrong_name_leaves_no_folder_behind(changes: dict, tmp_path: Path) -> None:
    with pytest.raises((ValueError, TypeError, OSError)):
        run_rl(RLSettings(**{"assets": "primitive", "n_envs": 1, "task_ids": (8,), **changes}), tmp_path / "a" / "run")
    assert list(tmp_path.iterdir()) == []
