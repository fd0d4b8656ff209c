"""Decoding, scoring and values, against transformers' own Llama forward and against each other."""

from __future__ import annotations

import copy
from dataclasses import replace

import pytest
import torch as th
from torch.nn import functional as F

from vla_algos.errors import ModelInputError
from vla_algos.models import OpenVLA, load_vla
from vla_algos.models.openvla.config import get_preset
from vla_algos.models.openvla.heads import _constant
from vla_algos.models.openvla.llm import rotary_table

V = 498 + 256


def reference_logits(model: OpenVLA, reference, inputs, row: int, ids: list[int]) -> th.Tensor:
    """Logits of the next token after ``ids``, one row alone, no cache, by transformers; the sequence is built here."""
    pixels = (inputs.images[row : row + 1].float() / 255 - 0.5) / 0.5
    patches = model.projector(model.vision_backbone(pixels))
    proprio = model.proprio_encoder(inputs.proprio[row : row + 1])
    text = model.processor.tokenizer(inputs.instructions[row].lower(), add_special_tokens=False).input_ids
    embed = model.language_model.model.embed_tokens
    before, after = embed(th.tensor([[1]])), embed(th.tensor([[*text, 2, *ids]]))
    x = th.cat([before, patches, proprio, after], dim=1)
    return reference(inputs_embeds=x, use_cache=False).logits[0, -1]


@pytest.mark.parametrize("temperature", [1.0, 1.5])
def test_decoding_matches_uncached_transformers_forward(lively_nano, transformers_llama, inputs, temperature):
    reference = transformers_llama(lively_nano.language_model)
    decoded = lively_nano.decode_actions(
        inputs.images, inputs.instructions, inputs.proprio, deterministic=True, temperature=temperature
    )
    for row in range(len(inputs.images)):
        ids: list[int] = []
        for step in range(7):
            with th.no_grad():
                logits = reference_logits(lively_nano, reference, inputs, row, ids)
            log_probs = F.log_softmax(th.stack([logits[V - 1 - b] for b in range(256)]) / temperature, dim=0)
            best = int(log_probs.argmax())
            assert decoded.bins[row, step] == best
            assert decoded.log_probs[row, step].item() == pytest.approx(log_probs[best].item(), abs=1e-4)
            ids.append(V - 1 - best)


def test_unconstrained_decoding_takes_any_token_and_clips_it(lively_nano, transformers_llama, inputs):
    reference = transformers_llama(lively_nano.language_model)
    decoded = lively_nano.decode_actions(
        inputs.images, inputs.instructions, inputs.proprio, deterministic=True, constrained=False
    )
    all_ids = []
    for row in range(len(inputs.images)):
        ids: list[int] = []
        for _ in range(7):
            with th.no_grad():
                ids.append(int(reference_logits(lively_nano, reference, inputs, row, ids).argmax()))
        all_ids.append(ids)
    expected = (V - 1 - th.tensor(all_ids)).clamp(0, 254)
    assert th.equal(decoded.bins, expected)
    assert min(map(min, all_ids)) < V - 256, "the case is not exercised: all tokens are action tokens"


@pytest.mark.parametrize("temperature", [0.7, 1.0, 1.5])
def test_scoring_agrees_with_decoding(lively_nano, inputs, temperature):
    generator = th.Generator().manual_seed(3)
    decoded = lively_nano.decode_actions(
        inputs.images, inputs.instructions, inputs.proprio, temperature=temperature, generator=generator
    )
    scored = lively_nano.score_actions(
        inputs.images, inputs.instructions, decoded.bins, inputs.proprio, temperature=temperature
    )
    assert decoded.bins.dtype == th.int64
    assert decoded.bins.shape == decoded.log_probs.shape == scored.entropy.shape == (4, 7)
    th.testing.assert_close(scored.log_probs, decoded.log_probs, atol=2e-5, rtol=0)
    th.testing.assert_close(scored.values, decoded.values, atol=2e-5, rtol=0)
    assert decoded.log_probs.std() > 0.1, "the model is too close to uniform for this test to mean anything"


