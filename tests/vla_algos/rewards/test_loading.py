"""Reward models of every kind are found by name or folder."""

from __future__ import annotations

import copy
import json

import numpy as np
import pytest
import torch as th

from vla_algos.errors import CheckpointError, RewardModelError, UnknownNameError
from vla_algos.rewards import load_reward_model, loading
from vla_algos.rewards.compact import CompactRewardModel
from vla_algos.rewards.model import REWARD_FILE, TrueProgress
from vla_algos.rewards.vlm import VLMRewardModel


@pytest.fixture(scope="module")
def compact_folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("shipped") / "small"
    CompactRewardModel.start_from("nano", seed=0).save(folder)
    return folder


def test_the_simulators_own_progress_has_a_name():
    assert isinstance(load_reward_model("true-progress"), TrueProgress)


def test_a_folder_says_which_kind_it_is(compact_folder, tiny_vlm, tmp_path):
    assert isinstance(load_reward_model(compact_folder), CompactRewardModel)
    assert isinstance(load_reward_model(str(compact_folder)), CompactRewardModel)
    VLMRewardModel(*tiny_vlm).save(tmp_path)
    found = load_reward_model(tmp_path)
    assert isinstance(found, VLMRewardModel)
    assert found.processor.tokenizer.get_vocab() == tiny_vlm[1].tokenizer.get_vocab()


def test_a_model_that_was_saved_before_there_were_kinds_is_a_compact_one(compact_folder, tmp_path):
    CompactRewardModel.load(compact_folder).save(tmp_path)
    (tmp_path / REWARD_FILE).write_text(json.dumps({"key": "agentview", "answers": ["1", "0"]}))
    found = load_reward_model(tmp_path)
    assert isinstance(found, CompactRewardModel) and found.outputs == ("progress",)


def test_shipped_models_are_found_by_name_and_listed(compact_folder, monkeypatch):
    monkeypatch.setattr(loading, "CHECKPOINTS_FOLDER", compact_folder.parent)
    assert isinstance(load_reward_model("small"), CompactRewardModel)
    with pytest.raises(
        UnknownNameError, match=r"reward model 'smal'.*'small'.*true-progress, small.*holds a reward\.json"
    ):
        load_reward_model("smal")
    with pytest.raises(UnknownNameError, match="reward model 'small'"):
        load_reward_model(loading.Path("small"))


@pytest.mark.parametrize("name", ["", "nothing", "a" * 5000])
def test_unknown_names_are_named(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UnknownNameError, match="Unknown reward model"):
        load_reward_model(name)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"kind": "huge", "key": "agentview", "answers": ["1", "0"]}, "says kind 'huge'; expected 'compact' or 'vlm'"),
        ({"kind": "vlm", "key": "agentview", "answers": ["1", "0"]}, "expected kind 'vlm', a 'question' and a 'base'"),
        (
            {"kind": "vlm", "key": "agentview", "answers": ["1", "0"], "question": "{instruction}", "base": 3},
            "expected kind 'vlm', a 'question' and a 'base'",
        ),
        ({"kind": "vlm", "key": "agentview", "answers": ["1"]}, "expected a camera as 'key' and two 'answers'"),
        ({"kind": "compact", "key": "agentview", "answers": ["1", "0"], "outputs": "held"}, "list of 'outputs'"),
        ([], r"reward\.json"),
        ("{", r"reward\.json"),
    ],
)
def test_folders_that_say_something_else_are_named(content, message, tmp_path):
    (tmp_path / REWARD_FILE).write_text(content if isinstance(content, str) else json.dumps(content))
    with pytest.raises(CheckpointError, match=message):
        load_reward_model(tmp_path)


def test_no_code_of_a_folder_is_executed(tiny_vlm, tmp_path):
    """A configuration that names a class in the folder is refused, not run."""
    VLMRewardModel(*tiny_vlm).save(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    config["model_type"] = "own"
    config["auto_map"] = {"AutoConfig": "own.OwnConfig", "AutoModelForImageTextToText": "own.OwnModel"}
    (tmp_path / "config.json").write_text(json.dumps(config))
    (tmp_path / "own.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')")
    with pytest.raises(RewardModelError, match="cannot be loaded as an image-text-to-text model"):
        load_reward_model(tmp_path)
    assert not (tmp_path / "ran").exists()


def test_weights_that_are_pickled_are_refused(tiny_vlm, tmp_path):
    VLMRewardModel(copy.deepcopy(tiny_vlm[0]), tiny_vlm[1]).save(tmp_path)
    (tmp_path / "model.safetensors").unlink()
    th.save(tiny_vlm[0].state_dict(), tmp_path / "pytorch_model.bin")
    with pytest.raises(RewardModelError, match="cannot be loaded"):
        load_reward_model(tmp_path)


def test_scores_of_a_folder_are_those_of_the_model(compact_folder):
    frames = np.random.default_rng(0).integers(0, 256, (2, 2, 64, 64, 3), np.uint8)
    own = CompactRewardModel.start_from("nano", seed=0).score(frames, ["a", "b"])
    np.testing.assert_allclose(load_reward_model(compact_folder).score(frames, ["a", "b"]), own, atol=1e-4)
