"""Parity with numbers that the official OpenVLA code gave for tiny random checkpoints."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch as th

from vla_algos.models import OpenVLA, load_vla
from vla_algos.models.openvla.config import get_preset
from vla_algos.models.openvla.processor import IMAGE_STEPS
from vla_gym import ActionTokenizer


@pytest.fixture(scope="module", params=["siglip", "dinosiglip"])
def case(request, golden: Path):
    """Model of the stored checkpoint, and the reference numbers."""
    model = load_vla(golden / request.param, config_changes={"image_pipeline": []})
    return model, np.load(golden / f"{request.param}.npz"), np.load(golden / "images.npz")


def test_logits(case):
    model, reference, _ = case
    for i in range(6):
        pixels = th.from_numpy(reference["pixel_values"][i : i + 1])
        ids = th.from_numpy(reference[f"prefix_ids_{i}"]).unsqueeze(0)
        with th.no_grad():
            x = model.embed_prompts(model.vision_backbone(pixels), ids)
            hidden = model.language_model(x, th.arange(x.shape[1]).unsqueeze(0))
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


def test_pixel_values(case):
    model, reference, images = case
    sharp = th.from_numpy(images["images"]).permute(0, 3, 1, 2)
    np.testing.assert_array_equal(model.processor.images(sharp).numpy(), reference["pixel_values"])


def test_greedy_actions_from_camera_images(case):
    model, reference, images = case
    texts = [str(text) for text in images["instructions"]]
    sharp = th.from_numpy(images["images"]).permute(0, 3, 1, 2)
    decoded = model.decode_actions(sharp, texts, deterministic=True, constrained=False)
    assert np.array_equal(decoded.bins.numpy(), np.clip(640 - reference["generated_ids"] - 1, 0, 254))
    for key in reference["unnorm_keys"]:
        tokenizer = ActionTokenizer.from_checkpoint_stats(model.record.norm_stats, str(key))
        commands = tokenizer.decode(decoded.bins.numpy())
        # the controller's range is clipped, and its gripper is that of LIBERO
        expected = np.clip(reference[f"actions_{key}"], -1, 1)
        np.testing.assert_array_equal(commands[:, :6], expected[:, :6])
        np.testing.assert_array_equal(commands[:, 6], np.where(expected[:, 6] > 0.5, -1.0, 1.0))


def test_greedy_batch_decoding(case):
    model, reference, images = case
    pixels = th.from_numpy(reference["pixel_values"])
    model.processor.images = lambda _: pixels
    texts = [str(text) for text in images["instructions"]]
    decoded = model.decode_actions(th.zeros(6), texts, deterministic=True, constrained=False)
    expected = np.clip(640 - reference["generated_ids"] - 1, 0, 254)
    assert np.array_equal(decoded.bins.numpy(), expected)
    del model.processor.images


def test_a_batch_is_its_rows(case):
    model, _, images = case
    texts = [str(text) for text in images["instructions"]]
    assert len({len(model.processor.prompt_ids(text)) for text in texts}) > 1
    sharp = th.from_numpy(images["images"]).permute(0, 3, 1, 2)
    batch = model.decode_actions(sharp, texts, deterministic=True)
    scored = model.score_actions(sharp, texts, batch.bins)
    th.testing.assert_close(scored.log_probs, batch.log_probs, atol=1e-4, rtol=0)
    for i in range(6):
        single = model.decode_actions(sharp[i : i + 1], texts[i : i + 1], deterministic=True)
        assert th.equal(single.bins[0], batch.bins[i])
        th.testing.assert_close(single.log_probs[0], batch.log_probs[i], atol=1e-4, rtol=0)


def test_samples_have_the_log_probability_of_their_score(case):
    model, _, images = case
    texts = [str(text) for text in images["instructions"]]
    sharp = th.from_numpy(images["images"]).permute(0, 3, 1, 2)
    for temperature in (0.7, 1.5):
        generator = th.Generator().manual_seed(0)
        sampled = model.decode_actions(sharp, texts, temperature=temperature, generator=generator)
        scored = model.score_actions(sharp, texts, sampled.bins, temperature=temperature)
        th.testing.assert_close(scored.log_probs, sampled.log_probs, atol=1e-4, rtol=0)


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


def test_loss_and_gradients(case):
    model, reference, _ = case
    pixels = th.from_numpy(reference["pixel_values"])
    losses = []
    for i in range(6):
        row = th.from_numpy(reference[f"tf_input_ids_{i}"])
        x = model.embed_prompts(model.vision_backbone(pixels[i : i + 1]), row[None, :-1])
        hidden = model.language_model(x, th.arange(x.shape[1]).unsqueeze(0))
        logits = model.language_model.lm_head(hidden[0, -8:])
        losses.append(th.nn.functional.cross_entropy(logits, row[-8:]))
    loss = th.stack(losses).mean()
    np.testing.assert_allclose([loss.item() for loss in losses], reference["tf_loss"], atol=1e-4)
    np.testing.assert_allclose(loss.item(), reference["batch_loss"], atol=1e-4)
    gradients = th.autograd.grad(loss, list(model.parameters()), allow_unused=True)
    norms = {
        name: np.nan if gradient is None else gradient.norm().item()
        for (name, _), gradient in zip(model.named_parameters(), gradients, strict=True)
    }
    expected = dict(zip(reference["grad_names"].tolist(), reference["grad_norms"], strict=True))
    assert norms.keys() == expected.keys()
    np.testing.assert_allclose([norms[name] for name in expected], list(expected.values()), rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize("pipeline", [["jpeg", "lanczos", "crop"], ["jpeg", "lanczos"]])
def test_a_step_of_the_evaluation_on_libero(golden: Path, pipeline: list[str]):
    pytest.importorskip("simplejpeg")
    reference = np.load(golden / "libero_eval.npz")
    model = load_vla(golden / "dinosiglip", config_changes={"image_pipeline": pipeline})
    # environments show images upright, the reference starts from the renderer's
    upright = th.from_numpy(reference["agentview"][:, ::-1, ::-1].copy()).permute(0, 3, 1, 2)
    texts = [str(text) for text in reference["instructions"]]
    bins = model.decode_actions(upright, texts, deterministic=True, constrained=False).bins.numpy()
    tokenizer = ActionTokenizer.from_checkpoint_stats(model.record.norm_stats, str(reference["unnorm_key"]))
    commands = tokenizer.decode(bins)
    if "crop" in pipeline:
        expected = reference["generated_ids_center_crop"]
        np.testing.assert_array_equal(bins, np.clip(640 - expected - 1, 0, 254))
        np.testing.assert_array_equal(commands, np.clip(reference["env_action_center_crop"], -1, 1))
    else:
        np.testing.assert_array_equal(commands[:, :6], np.clip(reference["action_no_crop"], -1, 1)[:, :6])


def test_image_pipeline_within_a_grey_level(golden: Path):
    pytest.importorskip("simplejpeg")
    reference = np.load(golden / "libero_eval.npz")
    images = {
        name: th.from_numpy(reference[name]).permute(0, 3, 1, 2) for name in ("jpeg_decoded", "resized", "cropped")
    }
    upright = th.from_numpy(reference["agentview"][:, ::-1, ::-1].copy()).permute(0, 3, 1, 2)
    assert th.equal(IMAGE_STEPS["jpeg"](upright, 224), images["jpeg_decoded"])
    assert th.equal(IMAGE_STEPS["crop"](images["resized"], 224), images["cropped"])
    difference = (IMAGE_STEPS["lanczos"](images["jpeg_decoded"], 224).int() - images["resized"].int()).abs()
    assert difference.max() <= 1
    assert (difference > 0).float().mean() < 1e-3


@pytest.mark.parametrize(("preset", "title"), [("openvla-7b", "openvla-7b"), ("openvla-7b-siglip", "siglip-only")])
def test_full_size_names_and_shapes(golden: Path, preset: str, title: str):
    checkpoints = json.loads((golden / "real_checkpoint_keys.json").read_text())
    expected = next(keys for name, keys in checkpoints.items() if name.startswith(title))
    with th.device("meta"):
        model = OpenVLA(get_preset(preset))
    assert {name: list(tensor.shape) for name, tensor in model.state_dict().items()} == expected
