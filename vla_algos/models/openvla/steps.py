"""
Cached decoding steps: one token in, the next token's logits out.

Two ways with the same result: ``GrowingSteps`` is the plain one; ``FixedSteps`` keeps every shape and address from step
to step and from call to call, so that a CUDA device can replay a step as one graph.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import Any, NamedTuple

import torch as th
from torch import nn
from torch.nn import functional as F

from vla_algos.models.kv_cache import KVCache
from vla_algos.models.openvla.llm import Llama

_WARM_UP_RUNS = 2
_CAPACITY_STEP = 64
"""Capacities are rounded up to multiples of this, so that prompts of similar length share a recording."""
_KEPT_SHAPES = 8


class Prompt(NamedTuple):
    """Input of the language model before any action token."""

    embeds: th.Tensor
    """(N, S, hidden)"""
    lengths: th.Tensor
    """(N, 1) int64 for prompts of different length, else (1, 1)"""
    is_real: th.Tensor | None
    """(N, S) bool for prompts of different length, else None"""

    def is_real_with(self, n_more: int) -> th.Tensor | None:
        """``is_real`` for the prompt and ``n_more`` action tokens."""
        return None if self.is_real is None else F.pad(self.is_real, (0, n_more), value=True)


class GrowingSteps:
    """
    Steps over exactly the columns there are.

    :param llm: the language model
    :param rows: of the vocabulary, those to score
    :param prompt: what comes before, held by ``cache``
    :param cache: extended
    """

    def __init__(self, llm: Llama, rows: slice, prompt: Prompt, cache: KVCache) -> None:
        self.llm, self.rows, self.prompt, self.cache = llm, rows, prompt, cache
        self.step = 0

    def __call__(self, ids: th.Tensor) -> th.Tensor:
        """
        Take one step.

        :param ids: (N,) int64, the token chosen last
        :return: logits (N, rows)
        """
        self.step += 1
        x = self.llm.model.embed_tokens(ids).unsqueeze(1)
        positions = self.prompt.lengths + (self.step - 1)
        hidden = self.llm(x, positions, is_real=self.prompt.is_real_with(self.step), cache=self.cache)
        return self.llm.score(hidden.squeeze(1), self.rows)


class FixedSteps:
    """
    Steps over all columns of the cache, those to come masked; on a CUDA device recorded once and replayed.

    :param llm: the language model
    :param rows: of the vocabulary, those to score
    :param cache: memory that all calls of this shape share
    """

    def __init__(self, llm: Llama, rows: slice, cache: KVCache) -> None:
        self.llm, self.rows, self.cache = llm, rows, cache
        n, capacity, device = cache.keys.shape[1], cache.keys.shape[3], cache.keys.device
        self._ids = th.zeros(n, dtype=th.int64, device=device)
        self._positions = th.zeros(n, 1, dtype=th.int64, device=device)
        self._is_real = th.zeros(n, capacity, dtype=th.bool, device=device)
        self._replay: Callable[[], None] | None = None
        self._logits: th.Tensor | None = None

    def start(self, prompt: Prompt) -> None:
        """
        Begin behind a prompt.

        :param prompt: held by the first rows of the cache; the other rows are ignored
        """
        n, s, _ = prompt.embeds.shape
        self.cache.freeze_shapes()
        self.cache.forget_beyond(s)
        self._is_real.zero_()
        # no row may be masked as a whole
        self._is_real[:, :s] = True
        if prompt.is_real is not None:
            self._is_real[:n, :s] = prompt.is_real
        # both are moved on at the beginning of each step
        self._positions.zero_()
        self._positions[:n] = prompt.lengths - 1
        self.cache.column -= 1

    def __call__(self, ids: th.Tensor) -> th.Tensor:
        """
        Take one step.

        :param ids: (n,) int64, the token chosen last, for the rows of the prompt
        :return: logits (n, rows), overwritten by the next step
        """
        self._ids[: len(ids)] = ids
        self._positions += 1
        self.cache.column += 1
        self._is_real.index_fill_(1, self.cache.column, True)
        if self._ids.device.type != "cuda":
            return self._compute()[: len(ids)]
        if self._replay is None:
            self._record()
        assert self._replay is not None and self._logits is not None
        self._replay()
        return self._logits[: len(ids)]

    def _compute(self) -> th.Tensor:
        x = self.llm.model.embed_tokens(self._ids).unsqueeze(1)
        hidden = self.llm(x, self._positions, is_real=self._is_real, cache=self.cache)
        return self.llm.score(hidden.squeeze(1), self.rows)

    def _record(self) -> None:
        # kernels are chosen and memory is taken before the recording; to repeat a step changes nothing
        with th.cuda.device(self._ids.device):
            stream = th.cuda.Stream()  # type: ignore[no-untyped-call]
            stream.wait_stream(th.cuda.current_stream())
            with th.cuda.stream(stream):
                for _ in range(_WARM_UP_RUNS):
                    self._compute()
            th.cuda.current_stream().wait_stream(stream)
            graph = th.cuda.CUDAGraph()
            # torch's own stream for recordings stays on the device of the first one
            with th.cuda.graph(graph, stream=stream):
                self._logits = self._compute()
        self._replay = graph.replay


class StepsPool:
    """
    ``FixedSteps`` by shape, so that a recording serves many calls; a few are kept.

    A batch also takes those of one up to twice its size, so that batches which shrink from step to step, as roll-outs
    of whole episodes make them, need few.
    """

    def __init__(self) -> None:
        self._kept: OrderedDict[tuple[int, Hashable], FixedSteps] = OrderedDict()

    def __deepcopy__(self, memo: dict[int, Any]) -> StepsPool:
        """A copied model has other weights, so it starts without recordings."""
        return StepsPool()

    def __reduce__(self) -> tuple[type[StepsPool], tuple[()]]:
        """Recordings cannot be pickled."""
        return StepsPool, ()

    def get(self, llm: Llama, rows: slice, n: int, capacity: int, dtype: th.dtype) -> FixedSteps:
        """
        Steps for a batch, with an empty cache.

        :param llm: the language model
        :param rows: of the vocabulary, those to score
        :param n: rows of the batch
        :param capacity: columns that are needed
        :param dtype: of keys and values
        """
        capacity = -(-capacity // _CAPACITY_STEP) * _CAPACITY_STEP
        # a recording holds addresses: of weights that were moved it would read what is left behind
        weights = tuple(parameter.data_ptr() for parameter in llm.parameters())
        # and it goes the way that Python went
        switches = tuple((module.training, *_adapter_switches(module)) for module in llm.modules())
        key = (capacity, dtype, rows.start, rows.stop, weights, switches)
        size = min((kept for kept, other in self._kept if other == key and n <= kept <= 2 * n), default=n)
        steps = self._kept.pop((size, key), None)
        if steps is None:
            if len(self._kept) >= _KEPT_SHAPES:
                self._kept.popitem(last=False)
            # what is made in inference mode could not be written to outside of it
            with th.inference_mode(False):
                steps = FixedSteps(llm, rows, make_cache(llm, n, capacity, dtype))
        self._kept[size, key] = steps
        steps.cache.clear()
        return steps


def _adapter_switches(module: nn.Module) -> tuple[Any, ...]:
    return getattr(module, "merged", None), getattr(module, "disable_adapters", None)


def make_cache(llm: Llama, n: int, capacity: int, dtype: th.dtype) -> KVCache:
    """
    Empty cache.

    :param llm: the language model
    :param n: rows of the batch
    :param capacity: columns
    :param dtype: of keys and values
    """
    config = llm.config
    shape = (config.layers, n, config.heads, capacity, config.hidden // config.heads)
    return KVCache(shape, dtype, llm.lm_head.weight.device)
