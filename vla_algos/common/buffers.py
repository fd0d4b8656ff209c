"""Rollout storage with one log-probability and one mask entry per action token."""

from __future__ import annotations

from collections.abc import Generator, Mapping, Sequence
from typing import Any

import numpy as np
import torch as th
from stable_baselines3.common.buffers import DictRolloutBuffer
from stable_baselines3.common.vec_env import VecNormalize

from vla_algos.common.type_aliases import TimeLimit, TokenRolloutBufferSamples
from vla_algos.common.vec_env import is_broken
from vla_gym.spec import COMMAND_DIM


def mask_unexecuted(mask: np.ndarray, info: Mapping[str, Any]) -> None:
    """
    Set a token's mask to False where its command was not executed, or where the episode broke.

    :param mask: of one action, (A,) bool, changed in place
    :param info: of the step; ``executed_steps``: commands executed (missing: all)
    """
    if is_broken(info):
        mask[:] = False
    executed_steps = info.get("executed_steps")
    if executed_steps is not None:
        mask[COMMAND_DIM * int(executed_steps) :] = False


class TokenRolloutBuffer(DictRolloutBuffer):
    """
    SB3's buffer for dictionary observations, with T steps of N environments and A tokens per action.

    What differs from the parent: ``log_probs`` is (T, N, A) instead of (T, N); ``token_mask`` (T, N, A) bool is False
    for the tokens of commands that were not executed (see :meth:`mark_executed`); actions are handed back as int64, not
    as float32; ``memory`` holds what the policy computed and training can use again (see :meth:`remember`). Advantages
    are the parent's: GAE on environment steps, one number for all tokens of an action.

    The decision in which an episode breaks (``is_broken``) is not learned from: all its tokens are masked, and its
    reward becomes the value at sampling time. So its advantage is 0, and the decisions before it look ahead to the last
    state that a policy was in, not to an end that says nothing.
    """

    token_mask: np.ndarray
    memory: dict[str, th.Tensor]
    values_at_limit: list[float]

    def reset(self) -> None:
        """Forget everything stored."""
        super().reset()
        shape = (self.buffer_size, self.n_envs, self.action_dim)
        self.log_probs = np.zeros(shape, dtype=np.float32)
        self.token_mask = np.ones(shape, dtype=bool)
        self.memory = {}
        self.values_at_limit: list[float] = []
        self._broken: list[int] = []
        self._at_limit: dict[int, float] = {}
        self._is_limit_terminal = False

    def mark_executed(self, infos: Sequence[dict[str, Any]]) -> None:
        """
        Mask the commands that the step in progress did not execute; to be called before its :meth:`add`.

        :param infos: the step's info of each environment; ``executed_steps``: commands executed (missing: all)
        """
        self._broken = [i for i, info in enumerate(infos) if is_broken(info)]
        for env_index, info in enumerate(infos):
            mask_unexecuted(self.token_mask[self.pos, env_index], info)

    def mark_limits(
        self, infos: Sequence[dict[str, Any]], dones: np.ndarray, rewards: np.ndarray, time_limit: TimeLimit
    ) -> None:
        """
        Note which episodes end at a time limit in the step in progress; to be called before its :meth:`add`.

        What SB3 then adds to the reward, the discounted value behind the limit, goes to ``values_at_limit``.

        :param infos: the step's info of each environment; ``TimeLimit.truncated`` (missing: False)
        :param dones: whether an episode ends, (N,) bool
        :param rewards: of the environment, (N,)
        :param time_limit: "bootstrap": leave the value in the reward; "terminal": take it off again
        """
        self._is_limit_terminal = time_limit == "terminal"
        self._at_limit = {
            i: float(rewards[i])
            for i, info in enumerate(infos)
            if dones[i] and info.get("TimeLimit.truncated") and not is_broken(info)
        }

    def remember(self, tensors: Mapping[str, th.Tensor]) -> None:
        """
        Keep tensors of the step in progress, in main memory; to be called before its :meth:`add`.

        :param tensors: per name (N, ...), the same names and shapes in every step
        """
        for name, tensor in tensors.items():
            if name not in self.memory:
                self.memory[name] = th.empty((self.buffer_size, *tensor.shape), dtype=tensor.dtype)
            self.memory[name][self.pos] = tensor.detach()

    def add(  # type: ignore[override]
        self,
        obs: dict[str, np.ndarray],
        action: np.ndarray,
        reward: np.ndarray,
        episode_start: np.ndarray,
        value: th.Tensor,
        log_prob: th.Tensor,
    ) -> None:
        """
        Store the step in progress.

        :param obs: per key (N, ...)
        :param action: (N, A)
        :param reward: (N,), with what a time limit adds to it; not changed
        :param episode_start: (N,) bool
        :param value: at sampling time, (N,) or (N, 1)
        :param log_prob: at sampling time, (N, A)
        """
        reward = np.array(reward, dtype=np.float32)
        for i, earned in self._at_limit.items():
            if self.gamma > 0.0:
                self.values_at_limit.append((float(reward[i]) - earned) / self.gamma)
            if self._is_limit_terminal:
                reward[i] = earned
        for i in self._broken:
            reward[i] = value[i].item()
        self._broken, self._at_limit = [], {}
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
        self.memory = {name: tensor.transpose(0, 1).flatten(0, 1) for name, tensor in self.memory.items()}
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
        return TokenRolloutBufferSamples(
            observations={key: self.to_torch(obs[batch_inds]) for (key, obs) in self.observations.items()},
            # from here on it differs from the parent: integers, and rows of tokens that stay rows
            actions=self.to_torch(self.actions[batch_inds].astype(np.int64, copy=False)),
            old_values=self.to_torch(self.values[batch_inds].flatten()),
            old_log_prob=self.to_torch(self.log_probs[batch_inds]),
            advantages=self.to_torch(self.advantages[batch_inds].flatten()),
            returns=self.to_torch(self.returns[batch_inds].flatten()),
            token_mask=self.to_torch(self.token_mask[batch_inds]),
            memory={name: tensor[batch_inds].to(self.device) for name, tensor in self.memory.items()},
        )
