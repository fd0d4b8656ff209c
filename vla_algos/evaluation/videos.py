"""One episode as an MP4."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gymnasium as gym
import imageio.v2 as imageio
import numpy as np

from vla_algos.evaluation.harness import Predictor
from vla_algos.policies.env_keywords import policy_env_kwargs
from vla_gym.envs.libero_env import LiberoEnv
from vla_gym.files import write_then_rename
from vla_gym.spec import AGENTVIEW, CAMERAS, COMMAND_DIM
from vla_gym.tasks.registry import CONTROL_HZ

VIDEO_SIZE = 384
"""Height and width of the video (px); the policy sees images of its own size."""


def record_episode(
    model: Predictor,
    path: str | Path,
    env_id: str,
    env_kwargs: dict[str, Any],
    options: dict[str, Any],
    deterministic: bool = True,
) -> bool:
    """
    Let a policy act for one episode and film every control step.

    Chunks are executed command by command, so that the film shows what happens between decisions.

    :param model: anything with SB3's ``predict`` over action tokens
    :param path: MP4 to write or replace; it appears whole or not at all
    :param env_id: id of the suite
    :param env_kwargs: keywords for ``gymnasium.make``; ``chunk_size`` is that of the policy
    :param options: ``task_id`` and ``init_state_id``
    :param deterministic: greedy actions, else sampled ones
    :return: whether the episode ended in success
    :raises TypeError: if the environment is not a ``LiberoEnv``
    """
    env: gym.Env[Any, Any] = gym.make(env_id, **{**policy_env_kwargs(model, env_kwargs), "chunk_size": 1})
    base = env.unwrapped
    if not isinstance(base, LiberoEnv):
        raise TypeError(f"{env_id} is a {type(base).__name__}; filming needs a LiberoEnv.")
    observation, info = env.reset(seed=0, options=options)
    renderer = base.make_renderer(VIDEO_SIZE, [AGENTVIEW])
    state, is_start, done = None, True, False
    try:
        with write_then_rename(path) as temporary, imageio.get_writer(temporary, format="mp4", fps=CONTROL_HZ) as film:
            while not done:
                actions, state = model.predict(
                    observation, state=state, episode_start=np.array([is_start]), deterministic=deterministic
                )
                is_start = False
                for action in np.asarray(actions).reshape(-1, COMMAND_DIM):
                    observation, _, terminated, truncated, info = env.step(action)
                    # the policy's view is mirrored; people expect to read labels
                    film.append_data(renderer.render(CAMERAS[AGENTVIEW], base.core.view())[:, ::-1])  # type: ignore[attr-defined]
                    done = terminated or truncated
                    if done:
                        break
    finally:
        renderer.close()
        env.close()
    return bool(info["is_success"])
