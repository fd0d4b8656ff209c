"""The parts that OpenVLA does not have: a proprioception token and a value head."""

from __future__ import annotations

from functools import lru_cache

import torch as th
from torch import nn
from torch.nn import functional as F

from vla_algos.models.openvla.config import OpenVLAConfig


@lru_cache(maxsize=16)
def _constant(values: tuple[float, ...], device: th.device) -> th.Tensor:
    return th.tensor(values, device=device)


class ProprioEncoder(nn.Module):
    """
    Proprioception as one token: normalise, Fourier features, MLP.

    :param config: architecture, whose mean, standard deviation and number of frequencies it takes
    """

    def __init__(self, config: OpenVLAConfig) -> None:
        super().__init__()
        self.mean, self.std = tuple(config.proprio_mean), tuple(config.proprio_std)
        # periods from 8 standard deviations down, each half of the one before
        self.frequencies = tuple(th.pi / 4 * 2**k for k in range(config.proprio_frequencies))
        features = config.proprio_dim * (1 + 2 * config.proprio_frequencies)
        self.fc1 = nn.Linear(features, config.llm.hidden)
        self.fc2 = nn.Linear(config.llm.hidden, config.llm.hidden)

    def forward(self, proprio: th.Tensor) -> th.Tensor:
        """
        Encode.

        :param proprio: (N, proprio_dim) float32, in the units of the observation
        :return: (N, 1, hidden)
        """
        mean, std, frequencies = (_constant(v, proprio.device) for v in (self.mean, self.std, self.frequencies))
        x = ((proprio.float() - mean) / std).clamp(-8, 8)
        angles = (x.unsqueeze(-1) * frequencies).flatten(1)
        x = th.cat([x, angles.sin(), angles.cos()], dim=-1).to(self.fc1.weight.dtype)
        return self.fc2(F.gelu(self.fc1(x))).unsqueeze(1)


class ValueHead(nn.Module):
    """
    Value of a state from the hidden state of the prompt's last token, that is before any action token.

    :param hidden: channels of the hidden state
    :param width: hidden channels of the head
    """

    def __init__(self, hidden: int, width: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(hidden, width)
        self.fc2 = nn.Linear(width, 1)

    def forward(self, x: th.Tensor) -> th.Tensor:
        """(N, hidden) to (N,) float32."""
        return self.fc2(F.gelu(self.fc1(x.to(self.fc1.weight.dtype)))).squeeze(-1).float()
