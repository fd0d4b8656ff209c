"""Success rate of a policy on a suite: every task from every initial state, exactly once."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import gymnasium as gym
import numpy as np
from stable_baselines3.common.vec_env import DummyVecEnv, SubprocVecEnv, VecEnv

from vla_algos.common import provenance
from vla_algos.common.progress import progress_bar
from vla_algos.common.sequences import as_list
from vla_algos.common.vec_env import SB3VecEnv
from vla_algos.evaluation.statistics import wilson_interval
from vla_algos.policies.env_kwargs import policy_env_kwargs
from vla_gym.datasets.provenance import commit
from vla_gym.files import write_then_rename
from vla_gym.vector import vector_env_class
from vla_gym.wrappers import make_sequence


class Predictor(Protocol):
    """Anything with SB3's ``predict``."""

    def predict(
        self, observation: Any, state: Any = None, episode_start: Any = None, deterministic: bool = False
    ) -> tuple[np.ndarray, Any]:
        """
        Actions (n_envs, A) for a batch of observations, and the next ``state`` of a recurrent policy.

        ``episode_start`` (n_envs,) says where an episode has just begun.
        """


@dataclass(frozen=True)
class EpisodeRecord:
    """
    Outcome of one episode.

    :param task_id: the task
    :param init_state_id: its initial state
    :param is_success: whether the goal was reached
    :param length: commands executed, control steps
    """

    task_id: int
    init_state_id: int
    is_success: bool
    length: int


@dataclass(frozen=True)
class EvaluationResult:
    """
    Episodes of one evaluation, and what is needed to judge them.

    :param env_id: the suite
    :param assets: asset pack that the environment reported
    :param deterministic: greedy actions, else sampled ones
    :param seed: seed of every reset
    :param instructions: instruction of each task
    :param episodes: sorted by task and initial state
    :param versions: versions of the packages involved
    :param commit: commit of the checkout, with ``-dirty`` if files were changed; None outside a checkout
    """

    env_id: str
    assets: str
    deterministic: bool
    seed: int
    instructions: dict[int, str]
    episodes: tuple[EpisodeRecord, ...]
    versions: dict[str, str]
    commit: str | None

    @property
    def mode(self) -> str:
        """How actions were chosen: "greedy" or "sampled"."""
        return "greedy" if self.deterministic else "sampled"

    @property
    def n_episodes(self) -> int:
        """Number of episodes."""
        return len(self.episodes)

    @property
    def successes(self) -> int:
        """Number of successes."""
        return sum(episode.is_success for episode in self.episodes)

    @property
    def success_rate(self) -> float:
        """Share of successes, in [0, 1]."""
        return self.successes / self.n_episodes

    @property
    def interval(self) -> tuple[float, float]:
        """95 % Wilson interval of the success rate."""
        return wilson_interval(self.successes, self.n_episodes)

    @property
    def mean_length(self) -> float:
        """Mean episode length, control steps."""
        return float(np.mean([episode.length for episode in self.episodes]))

    def of_task(self, task_id: int) -> EvaluationResult:
        """
        The part that belongs to one task.

        :param task_id: the task
        :return: result with its episodes only
        """
        episodes = tuple(episode for episode in self.episodes if episode.task_id == task_id)
        return dataclasses.replace(self, episodes=episodes, instructions={task_id: self.instructions[task_id]})

    def to_dict(self) -> dict[str, Any]:
        """
        Everything, with the derived figures, as plain JSON values.

        :return: dictionary
        """
        return {
            **dataclasses.asdict(self),
            **self._figures(),
            "tasks": {i: self._task_row(i) for i in self.instructions},
        }

    def _figures(self) -> dict[str, Any]:
        return {
            "successes": self.successes,
            "n_episodes": self.n_episodes,
            "success_rate": self.success_rate,
            "interval_95": list(self.interval),
            "mean_length": self.mean_length,
        }

    def _task_row(self, task_id: int) -> dict[str, Any]:
        return {"instruction": self.instructions[task_id], **self.of_task(task_id)._figures()}

    def save(self, path: str | Path) -> None:
        """
        Write :meth:`to_dict` as JSON; the file appears whole or not at all.

        :param path: file to write or replace
        """
        with write_then_rename(path) as temporary:
            temporary.write_text(json.dumps(self.to_dict(), indent=2) + "\n", encoding="utf-8")

    @classmethod
    def load(cls, path: str | Path) -> EvaluationResult:
        """
        Inverse of :meth:`save`.

        :param path: file written by it
        :return: the evaluation
        """
        values = json.loads(Path(path).read_text(encoding="utf-8"))
        values = {field.name: values[field.name] for field in dataclasses.fields(cls)}
        values["episodes"] = tuple(EpisodeRecord(**episode) for episode in values["episodes"])
        values["instructions"] = {int(task_id): text for task_id, text in values["instructions"].items()}
        return cls(**values)

    def __str__(self) -> str:
        lines = [f"{self.env_id}, assets: {self.assets}, {self.mode} actions, commit: {self.commit or 'unknown'}"]
        lines.append(f"{'task':>4}  {'success':>9}  {'rate':>7}  {'95 % interval':>15}  {'length':>7}  instruction")
        for task_id, instruction in self.instructions.items():
            lines.append(_row(str(task_id), self.of_task(task_id), instruction))
        lines.append(_row("all", self, ""))
        return "\n".join(line.rstrip() for line in lines)


