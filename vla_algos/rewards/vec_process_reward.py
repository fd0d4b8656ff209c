"""``VecProcessReward``: a learned process reward beside the environment's sparse one."""

from __future__ import annotations

import logging
import math
import time
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray
from stable_baselines3.common.vec_env import VecEnv, VecEnvWrapper, VecMonitor, VecNormalize
from stable_baselines3.common.vec_env.base_vec_env import VecEnvObs, VecEnvStepReturn

from vla_algos.common.vec_env import is_broken
from vla_algos.errors import (
    DiscountError,
    RewardHackingWarning,
    RewardModelError,
    SpaceError,
    WrapperOrderError,
    WrapperOrderWarning,
)
from vla_algos.rewards.loading import load_reward_model
from vla_algos.rewards.model import RewardModel
from vla_algos.rewards.shaping import DEFAULT_WEIGHTS, Mode, Shaping
from vla_gym.errors import SnapshotError
from vla_gym.instructions import INSTRUCTION_BYTES, decode_instruction
from vla_gym.spec import INSTRUCTION
from vla_gym.type_aliases import BoolArray, Float32Array

if TYPE_CHECKING:
    from vla_algos.rewards.refresh import EpisodeRecorder

logger = logging.getLogger(__name__)

MIN_SCORES = 100
"""Scores that are seen before a share of unusable ones ends a run."""
SUCCESS_REWARD = 1.0
"""The environment's reward of a success."""
_STATE = ("progress", "paid", "first_seen", "n_scores", "n_invalid")
"""Attributes that change while episodes are played."""


