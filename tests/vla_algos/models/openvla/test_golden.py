"""Parity with numbers that the official OpenVLA code gave for tiny random checkpoints."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch as th

from vla_algos.models import OpenVLA, load_vla
from vla_algos.models.openvla.config import get_preset
from vla_algos.models.openvla.llm import run_llama


@pytest.fixture(scope="module", params=["siglip", "dinosiglip"])
def case(request, golden: Path):
    """Model of the stored checkpoint, and the reference numbers."""
    model = load_vla(golden / request.param)
    return model, np.load(golden / f"{request.param}.npz"), np.load(golden / "images.npz")


def test_logits(case):
    model, reference, _ = case
    for i in range(6):
        pixels = th.from_numpy(reference["pixel_values"][i : i + 1])
        ids = th.from_numpy(reference[f"prefix_ids_{i}"]).unsqueeze(0)
        with th.no_grad():
            x = model.embed_prompts(model.vision_backbone(pixels), ids)
            hidden = run_llama(model.language_model, x, th.arange(x.shape[1]).unsqueeze(0))
            logits = model.language_model.lm_head(hidden)[0]
        name = f"logits_{i}" if f"logits_{i}" in reference else f"logits_text_{i}"
        if name.startswith("logits_text"):
            logits = th.cat([logits[:1], logits[256:]])
            logits = logits[: len(reference[name])]
        np.testing.assert_allclose(logits.numpy(), reference[name], atol=2e-4, rtol=0)


def test_prompt_ids(case):
    model, reference, images = case
    for i, instruction in enumerate(images["instructions"]):
        assert model.processor.prompt_ids(str(instruction)) == reference[f"prefix_ids_{i}"].tolist()


def test_normalisation(case, golden: Path):
    model, reference, _ = case
    sharp = th.from_numpy(np.load(golden / "images.npz")["images"]).permute(0, 3, 1, 2)
    # the official resize is Pillow's; torch's is a grey level off in a few places
    difference = (model.processor.images(sharp) - th.from_numpy(reference["pixel_values"])).abs()
    assert difference.max() < 2.01 / 255 / 0.22
    assert (difference > 1e-5).float().mean() < 0.01


def test_greedy_batch_decoding(case):
    model, reference, images = case
    pixels = th.from_numpy(reference["pixel_values"])
    model.processor.images = lambda _: pixels
    texts = [str(text) for text in images["instructions"]]
    decoded = model.decode_actions(th.zeros(6), texts, deterministic=True, constrained=False)
    expected = np.clip(640 - reference["generated_ids"] - 1, 0, 254)
    assert np.array_equal(decoded.bins.numpy(), expected)
    del model.processor.images


def test_teacher_forced_logits(case):
    model, reference, images = case
    pixels = th.from_numpy(reference["pixel_values"])
    model.processor.images = lambda _: pixels
    ids = np.stack([reference[f"tf_input_ids_{i}"][-8:-1] for i in range(6)])
    with th.no_grad():
        texts = [str(text) for text in images["instructions"]]
        logits = model.action_logits(th.zeros(6), texts, th.from_numpy(640 - 1 - ids))
    expected = reference["tf_action_logits"][:, :7, 384:640][..., ::-1]
    np.testing.assert_allclose(logits.numpy(), expected, atol=2e-4, rtol=0)
    del model.processor.images


@pytest.mark.parametrize(("preset", "title"), [("openvla-7b", "openvla-7b"), ("openvla-7b-siglip", "siglip-only")])
def test_full_size_names_and_shapes(golden: Path, preset: str, title: str):
    checkpoints = json.loads((golden / "real_checkpoint_keys.json").read_text())
    expected = next(keys for name, keys in checkpoints.items() if name.startswith(title))
    with th.device("meta"):
        model = OpenVLA(get_preset(preset))
    assert {name: list(tensor.shape) for name, tensor in model.state_dict().items()} == expected
