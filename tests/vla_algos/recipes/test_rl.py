"""A run is judged before and after, and goes on after it was stopped."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from vla_algos.recipes.hyperparams import load_recipe
from vla_algos.recipes.rl import RLSettings, run_rl
from vla_algos.token_ppo import TokenPPO


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
            run_rl(settings, tmp_path)
    assert not (tmp_path / "results.json").exists()
    before = json.loads((tmp_path / "before_greedy.json").read_text())
    result = run_rl(settings, tmp_path, resume=True)
    assert (result.n_timesteps, [record.timesteps for record in result.history]) == (16, [16])
    assert json.loads(json.dumps(result.before["greedy"].to_dict())) == before
    for evaluation in (*result.before.values(), *result.after.values()):
        assert [(e.task_id, e.init_state_id) for e in evaluation.episodes] == [(1, 0), (1, 1), (7, 0), (7, 1)]
        parts = result.split_success(evaluation)
        assert parts["trained on"][1] == parts["held out"][1] == 2
    assert {path.name for path in (tmp_path / "logs").iterdir()} == {"from_0", "from_8"}
    model = TokenPPO.load(tmp_path / "model.zip", device="cpu")
    assert len(model.success_sampler.starts) == 2


@pytest.mark.slow
def test_another_algorithm_needs_its_name_alone(tmp_path: Path) -> None:
    kwargs = {"group_size": 2, "n_groups": 1, "batch_size": 8}
    result = run_rl(small(algorithm="TokenGRPO", algorithm_kwargs=kwargs, n_eval_states=0, total_timesteps=1), tmp_path)
    assert result.n_timesteps > 1 and result.before == result.after == {}
    assert (tmp_path / "model" / "config.json").exists()