class VecProcessReward(VecEnvWrapper):
    """
    Add to each reward what a model of the task's progress, Phi in [0, 1], says about the decision.

    Its three modes are those of :class:`vla_algos.rewards.shaping.Shaping`.

    The last frame of an episode is its ``terminal_observation``. A time limit does not end the task, so ``potential``
    keeps Phi there, unless the algorithm takes limits for ends (``time_limit="terminal"``, and algorithms that compare
    groups of episodes): then Phi is 0 there, as the theorem asks for. Nothing is paid where an episode was broken off,
    as its physics diverged or its worker was restarted, and where an environment was left out of a step.

    ``info`` gets ``env_reward`` and ``process_reward``, whose sum is the reward, and ``progress``, Phi(s'); at the end
    of an episode also ``process_return``, what it was paid in all. Success stays what the environment says.

    **Order of wrappers.** Put it around ``VecMonitor``, so that returns in logs stay those of the environment (else an
    algorithm's start warns), and inside ``VecNormalize``.

    :param venv: vector environment, with what the model looks at and the instruction in its observations
    :param model: judges the frames; ``"true-progress"`` for what the simulator knows, or the folder of a trained one
    :param weight: w, at least 0; None: 1, and 0.01 for ``sum``
    :param mode: ``delta``, ``potential`` or ``sum``
    :param gamma: discount of the algorithm, per decision, for ``potential`` alone; None: what the algorithm says.
        Algorithms of this package and runs of a recipe say it, Stable-Baselines3's own do not
    :param episode_cap: most that ``sum`` pays in an episode, in units of the reward; None: no limit
    :param max_invalid_share: share of scores that may be NaN or outside of [0, 1]. Such a score leaves Phi as it was,
        and nothing is paid; with more of them the run ends
    :param view: entry of observations to show to the model, such as one of the environment's ``views``; None: the one
        that the model names itself
    :param keep_view: whether observations keep that entry; False where the policy does not read it, which then takes no
        room in roll-out buffers
    :raises UnknownNameError: for an unknown mode or model
    :raises CheckpointError: if the folder of a model is damaged
    :raises SpaceError: if observations lack what the model looks at, or the instruction, or have them in another form
    :raises WrapperOrderError: if a wrapper below changes rewards, or what the model looks at
    :raises ValueError: for a number out of its range, or one that the mode does not take
    """

    def __init__(
        self,
        venv: VecEnv,
        model: RewardModel | str | Path,
        weight: float | None = None,
        mode: Mode = "delta",
        gamma: float | None = None,
        episode_cap: float | None = None,
        max_invalid_share: float = 0.01,
        view: str | None = None,
        keep_view: bool = True,
    ) -> None:
        super().__init__(venv)
        weight = DEFAULT_WEIGHTS.get(mode, 1.0) if weight is None else weight
        self.shaping = Shaping(mode, weight, gamma, episode_cap)
        self._own_gamma = gamma
        if not 0 <= max_invalid_share <= 1:
            raise ValueError(f"max_invalid_share is {max_invalid_share}; expected a share from 0 to 1.")
        self.model = load_reward_model(model) if isinstance(model, str | Path) else model
        self.view = self.model.key if view is None else view
        """Entry of observations that the model looks at."""
        keys = _checked_keys(venv, self.view)
        _check_wrappers_below(venv, self.view)
        self.max_invalid_share = max_invalid_share
        self.keep_view = keep_view
        if not keep_view:
            self.observation_space = spaces.Dict({k: space for k, space in keys.items() if k != self.view})
        self.is_limit_end = False
        """Whether the algorithm takes a time limit for an end of the task."""
        self.progress = np.zeros(self.num_envs, np.float32)
        """Phi of each environment's last state, (N,); NaN before the first usable score of an episode."""
        self.paid = np.zeros(self.num_envs)
        """What the episode in progress has been paid, (N,)."""
        self.first_seen = np.zeros((self.num_envs, *(keys[self.view].shape or ())), keys[self.view].dtype)
        """What the model looks at, at the start of the episode in progress: images (N, H, W, 3)."""
        self.n_scores = self.n_invalid = 0
        self.reward_seconds = 0.0
        """Time that this wrapper has taken so far."""
        self.recorder: EpisodeRecorder | None = None
        """Films the episodes, to train the model on; None: nobody does."""
        self._has_warned_of_order = self._has_warned_of_failure = False

    def check_training(self, env: VecEnv, gamma: float, is_limit_end: bool) -> None:
        """
        Take the discount of an algorithm, and look at the wrappers around this one; algorithms call it as they start.

        :param env: environment that the algorithm trains in, this wrapper inside
        :param gamma: its discount, per decision
        :param is_limit_end: whether it takes a time limit for an end of the task
        :raises DiscountError: if ``gamma`` was given to this wrapper, and is another
        """
        if self._own_gamma is not None and not math.isclose(self._own_gamma, gamma):
            raise DiscountError(
                f"gamma of VecProcessReward is {self._own_gamma}, and gamma of the algorithm is {gamma}: a potential "
                "of another discount changes which policy is best. Leave gamma out of VecProcessReward, which then "
                "takes the algorithm's."
            )
        if self.shaping.mode == "potential":
            self.shaping = replace(self.shaping, gamma=gamma)
        self.is_limit_end = is_limit_end
        if not self._has_warned_of_order and any(isinstance(layer, VecMonitor) for layer in _wrappers(env, until=self)):
            self._has_warned_of_order = True
            warnings.warn(
                "VecMonitor is around VecProcessReward, so rollout/ep_rew_mean contains the process reward. Put "
                "VecMonitor inside: VecProcessReward(VecMonitor(env), ...).",
                WrapperOrderWarning,
                stacklevel=2,
            )

    def snapshot(self) -> dict[str, Any]:
        """Take a snapshot of the episodes in progress, see :mod:`vla_gym.snapshots`."""
        state = {name: getattr(self, name) for name in _STATE}
        return {name: value.copy() if isinstance(value, np.ndarray) else value for name, value in state.items()}

    def restore(self, snapshot: Mapping[str, Any]) -> None:
        """
        Resume from a snapshot; settings stay as they are.

        :param snapshot: what :meth:`snapshot` returned
        :raises SnapshotError: if its model looked at something else
        """
        theirs = np.asarray(snapshot["first_seen"])
        if theirs.shape != self.first_seen.shape or theirs.dtype != self.first_seen.dtype:
            raise SnapshotError(
                f"The snapshot's reward model saw {theirs.shape} {theirs.dtype}, this one sees {self.view!r}, "
                f"{self.first_seen.shape} {self.first_seen.dtype}. Make VecProcessReward as the run had it."
            )
        for name in _STATE:
            value = snapshot[name]
            setattr(self, name, value.copy() if isinstance(value, np.ndarray) else value)
        if self.recorder is not None:
            # how these episodes began is not known
            self.recorder.reels.clear()

    def forget_progress(self) -> None:
        """
        Begin to count progress afresh in all episodes, as another model would score their last states otherwise.

        The next decision of each is paid nothing by ``delta``.
        """
        self.progress[:] = np.nan

    def reset(self) -> VecEnvObs:
        """As the environment's; judges the first states."""
        observations = self.venv.reset()
        self._begin(np.ones(self.num_envs, np.bool_), observations)
        return self._shown(observations)

    def step_wait(self) -> VecEnvStepReturn:
        """Observations (N, ...), rewards with the process reward (N,) float32, dones (N,) and infos."""
        observations, env_rewards, dones, infos = self.venv.step_wait()
        start = time.perf_counter()
        rewards = self._pay(observations, dones, infos)
        if self.recorder is not None:
            for i, info in enumerate(infos):
                if _is_played(info):
                    self.recorder.add(i, observations, bool(dones[i]), info)
        for i, info in enumerate(infos):
            info["env_reward"], info["process_reward"] = float(env_rewards[i]), float(rewards[i])
            info["progress"] = float(self.progress[i])
            # an environment that is left out of a step repeats its last info
            info.pop("process_return", None)
            if dones[i]:
                info["process_return"] = float(self.paid[i])
                self._warn_of_failure(info)
                if not self.keep_view:
                    info["terminal_observation"] = self._shown(info["terminal_observation"])
        self._begin(dones, observations)
        self.reward_seconds += time.perf_counter() - start
        return self._shown(observations), env_rewards + rewards, dones, infos

    def _pay(self, observations: Any, dones: BoolArray, infos: Sequence[Mapping[str, Any]]) -> Float32Array:
        """Process rewards of a step, (N,); moves ``progress`` and ``paid`` on."""
        is_judged = np.array([_is_played(info) and not is_broken(info) for info in infos])
        # the last frame of an episode that ended; observations already show the next one
        ends = [info["terminal_observation"] if done else None for done, info in zip(dones, infos, strict=True)]
        seen, texts = self._seen(observations, ends)
        judged = np.flatnonzero(is_judged)
        before, after, is_valid = self.progress, self.progress.copy(), np.zeros(self.num_envs, np.bool_)
        after[judged], is_valid[judged] = self._score(seen[judged], [texts[i] for i in judged], before[judged])
        # the first usable score of an episode is where its progress starts
        before = np.where(np.isnan(before), after, before)
        is_limit = np.array([bool(info.get("TimeLimit.truncated", False)) for info in infos])
        earned = self.shaping(before, after, dones & (self.is_limit_end | ~is_limit), self.paid)
        is_paid = is_judged & np.isfinite(earned)
        if self.shaping.mode == "sum":
            # the other modes pay differences, and Phi has not changed
            is_paid &= is_valid
        rewards = np.where(is_paid, earned, 0.0).astype(np.float32)
        self.progress, self.paid = after, self.paid + rewards
        return rewards

    def _begin(self, is_new: BoolArray, observations: Any) -> None:
        """Remember the first frames of episodes that have just begun, and judge them."""
        if not is_new.any():
            return
        self.first_seen[is_new] = observations[self.view][is_new]
        self.paid[is_new] = 0.0
        if self.recorder is not None:
            for i in np.flatnonzero(is_new):
                self.recorder.begin(int(i), observations, self.unwrapped.reset_infos[i])
        seen, texts = self._seen(observations, [None] * self.num_envs)
        unknown = np.full(int(is_new.sum()), np.nan, np.float32)
        self.progress[is_new], _ = self._score(seen[is_new], [texts[i] for i in np.flatnonzero(is_new)], unknown)

    def _seen(self, observations: Any, ends: Sequence[Any]) -> tuple[NDArray[Any], list[str]]:
        """
        What the model looks at, at the start and now, (N, 2, ...), and instructions.

        :param ends: per environment, what to look at instead of its observation
        """
        now, words = observations[self.view].copy(), observations[INSTRUCTION].copy()
        for i, end in enumerate(ends):
            if end is not None:
                now[i], words[i] = end[self.view], end[INSTRUCTION]
        return np.stack([self.first_seen, now], axis=1), [decode_instruction(row) for row in words]

    def _shown(self, observations: Any) -> Any:
        """Observations as algorithms get them."""
        if self.keep_view:
            return observations
        return {key: array for key, array in observations.items() if key != self.view}

    def _score(
        self, seen: NDArray[Any], instructions: list[str], otherwise: Float32Array
    ) -> tuple[Float32Array, BoolArray]:
        """
        Progress as the model sees it, and whether it has a usable answer, (n,) each.

        :param otherwise: (n,) what to take where it has none
        """
        if not instructions:
            return otherwise, np.zeros(0, np.bool_)
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
        return np.where(is_valid, scores, otherwise), is_valid

    def _warn_of_failure(self, info: Mapping[str, Any]) -> None:
        """Warn once when a failure was paid as much as success is worth; differences of progress cannot do that."""
        is_well_paid = self.shaping.mode == "sum" and info["process_return"] >= SUCCESS_REWARD
        if is_well_paid and not info.get("is_success", False) and not self._has_warned_of_failure:
            self._has_warned_of_failure = True
            warnings.warn(
                f"A failed episode was paid {info['process_return']:.2f} by mode='sum', and a success is worth "
                f"{SUCCESS_REWARD:g}: failing may pay more than success. Lower weight={self.shaping.weight:g}, set "
                "episode_cap below 1, or take mode='delta'.",
                RewardHackingWarning,
                stacklevel=2,
            )


