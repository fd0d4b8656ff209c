"""
Record films for a reward model: of policies, of demonstrations, and of branches from them.

Failures teach most, and those of a policy alone are all of one kind. A branch plays the first part of a demonstration,
makes some moves at random, and lets the policy go on: the object is dropped at the goal, the drawer is half open.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import gymnasium as gym
import numpy as np
from numpy.typing import NDArray
from stable_baselines3.common.vec_env import VecEnv

from vla_algos.common.vec_env import is_broken
from vla_algos.errors import FilmError
from vla_algos.rewards.films import Film
from vla_algos.rewards.model import TrueProgress
from vla_gym.actions.tokenizer import ActionTokenizer
from vla_gym.datasets.episode import Episode
from vla_gym.envs.libero_env import LiberoEnv
from vla_gym.envs.privileged import PrivilegedObserver
from vla_gym.instructions import decode_instruction
from vla_gym.spec import AGENTVIEW, COMMAND_DIM, GRIPPER_OPEN, INSTRUCTION, N_BINS, PRIVILEGED, PROPRIO
from vla_gym.type_aliases import Float32Array, Int64Array

logger = logging.getLogger(__name__)

Start = tuple[int, int]
"""A task and one of its initial states."""


def record_films(
    model: Any,
    venv: VecEnv,
    starts: Iterable[Start],
    source: str,
    first_actions: Mapping[Start, NDArray[Any]] | None = None,
    deterministic: bool = False,
    camera: str = AGENTVIEW,
) -> Iterator[Film]:
    """
    Let a policy act from each start once, and hand out each episode as it ends.

    Episodes whose physics diverged are left out, with a warning.

    :param model: anything with SB3's ``predict``
    :param venv: environments that walk through these starts between them, see
        :func:`vla_gym.wrappers.make_sequence`; with ``privileged_obs=True`` for the simulator's side and ``trace=True``
        for labels by the paper's rule
    :param starts: the starts
    :param source: who acts
    :param first_actions: by start, actions that come before those of the policy, (n, A)
    :param deterministic: greedy actions, else sampled ones
    :param camera: whose images are kept
    :return: the films
    """
    missing, first_actions = set(starts), first_actions or {}
    observations = venv.reset()
    first_infos = venv.unwrapped.reset_infos
    reels = [Reel(observations, i, info, camera) for i, info in enumerate(first_infos)]
    state, dones = None, np.ones(venv.num_envs, dtype=np.bool_)
    while missing:
        actions, state = model.predict(observations, state=state, episode_start=dones, deterministic=deterministic)
        actions = np.array(actions)
        for i, info in enumerate(first_infos):
            given = first_actions.get(_start(info), ())
            if len(reels[i].steps) <= len(given):
                actions[i] = given[len(reels[i].steps) - 1]
        observations, _, dones, infos = venv.step(actions)
        for i, info in enumerate(infos):
            if not dones[i]:
                reels[i].add(observations, i, info)
                continue
            last = {key: np.asarray(value)[None] for key, value in info["terminal_observation"].items()}
            reels[i].add(last, 0, info)
            # a worker that was restarted walks its list again, from the start
            if not info.get("worker_restarted") and _start(info) in missing:
                missing.remove(_start(info))
                if is_broken(info):
                    logger.warning("The physics of task %d, initial state %d diverged: no film.", *_start(info))
                else:
                    yield reels[i].film(info, source)
            reels[i] = Reel(observations, i, first_infos[i], camera)


def _start(info: Mapping[str, Any]) -> Start:
    return int(info.get("task_id", -1)), int(info.get("init_state_id", -1))


class Reel:
    """
    Film of an episode in progress.

    :param observations: of a batch, (N, ...) by key, at the start of the episode
    :param index: its environment
    :param first_info: of its reset
    :param camera: whose images are kept
    """

    def __init__(self, observations: Any, index: int, first_info: Mapping[str, Any], camera: str) -> None:
        self.camera = camera
        self.keys = [camera, PROPRIO, *([PRIVILEGED] if PRIVILEGED in observations else [])]
        self.kept: dict[str, list[Any]] = {key: [observations[key][index].copy()] for key in self.keys}
        self.steps = [0]
        self.trace: list[Float32Array] = []
        self.states = [first_info["state"]] if "state" in first_info else None
        self.instruction = decode_instruction(observations[INSTRUCTION][index])

    def add(self, observations: Any, index: int, info: Mapping[str, Any]) -> None:
        """
        Keep what was seen after a decision.

        :param observations: of a batch, (N, ...) by key
        :param index: row of it
        :param info: of the step
        """
        for key in self.keys:
            self.kept[key].append(observations[key][index].copy())
        executed_steps = int(info.get("executed_steps", 1))
        self.steps.append(self.steps[-1] + executed_steps)
        if "trace" in info:
            self.trace.append(info["trace"][:executed_steps])
        if self.states is not None:
            self.states.append(info["state"])

    def film(self, info: Mapping[str, Any], source: str) -> Film:
        """
        Make the film of the whole episode.

        :param info: of its last step
        :param source: who acted
        :raises FilmError: if something is not finite
        """
        arrays = {key: np.stack(rows) for key, rows in self.kept.items()}
        task_id, init_state_id = _start(info)
        return Film(
            frames=arrays[self.camera],
            steps=np.array(self.steps, np.int64),
            proprio=arrays[PROPRIO].astype(np.float32),
            instruction=self.instruction,
            task_id=task_id,
            init_state_id=init_state_id,
            is_success=bool(info["is_success"]),
            source=source,
            privileged=arrays[PRIVILEGED].astype(np.float32) if PRIVILEGED in arrays else None,
            trace=np.concatenate(self.trace) if self.trace else None,
            states=None if self.states is None else np.stack(self.states),
        )


class Rest:
    """
    Policy of continuous commands that stands still with its gripper open, after a demonstration that did not succeed.

    :param chunk_size: commands per decision
    """

    def __init__(self, chunk_size: int) -> None:
        self.action = np.tile(np.append(np.zeros(COMMAND_DIM - 1), GRIPPER_OPEN), chunk_size)

    def predict(
        self, observation: Any, state: Any = None, episode_start: Any = None, deterministic: bool = False
    ) -> tuple[NDArray[Any], Any]:
        """As SB3's ``predict``."""
        return np.tile(self.action, (len(observation[PROPRIO]), 1)), state