def test_equal_length_batch_takes_the_maskless_path_with_the_same_result(lively_nano, inputs):
    texts = ["turn on the stove"] * 4
    decoded = lively_nano.decode_actions(inputs.images, texts, inputs.proprio, generator=th.Generator().manual_seed(0))
    scored = lively_nano.score_actions(inputs.images, texts, decoded.bins, inputs.proprio)
    mixed = lively_nano.score_actions(inputs.images, [*texts[:3], inputs.instructions[1]], decoded.bins, inputs.proprio)
    th.testing.assert_close(scored.log_probs, decoded.log_probs, atol=2e-5, rtol=0)
    th.testing.assert_close(mixed.log_probs[:3], scored.log_probs[:3], atol=2e-5, rtol=0)


def test_batch_equals_single(lively_nano, inputs):
    batch = lively_nano.decode_actions(inputs.images, inputs.instructions, inputs.proprio, deterministic=True)
    scored = lively_nano.score_actions(inputs.images, inputs.instructions, inputs.bins, inputs.proprio)
    for i in range(4):
        row = slice(i, i + 1)
        args = inputs.images[row], inputs.instructions[row]
        single = lively_nano.decode_actions(*args, inputs.proprio[row], deterministic=True)
        assert th.equal(single.bins, batch.bins[row])
        th.testing.assert_close(single.log_probs, batch.log_probs[row], atol=1e-5, rtol=0)
        th.testing.assert_close(single.values, batch.values[row], atol=1e-5, rtol=0)
        one = lively_nano.score_actions(*args, inputs.bins[row], inputs.proprio[row])
        th.testing.assert_close(one.log_probs, scored.log_probs[row], atol=1e-5, rtol=0)


def test_action_logits_give_the_scores(lively_nano, inputs):
    logits = lively_nano.action_logits(inputs.images, inputs.instructions, inputs.bins, inputs.proprio)
    scored = lively_nano.score_actions(inputs.images, inputs.instructions, inputs.bins, inputs.proprio, temperature=2.0)
    distribution = th.distributions.Categorical(logits=logits / 2.0)
    assert logits.shape == (4, 7, 256)
    th.testing.assert_close(scored.log_probs, distribution.log_prob(inputs.bins), atol=1e-5, rtol=0)
    th.testing.assert_close(scored.entropy, distribution.entropy(), atol=1e-5, rtol=0)


def test_autocast_does_not_round_logits(lively_nano, inputs):
    with th.autocast("cpu", th.bfloat16):
        logits = lively_nano.action_logits(inputs.images, inputs.instructions, inputs.bins, inputs.proprio)
    exact = lively_nano.action_logits(inputs.images, inputs.instructions, inputs.bins, inputs.proprio)
    assert logits.dtype == th.float32 and not th.equal(logits, logits.bfloat16().float())
    th.testing.assert_close(logits, exact, atol=0.1 * exact.std().item(), rtol=0)


def test_dropped_tokens_are_not_seen(lively_nano, inputs):
    other = (inputs.bins + 100) % 256
    args = inputs.images, inputs.instructions
    dropped = th.zeros(4, 7, dtype=th.bool)
    dropped[:, 2] = True
    changed = inputs.bins.clone()
    changed[:, 2] = other[:, 2]
    same = [lively_nano.action_logits(*args, b, inputs.proprio, dropped=dropped) for b in (inputs.bins, changed)]
    assert th.equal(same[0], same[1])
    seen = [lively_nano.action_logits(*args, b, inputs.proprio) for b in (inputs.bins, changed)]
    assert th.equal(seen[0][:, :3], seen[1][:, :3])
    assert (seen[0][:, 3:] - seen[1][:, 3:]).abs().max() > 1e-2


@pytest.mark.parametrize("changed", ["image", "instruction", "proprio"])
def test_every_input_matters(lively_nano, inputs, changed):
    images, texts, proprio = inputs.images.clone(), list(inputs.instructions), inputs.proprio.clone()
    if changed == "image":
        images[0, :, 48:, 48:] = 0
    elif changed == "instruction":
        texts[0] = "close the drawer"
    else:
        proprio[0, 2] += 0.01
    before = lively_nano.action_logits(inputs.images, inputs.instructions, inputs.bins, inputs.proprio)
    after = lively_nano.action_logits(images, texts, inputs.bins, proprio)
    assert (before[0] - after[0]).abs().max() > 1e-3
    th.testing.assert_close(before[1:], after[1:], atol=1e-5, rtol=0)


