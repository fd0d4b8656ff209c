"""Value networks that share nothing with the actor."""

from __future__ import annotations

from collections.abc import Sequence

import torch as th
from torch import nn

from vla_algos.common.sequences import as_list

MAX_NORMALISED = 10.0


class PrivilegedCritic(nn.Module):
    """
    Value of a state from what only the simulator knows.

    Reference: Pinto et al. 2017, asymmetric actor-critic (https://arxiv.org/abs/1710.06542).

    Inputs are normalised by their mean and standard deviation over everything :meth:`observe` was shown.

    :param dim: numbers in the privileged observation
    :param net_arch: widths of the hidden layers
    :raises UnknownNameError: if ``net_arch`` is not a list
    """

    mean: th.Tensor
    var: th.Tensor
    count: th.Tensor

    def __init__(self, dim: int, net_arch: Sequence[int] = (256, 256)) -> None:
        super().__init__()
        self.register_buffer("mean", th.zeros(dim))
        self.register_buffer("var", th.ones(dim))
        self.register_buffer("count", th.zeros(()))
        layers: list[nn.Module] = []
        for width in as_list("net_arch", net_arch, "[256, 256]"):
            layers += [nn.Linear(dim, width), nn.GELU()]
            dim = width
        self.layers = nn.Sequential(*layers)
        self.out = nn.Linear(dim, 1)
        with th.no_grad():
            self.out.weight.mul_(0.01)
            self.out.bias.zero_()

    @th.no_grad()
    def observe(self, inputs: th.Tensor) -> None:
        """
        Take more observations into mean and variance.

        :param inputs: (N, dim) float32
        """
        n = len(inputs)
        total = self.count + n
        delta = inputs.mean(dim=0) - self.mean
        squares = self.var * self.count + inputs.var(dim=0, unbiased=False) * n
        self.var.copy_((squares + delta.square() * self.count * n / total) / total)
        self.mean.add_(delta * n / total)
        self.count.copy_(total)

    def forward(self, inputs: th.Tensor) -> th.Tensor:
        """(N, dim) float32 to (N,) float32."""
        x = (inputs.float() - self.mean) / (self.var + 1e-6).sqrt()
        return self.out(self.layers(x.clamp(-MAX_NORMALISED, MAX_NORMALISED))).squeeze(-1)
