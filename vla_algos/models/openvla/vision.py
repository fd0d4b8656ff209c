"""The ViT towers of Prismatic models and the projector into the language model, with OpenVLA's key names."""

from __future__ import annotations

import torch as th
from torch import nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from vla_algos.models.openvla.attention import attend
from vla_algos.models.openvla.config import OpenVLAConfig, VisionTowerConfig

LAYER_NORM_EPS = 1e-6


class MLP(nn.Module):
    """Two linear layers with an exact GELU between them."""

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(width, hidden)
        self.fc2 = nn.Linear(hidden, width)

    def forward(self, x: th.Tensor) -> th.Tensor:
        """Same shape out as in."""
        return self.fc2(F.gelu(self.fc1(x)))


class Attention(nn.Module):
    """Multi-head self-attention over all tokens."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width)
        self.proj = nn.Linear(width, width)

    def forward(self, x: th.Tensor) -> th.Tensor:
        """(N, S, width) to (N, S, width)."""
        n, s, width = x.shape
        q, k, v = self.qkv(x).view(n, s, 3, self.heads, width // self.heads).permute(2, 0, 3, 1, 4).unbind(0)
        return self.proj(attend(q, k, v).transpose(1, 2).reshape(n, s, width))


class LayerScale(nn.Module):
    """Learned factor per channel."""

    def __init__(self, width: int, initial: float) -> None:
        super().__init__()
        self.scale_factor = nn.Parameter(th.full((width,), initial))

    def forward(self, x: th.Tensor) -> th.Tensor:
        """Same shape out as in."""
        return x * self.scale_factor


class Block(nn.Module):
    """Pre-norm transformer block."""

    def __init__(self, config: VisionTowerConfig) -> None:
        super().__init__()
        scale = config.layer_scale
        self.norm1 = nn.LayerNorm(config.width, eps=LAYER_NORM_EPS)
        self.attn = Attention(config.width, config.heads)
        self.ls1 = nn.Identity() if scale is None else LayerScale(config.width, scale)
        self.norm2 = nn.LayerNorm(config.width, eps=LAYER_NORM_EPS)
        self.mlp = MLP(config.width, config.mlp_width)
        self.ls2 = nn.Identity() if scale is None else LayerScale(config.width, scale)

    def forward(self, x: th.Tensor) -> th.Tensor:
        """(N, S, width) to (N, S, width)."""
        x = x + self.ls1(self.attn(self.norm1(x)))
        return x + self.ls2(self.mlp(self.norm2(x)))


class PatchEmbed(nn.Module):
    """Cut an image into patches and project each linearly."""

    def __init__(self, patch: int, width: int) -> None:
        super().__init__()
        self.proj = nn.Conv2d(3, width, patch, patch)

    def forward(self, pixels: th.Tensor) -> th.Tensor:
        """(N, 3, H, W) to (N, patches in row-major order, width)."""
        return self.proj(pixels).flatten(2).transpose(1, 2)


class AttentionPool(nn.Module):
    """Weights of SigLIP's pooling head; present in checkpoints, never run."""

    def __init__(self, config: VisionTowerConfig) -> None:
        super().__init__()
        self.latent = nn.Parameter(th.zeros(1, 1, config.width))
        self.q = nn.Linear(config.width, config.width)
        self.kv = nn.Linear(config.width, 2 * config.width)
        self.proj = nn.Linear(config.width, config.width)
        self.norm = nn.LayerNorm(config.width, eps=LAYER_NORM_EPS)
        self.mlp = MLP(config.width, config.mlp_width)


class VisionTower(nn.Module):
    """
    One ViT.

    :param config: sizes
    :param patches: patches of one image
    """

    def __init__(self, config: VisionTowerConfig, patches: int) -> None:
        super().__init__()
        self.prefix_tokens = int(config.class_token) + config.registers
        if config.class_token:
            self.cls_token = nn.Parameter(th.zeros(1, 1, config.width))
        if config.registers:
            self.reg_token = nn.Parameter(th.zeros(1, config.registers, config.width))
        self.pos_embed = nn.Parameter(th.empty(1, patches, config.width))
        self.patch_embed = PatchEmbed(config.patch, config.width)
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.depth))
        self.norm = nn.LayerNorm(config.width, eps=LAYER_NORM_EPS)
        if config.attention_pool:
            self.attn_pool = AttentionPool(config)
        self.blocks_run = range(config.depth)[config.feature_layer] + 1
        self.recompute = False
        """Keep no activations for the backward pass but those between blocks."""

    def forward(self, pixels: th.Tensor) -> th.Tensor:
        """
        Features of the patches.

        :param pixels: (N, 3, H, W), normalised
        :return: (N, patches, width)
        """
        x = self.patch_embed(pixels) + self.pos_embed
        prefix = [
            getattr(self, name).expand(len(x), -1, -1) for name in ("cls_token", "reg_token") if hasattr(self, name)
        ]
        if prefix:
            x = th.cat([*prefix, x], dim=1)
        for block in self.blocks[: self.blocks_run]:
            x = checkpoint(block, x, use_reentrant=False) if self.recompute and th.is_grad_enabled() else block(x)
        if self.blocks_run == len(self.blocks):
            x = self.norm(x)
        return x[:, self.prefix_tokens :]


class VisionBackbone(nn.Module):
    """One or two towers on the same image, features side by side."""

    def __init__(self, config: OpenVLAConfig) -> None:
        super().__init__()
        names = ["featurizer", "fused_featurizer"][: len(config.towers)]
        for name, tower in zip(names, config.towers, strict=True):
            self.add_module(name, VisionTower(tower, config.patches))

    def forward(self, pixels: th.Tensor) -> th.Tensor:
        """
        Features of the patches.

        :param pixels: (N, 3 * towers, H, W), normalised for each tower
        :return: (N, patches, sum of the widths)
        """
        towers = list(self.children())
        return th.cat([tower(part) for tower, part in zip(towers, th.split(pixels, 3, dim=1), strict=True)], dim=-1)


class Projector(nn.Module):
    """MLP from patch features to language-model embeddings; three layers behind two towers, else two."""

    def __init__(self, config: OpenVLAConfig) -> None:
        super().__init__()
        width, hidden = sum(tower.width for tower in config.towers), config.llm.hidden
        if len(config.towers) == 1:
            self.fc1 = nn.Linear(width, hidden)
            self.fc2 = nn.Linear(hidden, hidden)
        else:
            self.fc1 = nn.Linear(width, 4 * width)
            self.fc2 = nn.Linear(4 * width, hidden)
            self.fc3 = nn.Linear(hidden, hidden)

    def forward(self, features: th.Tensor) -> th.Tensor:
        """(N, patches, vision width) to (N, patches, hidden)."""
        x = self.fc2(F.gelu(self.fc1(features)))
        return self.fc3(F.gelu(x)) if hasattr(self, "fc3") else x
