"""Run a fixed list of episodes, one per reset, in an auto-resetting vector environment."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import gymnasium as gym

from vla_gym.type_aliases import Int64Array, Observation


class EpisodeSequence(gym.Wrapper[Observation, Int64Array, Observation, Int64Array]):
    """
    Start the next (task, initial state) of a list at every reset.

    After the last episode the wrapped environment is left alone: reset and step return its last observation with reward
    0, no end of episode and ``info["sequence_finished"] = True``, so that the rest of a batch can continue.

    :param env: environment whose ``reset`` takes ``options={"task_id": ..., "init_state_id": ...}``
    :param episodes: (task_id, init_state_id) of each episode, in order, at least one
    :param seed: seed of every reset, so that an episode does not depend on those before it
    :raises ValueError: if the list is empty
    """

    def __init__(
        self, env: gym.Env[Observation, Int64Array], episodes: Sequence[tuple[int, int]], seed: int = 0
    ) -> None:
        super().__init__(env)
        if len(episodes) == 0:
            raise ValueError("The list of episodes is empty; expected at least one (task_id, init_state_id).")
        self.episodes = list(episodes)
        self.seed = seed
        self._next = 0
        self._last_observation: Observation | None = None
        self._is_finished = False

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Observation, dict[str, Any]]:
        """
        Start the next episode of the list; both arguments are ignored.

        :param seed: ignored
        :param options: ignored
        :return: observation and info; the last observation and ``sequence_finished`` when the list is exhausted
        """
        if self._next == len(self.episodes):
            self._is_finished = True
            return self._idle()
        task_id, init_state_id = self.episodes[self._next]
        self._next += 1
        self._last_observation, info = self.env.reset(
            seed=self.seed, options={"task_id": task_id, "init_state_id": init_state_id}
        )
        return self._last_observation, {**info, "sequence_finished": False}

    def step(self, action: Int64Array) -> tuple[Observation, float, bool, bool, dict[str, Any]]:
        """
        Step the current episode.

        :param action: action of the wrapped environment
        :return: observation, reward, terminated, truncated, info
        """
        if self._is_finished:
            observation, info = self._idle()
            return observation, 0.0, False, False, info
        observation, reward, terminated, truncated, info = self.env.step(action)
        self._last_observation = observation
        return observation, float(reward), terminated, truncated, {**info, "sequence_finished": False}

    def _idle(self) -> tuple[Observation, dict[str, Any]]:
        if self._last_observation is None:
            raise gym.error.ResetNeeded("Call reset() before step().")
        return self._last_observation, {"sequence_finished": True}


def make_sequence(
    env_fn: Callable[[], gym.Env[Observation, Int64Array]], episodes: Sequence[tuple[int, int]], seed: int = 0
) -> EpisodeSequence:
    """
    Make an environment and wrap it; workers can import this function.

    :param env_fn: function that makes the environment
    :param episodes: see :class:`EpisodeSequence`
    :param seed: see :class:`EpisodeSequence`
    :return: the wrapped environment
    """
    return EpisodeSequence(env_fn(), episodes, seed)
