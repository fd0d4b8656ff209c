"""Success rate of a policy on a suite: every task from every initial state, exactly once."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import gymnasium as gym
import numpy as np
from stable_baselines3.common.vec_env import DummyVecEnv, SubprocVecEnv, VecEnv

from vla_algos.common.progress import progress_bar
from vla_algos.common.sequences import as_list
from vla_algos.common.vec_env import SB3VecEnv
from vla_algos.errors import EvaluationFileError
from vla_algos.evaluation.episode_log import EpisodeLog, EpisodeRecord, LoggedEpisode
from vla_algos.evaluation.statistics import wilson_interval
from vla_algos.evaluation.subject import (
    checkpoint_of,
    environment_facts,
    evaluation_env_kwargs,
    plain,
    temperature_of,
)
from vla_gym.files import write_then_rename
from vla_gym.owned import own_file
from vla_gym.provenance import commit, versions
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


SCHEMA_VERSION = 2
"""Version of result files; it rises with every change of their entries. The first ones have none."""


@dataclass(frozen=True)
class EvaluationResult:
    """
    Episodes of one evaluation, and the conditions under which they were measured.

    :param env_id: the suite
    :param assets: asset pack that the environment reported
    :param deterministic: greedy actions, else sampled ones
    :param seed: seed of every reset
    :param instructions: instruction of each task
    :param episodes: sorted by task and initial state
    :param versions: versions of the packages involved
    :param commit: commit of the checkout, with ``-dirty`` if files were changed; None outside a checkout
    :param checkpoint: of a policy with torch weights: ``vla``, the name or path that a ``VLAPolicy`` was made with, and
        ``sha256`` of the evaluated weights (:func:`vla_algos.evaluation.subject.weights_digest`)
    :param temperature: at which a ``VLAPolicy`` samples; without effect on greedy actions
    :param chunk_size: commands per decision
    :param image_size: height and width of the images, px
    :param render_quality: "fast" or "full"
    :param physics: "fast" or "exact"
    :param horizon: control steps after which an episode ends
    :param env_kwargs: keywords that the environment was made with, including those that the model needs, as plain JSON
        values; None: it was made by a function
    :param schema_version: of these entries, 1 for files that have none

    Entries that an environment or policy does not have, or an earlier version did not record, are None.
    """

    env_id: str
    assets: str
    deterministic: bool
    seed: int
    instructions: dict[int, str]
    episodes: tuple[EpisodeRecord, ...]
    versions: dict[str, str]
    commit: str | None
    checkpoint: dict[str, str | None] | None = None
    temperature: float | None = None
    chunk_size: int | None = None
    image_size: int | None = None
    render_quality: str | None = None
    physics: str | None = None
    horizon: int | None = None
    env_kwargs: dict[str, Any] | None = None
    schema_version: int = SCHEMA_VERSION

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
        Select the episodes of one task.

        :param task_id: the task
        :return: result with its episodes only
        """
        episodes = tuple(episode for episode in self.episodes if episode.task_id == task_id)
        return dataclasses.replace(self, episodes=episodes, instructions={task_id: self.instructions[task_id]})

    def to_dict(self) -> dict[str, Any]:
        """
        Return everything as plain JSON values, derived figures included.

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
        :raises EvaluationFileError: if the file is damaged, of something else, or of a later version
        """
        try:
            return cls.from_dict(json.loads(Path(path).read_text(encoding="utf-8")))
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise EvaluationFileError(
                f"{path} is not a result of an evaluation ({error}). Name a file that EvaluationResult.save wrote, or "
                "evaluate again."
            ) from error

    @classmethod
    def from_dict(cls, content: Mapping[str, Any]) -> EvaluationResult:
        """
        Inverse of :meth:`to_dict`.

        :param content: its values, as JSON gives them back
        :return: the evaluation
        :raises ValueError: for values of a later version; TypeError, KeyError or AttributeError for other values
        """
        content = dict(content)
        version = content.setdefault("schema_version", 1)
        if version not in range(1, SCHEMA_VERSION + 1):
            raise ValueError(f"schema version {version!r}, this vla_algos reads 1 to {SCHEMA_VERSION}")
        names = [field.name for field in dataclasses.fields(cls)]
        values = {name: content[name] for name in names if name in content}
        values["episodes"] = tuple(EpisodeRecord(**episode) for episode in values["episodes"])
        values["instructions"] = {int(task_id): text for task_id, text in values["instructions"].items()}
        return cls(**values)

    @property
    def _conditions(self) -> str:
        actions = f"{self.mode} actions"
        if not self.deterministic and self.temperature is not None:
            actions += f" (temperature {self.temperature:g})"
        return actions if self.render_quality is None else f"{actions}, rendering: {self.render_quality}"

    def __str__(self) -> str:
        lines = [f"{self.env_id}, assets: {self.assets}, {self._conditions}, commit: {self.commit or 'unknown'}"]
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
    episodes_file: str | Path | None = None,
    resume: bool = False,
    wrappers: Sequence[Callable[[gym.Env], gym.Env]] = (),
) -> EvaluationResult:
    """
    Run each (task, initial state) exactly once, and count successes.

    The environment gets the VLA's own chunk size, cameras, image size, action statistics and rendering, unless
    ``env_kwargs`` names others. A model does not know its asset pack: name the one that it was trained with.
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
    :param episodes_file: JSON lines: what is evaluated, then each episode as it ends; None: nothing is written
    :param wrappers: put around each environment, from the inside out; recorded among ``env_kwargs``
    :param resume: take the episodes that ``episodes_file`` has, and run those that it lacks; False: replace it
    :return: episodes and figures
    :raises EvaluationFileError: if ``episodes_file`` is damaged, cannot be written, or has other settings
    :raises FolderInUseError: if another evaluation is writing ``episodes_file``
    :raises ValueError: if there is no episode to run, ``n_envs`` is below 1, or ``env_fn`` comes with ``env_kwargs``
    :raises UnknownNameError: if the model has several action statistics, and its policy no ``unnorm_key``, or
        ``task_ids`` is a text
    """
    if env_fn is not None and env_kwargs is not None:
        raise ValueError("env_fn makes the environment by itself; env_kwargs would not be used. Give one of the two.")
    kwargs = None if env_fn is not None else evaluation_env_kwargs(model, env_kwargs)
    make_env: Callable[[], gym.Env] = env_fn if env_fn is not None else partial(gym.make, env_id, **(kwargs or {}))
    if wrappers:
        make_env = partial(_make_wrapped, make_env, wrappers)
    if task_ids is None:
        with make_env() as env:
            task_ids = list(env.unwrapped.task_ids)  # type: ignore[attr-defined]
    assert task_ids is not None
    task_ids = as_list("task_ids", task_ids, "[0, 3]")
    episodes = [(int(task_id), k) for task_id in task_ids for k in range(n_init_states)]
    if min(n_envs, len(episodes)) < 1:
        raise ValueError(f"n_envs={n_envs} for {len(episodes)} episodes; expected at least one of both.")
    about: dict[str, Any] = {
        "schema_version": SCHEMA_VERSION,
        "env_id": env_id,
        "deterministic": deterministic,
        "seed": seed,
        "versions": versions(),
        "commit": commit() or None,
        "checkpoint": checkpoint_of(model),
        "temperature": temperature_of(model),
        "env_kwargs": None if kwargs is None else plain(kwargs),
    }
    if wrappers:
        about["env_kwargs"] = {**(about["env_kwargs"] or {}), "wrappers": plain(list(wrappers))}
    with nullcontext() if episodes_file is None else own_file(episodes_file):
        log = EpisodeLog(episodes_file, resume)
        # where nothing is left to run, one environment still says how the episodes would be measured
        remaining = [episode for episode in episodes if episode not in log.episodes] or episodes[:1]
        venv = _make_venv(make_env, remaining, min(n_envs, len(remaining)), seed, vec_env_cls)
        try:
            about |= environment_facts(venv)
            log.begin(about)
            _run(model, venv, log, episodes, deterministic, progress_bar)
        finally:
            venv.close()
    logged = log.selected(set(episodes))
    instructions = {episode.record.task_id: episode.instruction for episode in logged}
    return EvaluationResult(
        assets=logged[0].assets,
        instructions={int(task_id): instructions[int(task_id)] for task_id in task_ids},
        episodes=tuple(episode.record for episode in logged),
        **about,
    )


