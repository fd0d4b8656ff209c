"""The ViT towers, against the SigLIP and DINOv2 of transformers."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch as th
from transformers import Dinov2WithRegistersConfig, Dinov2WithRegistersModel, SiglipVisionConfig, SiglipVisionModel

from vla_algos.models.openvla.config import VisionTowerConfig, get_preset
from vla_algos.models.openvla.vision import VisionBackbone, VisionTower

# our name -> transformers' name inside one block; the qkv matrix is put together by the test
SIGLIP = {
    "norm1": "layer_norm1",
    "attn.proj": "self_attn.out_proj",
    "norm2": "layer_norm2",
    "mlp.fc1": "mlp.fc1",
    "mlp.fc2": "mlp.fc2",
}
DINOV2 = {
    "norm1": "norm1",
    "attn.proj": "attention.o_proj",
    "norm2": "norm2",
    "mlp.fc1": "mlp.fc1",
    "mlp.fc2": "mlp.fc2",
}


def randomise(module: th.nn.Module) -> None:
    generator = th.Generator().manual_seed(0)
    with th.no_grad():
        for parameter in module.parameters():
            parameter.normal_(0, 0.3, generator=generator)


def copy_blocks(tower: VisionTower, layers, names: dict[str, str], qkv: list[str]) -> None:
    for block, layer in zip(tower.blocks, layers, strict=True):
        ours, theirs = dict(block.named_parameters()), dict(layer.named_parameters())
        for kind in ("weight", "bias"):
            ours[f"attn.qkv.{kind}"].copy_(th.cat([theirs[f"{name}.{kind}"] for name in qkv]))
            for our_name, their_name in names.items():
                ours[f"{our_name}.{kind}"].copy_(theirs[f"{their_name}.{kind}"])
        for i in (1, 2):
            if f"ls{i}.scale_factor" in ours:
                ours[f"ls{i}.scale_factor"].copy_(theirs[f"layer_scale{i}.lambda1"])


@pytest.mark.parametrize("feature_layer", [-1, -2])
def test_siglip(feature_layer):
    reference = SiglipVisionModel(
        SiglipVisionConfig(
            hidden_size=32,
            intermediate_size=60,
            num_hidden_layers=3,
            num_attention_heads=4,
            image_size=28,
            patch_size=7,
            hidden_act="gelu",
            vision_use_head=False,
        )
    ).eval()
    randomise(reference)
    tower = VisionTower(VisionTowerConfig(32, 3, 4, 7, 60, feature_layer), patches=16)
    body = getattr(reference, "vision_model", reference)
    with th.no_grad():
        copy_blocks(tower, body.encoder.layers, SIGLIP, [f"self_attn.{x}_proj" for x in "qkv"])
        tower.patch_embed.proj.load_state_dict(body.embeddings.patch_embedding.state_dict())
        tower.pos_embed.copy_(body.embeddings.position_embedding.weight.unsqueeze(0))
        tower.norm.load_state_dict(body.post_layernorm.state_dict())
        pixels = th.randn(2, 3, 28, 28)
        output = reference(pixels, output_hidden_states=True)
        expected = output.last_hidden_state if feature_layer == -1 else output.hidden_states[-2]
        th.testing.assert_close(tower(pixels), expected, atol=1e-4, rtol=1e-4)


def test_dinov2_with_registers():
    reference = Dinov2WithRegistersModel(
        Dinov2WithRegistersConfig(
            hidden_size=32,
            mlp_ratio=2,
            num_hidden_layers=3,
            num_attention_heads=4,
            image_size=28,
            patch_size=7,
            num_register_tokens=4,
        )
    ).eval()
    randomise(reference)
    config = VisionTowerConfig(32, 3, 4, 7, 64, class_token=True, registers=4, layer_scale=1e-5)
    tower = VisionTower(config, patches=16)
    embeddings = reference.embeddings
    with th.no_grad():
        # our class token has no position of its own
        embeddings.position_embeddings[:, 0] = 0
        copy_blocks(tower, reference.encoder.layer, DINOV2, [f"attention.{x}_proj" for x in "qkv"])
        tower.patch_embed.proj.load_state_dict(embeddings.patch_embeddings.projection.state_dict())
        tower.pos_embed.copy_(embeddings.position_embeddings[:, 1:])
        tower.cls_token.copy_(embeddings.cls_token)
        tower.reg_token.copy_(embeddings.register_tokens)
        pixels = th.randn(2, 3, 28, 28)
        expected = reference(pixels, output_hidden_states=True).hidden_states[-2][:, 5:]
        th.testing.assert_close(tower(pixels), expected, atol=1e-4, rtol=1e-4)


def test_two_towers_lie_side_by_side():
    config = get_preset("nano")
    config = replace(config, towers=(*config.towers, VisionTowerConfig(32, 2, 2, 16, 64)))
    backbone = VisionBackbone(config)
    randomise(backbone)
    pixels = th.randn(2, 6, 64, 64)
    features = backbone(pixels)
    assert features.shape == (2, 16, 64 + 32)
    th.testing.assert_close(features[..., :64], backbone.featurizer(pixels[:, :3]))
    th.testing.assert_close(features[..., 64:], backbone.fused_featurizer(pixels[:, 3:]))
