"""Episodes collected with an expert."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import gymnasium as gym
import numpy as np

from vla_gym.actions.tokenizer import ActionTokenizer
from vla_gym.experts.scripted import ScriptedExpert
from vla_gym.type_aliases import Float32Array, Float64Array, UInt8Array


@dataclass(frozen=True)
class Episode:
    """
    One episode of T control steps; row t of an observation is what was seen before command t.

    :param images: camera ``agentview``, (T, H, W, 3) uint8; H = W = 0 if the environment does not render it
    :param proprio: (T, 8) float32
    :param commands: commands as executed, in [-1, 1], (T, 7) float64
    :param instruction: the task in words
    :param task_id: task
    :param init_state_id: initial state
    :param success: whether the goal was reached
    """

    images: UInt8Array
    proprio: Float32Array
    commands: Float64Array
    instruction: str
    task_id: int
    init_state_id: int
    success: bool

    def __len__(self) -> int:
        return len(self.commands)


def collect_episode(
    env: gym.Env[Any, Any],
    expert: ScriptedExpert,
    options: dict[str, Any] | None = None,
    action_tokenizer: ActionTokenizer | None = None,
) -> Episode:
    """
    Reset environment and expert, and run them until success or truncation.

    :param env: ``LiberoEnv`` with continuous actions and one command per action
    :param expert: expert on the same environment
    :param options: passed to ``env.reset``: ``task_id`` and/or ``init_state_id``
    :param action_tokenizer: if given, commands are rounded to its bins before they are executed and stored
    :return: the episode
    :raises InvalidActionError: if the environment takes tokens or chunks
    """
    observation, info = env.reset(options=options)
    expert.reset()
    images, proprio, commands = [], [], []
    done = False
    while not done:
        command = expert.act()
        if action_tokenizer is not None:
            command = action_tokenizer.decode(action_tokenizer.encode(command))
        images.append(observation.get("agentview", np.zeros((0, 0, 3), dtype=np.uint8)))
        proprio.append(observation["proprio"])
        commands.append(command)
        observation, _, terminated, truncated, info = env.step(command)
        done = terminated or truncated
    return Episode(
        images=np.stack(images),
        proprio=np.stack(proprio),
        commands=np.stack(commands),
        instruction=info["instruction"],
        task_id=info["task_id"],
        init_state_id=info["init_state_id"],
        success=info["is_success"],
    )
