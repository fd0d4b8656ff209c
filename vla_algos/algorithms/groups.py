"""What the algorithms share that compare episodes from the same start, and need no critic."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any, ClassVar, get_args

import numpy as np
from stable_baselines3.common.buffers import RolloutBuffer
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.vec_env import VecEnv

from vla_algos.algorithms.base import TokenAlgorithm
from vla_algos.algorithms.clock import RolloutClock
from vla_algos.algorithms.episodes import Credit, EpisodeBuffer, SampledEpisode, aligned_rewards_to_go, has_spread
from vla_algos.common.vec_env import is_broken
from vla_algos.errors import RemovedKeywordError, UnknownNameError

ONE_STEP = (
    "it takes one gradient step per roll-out, over all its decisions, as its objective has no ratio to the policy that "
    "sampled them. Leave the keyword out; micro_batch_size bounds the memory of the step."
)
"""Why algorithms without a ratio take no keyword for minibatches or epochs."""


class GroupAlgorithm(TokenAlgorithm):
    """
    Each iteration rolls out ``n_groups`` groups of ``group_size`` whole episodes; those of a group have the same start.

    - Starts are drawn by the environments themselves, so a curriculum that weights them holds here too. Rewards are
      summed; success is read from ``info["is_success"]``.
    - Environments whose episode is over are neither stepped nor rendered, where the vector environment has
      ``step_only`` (:class:`vla_algos.common.vec_env.SB3VecEnv`). Others step them with actions that nobody looks at.
    - Episodes that ended with ``unstable`` physics or a restarted worker are left out of their group.
    - Groups without spread in their returns may be replaced by groups from new starts (``resampling_rounds``). Their
      decisions count in ``num_timesteps`` and leave the buffer.

    **Credit.** With ``credit="episode"`` all decisions of an episode have the advantage of its return. A dense reward
    says more: with ``credit="decision"`` decision t of an episode has its own rewards to go,
    G_t = r_t + gamma r_(t+1) + ..., and is compared with decisions t of the episodes of its group that are still
    running then. Those that are over tell nothing about a state in which the task goes on, so they are no part of the
    baseline; it stays independent of the decision, as episodes are sampled independently, and gradients are unbiased
    but for the weight of late decisions. A decision of the last episode that runs has nothing to be compared with, and
    is not learned from. For episodes of equal length with a reward at their end alone and ``gamma=1``, both credits
    are the same; where successes end earlier, what failures do after the last success is not blamed.

    :param group_size: episodes per start
    :param n_groups: starts per iteration; together a multiple of the number of environments
    :param resampling_rounds: times per iteration that groups without spread are replaced, at most
    :param credit: "episode" or "decision"
    """

    rollout_buffer: EpisodeBuffer  # type: ignore[assignment]
    # of SB3's loop: there is no fixed number of steps, and there are no values
    unused_settings = TokenAlgorithm.unused_settings | {"n_steps", "gae_lambda", "vf_coef"}
    removed_keywords: ClassVar[dict[str, str]] = {}
    """Keywords of related algorithms that have no meaning here, with the reason."""

    def __init__(
        self,
        *args: Any,
        group_size: int,
        n_groups: int,
        resampling_rounds: int = 0,
        credit: Credit = "episode",
        **kwargs: Any,
    ) -> None:
        self.group_size = group_size
        self.n_groups = n_groups
        self.resampling_rounds = resampling_rounds
        self.credit = credit
        super().__init__(*args, n_steps=1, gae_lambda=1.0, vf_coef=0.0, buffer_class=EpisodeBuffer, **kwargs)

    def _refuse(self, keywords: Mapping[str, Any]) -> None:
        """Say why keywords are not taken."""
        name = type(self).__name__
        for keyword in keywords:
            if keyword in self.removed_keywords:
                raise RemovedKeywordError(f"{name} has no {keyword}: {self.removed_keywords[keyword]}")
            raise TypeError(f"{name} has no keyword {keyword!r}.")

    def _check_setting(self, name: str, value: Any) -> None:
        super()._check_setting(name, value)
        if name == "credit" and value not in get_args(Credit):
            raise UnknownNameError("credit", value, get_args(Credit))

    def _setup_model(self) -> None:
        if self.group_size < 2:
            raise ValueError(f"group_size is {self.group_size}; an episode needs at least one other to compare with.")
        if self.n_groups < 1:
            raise ValueError(f"n_groups is {self.n_groups}; expected at least 1.")
        if self.resampling_rounds < 0:
            raise ValueError(f"resampling_rounds is {self.resampling_rounds}; expected 0 (never) or more.")
        super()._setup_model()
        if self.env is not None and (self.group_size * self.n_groups) % self.env.num_envs:
            raise ValueError(
                f"{self.n_groups} groups of {self.group_size} episodes cannot be shared evenly by {self.env.num_envs} "
                "environments. Choose n_groups * group_size as a multiple of the number of environments."
            )

    def _collect(
        self, env: VecEnv, callback: BaseCallback, rollout_buffer: RolloutBuffer, n_rollout_steps: int
    ) -> bool:
        buffer = self.rollout_buffer
        self.policy.set_training_mode(False)
        buffer.reset()
        callback.on_rollout_start()
        clock = RolloutClock(env)
        groups, n_rounds, n_replaced = list(range(self.n_groups)), 0, 0
        while True:
            if not self._roll_out_groups(env, callback, clock, groups):
                return False
            groups = [number for number, group in enumerate(self._whole_groups()) if not self._has_spread(group)]
            if not groups or n_rounds == self.resampling_rounds:
                break
            buffer.discard(groups)
            n_rounds += 1
            n_replaced += len(groups)
        if self.resampling_rounds:
            self.logger.record("rollout/resampling_rounds", n_rounds)
            self.logger.record("rollout/resampled_groups", n_replaced)
        self.logger.record("rollout/broken_episodes", sum(episode.is_broken for episode in buffer.episodes))
        buffer.flatten()
        clock.log(self.logger)
        callback.update_locals(locals())
        callback.on_rollout_end()
        return True

    def _roll_out_groups(self, env: VecEnv, callback: BaseCallback, clock: RolloutClock, groups: list[int]) -> bool:
        """One episode for each place in the groups of these numbers; False if a callback ended the run."""
        starts = self._draw_starts(env, len(groups))
        plan = [(group, start) for group, start in zip(groups, starts, strict=True) for _ in range(self.group_size)]
        for first in range(0, len(plan), env.num_envs):
            if not self._roll_out(env, callback, clock, plan[first : first + env.num_envs]):
                return False
        return True

    def _draw_starts(self, env: VecEnv, n_starts: int) -> list[dict[str, int]]:
        starts: list[dict[str, int]] = []
        while len(starts) < n_starts:
            env.reset()
            starts += [
                {key: int(info[key]) for key in ("task_id", "init_state_id")} for info in env.unwrapped.reset_infos
            ]
        return starts[:n_starts]

    def _roll_out(
        self, env: VecEnv, callback: BaseCallback, clock: RolloutClock, plan: list[tuple[int, dict[str, int]]]
    ) -> bool:
        """One episode in each of the first environments; False if a callback ended the run."""
        env.set_options([start for _, start in plan] + [{}] * (env.num_envs - len(plan)))
        observations = env.reset()
        episodes = [SampledEpisode(group) for group, _ in plan]
        running = np.arange(len(plan))
        while len(running):
            seen = {key: array[running] for key, array in observations.items()}  # type: ignore[union-attr]
            with clock.decoding():
                obs_tensor, sample = self._sample(seen)
                chosen = sample.action.cpu().numpy()
            # where environments cannot be left out, those whose episode is over execute zeros
            actions = np.zeros((env.num_envs, *chosen.shape[1:]), dtype=chosen.dtype)
            actions[running] = self._executable(chosen)
            if hasattr(env.unwrapped, "step_only"):
                env.unwrapped.step_only(running)
            with clock.stepping():
                observations, all_rewards, all_dones, all_infos = env.step(actions)
            rewards, dones, infos = all_rewards[running], all_dones[running], [all_infos[i] for i in running]
            self.num_timesteps += len(running)
            callback.update_locals(locals())
            if not callback.on_step():
                return False
            self._update_info_buffer(infos, dones)
            going = [episodes[i] for i in running]
            mask = self._executed(sample.log_prob, infos)
            self.rollout_buffer.add(going, obs_tensor, sample.action, sample.log_prob, rewards, mask, sample.extras)
            for episode, done, info in zip(going, dones, infos, strict=True):
                if done:
                    episode.is_success = bool(info.get("is_success", False))
                    episode.is_broken = is_broken(info)
            running = running[~dones]
        self.rollout_buffer.episodes += episodes
        return True

    def _whole_groups(self) -> list[list[SampledEpisode]]:
        """Episodes by start, without the broken ones, ``n_groups`` lists."""
        groups: list[list[SampledEpisode]] = [[] for _ in range(self.n_groups)]
        for episode in self.rollout_buffer.episodes:
            if not episode.is_broken:
                groups[episode.group].append(episode)
        return groups

    def _comparable_groups(self) -> list[list[SampledEpisode]]:
        """Episodes by start; broken ones are left out, and those that have no other to compare with."""
        return [group for group in self._whole_groups() if len(group) > 1]

    def _groups_with_spread(self) -> list[list[SampledEpisode]]:
        """Groups whose episodes can be ranked by their returns; how many could not is logged."""
        kinds: Counter[str] = Counter()
        kept = []
        for group in self._comparable_groups():
            if self._has_spread(group):
                kinds["kept"] += 1
                kept.append(group)
            else:
                kinds["all_succeed" if all(episode.is_success for episode in group) else "all_alike"] += 1
        for kind in ("kept", "all_succeed", "all_alike"):
            self.logger.record(f"train/groups_{kind}", kinds[kind])
        return kept

    def _has_spread(self, group: list[SampledEpisode]) -> bool:
        return has_spread(group, self.gamma, self.credit)

    def _set_advantages(
        self, of_episodes: Callable[[np.ndarray], np.ndarray], of_decisions: Callable[[np.ndarray], np.ndarray]
    ) -> np.ndarray:
        """
        Give decisions their advantages in the buffer.

        :param of_episodes: advantages of a group's episodes from their returns, (group_size,) each
        :param of_decisions: advantages of a group's decisions from rewards to go, (group_size, T) each, NaN where an
            episode is over
        :return: rows of those that are learned from, (R,) int64
        """
        rows: list[int] = []
        for group in self._groups_with_spread():
            if self.credit == "decision":
                advantages = of_decisions(aligned_rewards_to_go(group, self.gamma))
            else:
                advantages = of_episodes(np.array([episode.discounted_return(self.gamma) for episode in group]))
            rows += self.rollout_buffer.set_advantages(group, advantages)
        return np.array(rows, np.int64)