def find_process_reward(env: VecEnv) -> VecProcessReward | None:
    """
    Find the process reward among the wrappers of an environment.

    :param env: environment, wrappers included
    :return: the wrapper; None if there is none
    """
    return next((layer for layer in _wrappers(env) if isinstance(layer, VecProcessReward)), None)


def _checked_keys(venv: VecEnv, key: str) -> Mapping[str, spaces.Space]:
    """Spaces of an observation by key, if a model can look at them."""
    keys: Mapping[str, spaces.Space] = getattr(venv.observation_space, "spaces", {})
    for name in (key, INSTRUCTION):
        if name not in keys:
            raise SpaceError(
                f"Observations have the keys {sorted(keys)}; the reward model needs {name!r}. "
                "Name its camera in the environment's keyword cameras (for 'privileged': privileged_obs=True; for a "
                "camera of another size: views)."
            )
    shape = keys[key].shape or ()
    if len(shape) == 3 and shape[-1] != 3:
        raise SpaceError(
            f"{key} is {keys[key]}; the reward model takes single images (H, W, 3). Put VecTransposeImage and "
            "VecFrameStack around VecProcessReward."
        )
    if keys[INSTRUCTION].shape != (INSTRUCTION_BYTES,):
        raise SpaceError(
            f"instruction is {keys[INSTRUCTION]}; expected ({INSTRUCTION_BYTES},) uint8. Put wrappers that stack "
            "observations around VecProcessReward."
        )
    return keys