def test_value_is_of_the_state_and_not_of_the_action(lively_nano, inputs):
    args = inputs.images, inputs.instructions
    values = lively_nano.predict_values(*args, inputs.proprio)
    for bins in (inputs.bins, 255 - inputs.bins):
        scored = lively_nano.score_actions(*args, bins, inputs.proprio)
        th.testing.assert_close(scored.values, values, atol=1e-6, rtol=1e-5)
    assert values.shape == (4,) and values.std() > 1e-3


@pytest.mark.parametrize("detach", [False, True])
def test_gradients(inputs, detach):
    model = load_vla("nano", seed=0)
    model.detach_value = detach
    args = inputs.images, inputs.instructions
    model.score_actions(*args, inputs.bins, inputs.proprio).values.sum().backward()
    with_gradient = {name for name, p in model.named_parameters() if p.grad is not None and p.grad.abs().sum() > 0}
    assert any(name.startswith("value_head") for name in with_gradient)
    assert any(not name.startswith("value_head") for name in with_gradient) is not detach

    model.zero_grad()
    scored = model.score_actions(*args, inputs.bins, inputs.proprio)
    (scored.log_probs.sum() + scored.values.sum()).backward()
    assert [name for name, p in model.named_parameters() if p.grad is None] == []


def test_gradient_checkpointing_keeps_less_and_gives_the_same_gradients(lively_nano, inputs):
    model = copy.deepcopy(lively_nano)
    gradients, kept = {}, {}
    for model.gradient_checkpointing in (False, True):
        sizes: list[int] = []

        def count(tensor, sizes=sizes):
            sizes.append(tensor.numel())
            return tensor

        with th.autograd.graph.saved_tensors_hooks(count, lambda tensor: tensor):
            scored = model.score_actions(inputs.images, inputs.instructions, inputs.bins, inputs.proprio)
        model.zero_grad()
        (scored.log_probs.sum() + scored.values.sum()).backward()
        gradients[model.gradient_checkpointing] = {
            name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None
        }
        kept[model.gradient_checkpointing] = sum(sizes)
    assert gradients[True].keys() == gradients[False].keys()
    for name, gradient in gradients[False].items():
        th.testing.assert_close(gradients[True][name], gradient, atol=1e-5, rtol=1e-4)
    assert kept[True] < 0.5 * kept[False]
    with th.no_grad():
        decoded = model.decode_actions(inputs.images, inputs.instructions, inputs.proprio, deterministic=True)
    expected = lively_nano.decode_actions(inputs.images, inputs.instructions, inputs.proprio, deterministic=True)
    assert th.equal(decoded.bins, expected.bins)


def test_training_after_acting_in_inference_mode(inputs):
    # tables first made while acting must serve in training
    rotary_table.cache_clear()
    _constant.cache_clear()
    model = load_vla("nano", seed=0)
    with th.inference_mode():
        bins = model.decode_actions(inputs.images, inputs.instructions, inputs.proprio).bins
    model.score_actions(inputs.images, inputs.instructions, bins.clone(), inputs.proprio).log_probs.sum().backward()


def test_fresh_policy_is_close_to_uniform(inputs):
    model = load_vla("nano", seed=0)
    scored = model.score_actions(inputs.images, inputs.instructions, inputs.bins, inputs.proprio)
    th.testing.assert_close(scored.entropy, th.full((4, 7), 256.0).log(), atol=5e-3, rtol=0)
    assert scored.values.abs().max() < 0.1


def test_same_generator_seed_gives_the_same_actions(lively_nano, inputs):
    runs = [
        lively_nano.decode_actions(
            inputs.images, inputs.instructions, inputs.proprio, generator=th.Generator().manual_seed(seed)
        ).bins
        for seed in (5, 5, 6)
    ]
    assert th.equal(runs[0], runs[1])
    assert not th.equal(runs[0], runs[2])


def test_chunks(inputs):
    model = OpenVLA(get_preset("nano", chunk_size=3))
    decoded = model.decode_actions(inputs.images, inputs.instructions, inputs.proprio)
    scored = model.score_actions(inputs.images, inputs.instructions, decoded.bins, inputs.proprio)
    assert decoded.bins.shape == (4, 21)
    th.testing.assert_close(scored.log_probs, decoded.log_probs, atol=2e-5, rtol=0)