def played_actions(
    demonstrations: Iterable[Episode], chunk_size: int, tokenizer: ActionTokenizer | None = None
) -> dict[Start, NDArray[Any]]:
    """
    Demonstrations as actions, to be played from the starts that they were recorded at.

    Tokens round commands, and half of the demonstrations then miss their goal: play them as they are, and use tokens
    where a policy goes on.

    :param demonstrations: with the task and the initial state that they start from; of several at one start, the first
    :param chunk_size: commands per decision; a last chunk that is not full ends in rest
    :param tokenizer: of the environment; None: its ``action_type`` is continuous
    :return: by start, (n, 7 * chunk_size) bins or commands
    """
    played: dict[Start, NDArray[Any]] = {}
    for episode in demonstrations:
        start = (episode.task_id, episode.init_state_id)
        if min(start) < 0 or start in played:
            continue
        rest = np.zeros((-len(episode.commands) % chunk_size, COMMAND_DIM))
        rest[:, -1] = episode.commands[-1, -1]
        commands = np.concatenate([episode.commands, rest])
        actions = commands if tokenizer is None else tokenizer.encode(commands)
        played[start] = actions.reshape(-1, chunk_size * COMMAND_DIM)
    return played


def branches(
    played: Mapping[Start, NDArray[Any]], rng: np.random.Generator, max_random: int = 4
) -> dict[Start, Int64Array]:
    """
    First parts of demonstrations, each with some decisions at random behind it.

    Every command of a decision is the same, so that the arm moves somewhere instead of trembling.

    :param played: see :func:`played_actions`, bins
    :param rng: draws where to leave the demonstration, and what is done there
    :param max_random: most decisions at random
    :return: by start, (n, A) int64 bins
    """
    made = {}
    for start, actions in played.items():
        n_kept, n_random = int(rng.integers(len(actions))), int(rng.integers(max_random + 1))
        n_commands = actions.shape[1] // COMMAND_DIM
        drawn = np.tile(rng.integers(0, N_BINS, (n_random, COMMAND_DIM)), (1, n_commands))
        made[start] = np.concatenate([actions[:n_kept], drawn])
    return made


def with_progress_under(film: Film, env: gym.Env[Any, Any]) -> Film:
    """
    Ask the simulator how much is done of what the other instructions of the scene ask for, in the same states.

    Tasks with the same goal are left out: their instructions tell apart how the scene began.

    :param film: with ``states``
    :param env: LIBERO environment of its suite and asset pack; cameras are not needed
    :return: the film with ``progress_under``
    :raises FilmError: if it has no states
    """
    if film.states is None:
        raise FilmError("The film has no states of the simulation. Record it with trace=True.")
    libero: LiberoEnv = env.unwrapped  # type: ignore[assignment]
    libero.reset(options={"task_id": film.task_id})
    names, goal = libero.state_names, _goal(libero)
    found = {}
    for task_id in libero.task_ids:
        _, info = libero.reset(options={"task_id": task_id})
        if libero.state_names != names or _goal(libero) == goal:
            continue
        libero.set_state(film.states[0])
        observer = PrivilegedObserver(libero.core)
        rows = []
        for state in film.states:
            libero.set_state(state)
            rows.append(observer.observe(0.0))
        privileged = np.stack(rows)
        pairs = np.stack([np.broadcast_to(privileged[0], privileged.shape), privileged], axis=1)
        found[str(info["instruction"])] = TrueProgress().score(pairs, [""] * len(film))
    return replace(film, progress_under=found)


def _goal(env: LiberoEnv) -> frozenset[str]:
    return frozenset(env.goal_predicates())


def all_starts(task_ids: Sequence[int], init_state_ids: Sequence[int]) -> list[Start]:
    """Every task from every one of these initial states."""
    return [(int(task_id), int(k)) for task_id in task_ids for k in init_state_ids]
