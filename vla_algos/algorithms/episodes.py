"""Whole episodes in groups that share their start, for algorithms that compare episodes with each other."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import torch as th
from gymnasium import spaces
from stable_baselines3.common.type_aliases import TensorDict

from vla_algos.common.type_aliases import TokenRolloutBufferSamples

Credit = Literal["episode", "decision"]
"""What has an advantage of its own."""


@dataclass
class SampledEpisode:
    """
    One episode of a group.

    :param group: number of its group; episodes of a group have the same start
    :param rows: its decisions, as rows of an :class:`EpisodeBuffer`
    :param rewards: reward of each decision
    :param is_success: what ``info["is_success"]`` said at its end
    :param is_broken: whether its physics diverged or its worker was restarted, so that its end says nothing
    """

    group: int
    rows: list[int] = field(default_factory=list)
    rewards: list[float] = field(default_factory=list)
    is_success: bool = False
    is_broken: bool = False

    def discounted_return(self, gamma: float) -> float:
        """
        Return of the episode from its start.

        :param gamma: discount per decision
        """
        return float(np.dot(self.rewards, gamma ** np.arange(len(self.rewards))))

    def rewards_to_go(self, gamma: float) -> np.ndarray:
        """
        Return of the episode from each of its decisions, that one included, (T,) float64.

        :param gamma: discount per decision
        """
        returns = np.array(self.rewards, np.float64)
        for t in reversed(range(len(returns) - 1)):
            returns[t] += gamma * returns[t + 1]
        return returns


def has_spread(group: Sequence[SampledEpisode], gamma: float, credit: Credit = "episode") -> bool:
    """
    Tell whether the episodes of a group can be ranked, or with the credit "decision" any of their decisions.

    :param group: whole episodes from the same start
    :param gamma: discount per decision
    :param credit: "episode" or "decision"
    :return: False for fewer than two episodes, or if all returns are equal
    """
    if credit == "decision":
        table = aligned_rewards_to_go(group, gamma)
        return bool((np.nanmax(table, axis=0) > np.nanmin(table, axis=0)).any()) if table.size else False
    return len({episode.discounted_return(gamma) for episode in group}) > 1


def aligned_rewards_to_go(group: Sequence[SampledEpisode], gamma: float) -> np.ndarray:
    """
    Rewards to go of a group's decisions side by side, as far as there are two to compare.

    :param group: K whole episodes from the same start
    :param gamma: discount per decision
    :return: (K, T) float64, T the second largest length, NaN where an episode is over
    """
    n_compared = sorted((len(episode.rewards) for episode in group), reverse=True)[1] if len(group) > 1 else 0
    table = np.full((len(group), n_compared), np.nan)
    for row, episode in zip(table, group, strict=True):
        returns = episode.rewards_to_go(gamma)[:n_compared]
        row[: len(returns)] = returns
    return table


class EpisodeBuffer:
    """
    Decisions of whole episodes, each with an advantage.

    It is made as SB3 makes its buffers; only the device matters.

    :param device: of the samples
    """

    def __init__(
        self,
        buffer_size: int,
        observation_space: spaces.Space,
        action_space: spaces.Space,
        device: th.device | str = "auto",
        **_: Any,
    ) -> None:
        self.device = th.device("cpu") if device == "auto" else th.device(device)
        self.reset()

    def reset(self) -> None:
        """Forget everything stored."""
        self.episodes: list[SampledEpisode] = []
        self.observations: TensorDict = {}
        self.extras: dict[str, th.Tensor] = {}
        self.actions = self.log_probs = self.token_mask = self.advantages = th.empty(0)
        self._parts: list[tuple[TensorDict, th.Tensor, th.Tensor, th.Tensor, TensorDict]] = []
        self._n_rows = 0
        self.generator_ready = False

    def add(
        self,
        episodes: Sequence[SampledEpisode],
        observations: TensorDict,
        actions: th.Tensor,
        log_probs: th.Tensor,
        rewards: np.ndarray,
        mask: np.ndarray,
        extras: TensorDict,
    ) -> None:
        """
        Store one decision of each of K episodes that go on.

        :param episodes: the episodes, K
        :param observations: what was seen, per key (K, ...)
        :param actions: (K, ...)
        :param log_probs: at sampling time, (K, A)
        :param rewards: (K,)
        :param mask: what was carried out, (K, A) bool
        :param extras: further tensors, per name (K, ...)
        """
        for row, (episode, reward) in enumerate(zip(episodes, rewards, strict=True)):
            episode.rows.append(self._n_rows + row)
            episode.rewards.append(float(reward))
        self._n_rows += len(episodes)
        on_cpu = [{key: value.cpu() for key, value in tensors.items()} for tensors in (observations, extras)]
        self._parts.append((on_cpu[0], actions.cpu(), log_probs.cpu(), th.from_numpy(mask), on_cpu[1]))

    def discard(self, groups: Collection[int]) -> None:
        """
        Remove whole groups, before ``flatten``; the other episodes keep their decisions, under new rows.

        :param groups: numbers of the groups
        """
        gone = [row for episode in self.episodes if episode.group in groups for row in episode.rows]
        is_kept = np.ones(self._n_rows, dtype=bool)
        is_kept[gone] = False
        new_rows = np.cumsum(is_kept) - 1
        self.episodes = [episode for episode in self.episodes if episode.group not in groups]
        for episode in self.episodes:
            episode.rows = new_rows[episode.rows].tolist()
        self._n_rows = int(is_kept.sum())
        parts, self._parts, first = self._parts, [], 0
        for observations, actions, log_probs, mask, extras in parts:
            kept = th.from_numpy(is_kept[first : first + len(actions)])
            first += len(actions)
            if kept.any():
                on_both = [{name: value[kept] for name, value in named.items()} for named in (observations, extras)]
                self._parts.append((on_both[0], actions[kept], log_probs[kept], mask[kept], on_both[1]))

    def flatten(self) -> None:
        """Join what was added; does nothing the second time."""
        if self.generator_ready:
            return
        observations, actions, log_probs, masks, extras = zip(*self._parts, strict=True)
        self._parts.clear()
        self.actions, self.log_probs, self.token_mask = th.cat(actions), th.cat(log_probs), th.cat(masks)
        # one key after the other, so that images are never there twice as a whole
        self.observations, self.extras = (
            {name: th.cat([part.pop(name) for part in parts]) for name in list(parts[0])}
            for parts in (observations, extras)
        )
        self.advantages = th.zeros(len(self.actions))
        self.generator_ready = True

    def set_advantages(self, group: Sequence[SampledEpisode], advantages: np.ndarray) -> list[int]:
        """
        Give every decision of an episode the episode's advantage, or its own.

        :param group: K episodes
        :param advantages: (K,), or of the first T decisions of each, (K, T); an episode may have fewer
        :return: rows of the decisions that have one
        """
        rows: list[int] = []
        for episode, advantage in zip(group, advantages, strict=True):
            if np.ndim(advantage):
                own = episode.rows[: len(advantage)]
                self.advantages[own] = th.from_numpy(advantage[: len(own)]).float()
                rows += own
            else:
                self.advantages[episode.rows] = float(advantage)
                rows += episode.rows
        return rows

    def samples(self, rows: np.ndarray) -> TokenRolloutBufferSamples:
        """
        Some of the decisions.

        :param rows: (B,) int64
        :return: the samples, on the device; values and returns are zero
        """
        index = th.as_tensor(rows)
        observations, extras = (
            {key: value[index].to(self.device) for key, value in named.items()}
            for named in (self.observations, self.extras)
        )
        return TokenRolloutBufferSamples(*self.whole(rows))._replace(observations=observations, extras=extras)

    def whole(self, rows: np.ndarray) -> TokenRolloutBufferSamples:
        """
        Samples for one gradient step over many decisions, whose observations do not fit on the device at once.

        :param rows: (B,) int64
        :return: the samples without observations and extras; the parts that ``split`` makes of them have both
        """
        index = th.as_tensor(rows)
        nothing = th.zeros(len(index), device=self.device)
        tensors = (self.actions, self.log_probs, self.advantages, self.token_mask)
        actions, log_probs, advantages, mask = (tensor[index].to(self.device) for tensor in tensors)
        samples = _WholeSamples({}, actions, nothing, log_probs, advantages, nothing, mask, {})
        samples.buffer, samples.rows = self, rows
        return samples

    def get(self, batch_size: int, rows: np.ndarray) -> Iterator[TokenRolloutBufferSamples]:
        """
        Minibatches in random order, each sample once.

        :param batch_size: samples per minibatch, the last may be smaller
        :param rows: of the decisions to use
        :return: the minibatches
        """
        order = np.random.permutation(rows)
        for start in range(0, len(order), batch_size):
            yield self.samples(order[start : start + batch_size])


class _WholeSamples(TokenRolloutBufferSamples):
    """Samples whose observations are read from the buffer part by part."""

    buffer: EpisodeBuffer
    rows: np.ndarray

    def split(self, size: int | None) -> Iterator[TokenRolloutBufferSamples]:
        size = size or len(self.rows)
        for start in range(0, len(self.rows), size):
            yield self.buffer.samples(self.rows[start : start + size])
