"""The policy that training started from, to stay close to."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch as th
from torch import nn

from vla_algos.models.lora import adapters_disabled
from vla_algos.policies.actor_policy import ActorPolicy


class ReferenceWeights(nn.Module):
    """
    A copy of the weights that training changes and actions depend on. Adapters are not copied but switched off: with
    LoRA the reference is the model without them, as it was when they were fresh.

    :param policy: as it is now
    """

    def __init__(self, policy: ActorPolicy) -> None:
        super().__init__()
        self.names = [
            name
            for name, parameter in policy.named_parameters()
            if parameter.requires_grad and ".lora_" not in name and not policy.is_of_value(name)
        ]
        parameters = dict(policy.named_parameters())
        for i, name in enumerate(self.names):
            self.register_buffer(f"weight_{i}", parameters[name].detach().clone())

    @contextmanager
    def put_into(self, policy: ActorPolicy) -> Iterator[None]:
        """
        Let the policy be the reference inside the block.

        :param policy: that was copied from, or one of the same shape
        """
        parameters = dict(policy.named_parameters())
        current = {name: parameters[name].data for name in self.names}
        for i, name in enumerate(self.names):
            parameters[name].data = getattr(self, f"weight_{i}")
        try:
            with adapters_disabled(policy), th.no_grad():
                yield
        finally:
            for name, data in current.items():
                parameters[name].data = data
