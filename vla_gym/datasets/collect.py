"""Collect episodes with an expert, and replay episodes from their commands."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import gymnasium as gym
import numpy as np

from vla_gym.actions.tokenizer import ActionTokenizer
from vla_gym.datasets.episode import Episode, SimulatorTrace
from vla_gym.envs.libero_env import LiberoEnv
from vla_gym.experts.scripted import ScriptedExpert
from vla_gym.spec import AGENTVIEW, PROPRIO, WRIST
from vla_gym.type_aliases import Float64Array, Observation


def collect_episode(
    env: gym.Env[Any, Any],
    expert: ScriptedExpert,
    options: dict[str, Any] | None = None,
    action_tokenizer: ActionTokenizer | None = None,
) -> Episode:
    """
    Collect an episode: reset environment and expert, and run them until success or truncation.

    :param env: ``LiberoEnv`` with continuous actions and one command per action
    :param expert: expert on the same environment
    :param options: passed to ``env.reset``: ``task_id`` and/or ``init_state_id``
    :param action_tokenizer: if given, commands are rounded to its bins before they are executed and stored
    :return: the episode
    :raises InvalidActionError: if the environment takes tokens or chunks
    """
    observation, info = env.reset(options=options)
    expert.reset()
    return _roll_out(env, observation, info, _expert_commands(expert, action_tokenizer))


def replay_episode(env: gym.Env[Any, Any], commands: Float64Array, options: dict[str, Any] | None = None) -> Episode:
    """
    Replay an episode: reset the environment and execute commands; success or truncation ends it early.

    :param env: ``LiberoEnv`` with continuous actions and one command per action
    :param commands: in [-1, 1], (T, 7) float64, T at least 1
    :param options: passed to ``env.reset``: ``task_id`` and/or ``init_state_id``
    :return: the episode, as long as it lasted
    :raises ValueError: if there are no commands
    :raises InvalidActionError: if the environment takes tokens or chunks
    """
    if len(commands) == 0:
        raise ValueError("There are no commands to replay; give at least one.")
    observation, info = env.reset(options=options)
    return _roll_out(env, observation, info, commands)


def _expert_commands(expert: ScriptedExpert, tokenizer: ActionTokenizer | None) -> Iterator[Float64Array]:
    while True:
        command = expert.act()
        yield command if tokenizer is None else tokenizer.decode(tokenizer.encode(command))


def _roll_out(
    env: gym.Env[Any, Any], observation: Observation, info: dict[str, Any], commands: Iterable[Float64Array]
) -> Episode:
    base = env.unwrapped
    if not isinstance(base, LiberoEnv):
        raise TypeError(f"env is a {type(base).__name__}; episodes are collected in a LiberoEnv.")
    observations, executed, states, joint_states, robot_states, ee_states = [], [], [], [], [], []
    for command in commands:
        observations.append(observation)
        executed.append(command)
        states.append(base.get_state())
        robot = base.core.robot_state()
        joint_states.append(robot.joints)
        robot_states.append(np.concatenate((robot.fingers, robot.eef_pos, robot.eef_quat[[1, 2, 3, 0]])))
        ee_states.append(np.concatenate((robot.eef_pos, robot.eef_axis_angle)))
        observation, _, terminated, truncated, info = env.step(command)
        if terminated or truncated:
            break
    return Episode(
        images=np.stack([seen.get(AGENTVIEW, np.zeros((0, 0, 3), dtype=np.uint8)) for seen in observations]),
        proprio=np.stack([seen[PROPRIO] for seen in observations]),
        commands=np.stack(executed),
        instruction=info["instruction"],
        task_id=info["task_id"],
        init_state_id=info["init_state_id"],
        success=info["is_success"],
        wrist_images=np.stack([seen[WRIST] for seen in observations]) if WRIST in observation else None,
        trace=SimulatorTrace(
            init_state=base.bundle.init_states[info["init_state_id"]],
            states=np.stack(states),
            joint_states=np.stack(joint_states),
            ee_states=np.stack(ee_states),
            robot_states=np.stack(robot_states),
        ),
    )
