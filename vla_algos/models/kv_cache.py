"""Keys and values of the tokens seen so far, in memory allocated once."""

from __future__ import annotations

import torch as th


class KVCache:
    """
    Preallocated cache of all layers; every layer appends the same columns.

    :param shape: (layers, N, heads, capacity, head_dim)
    :param dtype: type of keys and values
    :param device: where they live
    """

    def __init__(self, shape: tuple[int, int, int, int, int], dtype: th.dtype, device: th.device) -> None:
        self.keys = th.empty(shape, dtype=dtype, device=device)
        self.values = th.empty(shape, dtype=dtype, device=device)
        self.length = 0

    def append(self, layer: int, keys: th.Tensor, values: th.Tensor) -> tuple[th.Tensor, th.Tensor]:
        """
        Store new columns of one layer; the last layer's call moves the write position on.

        :param layer: index of the layer
        :param keys: (N, heads, S, head_dim)
        :param values: as ``keys``
        :return: views of all keys and values of that layer so far, (N, heads, length + S, head_dim)
        """
        end = self.length + keys.shape[2]
        self.keys[layer, :, :, self.length : end] = keys
        self.values[layer, :, :, self.length : end] = values
        if layer == len(self.keys) - 1:
            self.length = end
        return self.keys[layer, :, :, :end], self.values[layer, :, :, :end]
