"""Where a training run stands in its data: the order of the decisions and all noise on them."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch as th


class TrainingStream:
    """
    Endless passes over the data in random order, and the generators of everything random in training.

    It can be pickled, and goes on from there with the same bits.

    :param seed: of the split, the order and the noise
    """

    def __init__(self, seed: int) -> None:
        self.seed = seed
        self.noise = th.Generator().manual_seed(seed)
        self._generator = np.random.default_rng(seed)
        self._order = np.empty(0, dtype=np.int64)

    def next_indices(self, n_samples: int, batch_size: int) -> np.ndarray:
        """
        The next batch; every decision occurs once per pass.

        :param n_samples: decisions in the data, the same in every call
        :param batch_size: decisions wanted, which may be more than there are
        :return: (batch_size,) int64
        """
        while len(self._order) < batch_size:
            self._order = np.concatenate([self._order, self._generator.permutation(n_samples)])
        indices, self._order = np.split(self._order, [batch_size])
        return indices

    def hidden_tokens(self, shape: tuple[int, ...], token_dropout: float, full_dropout: float) -> th.Tensor:
        """
        Which earlier tokens later ones must not see.

        :param shape: (N, A)
        :param token_dropout: probability to hide a token
        :param full_dropout: share of the rows that hide all of them
        :return: (N, A) bool, True for hidden
        """
        is_full = th.rand(shape[0], 1, generator=self.noise) < full_dropout
        return is_full | (th.rand(shape, generator=self.noise) < token_dropout)

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "noise": self.noise.get_state().numpy()}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self.noise = th.Generator()
        self.noise.set_state(th.from_numpy(state["noise"].copy()))