def _check_wrappers_below(venv: VecEnv, key: str) -> None:
    for layer in _wrappers(venv):
        if isinstance(layer, VecProcessReward):
            raise WrapperOrderError(
                "There is a VecProcessReward inside this one, whose pay would pass for the environment's reward. Use "
                "one alone."
            )
        if isinstance(layer, VecNormalize) and layer.norm_reward:
            raise WrapperOrderError(
                "VecNormalize is inside VecProcessReward and scales the environment's reward alone, so weight would "
                "mean something else in every step. Put it around VecProcessReward, or say norm_reward=False."
            )
        if isinstance(layer, VecNormalize) and layer.norm_obs and key in (layer.norm_obs_keys or ()):
            raise WrapperOrderError(
                f"VecNormalize is inside VecProcessReward and changes {key!r}, which the reward model looks at. Put it "
                f"around VecProcessReward, or leave {key!r} out of norm_obs_keys."
            )


def _is_played(info: Mapping[str, Any]) -> bool:
    """Whether the environment took part in the step: it was not left out, and its list of episodes is not over."""
    return not info.get("is_idle", False) and not info.get("sequence_finished", False)


def _wrappers(env: VecEnv, until: VecEnv | None = None) -> list[VecEnvWrapper]:
    """Wrappers of an environment, the outermost first, before ``until``."""
    found = []
    while isinstance(env, VecEnvWrapper) and env is not until:
        found.append(env)
        env = env.venv
    return found
