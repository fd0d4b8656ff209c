"""Images and instructions on their way into the model."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch as th
from PIL import Image

from vla_algos.errors import ModelInputError
from vla_algos.models.openvla.config import VisionTowerConfig, get_preset
from vla_algos.models.openvla.processor import BUILTIN_TOKENIZER, Processor
from vla_algos.models.openvla.tokenizer.make_tokenizer import libero_instructions, train


@pytest.fixture(scope="module")
def processor():
    return Processor(get_preset("nano"))


def test_every_word_of_libero_is_one_token(processor):
    for text in libero_instructions():
        ids = processor.prompt_ids(text)
        assert len(ids) == len(text.split()) + 2
        assert ids[0] == 1 and ids[-1] == 2


def test_any_text_survives_the_tokenizer(processor):
    text = "grab the zeppelin, übermorgen 机器人!"
    assert processor.tokenizer.decode(processor.prompt_ids(text)[1:-1]).strip() == text


def test_text_ids_do_not_meet_action_ids(processor):
    config = get_preset("nano")
    assert len(processor.tokenizer) + 256 == config.llm.vocab <= config.llm.rows
    assert config.llm.rows % 64 == 0


def test_instruction_is_put_in_lower_case(processor):
    assert processor.prompt_ids("Open The DRAWER") == processor.prompt_ids("open the drawer")


def test_shipped_tokenizer_is_what_the_script_makes(tmp_path):
    train([text.lower() for text in libero_instructions()]).save(str(tmp_path / "tokenizer.json"))
    assert (tmp_path / "tokenizer.json").read_text() == (BUILTIN_TOKENIZER / "tokenizer.json").read_text()


def test_batch_is_aligned_on_the_left(processor):
    batch = processor.prompts(["turn on the stove", "open"])
    assert batch.lengths == [6, 3]
    assert batch.ids[0].tolist() == processor.prompt_ids("turn on the stove")
    assert batch.ids[1].tolist() == [*processor.prompt_ids("open"), 0, 0, 0]


def test_prompt_end_is_not_doubled():
    end = Processor(get_preset("nano")).prompt_ids("stove")[1]
    config = get_preset("nano", prompt_end_id=end)
    assert Processor(config).prompt_ids("the stove")[-2:] != [config.prompt_end_id] * 2
    assert Processor(config).prompt_ids("the bowl")[-1] == config.prompt_end_id


def test_normalisation_per_tower():
    config = get_preset("nano")
    second = VisionTowerConfig(32, 2, 2, 16, 64, mean=(0.1, 0.2, 0.3), std=(0.5, 0.25, 2.0))
    config = replace(config, towers=(*config.towers, second))
    image = th.tensor([0, 51, 255], dtype=th.uint8).view(1, 3, 1, 1).expand(2, 3, 64, 64)
    pixels = Processor(config).images(image)
    expected = th.tensor([-1.0, -0.6, 1.0, -0.2, 0.0, 0.35])
    assert pixels.shape == (2, 6, 64, 64)
    th.testing.assert_close(pixels, expected.view(1, 6, 1, 1).expand(2, 6, 64, 64), atol=1e-6, rtol=0)


def test_resize_is_close_to_pillow(processor):
    noise = np.random.default_rng(0).integers(0, 256, (100, 100, 3), dtype=np.uint8)
    expected = np.asarray(Image.fromarray(noise).resize((64, 64), Image.BICUBIC))
    pixels = processor.images(th.from_numpy(noise).permute(2, 0, 1).unsqueeze(0))
    found = (pixels[0] * 0.5 + 0.5).permute(1, 2, 0).numpy() * 255
    difference = np.abs(found - expected)
    assert difference.max() < 2.01
    assert (difference > 0.5).mean() < 0.01


@pytest.mark.parametrize(
    "images",
    [th.zeros(2, 64, 64, 3, dtype=th.uint8), th.zeros(2, 3, 64, 64), th.zeros(3, 64, 64, dtype=th.uint8)],
)
def test_image_errors(processor, images):
    with pytest.raises(ModelInputError, match=r"expected \(N, 3, H, W\) torch.uint8"):
        processor.images(images)


def test_model_without_tokenizer_says_so():
    with pytest.raises(ModelInputError, match="no tokenizer"):
        Processor(get_preset("openvla-7b")).prompt_ids("open the drawer")