def test_model_without_proprio_and_value_head(inputs):
    model = OpenVLA(get_preset("nano", proprio_dim=0, value_head_width=0))
    assert not any("proprio" in name or "value" in name for name, _ in model.named_parameters())
    assert model.decode_actions(inputs.images, inputs.instructions).values.isnan().all()
    with pytest.raises(ModelInputError, match="takes no proprioception"):
        model.decode_actions(inputs.images, inputs.instructions, inputs.proprio)


@pytest.fixture
def two_cameras(lively_nano):
    model = OpenVLA(replace(lively_nano.config, cameras=("agentview", "wrist")))
    model.load_state_dict(lively_nano.state_dict())
    return model


def test_two_cameras_decode_as_they_score(two_cameras, inputs):
    images = th.cat([inputs.images, inputs.images.flip(0)], dim=1)
    for temperature in (1.0, 1.5):
        decoded = two_cameras.decode_actions(images, inputs.instructions, inputs.proprio, temperature=temperature)
        scored = two_cameras.score_actions(
            images, inputs.instructions, decoded.bins, inputs.proprio, temperature=temperature
        )
        th.testing.assert_close(scored.log_probs, decoded.log_probs, atol=1e-4, rtol=0)
        th.testing.assert_close(scored.values, decoded.values, atol=1e-5, rtol=1e-5)


def test_each_camera_matters_and_its_place(two_cameras, inputs):
    first, second = inputs.images, inputs.images.flip(0)
    args = inputs.instructions, inputs.bins, inputs.proprio
    base = two_cameras.action_logits(th.cat([first, second], dim=1), *args)
    for images in ((first, first), (second, second), (second, first)):
        other = two_cameras.action_logits(th.cat(images, dim=1), *args)
        assert (base - other).abs().amax(dim=(1, 2)).min() > 1e-2


def test_patches_of_the_cameras_follow_each_other(two_cameras, lively_nano, inputs):
    images = th.cat([inputs.images, inputs.images.flip(0)], dim=1)
    ids = th.tensor([[1, 5, 2]]).expand(4, -1)
    embeds = two_cameras.embed_prompts(two_cameras.encode_images(images), ids, inputs.proprio)
    singles = [
        lively_nano.embed_prompts(lively_nano.encode_images(view), ids, inputs.proprio)
        for view in (inputs.images, inputs.images.flip(0))
    ]
    patches = lively_nano.config.patches
    expected = th.cat([singles[0][:, : 1 + patches], singles[1][:, 1:]], dim=1)
    th.testing.assert_close(embeds, expected, atol=1e-5, rtol=1e-5)


def test_encoded_images_take_the_place_of_images(two_cameras, inputs):
    images = th.cat([inputs.images, inputs.images.flip(0)], dim=1)
    rest = inputs.instructions, inputs.proprio
    features = two_cameras.encode_images(images)
    assert features.shape == (4, 2 * two_cameras.config.patches, two_cameras.config.towers[0].width)
    for one, other in zip(
        two_cameras.decode_actions(images, *rest, deterministic=True),
        two_cameras.decode_actions(features, *rest, deterministic=True),
        strict=True,
    ):
        assert th.equal(one, other)
    hidden = two_cameras.prompt_hidden(features, *rest)
    assert th.equal(two_cameras.decode_actions(images, *rest).hidden, hidden)
    assert th.equal(two_cameras.value_head(hidden), two_cameras.predict_values(images, *rest))


def test_a_missing_camera_is_named(two_cameras, inputs):
    with pytest.raises(ModelInputError, match=r"expected \(N, 6, H, W\) torch.uint8, cameras: agentview, wrist"):
        two_cameras.decode_actions(inputs.images, inputs.instructions, inputs.proprio)


def test_input_errors(lively_nano, inputs):
    images, texts, bins, proprio = inputs
    with pytest.raises(ModelInputError, match="3 instructions for 4 images"):
        lively_nano.decode_actions(images, texts[:3], proprio)
    with pytest.raises(ModelInputError, match=r"Proprioception is None; this model needs \(4, 8\)"):
        lively_nano.decode_actions(images, texts)
    with pytest.raises(ModelInputError, match=r"expected \(4, 7\) torch.int64"):
        lively_nano.score_actions(images, texts, bins.float(), proprio)
    with pytest.raises(ModelInputError, match="must be above 0"):
        lively_nano.decode_actions(images, texts, proprio, temperature=0.0)
