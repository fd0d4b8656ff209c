"""Rollout storage with several log-probabilities and mask entries per action."""

from __future__ import annotations

from collections.abc import Generator, Mapping, Sequence
from typing import Any

import numpy as np
import torch as th
from stable_baselines3.common.buffers import DictRolloutBuffer
from stable_baselines3.common.vec_env import VecNormalize

from vla_algos.common.type_aliases import TimeLimit, TokenRolloutBufferSamples
from vla_algos.common.vec_env import is_broken


def learned_rewards(
    rewards: np.ndarray,
    infos: Sequence[Mapping[str, Any]],
    values: th.Tensor,
    values_at_limit: Mapping[int, th.Tensor],
    gamma: float,
    time_limit: TimeLimit,
) -> np.ndarray:
    """
    Rewards of one step as advantages are computed from them.

    An episode that is cut off at a time limit would have gone on: "bootstrap" adds gamma V(what is seen there), as SB3
    does. The decision in which an episode breaks is not learned from: its reward becomes the value at sampling time. So
    its advantage is 0, and the decisions before it look ahead to the last state that a policy was in, not to an end
    that says nothing.

    :param rewards: of the environments, (N,)
    :param infos: of the step, N
    :param values: at sampling time, (N,)
    :param values_at_limit: environment -> value of what is seen at its time limit, (1,) each
    :param gamma: discount per decision
    :param time_limit: "bootstrap"; "terminal": the limit is worth nothing
    :return: (N,) float32
    """
    learned = np.array(rewards, dtype=np.float32)
    if time_limit == "bootstrap":
        for i, value in values_at_limit.items():
            # in the precision of the value, as SB3 does
            learned[i] += (gamma * value).item()
    for i, info in enumerate(infos):
        if is_broken(info):
            learned[i] = values[i].item()
    return learned


class TokenRolloutBuffer(DictRolloutBuffer):
    """
    SB3's buffer for dictionary observations, with T steps of N environments and A log-probabilities per action, one for
    each token as a rule.

    What differs from the parent: ``log_probs`` is (T, N, A) instead of (T, N); ``token_mask`` (T, N, A) bool is False
    for what was not carried out; discrete actions are handed back as int64, not as float32; ``extras`` holds what the
    policy computed and training can use again. A is that of the first step. Advantages are the parent's: GAE on
    decisions, one number for all entries of an action.
    """

    token_mask: np.ndarray
    extras: dict[str, th.Tensor]

    def reset(self) -> None:
        """Forget everything stored."""
        super().reset()
        self._set_width(0)
        self.extras = {}

    def _set_width(self, n_log_probs: int) -> None:
        shape = (self.buffer_size, self.n_envs, n_log_probs)
        self.log_probs = np.zeros(shape, dtype=np.float32)
        self.token_mask = np.ones(shape, dtype=bool)

    def add(  # type: ignore[override]
        self,
        obs: dict[str, np.ndarray],
        action: np.ndarray,
        reward: np.ndarray,
        episode_start: np.ndarray,
        value: th.Tensor,
        log_prob: th.Tensor,
        mask: np.ndarray,
        extras: Mapping[str, th.Tensor],
    ) -> None:
        """
        Store a step.

        :param obs: per key (N, ...)
        :param action: (N, ...)
        :param reward: (N,)
        :param episode_start: (N,) bool
        :param value: at sampling time, (N,)
        :param log_prob: at sampling time, (N, A)
        :param mask: what was carried out, (N, A) bool
        :param extras: further tensors, kept in main memory, per name (N, ...), the same in every step
        """
        if self.pos == 0:
            self._set_width(log_prob.shape[1])
        self.token_mask[self.pos] = mask
        for name, tensor in extras.items():
            if name not in self.extras:
                self.extras[name] = th.empty((self.buffer_size, *tensor.shape), dtype=tensor.dtype)
            self.extras[name][self.pos] = tensor.detach()
        super().add(obs, action, reward, episode_start, value, log_prob)

    @property
    def is_counted(self) -> np.ndarray:
        """Which decisions are learned from: those with an executed token; (T, N) bool, flattened (T * N,)."""
        return np.asarray(self.token_mask.any(axis=-1))

    def flatten(self) -> None:
        """Put all samples in one row, (T * N, ...), as minibatches need them; does nothing the second time."""
        if self.generator_ready:
            return
        self.observations = {key: self.swap_and_flatten(array) for key, array in self.observations.items()}
        for name in ("actions", "values", "log_probs", "advantages", "returns", "token_mask"):
            setattr(self, name, self.swap_and_flatten(getattr(self, name)))
        self.extras = {name: tensor.transpose(0, 1).flatten(0, 1) for name, tensor in self.extras.items()}
        self.generator_ready = True

    def samples(self, rows: np.ndarray) -> TokenRolloutBufferSamples:
        """
        Some of the samples.

        :param rows: (B,) int64, of the flattened buffer
        """
        self.flatten()
        return self._get_samples(rows)

    def get(self, batch_size: int | None = None) -> Generator[TokenRolloutBufferSamples, None, None]:  # type: ignore[override]
        """
        Minibatches in random order, each sample once.

        :param batch_size: samples per minibatch, the last may be smaller; None: all in one
        :return: the minibatches
        """
        self.flatten()
        yield from super().get(batch_size)  # type: ignore[misc]

    def _get_samples(  # type: ignore[override]
        self, batch_inds: np.ndarray, env: VecNormalize | None = None
    ) -> TokenRolloutBufferSamples:
        actions = self.actions[batch_inds]
        if np.issubdtype(self.action_space.dtype, np.integer):
            actions = actions.astype(np.int64, copy=False)
        return TokenRolloutBufferSamples(
            observations={key: self.to_torch(obs[batch_inds]) for (key, obs) in self.observations.items()},
            # from here on it differs from the parent: integers, and rows that stay rows
            actions=self.to_torch(actions.reshape(len(batch_inds), *(self.action_space.shape or ()))),
            old_values=self.to_torch(self.values[batch_inds].flatten()),
            old_log_prob=self.to_torch(self.log_probs[batch_inds]),
            advantages=self.to_torch(self.advantages[batch_inds].flatten()),
            returns=self.to_torch(self.returns[batch_inds].flatten()),
            token_mask=self.to_torch(self.token_mask[batch_inds]),
            extras={name: tensor[batch_inds].to(self.device) for name, tensor in self.extras.items()},
        )
