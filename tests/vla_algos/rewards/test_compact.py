"""The backbone of a small VLA judges two frames and an instruction."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch as th
from safetensors.torch import load_file, save_file

from vla_algos.errors import CheckpointError, RewardModelError, UnknownNameError
from vla_algos.models import load_vla
from vla_algos.rewards.compact import CompactRewardModel
from vla_algos.rewards.model import OUTPUTS, REWARD_FILE

TEXTS = ["open the drawer", "put the bowl on the plate", "turn it on", "open the drawer", "turn it on"]


@pytest.fixture(scope="module")
def model():
    return CompactRewardModel.start_from("nano", seed=0)


@pytest.fixture
def frames():
    return np.random.default_rng(0).integers(0, 256, (5, 2, 64, 64, 3), np.uint8)


def test_it_starts_with_the_weights_of_the_vla_and_without_proprioception(model):
    base = load_vla("nano", seed=0)
    own, theirs = model.vla.state_dict(), base.state_dict()
    assert own.keys() < theirs.keys() and model.vla.config.proprio_dim == 0
    assert all(th.equal(tensor, theirs[name]) for name, tensor in own.items())
    assert all("proprio" in name or "value" in name for name in theirs.keys() - own.keys())


def test_scores_are_probabilities_and_rows_do_not_depend_on_each_other(model, frames):
    whole = model.score(frames, TEXTS)
    assert whole.shape == (5,) and whole.dtype == np.float32 and (whole > 0).all() and (whole < 1).all()
    alone = [model.score(frames[[i]], [TEXTS[i]])[0] for i in range(5)]
    np.testing.assert_allclose(alone, whole, atol=1e-5)
    small = CompactRewardModel(model.vla, batch_size=2)
    np.testing.assert_allclose(small.score(frames, TEXTS), whole, atol=1e-5)
    assert model.score(frames[:0], []).shape == (0,)


def test_it_sees_both_frames_in_their_order_and_reads_the_instruction(model, frames):
    (usual,) = model.score(frames[:1], ["open it"])
    other = frames[:1].copy()
    other[:, 0] = frames[1, 0]
    for changed, text in ((other, "open it"), (frames[:1, ::-1], "open it"), (frames[:1], "shut it")):
        assert model.score(changed, [text])[0] != usual


def test_it_learns_and_its_towers_stay(frames):
    model = CompactRewardModel.start_from("nano", seed=0)
    towers = {name: tensor.clone() for name, tensor in model.vla.vision_backbone.state_dict().items()}
    targets = th.tensor([1.0, 0.0, 1.0, 0.0, 0.5])
    features = model.encode(frames.reshape(-1, 64, 64, 3)).reshape(5, 2, -1, model.vla.config.towers[0].width)
    optimizer = th.optim.Adam([p for p in model.vla.parameters() if p.requires_grad], lr=1e-2)
    first = float(model.loss(features, TEXTS, targets).detach())
    for _ in range(30):
        optimizer.zero_grad()
        loss = model.loss(features, TEXTS, targets)
        loss.backward()
        optimizer.step()
    assert float(loss.detach()) < 0.2 < first
    np.testing.assert_allclose(model.score(frames, TEXTS), targets, atol=0.15)
    assert all(th.equal(tensor, towers[name]) for name, tensor in model.vla.vision_backbone.state_dict().items())


def test_a_folder_gives_back_the_same_scores(model, frames, tmp_path):
    model.save(tmp_path / "reward")
    loaded = CompactRewardModel.load(tmp_path / "reward")
    np.testing.assert_allclose(loaded.score(frames, TEXTS), model.score(frames, TEXTS), atol=1e-4)
    model.save(tmp_path / "half", dtype=th.bfloat16)
    np.testing.assert_allclose(
        CompactRewardModel.load(tmp_path / "half").score(frames, TEXTS), loaded.score(frames, TEXTS), atol=0.05
    )


def test_folders_of_something_else_are_named(model, tmp_path):
    with pytest.raises(CheckpointError, match=rf"holds no {REWARD_FILE}"):
        CompactRewardModel.load(tmp_path)
    model.save(tmp_path / "reward")
    for content in ({"key": 3, "answers": ["1", "0"]}, {"key": "agentview"}, {"key": "agentview", "answers": ["1"]}):
        (tmp_path / "reward" / REWARD_FILE).write_text(json.dumps(content))
        with pytest.raises(CheckpointError, match="expected a camera as 'key' and two 'answers'"):
            CompactRewardModel.load(tmp_path / "reward")


def test_a_policy_is_no_reward_model(model):
    with pytest.raises(RewardModelError, match=r"8 numbers of proprioception; expected one camera and none"):
        CompactRewardModel(load_vla("compact-libero-goal"))
    with pytest.raises(RewardModelError, match="answer 'finished' is"):
        CompactRewardModel(model.vla, answers=("finished", "0"))


def encoded(model, frames):
    return model.encode(frames.reshape(-1, *frames.shape[2:])).unflatten(0, (-1, 2))


def test_what_it_sees_is_standardised_by_the_films_it_learns_from_first(frames, tmp_path):
    model = CompactRewardModel.start_from("nano", seed=0)
    before = model.score(frames, TEXTS)
    films = list(model.encode(frames.reshape(-1, *frames.shape[2:])).split([3, 7]))
    # a channel that never changes
    for film in films:
        film[:, 2, 5] = 4.0
    model.begin(films)
    whole = th.cat(films)
    np.testing.assert_allclose(model.input_mean, whole.mean(0), atol=1e-5)
    np.testing.assert_allclose(model.input_std, whole.std(0, correction=0) + 0.02, atol=1e-5)
    assert model.input_std[2, 5] == pytest.approx(0.02)
    standardised = (encoded(model, frames) - model.input_mean) / model.input_std
    twin = CompactRewardModel(model.vla)
    expected = twin.progress(standardised, TEXTS)
    np.testing.assert_allclose(model.score(frames, TEXTS), expected, atol=1e-5)
    assert np.abs(model.score(frames, TEXTS) - before).max() > 1e-4
    mean = model.input_mean.clone()
    model.begin([film + 1 for film in films])
    assert th.equal(model.input_mean, mean), "what has learned keeps its inputs"
    model.save(tmp_path)
    other = CompactRewardModel.start_from("nano", seed=0)
    other.restore(tmp_path)
    for each in (CompactRewardModel.load(tmp_path), other):
        np.testing.assert_allclose(each.score(frames, TEXTS), model.score(frames, TEXTS), atol=1e-4)


@pytest.mark.parametrize(
    "wrong",
    [{"input_mean": th.zeros(4, 3)}, {"input_std": th.zeros(4, 48)}, {"input_mean": th.zeros(4, 48)}],
)
def test_statistics_that_do_not_fit_are_refused(model, frames, tmp_path, wrong):
    fresh = CompactRewardModel.start_from("nano", seed=0)
    fresh.begin([encoded(fresh, frames)[:, 0]])
    fresh.save(tmp_path)
    path = tmp_path / "reward.safetensors"
    save_file(load_file(path) | wrong, path)
    with pytest.raises(CheckpointError, match="statistics of shapes"):
        CompactRewardModel.load(tmp_path)


def test_further_outputs_add_their_cross_entropy_and_unknown_targets_nothing(frames):
    plain, model = (
        CompactRewardModel.start_from("nano", seed=0),
        CompactRewardModel.start_from("nano", outputs=OUTPUTS, seed=0),
    )
    features, progress = encoded(model, frames), th.tensor([1.0, 0.0, 1.0, 0.0, 0.5])
    with th.no_grad():
        model.heads.bias[:] = th.tensor([0.5, -2.0])
    nan = float("nan")
    further = th.tensor([[1.0, 0.0], [0.0, 1.0], [nan, 0.0], [nan, nan], [nan, nan]])
    found = model.loss(features, TEXTS, th.column_stack([progress, further]))
    held, success = th.sigmoid(th.tensor([0.5, -2.0]))
    entropy = -(held.log() + (1 - held).log() + 2 * (1 - success).log() + success.log()) / 5
    expected = plain.loss(features, TEXTS, progress) + entropy
    assert float(found.detach()) == pytest.approx(float(expected.detach()), abs=1e-5)
    assert th.isfinite(found)
    np.testing.assert_allclose(model.score(frames, TEXTS), plain.score(frames, TEXTS), atol=1e-4)


def test_further_outputs_learn_and_a_folder_gives_them_back(frames, tmp_path):
    model = CompactRewardModel.start_from("nano", outputs=("progress", "success"), seed=0)
    targets = th.tensor([[1.0, 1.0], [0.0, 0.0], [1.0, 0.0], [0.0, 1.0], [0.5, float("nan")]])
    features = encoded(model, frames)
    optimizer = th.optim.Adam(model.parameters(), lr=1e-2)
    for _ in range(30):
        optimizer.zero_grad()
        model.loss(features, TEXTS, targets).backward()
        optimizer.step()
    found = model.judge(frames, TEXTS)
    np.testing.assert_allclose(found["success"][:4], [1, 0, 0, 1], atol=0.25)
    np.testing.assert_allclose(found["progress"], model.score(frames, TEXTS), atol=1e-6)
    model.save(tmp_path)
    loaded, restored = (
        CompactRewardModel.load(tmp_path),
        CompactRewardModel.start_from("nano", outputs=model.outputs, seed=1),
    )
    restored.restore(tmp_path)
    for each in (loaded, restored):
        assert each.outputs == ("progress", "success")
        np.testing.assert_allclose(each.judge(frames, TEXTS)["success"], found["success"], atol=1e-4)
    np.testing.assert_allclose(restored.score(frames, TEXTS), model.score(frames, TEXTS), atol=1e-4)
    (tmp_path / "reward.safetensors").unlink()
    with pytest.raises(
        CheckpointError, match=r"reward\.safetensors is not what reward\.json promises, .* heads for success"
    ):
        CompactRewardModel.load(tmp_path)


def test_unknown_outputs_are_named_and_progress_comes_first(model):
    with pytest.raises(UnknownNameError, match=r"output 'grasped'.*progress, held, success"):
        CompactRewardModel(model.vla, outputs=("progress", "grasped"))
    for wrong in ((), ("held",), ("progress", "held", "held")):
        with pytest.raises(RewardModelError, match="expected 'progress' first, and each name once"):
            CompactRewardModel(model.vla, outputs=wrong)


def test_answers_in_a_folder_that_are_not_two_tokens_are_refused_at_load(model, tmp_path):
    model.save(tmp_path)
    for answers, message in (
        (["finished", "0"], "answer 'finished' is"),
        (["1", "1"], "'1' and '1' are the same token"),
    ):
        (tmp_path / REWARD_FILE).write_text(json.dumps({"kind": "compact", "key": "agentview", "answers": answers}))
        with pytest.raises(RewardModelError, match=message):
            CompactRewardModel.load(tmp_path)


def test_a_folder_of_another_kind_is_named(model, tmp_path):
    model.save(tmp_path)
    (tmp_path / REWARD_FILE).write_text(json.dumps({"kind": "vlm", "key": "agentview", "answers": ["1", "0"]}))
    with pytest.raises(CheckpointError, match=r"expected kind 'compact'.*load_reward_model"):
        CompactRewardModel.load(tmp_path)
