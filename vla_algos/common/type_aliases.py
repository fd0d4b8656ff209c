"""Named tuples that carry samples from the buffers to the algorithms."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal, NamedTuple

import torch as th
from stable_baselines3.common.type_aliases import TensorDict

RatioLevel = Literal["token", "action"]
TimeLimit = Literal["bootstrap", "terminal"]
UseBF16 = bool | Literal["auto"]
"""Whether to compute under autocast to bfloat16; "auto": where the device has such arithmetic."""


class TokenRolloutBufferSamples(NamedTuple):
    """
    One minibatch of a roll-out; B samples of A log-probabilities, one for each token as a rule.

    :param observations: per key (B, ...), type of the observation space
    :param actions: (B, ...), of the action space; int64 if it is discrete
    :param old_values: values at sampling time, (B,) float32
    :param old_log_prob: log-probabilities at sampling time, (B, A) float32
    :param advantages: (B,) float32
    :param returns: targets of the value head, (B,) float32
    :param token_mask: True for what was carried out, (B, A) bool
    :param extras: what else the policy computed in sampling, and references, per name (B, ...)
    """

    observations: TensorDict
    actions: th.Tensor
    old_values: th.Tensor
    old_log_prob: th.Tensor
    advantages: th.Tensor
    returns: th.Tensor
    token_mask: th.Tensor
    extras: TensorDict

    @property
    def is_counted(self) -> th.Tensor:
        """Which decisions are learned from: those with an executed token; (B,) bool."""
        return self.token_mask.any(dim=1)

    def split(self, size: int | None) -> Iterator[TokenRolloutBufferSamples]:
        """
        Consecutive parts, in order.

        :param size: samples per part, the last may be smaller; None: one part
        :return: the parts, as views
        """
        n_samples = len(self.actions)
        size = size or n_samples
        for start in range(0, n_samples, size):
            part = slice(start, start + size)
            tensors = {name: value[part] for name, value in self._asdict().items() if isinstance(value, th.Tensor)}
            yield self._replace(
                observations={key: value[part] for key, value in self.observations.items()},
                extras={name: value[part] for name, value in self.extras.items()},
                **tensors,
            )
