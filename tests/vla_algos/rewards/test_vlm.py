"""Any image-text-to-text model judges frames: here a tiny one of transformers' own classes, made on the spot."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch as th

from vla_algos.errors import RewardModelError
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
    np.testing.assert_allclose(VLMRewardModel(*tiny_vlm, batch_size=2).score(frames, INSTRUCTIONS), whole, atol=1e-5)
    alone = [VLMRewardModel(*tiny_vlm).score(frames[[i]], [INSTRUCTIONS[i]])[0] for i in range(3)]
    np.testing.assert_allclose(alone, whole, atol=1e-5)


def test_it_sees_both_frames_and_reads_the_instruction(tiny_vlm, frames):
    reward = VLMRewardModel(*tiny_vlm)
    (usual,) = reward.score(frames[:1], ["open it"])
    for changed, text in ((frames[:1, ::-1], "open it"), (frames[:1], "shut it")):
        assert reward.score(changed, [text])[0] != usual


def test_no_frames_are_no_scores(tiny_vlm, frames):
    assert VLMRewardModel(*tiny_vlm).score(frames[:0], []).shape == (0,)


def test_the_loss_is_that_of_the_answers_and_adapters_learn_from_it(tiny_vlm, frames):
    model, processor = copy.deepcopy(tiny_vlm[0]), tiny_vlm[1]
    reward = VLMRewardModel(add_reward_adapter(model, rank=4), processor)
    targets = th.tensor([1.0, 0.0, 0.25])
    log_probs = reward.log_probs(frames, INSTRUCTIONS).detach()
    expected = -(log_probs[0, 0] + log_probs[1, 1] + 0.25 * log_probs[2, 0] + 0.75 * log_probs[2, 1]) / 3
    assert float(reward.loss(reward.encode(frames), INSTRUCTIONS, targets).detach()) == pytest.approx(
        float(expected), abs=1e-5
    )
    trained = [parameter for parameter in reward.model.parameters() if parameter.requires_grad]
    names = [name for name, parameter in reward.model.named_parameters() if parameter.requires_grad]
    assert all("lora" in name and "vision" not in name for name in names)
    optimizer = th.optim.Adam(trained, lr=3e-2)
    for _ in range(30):
        optimizer.zero_grad()
        loss = reward.loss(reward.encode(frames), INSTRUCTIONS, targets)
        loss.backward()
        optimizer.step()
    assert float(loss.detach()) < 0.6 * float(expected)
    scores = reward.score(frames, INSTRUCTIONS)
    assert scores[0] > scores[2] > scores[1]


def test_a_folder_gives_back_the_model_with_its_adapter(tiny_vlm, frames, tmp_path):
    model, processor = copy.deepcopy(tiny_vlm[0]), tiny_vlm[1]
    model.save_pretrained(tmp_path / "model")
    processor.save_pretrained(tmp_path / "model")
    adapted = add_reward_adapter(model, rank=2)
    with th.no_grad():
        for name, parameter in adapted.named_parameters():
            if "lora_B" in name:
                parameter.normal_(std=0.1)
    adapted.save_pretrained(tmp_path / "adapter")
    plain = VLMRewardModel.load(tmp_path / "model").score(frames, INSTRUCTIONS)
    np.testing.assert_allclose(plain, VLMRewardModel(*tiny_vlm).score(frames, INSTRUCTIONS), atol=1e-5)
    loaded = VLMRewardModel.load(tmp_path / "model", adapter=tmp_path / "adapter").score(frames, INSTRUCTIONS)
    np.testing.assert_allclose(loaded, VLMRewardModel(adapted, processor).score(frames, INSTRUCTIONS), atol=1e-5)
    assert not np.allclose(loaded, plain)


def test_answers_that_are_not_single_tokens_are_refused(tiny_vlm):
    with pytest.raises(RewardModelError, match=r"answer 'yes' is \['y', 'e', 's'\].*expected a single token"):
        VLMRewardModel(*tiny_vlm, answers=("yes", "no"))
    with pytest.raises(RewardModelError, match=r"answer '✓' is \['<unk>'\]"):
        VLMRewardModel(*tiny_vlm, answers=("✓", "0"))


def test_a_model_without_a_chat_template_is_refused(tiny_vlm):
    processor = copy.copy(tiny_vlm[1])
    processor.chat_template = None
    with pytest.raises(RewardModelError, match="LlavaProcessor has no chat template"):
        VLMRewardModel(tiny_vlm[0], processor)


def test_folders_that_are_no_such_model_are_named(tmp_path):
    (tmp_path / "config.json").write_text('{"model_type": "bert"}')
    with pytest.raises(RewardModelError, match=r"cannot be loaded as an image-text-to-text model.*Qwen2-VL"):
        VLMRewardModel.load(tmp_path)


def test_an_adapter_that_is_none_is_named(tiny_vlm, tmp_path):
    tiny_vlm[0].save_pretrained(tmp_path)
    tiny_vlm[1].save_pretrained(tmp_path)
    with pytest.raises(RewardModelError, match=r"holds no adapter_model\.safetensors"):
        VLMRewardModel.load(tmp_path, adapter=tmp_path / "nothing")
