"""The policy that training started from, to stay close to."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch as th
from torch import nn

from vla_algos.models.lora import adapters_disabled
from vla_algos.models.openvla.model import OpenVLA

_NOT_ACTOR = ("value_head.",)


class ReferenceWeights(nn.Module):
    """
    A copy of the weights that training changes. Adapters are not copied but switched off: with LoRA the reference is
    the model without them, as it was when they were fresh.

    :param vla: model as it is now
    """

    def __init__(self, vla: OpenVLA) -> None:
        super().__init__()
        self.names = _trained_names(vla)
        parameters = dict(vla.named_parameters())
        for i, name in enumerate(self.names):
            self.register_buffer(f"weight_{i}", parameters[name].detach().clone())

    @contextmanager
    def put_into(self, vla: OpenVLA) -> Iterator[None]:
        """
        Let the model be the reference inside the block.

        :param vla: the model that was copied from, or one of the same shape
        """
        parameters = dict(vla.named_parameters())
        current = {name: parameters[name].data for name in self.names}
        for i, name in enumerate(self.names):
            parameters[name].data = getattr(self, f"weight_{i}")
        try:
            with adapters_disabled(vla), th.no_grad():
                yield
        finally:
            for name, data in current.items():
                parameters[name].data = data


def _trained_names(vla: OpenVLA) -> list[str]:
    return [
        name
        for name, parameter in vla.named_parameters()
        if parameter.requires_grad and ".lora_" not in name and not name.startswith(_NOT_ACTOR)
    ]
