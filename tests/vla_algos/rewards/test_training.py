"""A reward model learns what films show, stops in time, and goes on after an interruption."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch as th
from torch import nn

from vla_algos.errors import FilmError, SettingsError, TrainingDivergedError
from vla_algos.rewards.compact import CompactRewardModel
from vla_algos.rewards.films import Film
from vla_algos.rewards.loading import load_reward_model
from vla_algos.rewards.training import BEST, EPOCHS, LOGS, train_reward_model
from vla_algos.rewards.vlm import VLMRewardModel
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


def start(**kwargs) -> CompactRewardModel:
    return CompactRewardModel.start_from("nano", seed=0, **kwargs)


class Lamp:
    """The smallest model that can be trained: it weighs the brightness of the current frame, and forgets some of it."""

    key, outputs = "agentview", ("progress",)

    def __init__(self) -> None:
        th.manual_seed(0)
        self.net = nn.Sequential(nn.Linear(1, 8), nn.Dropout(0.5), nn.Linear(8, 1))
        self.net.eval()
        self.batches: list[tuple[th.Tensor, list[str], th.Tensor]] = []
        self.n_encoded, self.factor = 0, 1.0

    def describe(self):
        return "a lamp"

    def parameters(self):
        return list(self.net.parameters())

    def train(self, mode=True):
        self.net.train(mode)

    def encode(self, images):
        self.n_encoded += len(images)
        return th.from_numpy(images[:, 0, 0, :1].astype(np.float32) / 255)

    def begin(self, encoded):
        self.begun = [len(film) for film in encoded]

    def loss(self, seen, instructions, targets):
        if self.net.training:
            self.batches.append((seen, list(instructions), targets))
        logits = self.net(seen[:, 1])[:, 0]
        return self.factor * nn.functional.binary_cross_entropy_with_logits(logits, targets[:, 0])

    @th.no_grad()
    def progress(self, seen, instructions):
        return self.net(seen[:, 1])[:, 0].sigmoid()

    def save(self, folder):
        folder.mkdir(parents=True, exist_ok=True)
        th.save(self.net.state_dict(), folder / "net.pt")

    def restore(self, folder):
        self.net.load_state_dict(th.load(folder / "net.pt", weights_only=True))


def weights(model: Lamp) -> list[th.Tensor]:
    return [parameter.detach().clone() for parameter in model.parameters()]


@pytest.mark.slow
def test_the_best_compact_model_is_kept_and_tells_successes_it_has_not_seen(tmp_path):
    model = start()
    history = train_reward_model(
        model, films(range(6)), films([6, 7]), tmp_path, epochs=6, learning_rate=2e-3, batch_size=32
    )
    best = min(history, key=lambda epoch: epoch.held_out_loss)
    assert best.held_out_loss < 0.8 * history[0].held_out_loss and best.auc_last == 1.0
    kept, own = CompactRewardModel.load(tmp_path / BEST).vla.state_dict(), model.vla.state_dict()
    assert all(th.equal(tensor, own[name]) for name, tensor in kept.items())


def test_a_compact_model_learns_all_its_outputs_and_resumes_them(tmp_path):
    outputs = ("progress", "success")
    arguments = {"learning_rate": 1e-3, "batch_size": 8, "max_examples": 16}
    history = train_reward_model(
        start(outputs=outputs), films([0]), films([2]), tmp_path / "whole", epochs=2, **arguments
    )
    train_reward_model(start(outputs=outputs), films([0]), films([2]), tmp_path / "parts", epochs=1, **arguments)
    other = start(outputs=outputs)
    resumed = train_reward_model(other, films([0]), films([2]), tmp_path / "parts", epochs=2, resume=True, **arguments)
    assert resumed == history and history[1].train_loss < history[0].train_loss
    found = load_reward_model(tmp_path / "parts" / BEST)
    assert found.outputs == outputs and found.heads.weight.abs().sum() > 0
    th.testing.assert_close(found.heads.weight, other.heads.weight, rtol=0, atol=1e-4)


def test_a_vlm_learns_with_its_adapters_and_resumes_to_the_same_figures(tiny_vlm, tmp_path):
    for part in tiny_vlm:
        part.save_pretrained(tmp_path / "base")

    def begin(seed: int) -> VLMRewardModel:
        th.manual_seed(seed)
        return VLMRewardModel.start_from(tmp_path / "base", rank=2, dropout=0.2, dtype=th.float32)

    arguments = {"batch_size": 4, "micro_batch_size": 2, "max_examples": 8, "learning_rate": 1e-2}
    whole, parts = begin(0), begin(0)
    history = train_reward_model(whole, films([0]), films([2]), tmp_path / "whole", epochs=2, **arguments)
    train_reward_model(parts, films([0]), films([2]), tmp_path / "parts", epochs=1, **arguments)
    resumed = train_reward_model(
        begin(7), films([0]), films([2]), tmp_path / "parts", epochs=2, resume=True, **arguments
    )
    assert resumed == history
    found = load_reward_model(tmp_path / "parts" / BEST)
    assert isinstance(found, VLMRewardModel)
    (one,) = films([2])[:1]
    pairs = np.stack([one.frames[[0, -1]]])
    np.testing.assert_allclose(found.score(pairs, ["x"]), whole.score(pairs, ["x"]), atol=2e-2)
    assert "base, of which" in (tmp_path / "whole" / BEST / "README.md").read_text()


def test_a_resumed_training_draws_what_an_uninterrupted_one_does(tmp_path):
    whole, parts = Lamp(), Lamp()
    history = train_reward_model(whole, films([0, 1]), films([2]), tmp_path / "whole", epochs=4, batch_size=16)
    train_reward_model(parts, films([0, 1]), films([2]), tmp_path / "parts", epochs=2, batch_size=16)
    th.manual_seed(99)
    resumed = Lamp()
    # what is learned is random in dropout, too
    again = train_reward_model(
        resumed, films([0, 1]), films([2]), tmp_path / "parts", epochs=4, batch_size=16, resume=True
    )
    assert again == history
    assert all(th.equal(one, other) for one, other in zip(weights(whole), weights(resumed), strict=True))
    assert sorted(path.name for path in (tmp_path / "parts").iterdir()) == [BEST, EPOCHS, "last_4", LOGS]


def test_a_training_that_was_broken_off_while_it_saved_repeats_the_pass(tmp_path):
    train_reward_model(Lamp(), films([0]), films([2]), tmp_path, epochs=1)
    figures = (tmp_path / EPOCHS).read_text()
    shutil.copytree(tmp_path / "last_1", tmp_path / "kept")
    history = train_reward_model(Lamp(), films([0]), films([2]), tmp_path, epochs=2, resume=True)
    # as if the second pass had not got to its last line
    (tmp_path / EPOCHS).write_text(figures)
    (tmp_path / "kept").rename(tmp_path / "last_1")
    assert train_reward_model(Lamp(), films([0]), films([2]), tmp_path, epochs=2, resume=True) == history


def test_resuming_with_other_settings_is_refused(tmp_path):
    train_reward_model(Lamp(), films([0]), films([2]), tmp_path, epochs=1)
    with pytest.raises(SettingsError, match=r"was trained with learning_rate=0\.0003, not 0\.1"):
        train_reward_model(Lamp(), films([0]), films([2]), tmp_path, epochs=2, learning_rate=0.1, resume=True)
    train_reward_model(Lamp(), films([0]), films([2]), tmp_path, epochs=2, patience=9, resume=True)


def test_resuming_what_was_never_begun_begins(tmp_path):
    assert len(train_reward_model(Lamp(), films([0]), films([2]), tmp_path, epochs=1, resume=True)) == 1


def test_training_does_not_touch_the_global_random_numbers(tmp_path):
    th.manual_seed(3)
    expected = th.rand(1)
    lamp = Lamp()
    th.manual_seed(3)
    train_reward_model(lamp, films([0]), films([2]), tmp_path, epochs=1)
    assert th.equal(th.rand(1), expected)


def test_training_stops_when_held_out_films_get_no_better(tmp_path):
    # what is held out contradicts what is learned
    wrong = [replace(each, privileged=each.privileged[::-1].copy()) for each in films([1])]
    history = train_reward_model(
        Lamp(), films([0]), wrong, tmp_path, epochs=60, patience=2, learning_rate=5e-2, negatives=0.0
    )
    best = min(history, key=lambda epoch: epoch.held_out_loss)
    assert len(history) == best.epoch + 2 < 60


def test_the_best_weights_are_those_that_the_model_ends_with(tmp_path):
    model = Lamp()
    wrong = [replace(each, privileged=each.privileged[::-1].copy()) for each in films([1])]
    train_reward_model(model, films([0]), wrong, tmp_path, epochs=60, patience=2, learning_rate=5e-2, negatives=0.0)
    last, best = Lamp(), Lamp()
    last.restore(next(tmp_path.glob("last_*")))
    best.restore(tmp_path / BEST)
    assert all(th.equal(one, other) for one, other in zip(weights(model), weights(best), strict=True))
    assert not th.equal(weights(model)[0], weights(last)[0])


def test_gradients_of_micro_batches_add_up_to_that_of_a_batch(tmp_path):
    def trained(**arguments) -> list[th.Tensor]:
        model = Lamp()
        model.net[1].p = 0.0
        shutil.rmtree(tmp_path, ignore_errors=True)
        train_reward_model(model, films([0]), films([2]), tmp_path, epochs=1, learning_rate=1e-2, **arguments)
        return weights(model)

    whole = trained(batch_size=16)
    for size in (1, 5, 16, 99):
        for one, other in zip(whole, trained(batch_size=16, micro_batch_size=size), strict=True):
            np.testing.assert_allclose(one, other, atol=1e-5)
    assert not np.allclose(whole[0], trained(batch_size=4)[0], atol=1e-5)


def test_a_pass_has_at_most_max_examples_and_other_ones_each_time(tmp_path):
    model = Lamp()
    train_reward_model(
        model, films([0, 1]), films([2]), tmp_path, epochs=2, max_examples=10, batch_size=8, micro_batch_size=1
    )
    assert [len(texts) for _, texts, _ in model.batches] == [1] * 20
    passes = [[float(seen[0, 1, 0]) for seen, _, _ in model.batches[k : k + 10]] for k in (0, 10)]
    assert passes[0] != passes[1]


def test_images_are_encoded_once_whatever_the_number_of_passes(tmp_path):
    model = Lamp()
    train_reward_model(model, films([0]), films([2]), tmp_path, epochs=3)
    assert model.n_encoded == sum(map(len, [*films([0]), *films([2])]))


def test_what_is_more_than_half_done_is_drawn_as_often_as_the_rest(tmp_path):
    model = Lamp()
    train_reward_model(model, films(range(8)), films([8]), tmp_path, epochs=4)
    drawn = th.cat([targets[:, 0] for _, _, targets in model.batches])
    assert 0.45 < float((drawn > 0.5).float().mean()) < 0.55


def test_the_instruction_of_a_held_out_task_is_never_answered_with_no(tmp_path):
    under = {text: np.zeros(5, np.float32) for text in TEXTS.values()}
    every = [
        replace(each, progress_under={text: row for text, row in under.items() if text != each.instruction})
        for each in films([0, 1])
    ]
    sides = [[each for each in every if each.task_id == task_id] for task_id in TASKS]
    model = Lamp()
    train_reward_model(model, *sides, tmp_path, epochs=1)
    assert {text for _, texts, _ in model.batches for text in texts} == {TEXTS[0]}
    asked = Lamp()
    train_reward_model(asked, *sides, tmp_path, epochs=1, instructions={0: [TEXTS[7]], 7: []})
    assert {text for _, texts, _ in asked.batches for text in texts} == set(TEXTS.values())


def test_figures_go_to_tensorboard_and_a_file(tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    history = train_reward_model(Lamp(), films([0, 1]), films([2]), tmp_path, epochs=2)
    train_reward_model(Lamp(), films([0, 1]), films([2]), tmp_path, epochs=3, resume=True)
    found = EventAccumulator(str(tmp_path / LOGS / "from_0")).Reload()
    assert [(e.step, e.value) for e in found.Scalars("reward/held_out_loss")] == [
        (epoch.epoch, pytest.approx(epoch.held_out_loss)) for epoch in history
    ]
    later = EventAccumulator(str(tmp_path / LOGS / "from_2")).Reload()
    assert [e.step for e in later.Scalars("reward/auc_last")] == [3]
    kept = json.loads((tmp_path / EPOCHS).read_text())
    assert kept["epochs"][0]["train_loss"] == history[0].train_loss and kept["settings"]["batch_size"] == 64


def test_the_card_says_what_was_learned_from_and_how_far_progress_can_be_trusted(tmp_path):
    bare = replace(films([3])[0], privileged=None)
    held_out = [replace(each, source="other") for each in films([2])]
    history = train_reward_model(Lamp(), [*films([0, 1]), bare], held_out, tmp_path, epochs=2)
    text = (tmp_path / BEST / "README.md").read_text()
    assert text.startswith("---\nlibrary_name: vla-gym\n") and "It is a lamp." in text
    assert "Learned from: 8 films, 4 of them successes, 40 frames; by me. 1 left out: no privileged" in text
    assert "Held out: 4 films, 2 of them successes, 20 frames; by other." in text
    assert "Held out alone: tasks none; initial states 2; policies other." in text
    assert f"| 7 | {TEXTS[7]} | 2/4 | 1/2 |" in text and "| batch_size | 64 |" in text
    assert "| epoch | train_loss | held_out_loss | auc_last |" in text
    assert f"| 2 | {history[1].train_loss:.4g} | {history[1].held_out_loss:.4g} |" in text
    rows = text.split("| mean progress | share of successes | films |")[1].splitlines()[2:]
    assert sum(int(row.split("|")[3]) for row in rows if row) == 4


def test_films_are_needed_on_both_sides(tmp_path):
    with pytest.raises(FilmError, match=r"4 films to train on and 0 held out; expected some of both\.$"):
        train_reward_model(Lamp(), films([0]), [], tmp_path)
    bare = [replace(each, privileged=None) for each in films([1])]
    with pytest.raises(FilmError, match=r"0 held out.*Left out were films with no privileged observations"):
        train_reward_model(Lamp(), films([0]), bare, tmp_path)


def test_a_film_on_both_sides_is_refused(tmp_path):
    with pytest.raises(FilmError, match=r"4 of 8 held-out films are among those to train on.*split_films"):
        train_reward_model(Lamp(), films([0, 1]), films([1, 2]), tmp_path)


def test_a_text_in_place_of_a_list_of_texts_is_refused(tmp_path):
    with pytest.raises(TypeError, match=r"instructions\[0\] is 'shut it'; expected a list of texts"):
        train_reward_model(Lamp(), films([0]), films([1]), tmp_path, instructions={0: "shut it"})


def test_held_out_films_of_one_kind_alone_leave_the_auc_open(tmp_path):
    successes = [each for each in films([2]) if each.is_success]
    history = train_reward_model(Lamp(), films([0]), successes, tmp_path, epochs=1)
    assert np.isnan(history[0].auc_last)
    again = train_reward_model(Lamp(), films([0]), successes, tmp_path, epochs=2, resume=True)
    assert again[0].held_out_loss == history[0].held_out_loss


def test_an_output_that_no_film_knows_is_refused(tmp_path):
    # nothing of turning knobs can be held
    with pytest.raises(FilmError, match="No film to train on says 'held'"):
        train_reward_model(start(outputs=("progress", "held")), films([0]), films([1]), tmp_path)


def test_a_loss_that_is_not_finite_ends_the_training(tmp_path):
    model = Lamp()
    model.factor = float("inf")
    with pytest.raises(TrainingDivergedError, match="The loss is inf in epoch 1"):
        train_reward_model(model, films([0]), films([1]), tmp_path)
    assert all(th.isfinite(each).all() for each in weights(model))


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"epochs": 0}, "epochs is 0; expected at least 1"),
        ({"batch_size": 0}, "batch_size is 0"),
        ({"micro_batch_size": 0}, "micro_batch_size is 0"),
        ({"max_examples": 0}, "max_examples is 0"),
        ({"patience": 0}, "patience is 0"),
        ({"learning_rate": float("nan")}, "learning_rate is nan; expected a finite number above 0"),
        ({"max_grad_norm": 0.0}, r"max_grad_norm is 0\.0"),
        ({"negatives": 1.0}, r"negatives is 1\.0"),
    ],
)
def test_numbers_out_of_range_are_refused(wrong, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        train_reward_model(Lamp(), films([0]), films([1]), tmp_path, **wrong)
    assert not (tmp_path / EPOCHS).exists()


def test_the_paper_learns_from_successes_alone_and_asks_nothing_else(tmp_path):
    def traced(starts) -> list[Film]:
        moving = np.cumsum(np.abs(np.sin(np.arange(32) / 4)))[:, None] * np.full(8, 0.01)
        return [replace(each, trace=moving.astype(np.float32)) for each in films(starts)]

    model = Lamp()
    train_reward_model(model, traced(range(3)), traced([5]), tmp_path, targets="paper", epochs=1, batch_size=8)
    # five frames of each of six successes, drawn by label
    assert sum(len(texts) for _, texts, _ in model.batches) == 30
    assert {float(p) for *_, targets in model.batches for p in targets} == {0.0, 1.0}
    card = (tmp_path / BEST / "README.md").read_text()
    assert "6 left out: failed (the paper learns from successes)" in card
    other = Lamp()
    train_reward_model(other, traced(range(3)), traced([5]), tmp_path / "truth", epochs=1, batch_size=8)
    assert sum(len(texts) for _, texts, _ in other.batches) == 120
