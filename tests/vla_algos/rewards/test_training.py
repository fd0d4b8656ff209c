"""A reward model learns what films show, stops in time, and goes on after an interruption."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
import torch as th

from vla_algos.errors import FilmError
from vla_algos.rewards.compact import CompactRewardModel
from vla_algos.rewards.films import Film
from vla_algos.rewards.training import BEST, EPOCHS, train_reward_model
from vla_gym.envs.privileged import PRIVILEGED_NAMES
from vla_gym.tasks.registry import get_suite

TASKS = (0, 7)
TEXTS = {task_id: get_suite("goal").task(task_id).instruction for task_id in TASKS}


def film(start: int, is_success: bool, task_id: int) -> Film:
    """It gets brighter as the task gets done, which in a failure is less than half of the way."""
    n = 5
    done = np.linspace(0.0, 1.0 if is_success else 0.4, n)
    frames = np.zeros((n, 64, 64, 3), np.uint8)
    frames[:] = (20 + 2 * start + 200 * done).astype(np.uint8)[:, None, None, None]
    privileged = np.zeros((n, len(PRIVILEGED_NAMES)), np.float32)
    for name, values in (("exists", 1.0), ("is_turnon", 1.0), ("joint_distance", 1.0 - done)):
        privileged[:, PRIVILEGED_NAMES.index(f"atom0/{name}")] = values
    steps = np.arange(n) * 8
    return Film(
        frames, steps, np.zeros((n, 8), np.float32), TEXTS[task_id], task_id, start, is_success, "me", privileged
    )


def films(starts) -> list[Film]:
    return [film(k, is_success, task_id) for k in starts for is_success in (True, False) for task_id in TASKS]


def start() -> CompactRewardModel:
    return CompactRewardModel.start_from("nano", seed=0)


def parameters(model: CompactRewardModel) -> dict[str, th.Tensor]:
    return {name: tensor.clone() for name, tensor in model.vla.state_dict().items()}


def test_the_best_model_is_kept_and_tells_successes_it_has_not_seen(tmp_path):
    model = start()
    history = train_reward_model(
        model, films(range(6)), films([6, 7]), tmp_path, epochs=6, learning_rate=2e-3, batch_size=32
    )
    best = min(history, key=lambda epoch: epoch.held_out_loss)
    assert best.held_out_loss < 0.8 * history[0].held_out_loss and best.auc_last == 1.0
    assert [epoch.epoch for epoch in history] == list(range(1, len(history) + 1))
    assert json.loads((tmp_path / EPOCHS).read_text())["epochs"][0]["train_loss"] == history[0].train_loss
    kept = CompactRewardModel.load(tmp_path / BEST)
    assert all(th.equal(tensor, parameters(model)[name]) for name, tensor in kept.vla.state_dict().items())


def test_a_resumed_training_draws_what_an_uninterrupted_one_does(tmp_path):
    arguments = {"learning_rate": 1e-3, "batch_size": 16}
    whole, parts = start(), start()
    history = train_reward_model(whole, films([0, 1]), films([2]), tmp_path / "whole", epochs=3, **arguments)
    train_reward_model(parts, films([0, 1]), films([2]), tmp_path / "parts", epochs=1, **arguments)
    resumed = train_reward_model(
        start(), films([0, 1]), films([2]), tmp_path / "parts", epochs=3, resume=True, **arguments
    )
    assert resumed == history


def test_training_stops_when_held_out_films_get_no_better(tmp_path):
    # what is held out contradicts what is learned
    wrong = [replace(each, privileged=each.privileged[::-1].copy()) for each in films([1])]
    history = train_reward_model(
        start(), films([0]), wrong, tmp_path, epochs=30, patience=2, learning_rate=5e-3, negatives=0.0
    )
    best = min(history, key=lambda epoch: epoch.held_out_loss)
    assert len(history) == best.epoch + 2 < 30


def test_films_are_needed_on_both_sides(tmp_path):
    with pytest.raises(FilmError, match="4 films to train on and 0 held out"):
        train_reward_model(start(), films([0]), [], tmp_path)
