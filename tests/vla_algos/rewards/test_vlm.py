"""Any image-text-to-text model judges frames: here a tiny one of transformers' own classes, made on the spot."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch as th

from vla_algos.errors import CheckpointError, RewardModelError
from vla_algos.rewards.vlm import VLMRewardModel, add_reward_adapter

INSTRUCTIONS = ["open it", "put the bowl on the plate", "turn it on"]


@pytest.fixture
def frames():
    return np.random.default_rng(0).integers(0, 256, (3, 2, 40, 40, 3), np.uint8)


def test_the_score_is_the_probability_of_the_answer_as_the_model_itself_gives_it(tiny_vlm, frames):
    model, processor = tiny_vlm
    reward = VLMRewardModel(model, processor, question="{instruction}? {yes}/{no}")
    inputs = processor(images=list(frames[0]), text="user: <image><image>open it? 1/0 assistant: ", return_tensors="pt")
    with th.no_grad():
        logits = model(**inputs).logits[0, -1]
    yes, no = (processor.tokenizer.convert_tokens_to_ids(answer) for answer in "10")
    expected = float(th.sigmoid(logits[yes] - logits[no]))
    assert reward.score(frames[:1], INSTRUCTIONS[:1])[0] == pytest.approx(expected, abs=1e-5)


def test_rows_of_a_batch_do_not_depend_on_each_other(tiny_vlm, frames):
    whole = VLMRewardModel(*tiny_vlm).score(frames, INSTRUCTIONS)
    assert whole.shape == (3,) and whole.dtype == np.float32 and (whole > 0).all() and (whole < 1).all()
    np.testing.assert_allclose(VLMRewardModel(*tiny_vlm, batch_size=2).score(frames, INSTRUCTIONS), whole, atol=1e-4)
    alone = [VLMRewardModel(*tiny_vlm).score(frames[[i]], [INSTRUCTIONS[i]])[0] for i in range(3)]
    np.testing.assert_allclose(alone, whole, atol=1e-4)


def test_it_sees_both_frames_and_reads_the_instruction(tiny_vlm, frames):
    reward = VLMRewardModel(*tiny_vlm)
    (usual,) = reward.score(frames[:1], ["open it"])
    for changed, text in ((frames[:1, ::-1], "open it"), (frames[:1], "shut it")):
        assert reward.score(changed, [text])[0] != usual


def test_no_frames_are_no_scores(tiny_vlm, frames):
    assert VLMRewardModel(*tiny_vlm).score(frames[:0], []).shape == (0,)


def test_the_loss_is_that_of_the_answers_and_adapters_learn_from_it(tiny_vlm, frames):
    model, processor = copy.deepcopy(tiny_vlm[0]), tiny_vlm[1]
    th.manual_seed(0)
    reward = VLMRewardModel(add_reward_adapter(model, rank=8), processor)
    targets = th.tensor([1.0, 0.0, 0.25])
    log_probs = reward.log_probs(frames, INSTRUCTIONS).detach()
    expected = -(log_probs[0, 0] + log_probs[1, 1] + 0.25 * log_probs[2, 0] + 0.75 * log_probs[2, 1]) / 3
    assert float(reward.loss(reward.encode(frames), INSTRUCTIONS, targets).detach()) == pytest.approx(
        float(expected), abs=1e-5
    )
    trained = [parameter for parameter in reward.model.parameters() if parameter.requires_grad]
    names = [name for name, parameter in reward.model.named_parameters() if parameter.requires_grad]
    assert all("lora" in name and "vision" not in name for name in names)
    optimizer = th.optim.Adam(trained, lr=1e-2)
    for _ in range(50):
        optimizer.zero_grad()
        loss = reward.loss(reward.encode(frames), INSTRUCTIONS, targets)
        loss.backward()
        optimizer.step()
    assert float(loss.detach()) < 0.6 * float(expected)
    scores = reward.score(frames, INSTRUCTIONS)
    assert scores[0] > scores[2] > scores[1]


@pytest.fixture(scope="module")
def base_folder(tiny_vlm, tmp_path_factory):
    folder = tmp_path_factory.mktemp("base")
    for part in tiny_vlm:
        part.save_pretrained(folder)
    return folder


def start(base_folder, **kwargs) -> VLMRewardModel:
    """With adapters that change something."""
    made = VLMRewardModel.start_from(base_folder, rank=2, dtype=th.float32, **kwargs)
    th.manual_seed(0)
    with th.no_grad():
        for name, parameter in made.model.named_parameters():
            if "lora" in name:
                parameter.normal_(std=0.1)
    return made


def test_without_adapters_it_is_the_model_as_it_is(base_folder, tiny_vlm, frames):
    plain = VLMRewardModel.start_from(base_folder, rank=0, dtype=th.float32)
    expected = VLMRewardModel(*tiny_vlm).score(frames, INSTRUCTIONS)
    np.testing.assert_allclose(plain.score(frames, INSTRUCTIONS), expected, atol=1e-4)
    # new adapters change nothing
    fresh = VLMRewardModel.start_from(base_folder, rank=2, dtype=th.float32)
    np.testing.assert_allclose(fresh.score(frames, INSTRUCTIONS), expected, atol=1e-4)
    assert sum(p.numel() for p in fresh.parameters()) < 0.2 * sum(p.numel() for p in plain.parameters())


def test_a_folder_gives_back_the_adapters_and_they_go_on_learning(base_folder, frames, tmp_path):
    adapted = start(base_folder, question="{instruction}? {yes}", answers=("7", "3"), key="wrist")
    scores = adapted.score(frames, INSTRUCTIONS)
    adapted.save(tmp_path / "reward")
    assert not list((tmp_path / "reward").glob("model*")), "the base is not copied"
    loaded = VLMRewardModel.load(tmp_path / "reward", dtype=th.float32)
    np.testing.assert_allclose(loaded.score(frames, INSTRUCTIONS), scores, atol=1e-4)
    assert (loaded.question, loaded.answers, loaded.key) == ("{instruction}? {yes}", ("7", "3"), "wrist")
    assert [p.shape for p in loaded.parameters()] == [p.shape for p in adapted.parameters()]
    other = VLMRewardModel.start_from(
        base_folder, rank=2, dtype=th.float32, question=adapted.question, answers=adapted.answers
    )
    assert not np.allclose(other.score(frames, INSTRUCTIONS), scores)
    other.restore(tmp_path / "reward")
    np.testing.assert_allclose(other.score(frames, INSTRUCTIONS), scores, atol=1e-4)
    again = VLMRewardModel.load(tmp_path / "reward", dtype=th.float32, base=base_folder)
    np.testing.assert_allclose(again.score(frames, INSTRUCTIONS), scores, atol=1e-4)


def test_a_model_without_adapters_is_saved_as_a_whole(tiny_vlm, frames, tmp_path):
    own = VLMRewardModel(copy.deepcopy(tiny_vlm[0]), tiny_vlm[1])
    with th.no_grad():
        own.model.lm_head.weight.add_(0.1 * th.randn_like(own.model.lm_head.weight))
    own.save(tmp_path / "whole")
    for found in (VLMRewardModel.load(tmp_path / "whole", dtype=th.float32), VLMRewardModel(*copy.deepcopy(tiny_vlm))):
        found.restore(tmp_path / "whole")
        np.testing.assert_allclose(found.score(frames, INSTRUCTIONS), own.score(frames, INSTRUCTIONS), atol=1e-4)


def test_weights_are_bfloat16_where_the_device_computes_in_it_and_adapters_float32(base_folder, frames, monkeypatch):
    for is_native, dtype in ((True, th.bfloat16), (False, th.float32)):
        monkeypatch.setattr("vla_algos.rewards.vlm.has_native_bf16", lambda device, native=is_native: native)
        made = VLMRewardModel.start_from(base_folder, rank=2)
        assert made.model.get_base_model().lm_head.weight.dtype == dtype
        assert {parameter.dtype for parameter in made.parameters()} == {th.float32}
        scores = made.score(frames, INSTRUCTIONS)
        assert scores.dtype == np.float32 and np.isfinite(scores).all()
        loss = made.loss(made.encode(frames), INSTRUCTIONS, th.tensor([[1.0], [0.0], [0.5]]))
        loss.backward()
        assert loss.dtype == th.float32 and all(th.isfinite(p.grad).all() for p in made.parameters())


def test_adapters_of_a_model_without_a_name_are_not_saved(tiny_vlm, tmp_path):
    model = copy.deepcopy(tiny_vlm[0])
    model.config._name_or_path = ""
    own = VLMRewardModel(add_reward_adapter(model, rank=2), tiny_vlm[1])
    with pytest.raises(RewardModelError, match=r"has no name.*VLMRewardModel\.start_from"):
        own.save(tmp_path / "reward")
    assert not (tmp_path / "reward").exists()


def test_adapters_are_put_on_the_language_model_whatever_the_vision_tower_is_called():
    from transformers import AutoModelForImageTextToText, Qwen2VLConfig, SmolVLMConfig

    text = {
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "vocab_size": 9,
    }
    text |= {"bos_token_id": None, "eos_token_id": None, "pad_token_id": 1}
    rope = {"rope_type": "default", "mrope_section": [2, 3, 3], "rope_theta": 10000.0}
    qwen = Qwen2VLConfig(
        text_config={**text, "num_key_value_heads": 2, "rope_parameters": rope},
        vision_config={"depth": 1, "embed_dim": 32, "hidden_size": 32, "num_heads": 2},
    )
    tower = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 2}
    smol = SmolVLMConfig(text_config={**text, "model_type": "llama"}, vision_config=tower)
    for config, part in ((qwen, "language_model"), (smol, "text_model")):
        with th.device("meta"):
            adapted = add_reward_adapter(AutoModelForImageTextToText.from_config(config), rank=2)
        names = [name for name, parameter in adapted.named_parameters() if parameter.requires_grad]
        # two matrices for each of seven linear layers
        assert len(names) == 14 and all(f".{part}.layers.0." in name for name in names)


def test_damaged_folders_are_named(base_folder, tiny_vlm, tmp_path):
    own = start(base_folder)
    own.save(tmp_path)
    VLMRewardModel.start_from(base_folder, rank=4, dtype=th.float32).save(tmp_path / "rank 4")
    with pytest.raises(CheckpointError, match="holds no weights of this model"):
        own.restore(tmp_path / "rank 4")
    with pytest.raises(CheckpointError, match="holds no weights of this model"):
        own.restore(tmp_path / "nothing")
    with pytest.raises(RewardModelError, match="nowhere cannot be loaded"):
        VLMRewardModel.load(tmp_path, base=tmp_path / "nowhere")
    for part in tiny_vlm:
        part.save_pretrained(tmp_path / "damaged")
    (tmp_path / "damaged" / "model.safetensors").write_bytes(b"no safetensors")
    with pytest.raises(RewardModelError, match="damaged cannot be loaded"):
        VLMRewardModel.load(tmp_path, base=tmp_path / "damaged")
    (tmp_path / "adapter_model.safetensors").write_bytes(b"no safetensors")
    with pytest.raises(CheckpointError, match="expected adapters for"):
        VLMRewardModel.load(tmp_path)
    (tmp_path / "adapter_model.safetensors").unlink()
    with pytest.raises(CheckpointError, match=r"holds no adapter_model\.safetensors"):
        VLMRewardModel.load(tmp_path)


@pytest.mark.parametrize(
    "question", ["Is it done?", "{instruction} {0}", "{instruction.x}", "{instruction} {maybe}", "{"]
)
def test_a_question_with_other_fields_is_refused(question, tiny_vlm):
    with pytest.raises(RewardModelError, match=r"expected the field \{instruction\}"):
        VLMRewardModel(*tiny_vlm, question=question)


def test_answers_that_are_not_single_tokens_are_refused(tiny_vlm):
    with pytest.raises(RewardModelError, match=r"answer 'yes' is \['y', 'e', 's'\].*expected a single token"):
        VLMRewardModel(*tiny_vlm, answers=("yes", "no"))
    with pytest.raises(RewardModelError, match=r"answer '✓' is \['<unk>'\]"):
        VLMRewardModel(*tiny_vlm, answers=("✓", "0"))
    with pytest.raises(RewardModelError, match="answers '1' and '1' are the same token"):
        VLMRewardModel(*tiny_vlm, answers=("1", "1"))
    with pytest.raises(RewardModelError, match="expected two, yes and no"):
        VLMRewardModel(*tiny_vlm, answers=("1",))
    with pytest.raises(RewardModelError, match=r"answer '' is \[\]"):
        VLMRewardModel(*tiny_vlm, answers=("", "0"))


def test_a_model_without_a_chat_template_is_refused(tiny_vlm):
    processor = copy.copy(tiny_vlm[1])
    processor.chat_template = None
    with pytest.raises(RewardModelError, match="LlavaProcessor has no chat template"):
        VLMRewardModel(tiny_vlm[0], processor)


def test_folders_that_are_no_such_model_are_named(tmp_path):
    (tmp_path / "config.json").write_text('{"model_type": "bert"}')
    with pytest.raises(RewardModelError, match=r"cannot be loaded as an image-text-to-text model.*Qwen2-VL"):
        VLMRewardModel.start_from(tmp_path)
