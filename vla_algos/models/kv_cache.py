"""Keys and values of the tokens seen so far, in memory allocated once."""

from __future__ import annotations

import torch as th


class KVCache:
    """
    Preallocated cache of all layers; every layer appends the same columns.

    After ``freeze_shapes`` a column at a time is appended where ``column`` says, and all columns are handed out: every
    step has the same shapes and addresses, so that it can be recorded as a CUDA graph.

    :param shape: (layers, N, heads, capacity, head_dim)
    :param dtype: type of keys and values
    :param device: where they live
    """

    def __init__(self, shape: tuple[int, int, int, int, int], dtype: th.dtype, device: th.device) -> None:
        # zeros: masked columns are multiplied by zero, and zero times NaN would be NaN
        self.keys = th.zeros(shape, dtype=dtype, device=device)
        self.values = th.zeros(shape, dtype=dtype, device=device)
        self.length = 0
        self.column = th.zeros(1, dtype=th.int64, device=device)
        """(1,) where the next column goes, once shapes are frozen."""
        self._is_frozen = False

    def clear(self) -> None:
        """Start anew in the same memory."""
        self.length, self._is_frozen = 0, False

    def freeze_shapes(self) -> None:
        """From now on one column at a time."""
        self._is_frozen = True
        self.column.fill_(self.length)

    def forget_beyond(self, length: int) -> None:
        """
        Write zeros over what calls of before have left.

        :param length: columns to keep
        """
        self.keys[:, :, :, length:] = 0
        self.values[:, :, :, length:] = 0

    def columns(self, n: int) -> th.Tensor:
        """
        Places of the columns that are appended next.

        :param n: how many
        :return: (1, n) int64
        """
        if self._is_frozen:
            return self.column.unsqueeze(0)
        return th.arange(self.length, self.length + n, device=self.keys.device).unsqueeze(0)

    def n_seen(self, n: int) -> int:
        """
        Columns that ``append`` hands out.

        :param n: how many are appended
        """
        return self.keys.shape[3] if self._is_frozen else self.length + n

    def append(self, layer: int, keys: th.Tensor, values: th.Tensor) -> tuple[th.Tensor, th.Tensor]:
        """
        Store new columns of one layer; the last layer's call moves the write position on, unless shapes are frozen.

        :param layer: index of the layer
        :param keys: (n, heads, S, head_dim), for the first n of the N rows; with frozen shapes for all
        :param values: as ``keys``
        :return: views of all keys and values of that layer so far, (n, heads, length + S, head_dim); with frozen shapes
            of all columns, (N, heads, capacity, head_dim)
        """
        if self._is_frozen:
            self.keys[layer].index_copy_(2, self.column, keys)
            self.values[layer].index_copy_(2, self.column, values)
            return self.keys[layer], self.values[layer]
        n, end = len(keys), self.length + keys.shape[2]
        self.keys[layer, :n, :, self.length : end] = keys
        self.values[layer, :n, :, self.length : end] = values
        if layer == len(self.keys) - 1:
            self.length = end
        return self.keys[layer, :n, :, :end], self.values[layer, :n, :, :end]