def _row(name: str, part: EvaluationResult, instruction: str) -> str:
    lower, upper = part.interval
    counts = f"{part.successes}/{part.n_episodes}"
    interval = f"{100 * lower:.1f}-{100 * upper:.1f} %"
    rate = f"{100 * part.success_rate:.1f} %"
    return f"{name:>4}  {counts:>9}  {rate:>7}  {interval:>15}  {part.mean_length:>7.1f}  {instruction}"


def evaluate_policy_on_suite(
    model: Predictor,
    env_id: str = "LIBERO-Goal-v0",
    n_init_states: int = 50,
    task_ids: Sequence[int] | None = None,
    n_envs: int = 1,
    deterministic: bool = True,
    env_kwargs: dict[str, Any] | None = None,
    progress_bar: bool = False,
    seed: int = 0,
    env_fn: Callable[[], gym.Env] | None = None,
    vec_env_cls: type[DummyVecEnv] | type[SubprocVecEnv] | None = None,
) -> EvaluationResult:
    """
    Run each (task, initial state) exactly once and count.

    The environment is made as a VLA needs it: its own chunk size, cameras, image size and action statistics hold where
    ``env_kwargs`` names no others. A model does not know its rendering and asset pack; give those of its training.
    Every episode starts with the same seed, so a deterministic policy meets the same episodes whatever ``n_envs`` is.
    Sampled actions follow the model's own generator.

    :param model: anything with SB3's ``predict``
    :param env_id: id of the suite for ``gymnasium.make``; for environments that are not LIBERO's give ``env_fn``
    :param n_init_states: initial states 0..n-1 of each task
    :param task_ids: tasks; None: all of the environment's ``task_ids``
    :param n_envs: environments that run side by side, with one batched ``predict`` per step
    :param deterministic: greedy actions, else sampled ones
    :param env_kwargs: keywords for ``gymnasium.make``, before those that the model needs
    :param progress_bar: show progress with tqdm, as long as that can be written
    :param seed: seed of every reset
    :param env_fn: makes the environment by itself, instead of ``env_kwargs``
    :param vec_env_cls: SB3 vector environment; None: a process per environment if ``n_envs`` > 1
    :return: episodes and figures
    :raises ValueError: if there is no episode to run, ``n_envs`` is below 1, or ``env_fn`` meets ``env_kwargs``
    :raises UnknownNameError: if the model has several action statistics, and its policy no ``unnorm_key``, or
        ``task_ids`` is a text
    """
    if env_fn is not None and env_kwargs is not None:
        raise ValueError("env_fn makes the environment by itself; env_kwargs would not be used. Give one of the two.")
    make_env = env_fn if env_fn is not None else partial(gym.make, env_id, **policy_env_kwargs(model, env_kwargs))
    if task_ids is None:
        with make_env() as env:
            task_ids = list(env.unwrapped.task_ids)  # type: ignore[attr-defined]
    task_ids = as_list("task_ids", task_ids, "[0, 3]")
    episodes = [(int(task_id), k) for task_id in task_ids for k in range(n_init_states)]
    n_envs = min(n_envs, len(episodes))
    if n_envs < 1:
        raise ValueError(f"n_envs={n_envs} for {len(episodes)} episodes; expected at least one of both.")
    env_fns = [partial(make_sequence, make_env, episodes[i::n_envs], seed) for i in range(n_envs)]
    venv: VecEnv
    if vec_env_cls is None:
        venv = SB3VecEnv(vector_env_class("process" if n_envs > 1 else "sync")(env_fns))
    else:
        venv = vec_env_cls(env_fns)
    try:
        records, instructions, assets = _run(model, venv, len(episodes), deterministic, progress_bar)
    finally:
        venv.close()
    return EvaluationResult(
        env_id=env_id,
        assets=assets,
        deterministic=deterministic,
        seed=seed,
        instructions={int(task_id): instructions[int(task_id)] for task_id in task_ids},
        episodes=tuple(sorted(records, key=lambda record: (record.task_id, record.init_state_id))),
        versions=provenance.versions(),
        commit=commit() or None,
    )


def _run(
    model: Predictor, venv: VecEnv, n_episodes: int, deterministic: bool, is_shown: bool
) -> tuple[list[EpisodeRecord], dict[int, str], str]:
    """Step until all episodes have ended."""
    records: dict[tuple[int, int], EpisodeRecord] = {}
    instructions: dict[int, str] = {}
    assets = "unknown"
    lengths = np.zeros(venv.num_envs, dtype=int)
    observations = venv.reset()
    state, dones = None, np.ones(venv.num_envs, dtype=bool)
    with progress_bar(total=n_episodes, disable=not is_shown, unit="episode", mininterval=1.0) as bar:
        while len(records) < n_episodes:
            actions, state = model.predict(observations, state=state, episode_start=dones, deterministic=deterministic)
            observations, _, dones, infos = venv.step(actions)
            for i, (done, info) in enumerate(zip(dones, infos, strict=True)):
                lengths[i] += info.get("executed_steps", 1)
                if not done:
                    continue
                length, lengths[i] = int(lengths[i]), 0
                # a worker that was restarted walks its list again, from the start
                if info.get("worker_restarted") or (info["task_id"], info["init_state_id"]) in records:
                    continue
                task_id, init_state_id = int(info["task_id"]), int(info["init_state_id"])
                record = EpisodeRecord(task_id, init_state_id, bool(info["is_success"]), length)
                records[task_id, init_state_id] = record
                instructions[task_id] = str(info["instruction"])
                assets = str(info.get("assets", assets))
                bar.update()
                bar.set_postfix(success_rate=f"{np.mean([record.is_success for record in records.values()]):.2f}")
    return list(records.values()), instructions, assets
