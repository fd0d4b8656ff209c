"""``VecProcessReward``: a learned process reward beside the environment's sparse one."""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from stable_baselines3.common.vec_env import VecEnv, VecEnvWrapper
from stable_baselines3.common.vec_env.base_vec_env import VecEnvObs, VecEnvStepReturn

from vla_algos.common.vec_env import is_broken
from vla_algos.errors import RewardModelError, SpaceError
from vla_algos.rewards.loading import load_reward_model
from vla_algos.rewards.model import RewardModel
from vla_algos.rewards.shaping import Mode, Shaping
from vla_gym.instructions import decode_instruction
from vla_gym.spec import INSTRUCTION
from vla_gym.type_aliases import BoolArray, Float32Array

logger = logging.getLogger(__name__)

MIN_SCORES = 100
"""Scores that are seen before a share of unusable ones ends a run."""


class VecProcessReward(VecEnvWrapper):
    """
    Add to each reward what a model of the task's progress, Phi in [0, 1], says about the decision.

    Its three modes are those of :class:`vla_algos.rewards.shaping.Shaping`.

    The last frame of an episode is its ``terminal_observation``. An episode that reaches its time limit has not ended
    the task, so ``potential`` keeps Phi there. Nothing is paid where an episode was broken off, as its physics diverged
    or its worker was restarted, and where an environment was left out of a step.

    ``info`` gets ``env_reward`` and ``process_reward``, whose sum is the reward, and ``progress``, Phi(s'). Success
    stays what the environment says. Put this wrapper around ``VecMonitor``, so that returns in logs stay those of the
    environment.

    :param venv: vector environment, with what the model looks at and the instruction in its observations
    :param model: judges the frames; ``"true-progress"`` for what the simulator knows, or the folder of a trained one
    :param weight: w, at least 0
    :param mode: ``delta``, ``potential`` or ``sum``
    :param gamma: discount of the algorithm, per decision; for ``potential`` alone, which needs it
    :param episode_cap: most that ``sum`` pays in an episode, in units of the reward; None: no limit
    :param max_invalid_share: share of scores that may be NaN or outside of [0, 1]. Such a score leaves Phi as it was,
        so that nothing is paid; with more of them the run ends
    :raises UnknownNameError: for an unknown mode or model
    :raises CheckpointError: if the folder of a model is damaged
    :raises SpaceError: if observations lack what the model looks at, or the instruction
    :raises ValueError: for a number out of its range, or one that the mode does not take
    """

    def __init__(
        self,
        venv: VecEnv,
        model: RewardModel | str | Path,
        weight: float = 1.0,
        mode: Mode = "delta",
        gamma: float | None = None,
        episode_cap: float | None = None,
        max_invalid_share: float = 0.01,
    ) -> None:
        super().__init__(venv)
        self.shaping = Shaping(mode, weight, gamma, episode_cap)
        if not 0 <= max_invalid_share <= 1:
            raise ValueError(f"max_invalid_share is {max_invalid_share}; expected a share from 0 to 1.")
        model = load_reward_model(model) if isinstance(model, str | Path) else model
        keys = getattr(venv.observation_space, "spaces", {})
        for key in (model.key, INSTRUCTION):
            if key not in keys:
                raise SpaceError(
                    f"Observations have the keys {sorted(keys)}; the reward model needs {key!r}. "
                    "Name its camera in the environment's keyword cameras (for 'privileged': privileged_obs=True)."
                )
        self.model = model
        self.max_invalid_share = max_invalid_share
        self.progress = np.zeros(self.num_envs, np.float32)
        """Phi of each environment's last state, (N,)."""
        self.paid = np.zeros(self.num_envs)
        """What the episode in progress has been paid, (N,)."""
        self.first_seen = np.zeros((self.num_envs, *keys[model.key].shape), keys[model.key].dtype)
        """What the model looks at, at the start of the episode in progress: images (N, H, W, 3)."""
        self.n_scores = self.n_invalid = 0
        self.reward_seconds = 0.0
        """Time that this wrapper has taken so far."""

    def reset(self) -> VecEnvObs:
        """As the environment's; judges the first states."""
        observations = self.venv.reset()
        self._begin(np.ones(self.num_envs, np.bool_), observations)
        return observations

    def step_wait(self) -> VecEnvStepReturn:
        """Observations (N, ...), rewards with the process reward (N,) float32, dones (N,) and infos."""
        observations, env_rewards, dones, infos = self.venv.step_wait()
        start = time.perf_counter()
        is_judged = np.array([not is_broken(info) and not info.get("is_idle", False) for info in infos])
        scores = self.progress.copy()
        # the last frame of an episode that ended; observations already show the next one
        shown = [info["terminal_observation"] if done else None for done, info in zip(dones, infos, strict=True)]
        seen, texts = self._seen(observations, shown)
        judged = np.flatnonzero(is_judged)
        scores[judged] = self._score(seen[judged], [texts[i] for i in judged], scores[judged])
        is_terminal = np.array([d and not i["TimeLimit.truncated"] for d, i in zip(dones, infos, strict=True)])
        earned = self.shaping(self.progress, scores, is_terminal, self.paid)
        rewards = np.where(is_judged, earned, 0.0).astype(np.float32)
        for i, info in enumerate(infos):
            info["env_reward"], info["process_reward"] = float(env_rewards[i]), float(rewards[i])
            info["progress"] = float(scores[i])
        self.progress, self.paid = scores, self.paid + rewards
        self._begin(dones, observations)
        self.reward_seconds += time.perf_counter() - start
        return observations, env_rewards + rewards, dones, infos

    def _begin(self, is_new: BoolArray, observations: Any) -> None:
        """Remember the first frames of episodes that have just begun, and judge them."""
        if not is_new.any():
            return
        self.first_seen[is_new] = observations[self.model.key][is_new]
        self.paid[is_new] = 0.0
        seen, texts = self._seen(observations, [None] * self.num_envs)
        unknown = np.zeros(int(is_new.sum()), np.float32)
        self.progress[is_new] = self._score(seen[is_new], [texts[i] for i in np.flatnonzero(is_new)], unknown)

    def _seen(self, observations: Any, shown: Sequence[Any]) -> tuple[NDArray[Any], list[str]]:
        """
        What the model looks at, at the start and now, (N, 2, ...), and instructions.

        :param shown: per environment, what to look at instead of its observation
        """
        now, words = observations[self.model.key].copy(), observations[INSTRUCTION].copy()
        for i, other in enumerate(shown):
            if other is not None:
                now[i], words[i] = other[self.model.key], other[INSTRUCTION]
        return np.stack([self.first_seen, now], axis=1), [decode_instruction(row) for row in words]

    def _score(self, seen: NDArray[Any], instructions: list[str], otherwise: Float32Array) -> Float32Array:
        """
        Progress as the model sees it.

        :param otherwise: (n,) what to take where it has no usable answer
        """
        if not instructions:
            return otherwise
        scores = np.asarray(self.model.score(seen, instructions), np.float32)
        if scores.shape != (len(instructions),):
            raise RewardModelError(
                f"{type(self.model).__name__}.score returned shape {scores.shape} for {len(instructions)} moments; "
                f"expected ({len(instructions)},)."
            )
        is_valid = (scores >= 0) & (scores <= 1)
        self.n_scores += len(scores)
        n_invalid = int((~is_valid).sum())
        if n_invalid:
            self.n_invalid += n_invalid
            logger.warning("%d of %d scores were NaN or outside of [0, 1]: nothing is paid", n_invalid, len(scores))
        if self.n_scores >= MIN_SCORES and self.n_invalid > self.max_invalid_share * self.n_scores:
            raise RewardModelError(
                f"{self.n_invalid} of {self.n_scores} scores were NaN or outside of [0, 1], more than "
                f"max_invalid_share={self.max_invalid_share:g} allows. Look at the model with "
                "vla_algos.rewards.audit.audit."
            )
        return np.where(is_valid, scores, otherwise)