def _make_wrapped(make_env: Callable[[], gym.Env], wrappers: Sequence[Callable[[gym.Env], gym.Env]]) -> gym.Env:
    env = make_env()
    for wrap in wrappers:
        env = wrap(env)
    return env


def _make_venv(
    make_env: Callable[[], gym.Env],
    episodes: list[tuple[int, int]],
    n_envs: int,
    seed: int,
    vec_env_cls: type[DummyVecEnv] | type[SubprocVecEnv] | None,
) -> VecEnv:
    env_fns: list[Callable[[], gym.Env]] = [
        partial(make_sequence, make_env, episodes[i::n_envs], seed) for i in range(n_envs)
    ]
    if vec_env_cls is not None:
        return vec_env_cls(env_fns)
    return SB3VecEnv(vector_env_class("process" if n_envs > 1 else "sync")(env_fns))


def _run(
    model: Predictor,
    venv: VecEnv,
    log: EpisodeLog,
    episodes: list[tuple[int, int]],
    deterministic: bool,
    is_shown: bool,
) -> None:
    """Step until all episodes have ended."""
    missing = set(episodes) - log.episodes.keys()
    if not missing:
        return
    lengths = np.zeros(venv.num_envs, dtype=int)
    observations = venv.reset()
    state, dones = None, np.ones(venv.num_envs, dtype=bool)
    n_done = len(episodes) - len(missing)
    with progress_bar(
        total=len(episodes), initial=n_done, disable=not is_shown, unit="episode", mininterval=1.0
    ) as bar:
        while missing:
            actions, state = model.predict(observations, state=state, episode_start=dones, deterministic=deterministic)
            observations, _, dones, infos = venv.step(actions)
            for i, (done, info) in enumerate(zip(dones, infos, strict=True)):
                lengths[i] += info.get("executed_steps", 1)
                if not done:
                    continue
                length, lengths[i] = int(lengths[i]), 0
                # a worker that was restarted walks its list again, from the start
                if info.get("worker_restarted") or (info["task_id"], info["init_state_id"]) not in missing:
                    continue
                record = EpisodeRecord(
                    int(info["task_id"]), int(info["init_state_id"]), bool(info["is_success"]), length
                )
                log.append(LoggedEpisode(record, str(info["instruction"]), str(info.get("assets", "unknown"))))
                missing.remove((record.task_id, record.init_state_id))
                bar.update()
                successes = [episode.record.is_success for episode in log.episodes.values()]
                bar.set_postfix(success_rate=f"{np.mean(successes):.2f}")
